//! A group on a perfect network, for tests of one event at a time.
use super::*;
use crate::types::{RaftId, Time};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

pub(super) fn recovered(base: SnapshotMeta) -> RecoveredLog {
    RecoveredLog {
        hard: HardState {
            term: base.term,
            vote: None,
            commit: base.index,
        },
        base,
        entries: Vec::new(),
        installing: None,
        dropped_torn_tail: false,
    }
}

pub(super) fn ids(list: &[u64]) -> Vec<RaftId> {
    list.iter().copied().map(RaftId).collect()
}

pub(super) fn node(id: u64, voters: &[u64]) -> RaftNode {
    let base = SnapshotMeta::bootstrap(ids(voters));
    let config = RaftConfig::new(RaftId(id));
    RaftNode::new(config, recovered(base), &StateAt::default(), id).unwrap()
}

pub(super) fn propose(token: u64) -> RaftEvent {
    RaftEvent::Propose {
        token,
        data: Bytes::from(token.to_le_bytes().to_vec()),
    }
}

/// Members with a perfect network; writes become durable when `syncs` says so.
pub(super) struct Group {
    pub(super) nodes: BTreeMap<u64, RaftNode>,
    pub(super) queue: VecDeque<(RaftId, RaftId, RaftMessage)>,
    /// Everything but sends, persists and rejections, by member.
    pub(super) log: Vec<(u64, RaftAction)>,
    pub(super) unsynced: BTreeMap<u64, Vec<u64>>,
    pub(super) syncs: bool,
    pub(super) down: BTreeSet<u64>,
    pub(super) now: Time,
}

impl Group {
    pub(super) fn new(members: &[u64], voters: &[u64]) -> Self {
        let nodes = members.iter().map(|&id| match voters.contains(&id) {
            true => (id, node(id, voters)),
            false => {
                let log = recovered(SnapshotMeta::blank());
                let config = RaftConfig::new(RaftId(id));
                let blank = RaftNode::new(config, log, &StateAt::default(), id);
                (id, blank.unwrap())
            }
        });
        Self {
            nodes: nodes.collect(),
            queue: VecDeque::new(),
            log: Vec::new(),
            unsynced: BTreeMap::new(),
            syncs: true,
            down: BTreeSet::new(),
            now: Time::ZERO,
        }
    }

    pub(super) fn feed(&mut self, id: u64, events: impl IntoIterator<Item = RaftEvent>) {
        let mut out = Vec::new();
        let node = self.nodes.get_mut(&id).unwrap();
        node.handle_all(self.now, events, &mut out);
        let mut answers = Vec::new();
        for action in out {
            match action {
                RaftAction::Send { to, message } => {
                    self.queue.push_back((RaftId(id), to, message));
                }
                RaftAction::Persist { token, .. } => {
                    if self.syncs {
                        answers.push(RaftEvent::Persisted { token });
                    } else {
                        self.unsynced.entry(id).or_default().push(token);
                    }
                }
                action => {
                    if let RaftAction::Apply { entries } = &action {
                        let index = entries.last().unwrap().index;
                        answers.push(RaftEvent::Applied { index });
                    }
                    self.log.push((id, action));
                }
            }
        }
        if !answers.is_empty() {
            self.feed(id, answers);
        }
    }

    /// Delivers until nothing is under way.
    pub(super) fn settle(&mut self) {
        while let Some((from, to, message)) = self.queue.pop_front() {
            let is_up = |id: RaftId| !self.down.contains(&id.0) && self.nodes.contains_key(&id.0);
            if is_up(from) && is_up(to) {
                self.feed(to.0, [RaftEvent::Message { from, message }]);
            }
        }
    }

    pub(super) fn tick(&mut self, times: usize) {
        for _ in 0..times {
            self.now = self.now + Duration::from_millis(50);
            for id in self.nodes.keys().copied().collect::<Vec<_>>() {
                if !self.down.contains(&id) {
                    self.feed(id, [RaftEvent::Tick]);
                }
            }
            self.settle();
        }
    }

    pub(super) fn elect(&mut self, id: u64) {
        self.feed(id, [RaftEvent::Campaign]);
        self.settle();
        assert!(self.nodes[&id].is_leader());
    }

    pub(super) fn take_log(&mut self, id: u64) -> Vec<RaftAction> {
        let (mine, others) = std::mem::take(&mut self.log)
            .into_iter()
            .partition(|(of, _)| *of == id);
        self.log = others;
        let mine: Vec<(u64, RaftAction)> = mine;
        mine.into_iter().map(|(_, action)| action).collect()
    }

    pub(super) fn applied_tokens(&mut self, id: u64) -> Vec<u64> {
        let log = self.take_log(id);
        let entries = log.iter().filter_map(|action| match action {
            RaftAction::Apply { entries } => Some(entries),
            _ => None,
        });
        entries.flatten().filter_map(|entry| entry.token).collect()
    }
}

pub(super) fn persists(out: &[RaftAction]) -> Vec<(u64, &LogWrite)> {
    let persists = out.iter().filter_map(|action| match action {
        RaftAction::Persist { token, write } => Some((*token, write)),
        _ => None,
    });
    persists.collect()
}

pub(super) fn sends(out: &[RaftAction]) -> usize {
    let is_send = |action: &&RaftAction| matches!(action, RaftAction::Send { .. });
    out.iter().filter(is_send).count()
}
