//! Every object that any kept version refers to, on every complete member of its group; and the
//! members' stamps and marks.
use super::suspects::{About, Suspect, Suspects, judge_held, judge_stamp};
use super::{AT_ONCE, Run, ask};
use dfs_core::types::{Ino, LogIndex, ObjectId, ObjectSum, OpId, PgId, Revision, StoreId};
use dfs_core::wire::audit::{FaultKind, ObjectFate};
use dfs_core::wire::replica::{CheckState, HeldObject};
use dfs_core::wire::{ReplicaRequest, ReplicaResponse};
use std::collections::BTreeMap;
use tokio::task::JoinSet;

/// Rows of a listing asked for at once.
const ROWS: u32 = 1024;
/// Objects verified in one request: 64 MiB of bytes at most.
const OBJECTS: usize = 16;
/// Small objects verified in one request.
const SMALL: usize = 512;
/// Stamps asked for at once.
const STAMPS: u32 = 8192;

/// What a group must hold.
#[derive(Debug, Default)]
struct Wanted {
    objects: Vec<(ObjectId, ObjectSum, Ino)>,
    clean: BTreeMap<Ino, (Revision, OpId)>,
    as_of: LogIndex,
}

/// What one request found.
type Looked = (Vec<HeldObject>, Vec<CheckState>);

impl Run {
    pub(super) async fn check_copies(&mut self, suspects: &mut Suspects) -> anyhow::Result<()> {
        let pgs = u16::try_from(self.map.pgs.len()).unwrap_or(u16::MAX);
        for pg in (0..pgs).map(PgId) {
            let wanted = self.wanted(pg).await?;
            self.checked.objects += wanted.objects.len() as u64;
            let info = self.map.pgs[usize::from(pg.0)].clone();
            let complete = info.members.iter().filter(|s| !info.filling.contains(s));
            for store in complete.copied() {
                self.copies_of(store, pg, &wanted, suspects).await?;
                self.stamps_of(store, pg, &wanted, suspects).await?;
            }
        }
        Ok(())
    }

    async fn wanted(&self, pg: PgId) -> anyhow::Result<Wanted> {
        let mut wanted = Wanted::default();
        let mut after = None;
        loop {
            let (rows, as_of, is_last) = self.listing(pg, after, ROWS).await?;
            wanted.as_of = wanted.as_of.max(as_of);
            for row in &rows {
                let of = row.objects.iter().map(|(id, sum)| (*id, *sum, row.ino));
                wanted.objects.extend(of);
                wanted.clean.extend(row.clean.map(|clean| (row.ino, clean)));
            }
            after = rows.last().map(|row| (row.ino, row.chunk));
            if is_last || rows.is_empty() {
                break;
            }
        }
        // An object may be cut over two chunks.
        wanted.objects.sort_unstable_by_key(|(id, ..)| *id);
        wanted.objects.dedup_by_key(|(id, ..)| *id);
        Ok(wanted)
    }

    async fn copies_of(
        &mut self,
        store: StoreId,
        pg: PgId,
        wanted: &Wanted,
        suspects: &mut Suspects,
    ) -> anyhow::Result<()> {
        let mut running = JoinSet::new();
        let mut at = 0;
        loop {
            while at < wanted.objects.len()
                && running.len() < AT_ONCE
                && !self.silent.contains(&store)
            {
                let some = batch(&wanted.objects[at..]).to_vec();
                at += some.len();
                let (client, within, is_fast) = (self.client.clone(), self.within, self.is_fast);
                running.spawn(async move {
                    let ids: Vec<_> = some.iter().map(|(id, ..)| *id).collect();
                    let look = ReplicaRequest::Look {
                        objects: ids.clone(),
                    };
                    let looked = match ask(&client, store, look, within).await? {
                        ReplicaResponse::Held(held, _) => held,
                        _ => anyhow::bail!("not an answer of a store"),
                    };
                    let mut states = Vec::new();
                    if !is_fast {
                        let check = ReplicaRequest::Check { objects: ids };
                        match ask(&client, store, check, within * 3).await? {
                            ReplicaResponse::Checked(found) => states = found,
                            _ => anyhow::bail!("not an answer of a store"),
                        }
                    }
                    anyhow::Ok((some, (looked, states)))
                });
            }
            let Some(done) = running.join_next().await else {
                return Ok(());
            };
            match done? {
                Ok((some, looked)) => {
                    self.judge(store, pg, &some, &looked, (suspects, wanted.as_of))
                }
                Err(e) => self.is_silent(store, &e),
            }
        }
    }

    fn judge(
        &mut self,
        store: StoreId,
        pg: PgId,
        some: &[(ObjectId, ObjectSum, Ino)],
        (held, states): &Looked,
        (suspects, as_of): (&mut Suspects, LogIndex),
    ) {
        for (i, (id, sum, ino)) in some.iter().enumerate() {
            self.checked.copies += 1;
            let mut found = held.get(i).and_then(|held| judge_held(held, pg, *sum));
            match states.get(i) {
                Some(CheckState::Good(is)) if is == sum => {
                    self.checked.bytes_read += u64::from(sum.len);
                }
                Some(CheckState::Damaged) if found.is_none() => {
                    // Seen with one's own eyes: the store mends it as soon as it knows.
                    let what = format!("object {id}: its bytes do not match their checksums");
                    self.add(FaultKind::ObjectDamaged, Some(store), *ino, what);
                }
                Some(CheckState::Good(_)) if found.is_none() => {
                    let what =
                        format!("object {id} has other bytes than those that were committed");
                    found = Some((FaultKind::ObjectIdentity, what));
                }
                Some(_) | None => {}
            }
            if let Some((kind, what)) = found {
                let (ino, about) = (*ino, About::Copy(*id, *sum));
                let suspect = Suspect {
                    kind,
                    store,
                    pg,
                    ino,
                    about,
                    what,
                };
                suspects.add(suspect, as_of);
            }
        }
    }

    async fn stamps_of(
        &mut self,
        store: StoreId,
        pg: PgId,
        wanted: &Wanted,
        suspects: &mut Suspects,
    ) -> anyhow::Result<()> {
        let mut found: BTreeMap<Ino, (Revision, OpId)> = BTreeMap::new();
        let mut after = None;
        let marks = loop {
            let Some(page) = self.stamp_page(store, pg, after, STAMPS).await else {
                return Ok(());
            };
            let stamps = page.stamps.iter();
            found.extend(stamps.map(|(ino, revision, op)| (*ino, (*revision, *op))));
            after = page.stamps.last().map(|s| s.0).or(after);
            if page.is_last {
                break page.marks;
            }
        };
        self.checked.stamps += found.len() as u64;
        let mut inos: Vec<_> = wanted.clean.keys().chain(found.keys()).copied().collect();
        inos.sort_unstable();
        inos.dedup();
        let suspect = |kind, ino, about, what| Suspect {
            kind,
            store,
            pg,
            ino,
            about,
            what,
        };
        for ino in inos {
            let (wanted_is, is) = (wanted.clean.get(&ino), found.get(&ino));
            if let Some((kind, what)) = judge_stamp(wanted_is.copied(), is.copied()) {
                suspects.add(suspect(kind, ino, About::Stamp, what), wanted.as_of);
            }
        }
        let ids = marks.iter().map(|(_, op)| ObjectId { op: *op, index: 0 });
        let ids: Vec<_> = ids.collect();
        for (ids, marks) in ids.chunks(4096).zip(marks.chunks(4096)) {
            let (fates, as_of) = self.fates(ids).await?;
            for ((ino, op), fate) in marks.iter().zip(fates) {
                if fate != ObjectFate::Undecided {
                    let what = format!("a mark of operation {op}, which is decided");
                    let mark = suspect(FaultKind::MarkDecided, *ino, About::Mark(*op), what);
                    suspects.add(mark, as_of);
                }
            }
        }
        Ok(())
    }
}

/// Objects to ask for in one request: few large or many small ones.
fn batch(objects: &[(ObjectId, ObjectSum, Ino)]) -> &[(ObjectId, ObjectSum, Ino)] {
    let max = OBJECTS as u64 * (4 << 20);
    let mut bytes = 0;
    let fitting = objects.iter().take(SMALL).take_while(|(_, sum, _)| {
        bytes += u64::from(sum.len);
        bytes <= max
    });
    let count = fitting.count().max(1);
    &objects[..count.min(objects.len())]
}
