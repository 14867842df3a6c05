//! Liveness of sessions: keep-alives, expiry, and what their answers promise.
use super::event::MasterAction;
use super::leading::{Pending, Task};
use super::machine::Master;
use super::requests::no_session;
use crate::master::command::Command;
use crate::types::{ClientId, Ino, StoreId, Time};
use crate::wire::WireError;
use crate::wire::master::MasterResponse;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

#[derive(Debug, Clone, Copy)]
struct Heard {
    at: Time,
    low: u64,
}

/// When each session was last heard. A new leader gives every session its full time.
#[derive(Debug)]
pub(super) struct Liveness {
    sessions: BTreeMap<ClientId, Heard>,
}

impl Liveness {
    pub fn new(now: Time, sessions: impl IntoIterator<Item = ClientId>) -> Self {
        let heard = Heard { at: now, low: 0 };
        Self {
            sessions: sessions.into_iter().map(|client| (client, heard)).collect(),
        }
    }

    /// A session lives (its entry was applied).
    pub fn heard(&mut self, client: ClientId, now: Time) {
        self.sessions
            .entry(client)
            .or_insert(Heard { at: now, low: 0 })
            .at = now;
    }

    /// A keep-alive. False if the session is not known.
    pub fn keep_alive(&mut self, client: ClientId, low: u64, now: Time) -> bool {
        let Some(heard) = self.sessions.get_mut(&client) else {
            return false;
        };
        heard.at = now;
        heard.low = heard.low.max(low);
        true
    }

    /// Its ops below this are finished, as far as it said.
    pub fn low(&self, client: ClientId) -> u64 {
        self.sessions.get(&client).map_or(0, |heard| heard.low)
    }

    /// This process was stalled: nobody was silent because of that.
    pub fn forgive(&mut self, stalled: Duration) {
        self.sessions
            .values_mut()
            .for_each(|heard| heard.at = heard.at + stalled);
    }

    pub fn ended(&mut self, client: ClientId) {
        self.sessions.remove(&client);
    }

    /// Time since the last keep-alive.
    pub fn silent_for(&self, client: ClientId, now: Time) -> Duration {
        self.sessions
            .get(&client)
            .map_or(Duration::ZERO, |heard| now.since(heard.at))
    }

    fn silent(&self, now: Time, longer_than: Duration) -> Vec<ClientId> {
        let is_silent = |heard: &Heard| now.since(heard.at) > longer_than;
        let silent = self.sessions.iter().filter(|(_, heard)| is_silent(heard));
        silent.map(|(client, _)| *client).collect()
    }
}

impl Master {
    /// Ends sessions that were silent for too long.
    pub(super) fn expire_sessions(&mut self) {
        let Some(leading) = self.leading.as_deref() else {
            return;
        };
        for client in leading.liveness.silent(self.now, self.config.session_valid) {
            tracing::info!(%client, "session expired");
            let command = Command::EndSession {
                client,
                expired: true,
            };
            self.propose(command, Pending::Task(Task::End(client)));
        }
    }

    pub(super) fn session_opened(
        &mut self,
        client: ClientId,
        refused: Option<WireError>,
    ) -> Result<MasterResponse, WireError> {
        if let Some(error) = refused {
            return Err(error);
        }
        // No cache before the first keep-alive, whose answer is confirmed.
        self.session_answer(client, Duration::ZERO, false)
    }

    pub(super) fn answer_keep_alive(
        &mut self,
        client: ClientId,
        arrived: Time,
        out: &mut Vec<MasterAction>,
    ) -> Result<MasterResponse, WireError> {
        let now = self.now;
        let is_only = self.has_session(client) && self.state.sessions().nth(1).is_none();
        let Some(leading) = self.leading.as_deref_mut() else {
            return Err(self.not_leader());
        };
        let valid = leading.coherence.grant(client, arrived, now);
        // What it queues from now on would be refused.
        let is_barring = leading.pending.values().any(|p| p.bars(client));
        let is_unbarred = leading.coherence.is_unbarred(client);
        let sole = is_only && !valid.is_zero() && !is_barring && !is_unbarred;
        if sole {
            // Who begins a session, or looks without one, touches it.
            leading.coherence.register(client, Ino::SOLE, out, now);
        }
        self.session_answer(client, valid, sole)
    }

    fn session_answer(
        &self,
        client: ClientId,
        caches_valid: Duration,
        sole: bool,
    ) -> Result<MasterResponse, WireError> {
        let Some(leading) = self.leading.as_deref() else {
            return Err(self.not_leader());
        };
        if !self.has_session(client) {
            return Err(no_session(client));
        }
        Ok(MasterResponse::Session {
            term: leading.term,
            caches_valid,
            session_valid: self.config.session_valid,
            map_version: self.state.map().version,
            stores: self.store_addrs(),
            sole,
            as_of: self.state.applied().index,
        })
    }

    pub(super) fn store_addrs(&self) -> Vec<(StoreId, SocketAddr)> {
        self.state
            .stores()
            .values()
            .map(|row| (row.store, row.addr))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_session_expires_after_its_time_and_not_before() {
        let s = |n: u64| Time(n * 1_000_000_000);
        let ten = Duration::from_secs(10);
        let mut live = Liveness::new(s(100), [ClientId(1), ClientId(2)]);
        assert!(live.keep_alive(ClientId(1), 5, s(105)));
        assert!(
            live.silent(s(110), ten).is_empty(),
            "a new leader gives the full time"
        );
        assert_eq!(live.silent(s(111), ten), vec![ClientId(2)]);
        assert_eq!(live.silent(s(116), ten), vec![ClientId(1), ClientId(2)]);
        assert_eq!(live.low(ClientId(1)), 5);
        assert!(!live.keep_alive(ClientId(3), 1, s(105)));
    }
}
