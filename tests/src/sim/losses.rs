//! Faults that take bytes, room or whoever works: wiped stores, rot, bits that flip on the way,
//! full devices, dead clients, nodes that are to be emptied.
//!
//! What a correct cluster must survive: of three copies one may be lost at a time, and of three
//! voters one. So a store is wiped only when nothing is left of the wipe before it: every group is
//! complete on stores that there are, all voters run, and what was being written then is decided.
//! No bytes rot in a run with wipes, and they rot on one node only.
use super::audit::have_copies;
use super::client::{ClientTimer, Cx, WORKERS};
use super::fabric::Ev;
use super::fault_plan::Hit;
use super::faults::Fault;
use super::oracle::{Fate, Put};
use super::planted::NOBODY;
use super::settings::{RESERVE_PERMILLE, node_id};
use super::voters::do_all_run;
use super::world::World;
use dfs_core::master::leader::MasterEvent;
use dfs_core::store::Disk;
use dfs_core::types::{OpId, QuorumSizes, StoreId};
use dfs_core::wire::MasterRequest;
use std::time::Duration;

/// What cannot happen yet waits so long between two looks.
const AGAIN: Duration = Duration::from_millis(200);

impl World {
    /// Strikes with a fault of these kinds; `number` is that of the plan.
    pub(super) fn strike_losses(&mut self, number: usize, hit: Hit) {
        match hit {
            Hit::Wipe { victim, all, lasts } => {
                if !self.may_wipe() {
                    let again = Ev::Fault(Fault::Planned(number));
                    return self.fx.after(AGAIN, again);
                }
                self.wipe(self.who(victim), all, lasts);
            }
            Hit::Rot {
                file,
                at,
                unreadable,
            } => {
                if !self.rot(file, at, unreadable) {
                    self.fx.after(AGAIN, Ev::Fault(Fault::Planned(number)));
                }
            }
            Hit::Garble { share, lasts } => {
                self.fx.is_harmed = true;
                self.fx.net.garble = share;
                self.fx.after(lasts, Ev::Fault(Fault::GarbleWell));
            }
            Hit::Fill { victim, lasts } => {
                let node = self.who(victim);
                let space = self.nodes[node].disk.space().expect("it is simulated");
                let used = space.total_bytes - space.free_bytes;
                let all = used * 1000 / (1000 - RESERVE_PERMILLE);
                self.nodes[node].disk.set_capacity(Some(all));
                self.oracle.may_forget = true;
                self.fx.after(lasts, Ev::Fault(Fault::Unfill(node)));
            }
            Hit::ClientDies { client, lasts } => {
                self.with_client(client, |client, cx| client.die(cx));
                self.fx.after(lasts, Ev::Fault(Fault::ClientBack(client)));
            }
            Hit::Drain { node, lasts } => {
                if self.nodes.len() > usize::from(QuorumSizes::DEFAULT.n) {
                    self.drain(node, true);
                    self.fx.after(lasts, Ev::Fault(Fault::Undrain(node)));
                }
            }
            _ => unreachable!("it takes nothing"),
        }
    }

    /// What follows, and the end of it.
    pub(super) fn on_loss_end(&mut self, fault: &Fault) {
        match *fault {
            Fault::GarbleWell => self.fx.net.garble = 0.0,
            Fault::Unfill(node) => self.nodes[node].disk.set_capacity(None),
            Fault::ClientBack(client) => self.revive(client),
            Fault::Undrain(node) => self.drain(node, false),
            _ => {}
        }
    }

    /// Nothing is left to mend of the wipe before.
    fn may_wipe(&self) -> bool {
        if !self.disorder_of_groups().is_empty() {
            return false;
        }
        let leader = self.leader().expect("the groups are in order");
        let state = self.state_of(leader).expect("it leads");
        let is_there = |store: &StoreId| self.nodes.iter().any(|node| node.store() == *store);
        let w = usize::from(state.map().quorum.w);
        let is_decided = |op: &OpId| {
            let put = &self.oracle.puts[op];
            matches!(put.fate, Fate::Applied(_) | Fate::Never)
        };
        state
            .pgs()
            .all(|(_, group)| group.info.members.iter().all(is_there))
            && do_all_run(&self.nodes, leader)
            && self.nemesis.undecided.iter().all(is_decided)
            && have_copies(&self.nodes, state, w)
    }

    fn wipe(&mut self, node: usize, all: bool, lasts: Duration) {
        self.stop_node(node, true);
        self.nodes[node].wipe(all);
        self.oracle.counts.wipes += 1;
        let is_open = |put: &Put| matches!(put.fate, Fate::Open | Fate::Unknown);
        let puts = self.oracle.puts.iter().filter(|(_, put)| is_open(put));
        self.nemesis.undecided = puts.map(|(op, _)| *op).collect();
        self.say(format_args!("node {node} is wiped"));
        self.fx.after(lasts, Ev::Fault(Fault::Start(node)));
    }

    /// False if there is nothing yet that could rot.
    fn rot(&mut self, file: u32, at: u32, unreadable: bool) -> bool {
        let node = self.nemesis.plan.rots_on.expect("it is planned");
        let disk = &self.nodes[node].disk;
        let files = disk.paths("objects/");
        let Some(path) = files.get(files.len() * file as usize / 1000) else {
            return false;
        };
        let len = disk.open(path, false).and_then(|file| file.len());
        let at = len.expect("it is there") * u64::from(at) / 1000;
        let hit = match unreadable {
            true => disk.break_page(path, at),
            false => disk.flip_bit(path, at),
        };
        self.fx.is_harmed = true;
        self.oracle.counts.rotten += u64::from(hit);
        self.say(format_args!("node {node}: {path} rots at {at}: {hit}"));
        true
    }

    fn drain(&mut self, node: usize, draining: bool) {
        if let Some(leader) = self.leader() {
            let node = node_id(node);
            let body = MasterRequest::Drain { node, draining };
            let from = NOBODY;
            self.nodes[leader].master(MasterEvent::Request { from, body }, &mut self.fx);
        }
    }

    fn revive(&mut self, client: usize) {
        let (fx, is_dead) = (&mut self.fx, &mut self.clients[client].is_dead);
        if !std::mem::take(is_dead) {
            return;
        }
        let round = self.clients[client].round;
        let seek = ClientTimer::Seek(round);
        let workers = (0..WORKERS).map(ClientTimer::Next);
        for timer in workers.chain([seek]) {
            let pause = fx.ms(1, 50);
            fx.after(pause, Ev::Client { client, timer });
        }
    }

    /// All of this is over, for good.
    pub(super) fn heal_losses(&mut self) {
        self.fx.net.garble = 0.0;
        for client in 0..self.clients.len() {
            self.revive(client);
        }
        for node in 0..self.nodes.len() {
            self.nodes[node].disk.set_capacity(None);
            if self.failover.is_none() {
                for seconds in 0..8 {
                    let pause = Duration::from_secs(seconds);
                    self.fx.after(pause, Ev::Fault(Fault::Undrain(node)));
                }
            }
        }
    }
}

impl super::client::Client {
    /// The process dies: nobody knows what becomes of what it was at.
    fn die(&mut self, cx: &mut Cx<'_>) {
        if std::mem::replace(&mut self.is_dead, true) {
            return;
        }
        cx.oracle.counts.deaths += 1;
        cx.fx
            .trace
            .say(cx.fx.now, format_args!("client {} dies", self.index));
        self.leave_jobs(cx);
        let pool: Vec<_> = std::mem::take(&mut self.pool).into_values().collect();
        for conn in pool.into_iter().chain(self.bound()) {
            cx.fx.close(conn, self.end());
        }
        self.calls.clear();
        self.asks.clear();
        self.layouts.clear();
        self.stores.clear();
        self.map = None;
        self.contact = super::contact::Contact::Seeking;
        self.hint = None;
        self.round += 1;
        self.begin_session();
    }
}
