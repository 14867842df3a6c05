//! Pages of the namespace, for the snapshots that stores keep.
//!
//! Steps: the first request pins the tables as they are, or takes a pin that is young enough; every
//! later one reads on in that pin, so that all pages are of one log index; a pin that nobody asked
//! about for a while goes. Only who leads pins: it has applied whatever was acknowledged. One that was
//! deposed without knowing may miss the last moments: a snapshot is a starting point, not the truth.
use super::event::MasterAction;
use super::machine::{Master, refusal};
use crate::master::state::namespace::NAMESPACE_TABLES;
use crate::store::{KvError, KvPair, KvRead, prefix_end};
use crate::types::{LogIndex, Time};
use crate::wire::node::NodeResponse;
use crate::wire::rpc::{Reply, ReplyTo};
use crate::wire::{ErrorCode, Response, WireError};
use std::time::Duration;

/// Pins at a time: stores that begin together share one.
const PINS_MAX: usize = 4;
/// A pin that nobody asked about for this long is let go.
const IDLE: Duration = Duration::from_secs(60);
/// Pairs read at once.
const PAIRS: usize = 512;
/// Bytes of a page at most: what the leader does between two other events.
const PAGE_BYTES: u32 = 512 << 10;

/// Which state a page is wanted of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NamespaceAt {
    /// The one pinned at this index; 0 for the newest.
    pub index: LogIndex,
    /// With index 0: a pin of at most this age will do.
    pub age_max: Duration,
}

/// The tables as they were at a log index.
pub(super) struct NamespacePin {
    index: LogIndex,
    taken_at: Time,
    pinned_at: Time,
    used_at: Time,
    tables: Box<dyn KvRead + Send + Sync>,
}

impl Master {
    pub(super) fn drop_idle_pins(&mut self) {
        let now = self.now;
        self.namespace_pins
            .retain(|pin| now.since(pin.used_at) <= IDLE);
    }

    /// Answers one page.
    pub(super) fn serve_namespace(
        &mut self,
        to: ReplyTo,
        at: NamespaceAt,
        (after, bytes_max): (&[u8], u32),
        out: &mut Vec<MasterAction>,
    ) {
        let body = self.namespace_page(at, after, bytes_max);
        out.push(match body {
            Ok(page) => MasterAction::Reply(Reply {
                to,
                body: Ok(Response::Node(page)),
                payload: Vec::new(),
            }),
            Err(error) => refusal(to, error),
        });
    }

    fn namespace_page(
        &mut self,
        at: NamespaceAt,
        after: &[u8],
        bytes_max: u32,
    ) -> Result<NodeResponse, WireError> {
        let now = self.now;
        let found = self.namespace_pins.iter_mut().rev().find(|pin| {
            pin.index == at.index
                || (at.index == LogIndex(0) && now.since(pin.pinned_at) <= at.age_max)
        });
        let pin = match found {
            Some(pin) => pin,
            None if at.index == LogIndex(0) && after.is_empty() => self.pin_namespace()?,
            None => {
                let detail = format!("the namespace at {} is not held here any more", at.index);
                return Err(WireError::new(ErrorCode::NotFound, detail));
            }
        };
        pin.used_at = now;
        let broken = |e: KvError| WireError::new(ErrorCode::Internal, e.to_string());
        let pairs = pin
            .page(after, bytes_max.min(PAGE_BYTES) as usize)
            .map_err(broken)?;
        Ok(NodeResponse::NamespacePage {
            index: pin.index,
            taken_at: pin.taken_at,
            pairs,
        })
    }

    fn pin_namespace(&mut self) -> Result<&mut NamespacePin, WireError> {
        if !self.leads() {
            return Err(self.not_leader());
        }
        if self.namespace_pins.len() >= PINS_MAX {
            self.namespace_pins.sort_by_key(|pin| pin.used_at);
            self.namespace_pins.remove(0);
        }
        let (index, taken_at) = (self.state.applied().index, self.wall);
        let pin = NamespacePin {
            index,
            taken_at,
            pinned_at: self.now,
            used_at: self.now,
            tables: self.state.kv_mut().snapshot(),
        };
        self.namespace_pins.push(pin);
        Ok(self.namespace_pins.last_mut().expect("pushed just now"))
    }
}

impl NamespacePin {
    /// Rows with keys above `after`, in key order, at least one while there are any.
    fn page(&self, after: &[u8], bytes_max: usize) -> Result<Vec<KvPair>, KvError> {
        let mut pairs = Vec::new();
        let mut bytes = 0;
        for table in NAMESPACE_TABLES {
            let end = prefix_end(table);
            let mut from = after.to_vec();
            from.push(0);
            from = from.max(table.to_vec());
            while from < end {
                let found = self.tables.scan(&from, &end, PAIRS)?;
                let Some((last, _)) = found.last() else { break };
                from.clone_from(last);
                from.push(0);
                for pair in found {
                    if bytes >= bytes_max.max(1) {
                        return Ok(pairs);
                    }
                    bytes += pair.0.len() + pair.1.len() + 8;
                    pairs.push(pair);
                }
            }
        }
        Ok(pairs)
    }
}
