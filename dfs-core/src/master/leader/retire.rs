//! Taking nodes out of service: drained first, then removed for good.
use super::event::MasterAction;
use super::leading::{Leading, Pending, Task};
use super::machine::{Master, refusal};
use super::stores::StoreTable;
use crate::master::command::Command;
use crate::master::state::StoreRow;
use crate::types::{NodeId, StoreId};
use crate::wire::rpc::ReplyTo;
use crate::wire::{ErrorCode, WireError};

impl Master {
    /// Empties the node's stores, or no longer; its voter is replaced because its stores drain.
    pub(super) fn on_drain(
        &mut self,
        to: ReplyTo,
        node: NodeId,
        draining: bool,
        out: &mut Vec<MasterAction>,
    ) {
        let stores = self.stores_of(node);
        let command = |store| Command::StoreDrain { store, draining };
        let Some((last, rest)) = stores.split_last() else {
            return out.push(refusal(to, unknown(node)));
        };
        for store in rest {
            self.propose_task(Task::Seen(*store), command(*store));
        }
        self.propose(command(*last), Pending::Control { to });
    }

    /// Forgets the node, unless it lives, votes, or holds what counts.
    pub(super) fn on_remove(&mut self, to: ReplyTo, node: NodeId, out: &mut Vec<MasterAction>) {
        let stores = self.stores_of(node);
        if stores.is_empty() {
            return out.push(refusal(to, unknown(node)));
        }
        self.remove_stores(to, node, &stores, out);
    }

    /// Forgets one store: what a node had before its data directory was replaced, say. The node may
    /// live on with another one.
    pub(super) fn on_remove_store(
        &mut self,
        to: ReplyTo,
        store: StoreId,
        out: &mut Vec<MasterAction>,
    ) {
        match self.state.stores().get(&store).map(|row| row.node) {
            Some(node) => self.remove_stores(to, node, &[store], out),
            None => {
                let detail = format!("no store {store} is known");
                out.push(refusal(to, WireError::new(ErrorCode::NotFound, detail)));
            }
        }
    }

    fn remove_stores(
        &mut self,
        to: ReplyTo,
        node: NodeId,
        stores: &[StoreId],
        out: &mut Vec<MasterAction>,
    ) {
        if let Some(why) = self.not_removable(node, stores) {
            return out.push(refusal(to, WireError::new(ErrorCode::Invalid, why)));
        }
        let Some((last, rest)) = stores.split_last() else {
            return;
        };
        let command = |store| Command::StoreRemoved { store };
        for store in rest {
            self.propose_task(Task::Seen(*store), command(*store));
        }
        self.propose(command(*last), Pending::Control { to });
    }

    /// Groups in which the store counts, and those of them of which it holds the last live copy.
    fn holds(&self, leading: &Leading, store: StoreId) -> (usize, usize) {
        let (mut all, mut last) = (0, 0);
        for (_, s) in self.state.pgs() {
            let is_up = |m: &StoreId| !leading.stores.down.contains_key(m);
            let is_complete = s.complete().any(|m| m == store);
            let others = s.complete().filter(|m| *m != store && is_up(m)).count();
            if s.info.members.contains(&store) || s.info.prior.contains(&store) {
                all += 1;
                last += usize::from(is_complete && others == 0);
            }
        }
        (all, last)
    }

    fn not_removable(&self, node: NodeId, stores: &[StoreId]) -> Option<String> {
        let leading = self.leading.as_deref()?;
        let held = stores.iter().map(|s| self.holds(leading, *s));
        let (all, last) = held.fold((0, 0), |sum, h| (sum.0 + h.0, sum.1 + h.1));
        // A store that the node had before, and the one that it has now.
        let is_up = |s: &StoreId| leading.stores.is_up(*s);
        let former: Vec<StoreId> = stores
            .iter()
            .copied()
            .filter(|s| self.is_former(leading, *s))
            .collect();
        let is_former = former.len() == stores.len();
        if last > 0 {
            return Some(format!(
                "node {node} holds the last live copies of {last} placement groups; bring back \
                 the other nodes that hold them, or start this node, and wait for repair"
            ));
        }
        if all > 0 && is_former {
            return Some(format!(
                "the store that node {node} had before still counts in {all} placement groups; \
                 they are copied to other stores, wait until `dfs-tools status` says so"
            ));
        }
        if all > 0 && former.is_empty() {
            return Some(format!(
                "node {node} is still a member of {all} placement groups; empty it first: \
                 `dfs-tools drain NODE`"
            ));
        }
        if stores.iter().any(is_up) {
            return Some(match former.first() {
                Some(store) => format!(
                    "node {node} still runs; to forget only the store that it had before: \
                     `dfs-tools remove {store}`"
                ),
                None => format!(
                    "node {node} is empty and still runs; stop it first: `dfs-tools leave NODE`"
                ),
            });
        }
        let mut voters = self.state.raft_nodes().values();
        let votes = voters.any(|(voter, _)| *voter == node);
        (votes && !is_former).then(|| {
            format!(
                "node {node} still has a vote in the master group; another node takes it over \
                 within repair.voter_grace_ms, try again then"
            )
        })
    }

    /// The store is down while its node lives with another one: it does not come back by itself.
    pub(super) fn is_former(&self, leading: &Leading, store: StoreId) -> bool {
        let Some(row) = self.state.stores().get(&store) else {
            return false;
        };
        let mut rows = self.state.stores().values();
        let lives =
            |r: &StoreRow| r.node == row.node && r.store != store && leading.stores.is_up(r.store);
        leading.stores.down.contains_key(&store) && rows.any(lives)
    }

    fn stores_of(&self, node: NodeId) -> Vec<StoreId> {
        let rows = self.state.stores().values();
        rows.filter(|row| row.node == node)
            .map(|row| row.store)
            .collect()
    }
}

impl StoreTable {
    /// Heard in this term, and not down since.
    pub fn is_up(&self, store: StoreId) -> bool {
        self.heard.contains_key(&store) && !self.down.contains_key(&store)
    }

    /// A later run of its node, which serves one store, spoke of another one.
    pub fn is_replaced(&self, row: &StoreRow) -> bool {
        let others = self.heard.iter().filter(|(store, _)| **store != row.store);
        let mut runs = others.filter(|(_, soft)| soft.node == row.node);
        runs.any(|(_, soft)| soft.incarnation > row.incarnation)
    }

    /// The store is out of the cluster: nothing is expected of it any more.
    pub fn removed(&mut self, store: StoreId) {
        self.heard.remove(&store);
        self.down.remove(&store);
    }
}

fn unknown(node: NodeId) -> WireError {
    let detail = format!("no store of node {node} is known");
    WireError::new(ErrorCode::NotFound, detail)
}
