//! The audit of a voter's tables, slice by slice over a state that does not change meanwhile.
//!
//! Steps: 1. rows of all tables in key order, each decoded and compared with those that must agree
//! with it, those of the namespace by its own [`Audit`]; 2. totals; 3. if sums differ, all rows once
//! more, to name what differs. A row that fails its checksum is reported and skipped.
use super::namespace::{self, Audit};
use super::pgs::PgState;
use super::sessions::{ResultRow, SessionRow};
use super::stores::StoreRow;
use super::{MasterState, StateError, keys};
use crate::store::kv::scan_readable;
use crate::store::{Kv, KvError, KvRead};
use crate::types::{ClientId, Ino, ObjectId, PgId, QuorumSizes, StoreId, crc32c};
use crate::wire::audit::{Fault, FaultKind, ObjectFate};
use crate::wire::master::Note;
use serde::de::DeserializeOwned;
use std::collections::BTreeSet;

/// Keys of the state are below this.
const STATE_END: &[u8] = &[0xf0];

/// See the [module docs](self).
#[derive(Debug)]
pub struct StateAudit {
    namespace: Audit,
    from: Vec<u8>,
    quorum: QuorumSizes,
    pgs: u16,
    faults: Vec<Fault>,
    rows: u64,
    deletes: u64,
    digest: u32,
    is_again: bool,
    is_done: bool,
}

impl StateAudit {
    /// Begins one.
    #[must_use]
    pub fn new(pgs: u16, quorum: QuorumSizes) -> Self {
        Self {
            namespace: Audit::new(pgs),
            from: Vec::new(),
            quorum,
            pgs,
            faults: Vec::new(),
            rows: 0,
            deletes: 0,
            digest: 0,
            is_again: false,
            is_done: false,
        }
    }

    /// Looks at the next rows, about `limit`. Always over the same state.
    ///
    /// # Errors
    /// The tables cannot be read at all.
    pub fn step(&mut self, kv: &dyn KvRead, limit: usize) -> Result<(), KvError> {
        let (rows, damaged) = scan_readable(kv, &self.from, STATE_END, limit)?;
        for (key, value) in &rows {
            self.row(kv, key, value);
        }
        let is_end = damaged.is_none() && rows.len() < limit;
        if let Some(key) = damaged {
            self.add(
                FaultKind::UnreadableRow,
                format!("row {} fails its checksum", hex(&key)),
            );
            self.from = key;
            self.from.push(0);
        } else if let Some((key, _)) = rows.last() {
            self.from.clone_from(key);
            self.from.push(0);
        }
        if is_end {
            self.end(kv);
        }
        Ok(())
    }

    fn row(&mut self, kv: &dyn KvRead, key: &[u8], value: &[u8]) {
        if !self.is_again {
            self.rows += 1;
            let mut mix = self.digest.to_le_bytes().to_vec();
            mix.extend(crc32c(key).to_le_bytes());
            mix.extend(crc32c(value).to_le_bytes());
            self.digest = crc32c(&mix);
        }
        match key.first() {
            Some(b'a'..=b'm') => {
                self.namespace.row(kv, key, value);
                if key[0] == b'l' && !self.is_again {
                    self.of_session(kv, key, "the order of operations");
                }
            }
            _ if self.is_again => {}
            Some(&keys::NOTE) => {
                self.decode::<(PgId, Note)>(key, value);
            }
            Some(&keys::SESSION) => {
                let ended = kv.get(&keys::client(keys::EXPIRED, client_of(key)));
                if matches!(ended, Ok(Some(_))) {
                    let what = format!("session {} is live and ended", client_of(key));
                    self.add(FaultKind::SessionEnded, what);
                }
                self.decode::<SessionRow>(key, value);
            }
            Some(&keys::RESULT) => {
                self.of_session(kv, key, "a result");
                self.decode::<ResultRow>(key, value);
            }
            Some(&keys::ABORTED) => self.of_session(kv, key, "an aborted operation"),
            Some(&keys::STORE) => {
                self.decode::<StoreRow>(key, value);
            }
            Some(&keys::PG) => self.group(kv, key, value),
            Some(&keys::DELETE) => self.delete(kv, key, value),
            Some(&keys::LOCK) => self.lock(kv, key),
            _ => {}
        }
    }

    fn of_session(&mut self, kv: &dyn KvRead, key: &[u8], what: &str) {
        let client = client_of(key);
        if matches!(kv.get(&keys::client(keys::SESSION, client)), Ok(None)) {
            let what = format!("{what} of session {client}, which is not live");
            self.add(FaultKind::WithoutSession, what);
        }
    }

    fn group(&mut self, kv: &dyn KvRead, key: &[u8], value: &[u8]) {
        let Some(state) = self.decode::<PgState>(key, value) else {
            return;
        };
        let pg = key
            .get(1..3)
            .map_or(0, |b| u16::from(b[0]) << 8 | u16::from(b[1]));
        let info = &state.info;
        let distinct: BTreeSet<StoreId> = info.members.iter().copied().collect();
        let known = |s: &StoreId| !matches!(kv.get(&keys::store(*s)), Ok(None));
        let what = if pg >= self.pgs {
            "is beyond the last one"
        } else if distinct.len() != info.members.len() {
            "has a member twice"
        } else if distinct.len() > usize::from(self.quorum.n) {
            "has too many members"
        } else if distinct.is_empty() && info.epoch.0 > 0 {
            "has no members"
        } else if !distinct.iter().all(known) {
            "has a member that is no store"
        } else if !info.filling.iter().all(|s| distinct.contains(s)) {
            "fills a store that is no member"
        } else {
            return;
        };
        self.add(FaultKind::GroupMembers, format!("group {pg} {what}"));
    }

    fn delete(&mut self, kv: &dyn KvRead, key: &[u8], value: &[u8]) {
        self.deletes += 1;
        let Some((_, object)) = self.decode::<(PgId, ObjectId)>(key, value) else {
            return;
        };
        if let Ok(true) = namespace::is_referenced(kv, object) {
            let what = format!("object {object} waits for deletion and is referred to");
            self.add(FaultKind::DeleteQueue, what);
        }
    }

    fn lock(&mut self, kv: &dyn KvRead, key: &[u8]) {
        let Some((ino, _, holder)) = keys::lock_of(key) else {
            return self.add(FaultKind::UnreadableRow, format!("row {}", hex(key)));
        };
        let session = keys::client(keys::SESSION, holder.client);
        if matches!(kv.get(&session), Ok(None)) {
            let what = format!("a lock on inode {ino} of session {}", holder.client);
            self.add(FaultKind::WithoutSession, what);
        }
    }

    fn end(&mut self, kv: &dyn KvRead) {
        if !self.is_again
            && let Ok(len) = keys::get::<u64, _>(kv, "deletes", keys::DELETES)
        {
            let (counted, is) = (len.unwrap_or(0), self.deletes);
            if counted != is {
                let what = format!("{counted} objects counted in the delete queue, {is} found");
                self.add(FaultKind::DeleteQueue, what);
            }
        }
        self.is_again = self.namespace.end(kv);
        self.is_done = !self.is_again;
        self.from.clear();
    }

    fn decode<T: DeserializeOwned>(&mut self, key: &[u8], value: &[u8]) -> Option<T> {
        let row = postcard::from_bytes(value).ok();
        if row.is_none() {
            self.add(
                FaultKind::UnreadableRow,
                format!("row {} is none of ours", hex(key)),
            );
        }
        row
    }

    fn add(&mut self, kind: FaultKind, what: String) {
        let ino = Ino(0);
        self.faults.push(Fault { kind, ino, what });
    }

    /// What was found since the last time.
    pub fn take_faults(&mut self) -> Vec<Fault> {
        let mut faults = std::mem::take(&mut self.faults);
        faults.append(&mut self.namespace.take_faults());
        faults
    }

    /// All rows were looked at.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.is_done
    }

    /// Rows looked at so far.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Of all rows so far, in order.
    #[must_use]
    pub fn digest(&self) -> u32 {
        self.digest
    }
}

fn client_of(key: &[u8]) -> ClientId {
    let bytes = key.get(1..17).and_then(|b| b.try_into().ok());
    ClientId(bytes.map_or(0, u128::from_be_bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

impl<K: Kv> MasterState<K> {
    /// What is known of each object. *Garbage* stays garbage: only an operation that is applied makes
    /// a reference to an object that has none, and that of garbage was decided.
    ///
    /// # Errors
    /// A damaged table.
    pub fn object_fates(&mut self, objects: &[ObjectId]) -> Result<Vec<ObjectFate>, StateError> {
        let mut fates = Vec::with_capacity(objects.len());
        for id in objects {
            fates.push(
                if id.is_namespace() || namespace::is_referenced(self.kv(), *id)? {
                    ObjectFate::Referenced
                } else if !self.is_decided(*id)? {
                    ObjectFate::Undecided
                } else {
                    let (waiting, kv) = self.waiting();
                    match waiting.all(kv)? {
                        Some(queue) if !queue.contains(id) => ObjectFate::Garbage,
                        _ => ObjectFate::Waiting,
                    }
                },
            );
        }
        Ok(fates)
    }

    /// The object's operation can never be applied any more (again).
    fn is_decided(&self, id: ObjectId) -> Result<bool, StateError> {
        let Some(session) = self.session(id.op.client) else {
            return Ok(true); // ended: what a store holds was prepared in a session that was open
        };
        if id.op.seq < session.low {
            return Ok(true);
        }
        let has = |table| -> Result<bool, KvError> {
            Ok(self.kv().get(&keys::op(table, id.op))?.is_some())
        };
        Ok(has(keys::RESULT)? || has(keys::ABORTED)?)
    }
}
