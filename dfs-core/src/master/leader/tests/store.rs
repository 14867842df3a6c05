//! A store that says what a store would say, and holds nothing.
use crate::types::{Epoch, Incarnation, LogIndex, NodeId, PgId, PgMap, StoreId, Time};
use crate::wire::master::Heartbeat;
use crate::wire::rpc::ConnId;
use std::collections::BTreeMap;
use std::net::SocketAddr;

pub fn addr(number: u64) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 7000 + number as u16))
}

pub fn store_conn(id: StoreId) -> ConnId {
    ConnId(id.0 as u64)
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
}

impl Store {
    pub fn heartbeat(&self, number: u64, sent_at: Time) -> Heartbeat {
        let groups = self.map.iter().flat_map(|map| map.pgs.iter().zip(0u16..));
        let filled = groups
            .filter(|(pg, i)| {
                pg.filling.contains(&self.id) && self.adopted.get(&PgId(*i)) == Some(&pg.epoch)
            })
            .map(|(pg, i)| (PgId(i), pg.epoch))
            .collect();
        Heartbeat {
            store: self.id,
            node: NodeId(u128::from(number)),
            incarnation: Incarnation(1),
            addr: addr(number),
            zone: String::new(),
            sent_at,
            total_bytes: 1 << 40,
            free_bytes: 1 << 39,
            used_bytes: 0,
            device: number,
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
            failed: false,
        }
    }

    pub fn take(&mut self, ok: crate::wire::master::HeartbeatOk, frozen: bool) {
        self.cursor = self.cursor.max(ok.notes_upto);
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
