//! What looked wrong once, and is looked at again.
//!
//! A suspect is cleared as soon as it looks right, or the master no longer wants what it wanted. It
//! is a problem if it is still wrong after [`SETTLE`] and the store was told everything that the
//! master had said by the time of the first look: then nothing is under way that would explain it.
use super::Run;
use dfs_core::types::{ChunkNo, Ino, LogIndex, ObjectId, ObjectSum, OpId, PgId, Revision, StoreId};
use dfs_core::wire::audit::{FaultKind, ObjectFate};
use dfs_core::wire::master::{MasterRequest, MasterResponse, PgRow};
use dfs_core::wire::replica::{CheckState, HeldObject, StampPage};
use dfs_core::wire::{ReplicaRequest, ReplicaResponse};
use std::time::{Duration, Instant};

/// A suspect must look wrong for this long.
const SETTLE: Duration = Duration::from_secs(6);
/// A store that has not caught up after this long is reported as it is.
const SETTLE_MAX: Duration = Duration::from_secs(40);
/// Between two looks.
const AGAIN: Duration = Duration::from_millis(1500);
/// How long one look waits until the store was told what the master said before.
const TOLD_MAX: Duration = Duration::from_secs(2);
/// Suspects that are looked at again; more than these are reported as they are.
const RECHECKED_MAX: usize = 20_000;

/// What a suspect is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum About {
    /// A member's copy of an object that is referred to.
    Copy(ObjectId, ObjectSum),
    /// Something that a store holds.
    Held(ObjectId),
    /// A stamp.
    Stamp,
    /// A mark.
    Mark(OpId),
}

#[derive(Debug, Clone)]
pub(super) struct Suspect {
    pub kind: FaultKind,
    pub store: StoreId,
    pub pg: PgId,
    pub ino: Ino,
    pub about: About,
    pub what: String,
}

#[derive(Debug, Default)]
pub(super) struct Suspects {
    all: Vec<Suspect>,
    as_of: LogIndex,
}

impl Suspects {
    /// `as_of`: the master's state that says it should be otherwise.
    pub fn add(&mut self, suspect: Suspect, as_of: LogIndex) {
        self.as_of = self.as_of.max(as_of);
        self.all.push(suspect);
    }
}

/// How a copy differs from what the master knows, without reading its bytes.
pub(super) fn judge_held(
    held: &HeldObject,
    pg: PgId,
    sum: ObjectSum,
) -> Option<(FaultKind, String)> {
    let id = held.id;
    let (row, header) = match (held.row, held.header) {
        (None, None) => {
            return Some((FaultKind::ObjectMissing, format!("object {id} is not held")));
        }
        (Some(_), None) => {
            let what = format!("object {id} is listed, its bytes are not there");
            return Some((FaultKind::ObjectUnbacked, what));
        }
        (None, Some(_)) => {
            let what = format!("object {id} is there and not listed");
            return Some((FaultKind::ObjectUnlisted, what));
        }
        (Some(row), Some(header)) => (row, header),
    };
    if row.3 != sum || header.2 != sum {
        let what = format!("object {id} has other bytes than those that were committed");
        return Some((FaultKind::ObjectIdentity, what));
    }
    if row.0 != pg {
        let what = format!(
            "object {id} of group {} is filed under group {}",
            pg.0, row.0.0
        );
        return Some((FaultKind::ObjectMisplaced, what));
    }
    None
}

impl Run {
    /// Looks again until every suspect is cleared or proven.
    pub(super) async fn settle(&mut self, suspects: Suspects) -> anyhow::Result<()> {
        let Suspects { mut all, as_of } = suspects;
        for rest in all.split_off(all.len().min(RECHECKED_MAX)) {
            self.add(rest.kind, Some(rest.store), rest.ino, rest.what);
        }
        self.checked.rechecked = all.len() as u64;
        let began = Instant::now();
        while !all.is_empty() {
            tokio::time::sleep(AGAIN).await;
            self.map = self.client.pg_map().await?;
            let mut left = Vec::new();
            for suspect in all {
                if let Some(again) = self.look_again(suspect).await? {
                    left.push(again);
                }
            }
            all = left;
            let is_late = began.elapsed() >= SETTLE_MAX;
            if began.elapsed() >= SETTLE {
                let mut waiting = Vec::new();
                for suspect in all {
                    if is_late || self.is_told(&suspect, as_of).await {
                        let Suspect {
                            kind,
                            store,
                            ino,
                            what,
                            ..
                        } = suspect;
                        self.add(kind, Some(store), ino, what);
                    } else {
                        waiting.push(suspect);
                    }
                }
                all = waiting;
            }
        }
        Ok(())
    }

    /// The store has applied everything that the master had said at the first look.
    async fn is_told(&mut self, suspect: &Suspect, as_of: LogIndex) -> bool {
        let page = self.stamp_page(suspect.store, suspect.pg, None, 1).await;
        page.is_none_or(|page| page.cursor >= as_of)
    }

    /// `None`: it is right now.
    async fn look_again(&mut self, suspect: Suspect) -> anyhow::Result<Option<Suspect>> {
        if self.silent.contains(&suspect.store) {
            return Ok(None);
        }
        match suspect.about {
            About::Copy(id, sum) => self.copy_again(suspect, id, sum).await,
            About::Held(id) => self.held_again(suspect, id).await,
            About::Stamp => self.stamp_again(suspect).await,
            About::Mark(op) => {
                let id = ObjectId { op, index: 0 };
                let fate = self.fates(&[id]).await?.0.first().copied();
                let page = self.stamp_page(suspect.store, suspect.pg, None, 1).await;
                let is_there = page.is_some_and(|p| p.marks.contains(&(suspect.ino, op)));
                let is_wrong = is_there && fate != Some(ObjectFate::Undecided);
                Ok(is_wrong.then_some(suspect))
            }
        }
    }

    async fn copy_again(
        &mut self,
        suspect: Suspect,
        id: ObjectId,
        sum: ObjectSum,
    ) -> anyhow::Result<Option<Suspect>> {
        if self.fates(&[id]).await?.0 != [ObjectFate::Referenced] {
            return Ok(None);
        }
        let pg = self.map.pgs.get(usize::from(suspect.pg.0));
        let is_complete =
            |s: &StoreId| pg.is_some_and(|pg| pg.members.contains(s) && !pg.filling.contains(s));
        if !is_complete(&suspect.store) {
            return Ok(None);
        }
        let look = ReplicaRequest::Look { objects: vec![id] };
        let Some(ReplicaResponse::Held(held, _)) = self.ask(suspect.store, look).await else {
            return Ok(Some(suspect));
        };
        if let Some((kind, what)) = held.first().and_then(|h| judge_held(h, suspect.pg, sum)) {
            return Ok(Some(Suspect {
                kind,
                what,
                ..suspect
            }));
        }
        if suspect.kind != FaultKind::ObjectDamaged {
            return Ok(None);
        }
        let check = ReplicaRequest::Check { objects: vec![id] };
        match self.ask(suspect.store, check).await {
            Some(ReplicaResponse::Checked(states)) if states == [CheckState::Good(sum)] => Ok(None),
            _ => Ok(Some(suspect)),
        }
    }

    async fn held_again(
        &mut self,
        suspect: Suspect,
        id: ObjectId,
    ) -> anyhow::Result<Option<Suspect>> {
        let look = ReplicaRequest::Look { objects: vec![id] };
        let Some(ReplicaResponse::Held(held, _)) = self.ask(suspect.store, look).await else {
            return Ok(None);
        };
        let fate = self.fates(&[id]).await?.0.first().copied();
        let found = held
            .first()
            .and_then(|held| self.judge_holding(suspect.store, held, fate));
        Ok(found.map(|(kind, what)| Suspect {
            kind,
            what,
            ..suspect
        }))
    }

    async fn stamp_again(&mut self, suspect: Suspect) -> anyhow::Result<Option<Suspect>> {
        let (pg, ino) = (suspect.pg, suspect.ino);
        let before = Ino(ino.0.saturating_sub(1));
        // A file that is written all the time: a stamp is behind only if the store had heard of the
        // listing before it, and ahead only of a listing after it.
        let (earlier, as_of) = self.newest(pg, ino).await?;
        let (store, begin) = (suspect.store, Instant::now());
        let page = loop {
            let Some(page) = self.stamp_page(store, pg, Some(before), 1).await else {
                return Ok(None);
            };
            if page.cursor >= as_of || begin.elapsed() > TOLD_MAX {
                break page;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        let (later, _) = self.newest(pg, ino).await?;
        let is = page.stamps.iter().find(|s| s.0 == ino);
        let is = is.map(|(_, revision, op)| (*revision, *op));
        if page.cursor < as_of {
            return Ok(None); // it has not heard of it: neither right nor wrong
        }
        let first = judge_stamp(earlier, is)
            .filter(|(kind, _)| *kind == FaultKind::StampBehind || earlier.is_none());
        let second = judge_stamp(later, is)
            .filter(|(kind, _)| *kind == FaultKind::StampAhead && later.is_some());
        Ok(first.or(second).map(|(kind, what)| Suspect {
            kind,
            what,
            ..suspect
        }))
    }

    /// The newest commit of a file, by its home group's listing, and as of when.
    async fn newest(
        &self,
        pg: PgId,
        ino: Ino,
    ) -> anyhow::Result<(Option<(Revision, OpId)>, LogIndex)> {
        let before = Ino(ino.0.saturating_sub(1));
        let after = Some((before, ChunkNo(u32::MAX)));
        let (rows, as_of, _) = self.listing(pg, after, 1).await?;
        let row = rows.iter().find(|row| row.ino == ino);
        Ok((row.and_then(|row| row.clean), as_of))
    }

    /// What the master knows of objects, and as of when.
    pub(super) async fn fates(
        &self,
        ids: &[ObjectId],
    ) -> anyhow::Result<(Vec<ObjectFate>, LogIndex)> {
        let make = |_| MasterRequest::ObjectFates {
            objects: ids.to_vec(),
        };
        match self.client.master_call(make, self.within).await? {
            MasterResponse::ObjectFates(fates, as_of) if fates.len() == ids.len() => {
                Ok((fates, as_of))
            }
            _ => anyhow::bail!("the master's answer about objects does not fit"),
        }
    }

    /// A page of what a group must hold, as of when, and whether it is the last one.
    pub(super) async fn listing(
        &self,
        pg: PgId,
        after: Option<(Ino, ChunkNo)>,
        limit: u32,
    ) -> anyhow::Result<(Vec<PgRow>, LogIndex, bool)> {
        let make = |_| MasterRequest::PgListing { pg, after, limit };
        match self.client.master_call(make, self.within).await? {
            MasterResponse::PgListing(rows, as_of, is_last) => Ok((rows, as_of, is_last)),
            _ => anyhow::bail!("the master's listing of group {} does not fit", pg.0),
        }
    }

    pub(super) async fn stamp_page(
        &mut self,
        store: StoreId,
        pg: PgId,
        after: Option<Ino>,
        limit: u32,
    ) -> Option<StampPage> {
        let request = ReplicaRequest::Stamps { pg, after, limit };
        match self.ask(store, request).await {
            Some(ReplicaResponse::Stamps(page)) => Some(page),
            _ => None,
        }
    }
}

/// How a stamp differs from the newest commit.
pub(super) fn judge_stamp(
    wanted: Option<(Revision, OpId)>,
    is: Option<(Revision, OpId)>,
) -> Option<(FaultKind, String)> {
    match (wanted, is) {
        (Some(wanted), Some(is)) if wanted == is => None,
        (None, None) => None,
        (Some((wanted, _)), Some((is, _))) if is < wanted => {
            let what = format!("its stamp says revision {is}, the newest is {wanted}");
            Some((FaultKind::StampBehind, what))
        }
        (Some((wanted, _)), None) => {
            let what = format!("it has no stamp, the newest revision is {wanted}");
            Some((FaultKind::StampBehind, what))
        }
        (Some((wanted, _)), Some((is, _))) => {
            let what =
                format!("its stamp says revision {is}, the newest is {wanted} of another op");
            Some((FaultKind::StampAhead, what))
        }
        (None, Some((is, _))) => {
            let what = format!("it has a stamp of revision {is} of a file that is gone");
            Some((FaultKind::StampAhead, what))
        }
    }
}
