//! Sessions and exactly-once results.
//!
//! A mutation is decided once: applied, or refused for good. Its result is kept until the session
//! says (by `low`) that it has been heard. Invariants:
//! 1. an op-id has at most one decision; asked again it gives the same answer;
//! 2. ops below the session's `low` are refused, so a delayed duplicate changes nothing;
//! 3. an aborted op is never applied; an expired client uuid is refused for ever;
//! 4. refusals of class *retry* decide nothing: the same op-id may come again.
use super::{StateError, keys};
use crate::store::{Kv, KvRead, prefix_end};
use crate::types::{ClientId, LogIndex, OpId, Time};
use crate::wire::master::Touched;
use crate::wire::{ErrorClass, ErrorCode, MutationOk, WireError};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One live session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionRow {
    /// For people.
    pub label: String,
    /// All ops below are finished.
    pub low: u64,
    /// When it began (log time).
    pub began: Time,
}

/// The decision on one op.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResultRow {
    /// What the client was or will be told.
    pub result: Result<MutationOk, WireError>,
    /// What it changed: a repeated op invalidates again.
    pub touched: Vec<Touched>,
}

/// What is known of an op before it is applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Nothing: apply it.
    Open,
    /// Decided before.
    Decided(ResultRow),
    /// Refused without a record.
    Refused(WireError),
}

/// All live sessions, cached from their table.
#[derive(Debug, Default)]
pub struct Sessions {
    live: BTreeMap<ClientId, SessionRow>,
    /// Those that were barred, and the place in the log of the last time.
    barred: BTreeMap<ClientId, LogIndex>,
}

impl Sessions {
    /// Loads the table.
    pub fn load(kv: &impl KvRead) -> Result<Self, StateError> {
        let mut live = BTreeMap::new();
        let prefix = [keys::SESSION];
        for (key, value) in kv.scan(&prefix, &prefix_end(&prefix), usize::MAX)? {
            let id = key
                .get(1..17)
                .and_then(|b| b.try_into().ok())
                .unwrap_or([0; 16]);
            live.insert(
                ClientId(u128::from_be_bytes(id)),
                keys::decode("session", &key, &value)?,
            );
        }
        let barred = keys::get(kv, "barred", keys::BARRED)?.unwrap_or_default();
        Ok(Self { live, barred })
    }

    /// What was queued before `at` by sessions that live is refused from now on.
    pub fn bar(&mut self, kv: &mut impl Kv, clients: &[ClientId], at: LogIndex) {
        for client in clients.iter().filter(|id| self.live.contains_key(id)) {
            self.barred.insert(*client, at);
        }
        keys::put(kv, keys::BARRED.to_vec(), &self.barred);
    }

    /// A change that was queued when the session was the only one as of `sole_at` comes too late.
    pub fn is_barred(&self, client: ClientId, sole_at: LogIndex) -> bool {
        self.barred.get(&client).is_some_and(|at| sole_at < *at)
    }

    /// A live session.
    pub fn get(&self, client: ClientId) -> Option<&SessionRow> {
        self.live.get(&client)
    }

    /// All live sessions.
    pub fn iter(&self) -> impl Iterator<Item = (ClientId, &SessionRow)> {
        self.live.iter().map(|(id, row)| (*id, row))
    }

    /// Begins a session; the same one again changes nothing.
    ///
    /// # Errors
    /// Refused (inner) when the uuid has expired.
    pub fn open(
        &mut self,
        kv: &mut impl Kv,
        client: ClientId,
        label: &str,
        at: Time,
    ) -> Result<Result<(), WireError>, StateError> {
        if self.live.contains_key(&client) {
            return Ok(Ok(()));
        }
        if kv.get(&keys::client(keys::EXPIRED, client))?.is_some() {
            return Ok(Err(expired(client)));
        }
        let label = label.chars().take(200).collect();
        let row = SessionRow {
            label,
            low: 1,
            began: at,
        };
        keys::put(kv, keys::client(keys::SESSION, client), &row);
        self.live.insert(client, row);
        Ok(Ok(()))
    }

    /// Ends a session and refuses its uuid from now on. False if it was not live.
    pub fn end(&mut self, kv: &mut impl Kv, client: ClientId) -> Result<bool, StateError> {
        if self.live.remove(&client).is_none() {
            return Ok(false);
        }
        if self.barred.remove(&client).is_some() {
            keys::put(kv, keys::BARRED.to_vec(), &self.barred);
        }
        kv.delete(&keys::client(keys::SESSION, client));
        kv.put(keys::client(keys::EXPIRED, client), Vec::new());
        for table in [keys::RESULT, keys::ABORTED] {
            let prefix = keys::client(table, client);
            for (key, _) in kv.scan(&prefix, &prefix_end(&prefix), usize::MAX)? {
                kv.delete(&key);
            }
        }
        Ok(true)
    }

    /// Raises `low` and looks the op up.
    pub fn begin(&mut self, kv: &mut impl Kv, op: OpId, low: u64) -> Result<Decision, StateError> {
        let Some(row) = self.live.get_mut(&op.client) else {
            return Ok(Decision::Refused(expired(op.client)));
        };
        if low > row.low {
            let at = |seq| OpId {
                client: op.client,
                seq,
            };
            for table in [keys::RESULT, keys::ABORTED] {
                // Not from the first op on: what is gone there may not have left the memtable yet, and
                // would be walked over at every op.
                let (from, to) = (keys::op(table, at(row.low)), keys::op(table, at(low)));
                for (key, _) in kv.scan(&from, &to, usize::MAX)? {
                    kv.delete(&key);
                }
            }
            row.low = low;
            let row = row.clone();
            keys::put(kv, keys::client(keys::SESSION, op.client), &row);
        }
        let low = self.live.get(&op.client).map_or(0, |row| row.low);
        if op.seq < low {
            let detail = format!("op {op} is below the session's lowest unfinished {low}");
            return Ok(Decision::Refused(WireError::new(
                ErrorCode::OpTooOld,
                detail,
            )));
        }
        if let Some(result) = keys::get(kv, "result", &keys::op(keys::RESULT, op))? {
            return Ok(Decision::Decided(result));
        }
        if kv.get(&keys::op(keys::ABORTED, op))?.is_some() {
            let detail = format!("op {op} was aborted");
            return Ok(Decision::Refused(WireError::new(
                ErrorCode::OpAborted,
                detail,
            )));
        }
        Ok(Decision::Open)
    }

    /// True iff an op of a live session is decided or given up: nothing of it is to come.
    pub fn is_decided(&self, kv: &impl KvRead, op: OpId) -> Result<bool, StateError> {
        let is_finished = |row: &SessionRow| op.seq < row.low;
        Ok(self.live.get(&op.client).is_some_and(is_finished)
            || kv.get(&keys::op(keys::RESULT, op))?.is_some()
            || kv.get(&keys::op(keys::ABORTED, op))?.is_some())
    }

    /// Records a decision; a refusal of class retry is none.
    pub fn decide(kv: &mut impl Kv, op: OpId, row: &ResultRow) {
        if let Err(e) = &row.result
            && e.code.class() != ErrorClass::Permanent
        {
            return;
        }
        keys::put(kv, keys::op(keys::RESULT, op), row);
    }

    /// Aborts an op that is not decided yet. False if there was nothing to abort: it is decided,
    /// finished, or its session is gone (then it can never be applied anyway).
    pub fn abort(&self, kv: &mut impl Kv, op: OpId) -> Result<bool, StateError> {
        let Some(row) = self.live.get(&op.client) else {
            return Ok(false);
        };
        if op.seq < row.low || kv.get(&keys::op(keys::RESULT, op))?.is_some() {
            return Ok(false);
        }
        kv.put(keys::op(keys::ABORTED, op), Vec::new());
        Ok(true)
    }

    /// The recorded decision on an op, if it is still kept.
    pub fn result(kv: &impl KvRead, op: OpId) -> Result<Option<ResultRow>, StateError> {
        keys::get(kv, "result", &keys::op(keys::RESULT, op))
    }
}

fn expired(client: ClientId) -> WireError {
    let detail = format!("session {client} has expired or was never opened");
    WireError::new(ErrorCode::SessionExpired, detail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::MemKv;

    const C: ClientId = ClientId(7);

    fn op(seq: u64) -> OpId {
        OpId { client: C, seq }
    }

    fn opened() -> (Sessions, MemKv) {
        let (mut s, mut kv) = (Sessions::default(), MemKv::default());
        s.open(&mut kv, C, "test", Time(1)).unwrap().unwrap();
        (s, kv)
    }

    #[test]
    fn a_repeated_op_gets_the_same_answer() {
        let (mut s, mut kv) = opened();
        assert_eq!(s.begin(&mut kv, op(1), 1).unwrap(), Decision::Open);
        let row = ResultRow {
            result: Ok(MutationOk::Done),
            touched: vec![],
        };
        Sessions::decide(&mut kv, op(1), &row);
        assert_eq!(s.begin(&mut kv, op(1), 1).unwrap(), Decision::Decided(row));
    }

    #[test]
    fn an_op_below_low_is_refused_and_its_result_dropped() {
        let (mut s, mut kv) = opened();
        let row = ResultRow {
            result: Ok(MutationOk::Done),
            touched: vec![],
        };
        Sessions::decide(&mut kv, op(1), &row);
        assert_eq!(s.begin(&mut kv, op(2), 2).unwrap(), Decision::Open);
        assert_eq!(Sessions::result(&kv, op(1)).unwrap(), None);
        assert!(
            matches!(s.begin(&mut kv, op(1), 1).unwrap(), Decision::Refused(e)
            if e.code == ErrorCode::OpTooOld)
        );
    }

    #[test]
    fn an_aborted_op_is_never_applied_and_a_decided_one_never_aborted() {
        let (mut s, mut kv) = opened();
        assert!(s.abort(&mut kv, op(3)).unwrap());
        assert!(
            matches!(s.begin(&mut kv, op(3), 1).unwrap(), Decision::Refused(e)
            if e.code == ErrorCode::OpAborted)
        );
        let row = ResultRow {
            result: Ok(MutationOk::Done),
            touched: vec![],
        };
        Sessions::decide(&mut kv, op(4), &row);
        assert!(!s.abort(&mut kv, op(4)).unwrap());
    }

    #[test]
    fn a_retryable_refusal_decides_nothing() {
        let (mut s, mut kv) = opened();
        let row = ResultRow {
            result: Err(ErrorCode::WrongEpoch.into()),
            touched: vec![],
        };
        Sessions::decide(&mut kv, op(1), &row);
        assert_eq!(s.begin(&mut kv, op(1), 1).unwrap(), Decision::Open);
    }

    #[test]
    fn an_ended_session_is_refused_for_ever() {
        let (mut s, mut kv) = opened();
        assert!(s.end(&mut kv, C).unwrap());
        assert!(s.open(&mut kv, C, "again", Time(2)).unwrap().is_err());
        let mut again = Sessions::load(&kv).unwrap();
        assert!(matches!(
            again.begin(&mut kv, op(9), 1).unwrap(),
            Decision::Refused(_)
        ));
    }
}
