//! Clients: each has one write or read open, thinks, and begins again.
use super::driver::command;
use super::world::{Event, MS, Open, World};
use crate::consensus::RaftEvent;
use rand::Rng;

const KEYS: u8 = 4;

impl World {
    pub(super) fn begin(&mut self, client: u8) -> Result<(), String> {
        let key = self.rng.random_range(0..KEYS);
        let (op, token) = (self.next_token(), self.next_token());
        let writes = self.rng.random_bool(0.5);
        let floor = (!writes).then(|| self.checker.floor(key));
        self.clients[usize::from(client)] = Some(Open { op, key, floor });
        self.open.insert(token, client);
        // Soon enough that some are free again before a leader that was cut off knows it.
        let patience = self.rng.random_range(100..2000) * MS;
        self.schedule(self.now + patience, Event::Timeout { client, op });
        let at = self.choose_server();
        if self.members[at].paused_until > self.now {
            return Ok(());
        }
        let event = match writes {
            true => RaftEvent::Propose {
                token,
                data: command(op, key, client).into(),
            },
            false => RaftEvent::ReadIndex { token },
        };
        self.feed(at, [event])
    }

    /// Mostly the leader, often one that believes to be it, now and then anyone.
    fn choose_server(&mut self) -> usize {
        let anyone = self.rng.random_range(0..self.members.len());
        let leads = |at: &usize| {
            let process = self.members[*at].process.as_ref();
            process.is_some_and(|p| p.raft.is_leader())
        };
        let believers: Vec<usize> = (0..self.members.len()).filter(leads).collect();
        match self.rng.random_range(0..10) {
            0 => anyone,
            1..6 if !believers.is_empty() => believers[self.rng.random_range(0..believers.len())],
            _ => self.leader().map_or(anyone, |(at, _)| at),
        }
    }

    /// A write was applied where it was proposed.
    pub(super) fn done(&mut self, token: u64, index: u64) {
        if self.conf_tokens.remove(&token) {
            self.stats.conf_changes += 1;
        }
        let Some(client) = self.open.remove(&token) else {
            return;
        };
        if let Some(open) = self.clients[usize::from(client)] {
            self.checker.acked(open.key, open.op, index);
            self.stats.acked += 1;
            self.end(client);
        }
    }

    pub(super) fn serve_reads(&mut self, at: usize) -> Result<(), String> {
        let Some(process) = self.members[at].process.as_mut() else {
            return Ok(());
        };
        let applied = process.tables.applied;
        let waiting = std::mem::take(&mut process.reads);
        let (ready, later) = waiting
            .into_iter()
            .partition(|(index, _)| *index <= applied);
        process.reads = later;
        let keys = process.tables.keys.clone();
        for (_, token) in ready {
            let Some(client) = self.open.remove(&token) else {
                continue;
            };
            if let Some(open) = self.clients[usize::from(client)]
                && let Some(floor) = open.floor
            {
                let index = keys.get(&open.key).map_or(0, |(_, index)| *index);
                self.checker.read(open.key, index, floor)?;
                self.stats.reads += 1;
                self.end(client);
            }
        }
        Ok(())
    }

    /// The client thinks, then begins again. A timed out operation stays open for nobody.
    pub(super) fn end(&mut self, client: u8) {
        self.clients[usize::from(client)] = None;
        self.open.retain(|_, owner| *owner != client);
        let think = self.rng.random_range(1..60) * MS;
        self.schedule(self.now + think, Event::Client(client));
    }
}
