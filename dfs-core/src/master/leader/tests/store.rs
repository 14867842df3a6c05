//! A store that says what a store would say, and holds nothing.
use crate::types::{Epoch, Incarnation, Ino, LogIndex, NodeId, PgId, PgMap, StoreId, Term, Time};
use crate::wire::master::{Heartbeat, SpaceAdvice, StoreLacks, StoreLoad, Voting};
use crate::wire::repair::{FillCount, StoreRepair};
use crate::wire::rpc::ConnId;
use std::collections::BTreeMap;
use std::net::SocketAddr;

pub fn addr(number: u64) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 7000 + number as u16))
}

pub fn store_conn(id: StoreId) -> ConnId {
    // Two stores of one node, one after the other, have the same lower half.
    ConnId(id.0 as u64 | ((id.0 >> 64) as u64) << 32)
}

pub struct Store {
    pub id: StoreId,
    pub muted: bool,
    pub map: Option<PgMap>,
    pub adopted: BTreeMap<PgId, Epoch>,
    pub cursor: LogIndex,
    pub refilled: bool,
    pub due: u64,
    pub back: bool,
    pub incarnation: u64,
    pub lacks: Vec<(PgId, u32)>,
    /// It wants all its groups filled anew.
    pub wants_renewal: bool,
    /// What the node says of its vote.
    pub voting: Voting,
    /// It says that it has failed.
    pub failed: bool,
    /// Its device, and of that: what is free, and what comes free.
    pub space: Option<(u64, u64, u64)>,
    /// How the cluster stands with space, as it was told last.
    pub advice: SpaceAdvice,
    /// In which term who answered last leads, and the groups to copy first.
    pub told: (Term, Vec<PgId>),
}

impl Store {
    pub fn heartbeat(&self, number: u64, sent_at: Time) -> Heartbeat {
        let groups = self.map.iter().flat_map(|map| map.pgs.iter().zip(0u16..));
        let (device, free_bytes, coming_bytes) = self.space.unwrap_or((number, 1 << 39, 0));
        let filled: Vec<_> = groups
            .filter(|(pg, i)| {
                pg.filling.contains(&self.id) && self.adopted.get(&PgId(*i)) == Some(&pg.epoch)
            })
            .map(|(pg, i)| (PgId(i), pg.epoch))
            .collect();
        let count = |&(pg, epoch): &(PgId, Epoch)| FillCount {
            pg,
            epoch,
            objects: 3,
            bytes: 300,
            files: 1,
            wide: vec![Ino(99)],
        };
        let repair = StoreRepair {
            counts: filled.iter().map(count).collect(),
            renew: self.renew(),
            ..StoreRepair::default()
        };
        Heartbeat {
            store: self.id,
            node: NodeId(u128::from(number)),
            incarnation: Incarnation(self.incarnation),
            addr: addr(number),
            zone: String::new(),
            sent_at,
            total_bytes: 1 << 40,
            free_bytes,
            used_bytes: 0,
            device,
            cursor: if self.back { LogIndex(0) } else { self.cursor },
            map_version: self.map.as_ref().map_or(LogIndex(0), |map| map.version),
            fenced: self
                .adopted
                .iter()
                .map(|(pg, epoch)| (*pg, *epoch))
                .collect(),
            filled,
            emptied: vec![],
            old_marks: vec![],
            repaired_bytes: 0,
            repaired_files: 0,
            failed: self.failed,
            load: Box::new(StoreLoad {
                voting: self.voting,
                coming_bytes,
                ..StoreLoad::default()
            }),
            repair: Box::new(repair),
            lacks: Box::new(StoreLacks {
                groups: self.lacks.clone(),
                total: self.lacks.iter().map(|(_, n)| u64::from(*n)).sum(),
            }),
        }
    }

    fn renew(&self) -> Vec<(PgId, Epoch)> {
        let groups = self.map.iter().flat_map(|map| (0u16..).zip(&map.pgs));
        let whole = groups.filter(|(_, pg)| {
            pg.members.contains(&self.id) && !pg.filling.contains(&self.id) && self.wants_renewal
        });
        whole.map(|(i, pg)| (PgId(i), pg.epoch)).collect()
    }

    pub fn take(&mut self, ok: crate::wire::master::HeartbeatOk, frozen: bool) {
        self.cursor = self.cursor.max(ok.notes_upto);
        self.advice = ok.space;
        self.told = (ok.term, ok.repair.last_copies);
        let Some(map) = ok.map else { return };
        for (pg, i) in map.pgs.iter().zip(0u16..) {
            if pg.filling.contains(&self.id) {
                (self.refilled, self.back) = (true, false);
            }
            let concerned = pg.members.contains(&self.id) || pg.prior.contains(&self.id);
            if concerned && !frozen {
                self.adopted.insert(PgId(i), pg.epoch);
            }
        }
        if !frozen {
            self.map = Some(map);
        }
        self.due = 0;
    }
}
