//! The nemesis: what goes wrong, when, and for how long.
use super::fabric::{Ev, Fabric};
use super::network::{CLIENTS, End, NODES};
use super::node::NodeTimer;
use super::settings::node_id;
use super::world::World;
use dfs_core::wire::node::MemberState;
use rand::Rng;
use std::time::Duration;

/// Something that goes wrong, or its end.
#[derive(Debug, Clone)]
pub(super) enum Fault {
    /// Chooses the next one.
    Next,
    Start(usize),
    Resume(usize, u64),
    /// Cuts end; the number is of the last ones.
    Uncut(u64),
    DiskWell(usize),
    NetWell,
    /// A broken store is noticed and its daemon restarted.
    Replace(usize),
}

/// What a run's nemesis likes to do: weights.
#[derive(Debug, Clone)]
pub(super) struct Nemesis {
    weights: [u32; KINDS],
    pause_ms: (u64, u64),
    cuts: u64,
}

const KINDS: usize = 12;

impl Nemesis {
    pub fn draw(fx: &mut Fabric) -> Self {
        let mut weights = [0; KINDS];
        for weight in &mut weights {
            *weight = if fx.chance(0.6) {
                fx.rng.random_range(1..10)
            } else {
                0
            };
        }
        // A run in which nothing goes wrong is seldom of use.
        if weights.iter().all(|w| *w == 0) {
            weights[0] = 1;
        }
        let often = fx.rng.random_range(200..1500);
        Self {
            weights,
            pause_ms: (often / 4, often * 2),
            cuts: 0,
        }
    }

    fn choose(&self, fx: &mut Fabric) -> usize {
        let mut at = fx.rng.random_range(0..self.weights.iter().sum::<u32>());
        for (kind, weight) in self.weights.iter().enumerate() {
            if at < *weight {
                return kind;
            }
            at -= weight;
        }
        0
    }
}

impl World {
    pub(super) fn plan_fault(&mut self) {
        let (from, to) = self.nemesis.pause_ms;
        let pause = self.fx.ms(from, to);
        self.fx.after(pause, Ev::Fault(Fault::Next));
    }

    pub(super) fn on_fault(&mut self, fault: Fault) {
        match fault {
            Fault::Next if self.is_chaos() => {
                let kind = self.nemesis.choose(&mut self.fx);
                self.break_something(kind);
                self.plan_fault();
            }
            Fault::Next => {}
            Fault::Start(node) => self.start_node(node),
            Fault::Resume(node, pauses) => {
                if self.nodes[node].pauses == pauses {
                    self.nodes[node].resume(&mut self.fx);
                }
            }
            Fault::Uncut(cuts) => {
                if self.nemesis.cuts == cuts {
                    self.fx.net.uncut();
                    self.fx.release_held();
                }
            }
            Fault::DiskWell(node) => self.nodes[node].disk_slow = 1,
            Fault::NetWell => self.fx.net.slow = None,
            Fault::Replace(node) => {
                let daemon = self.nodes[node].daemon.as_ref();
                if daemon.is_some_and(|d| d.replica.failure().is_some()) {
                    self.stop_node(node, true);
                    let pause = self.fx.ms(50, 500);
                    self.fx.after(pause, Ev::Fault(Fault::Start(node)));
                }
            }
        }
    }

    /// The leader, more often than chance would have it.
    fn victim(&mut self) -> usize {
        let any = self.fx.pick(NODES);
        match self.leader() {
            Some(leader) if self.fx.chance(0.4) => leader,
            _ => any,
        }
    }

    fn break_something(&mut self, kind: usize) {
        let victim = self.victim();
        match kind {
            0 => self.crash_for(victim, false, (100, 8_000)),
            1 => self.crash_for(victim, true, (20, 3_000)),
            2 => {
                let share = if self.fx.chance(0.5) { 1.0 } else { 0.6 };
                for node in 0..NODES {
                    if self.fx.chance(share) {
                        self.crash_for(node, false, (50, 2_500));
                    }
                }
            }
            3 => self.partition(),
            4 => self.isolate(victim),
            5 => {
                let (a, b) = (self.fx.pick(NODES), self.fx.pick(NODES + CLIENTS));
                let ends: Vec<End> = End::all().collect();
                let both = self.fx.chance(0.5);
                self.fx.net.set_cut(ends[a], ends[b], true);
                self.fx.net.set_cut(ends[b], ends[a], both);
                self.uncut_later();
            }
            6 => {
                let pauses = self.nodes[victim].pause();
                let pause = self.fx.ms(50, 6_000);
                self.say(format_args!("node {victim} is paused"));
                self.fx
                    .after(pause, Ev::Fault(Fault::Resume(victim, pauses)));
            }
            7 => {
                // One disk, or many on one device that is slow.
                let share = if self.fx.chance(0.5) { 0.0 } else { 0.7 };
                for node in 0..NODES {
                    if node == victim || self.fx.chance(share) {
                        self.nodes[node].disk_slow = self.fx.rng.random_range(3..80);
                        let pause = self.fx.ms(500, 5_000);
                        self.fx.after(pause, Ev::Fault(Fault::DiskWell(node)));
                    }
                }
            }
            8 => {
                let extra = self.fx.rng.random_range(5_000..1_500_000);
                self.fx.net.slow = Some((End::Node(victim), extra));
                let pause = self.fx.ms(500, 4_000);
                self.fx.after(pause, Ev::Fault(Fault::NetWell));
            }
            9 => {
                let by = self.fx.rng.random_range(-5_000..5_000) * 1_000_000_000;
                self.nodes[victim].clock.step_wall(by);
                self.rumour(victim, MemberState::Down);
            }
            10 => self.strand(),
            _ => {
                self.say(format_args!("node {victim}: the next sync fails"));
                self.nodes[victim].fail_sync();
                let pause = self.fx.ms(500, 3_000);
                self.fx.after(pause, Ev::Fault(Fault::Replace(victim)));
            }
        }
    }

    fn crash_for(&mut self, node: usize, kills: bool, (from, to): (u64, u64)) {
        self.stop_node(node, kills);
        let pause = self.fx.ms(from, to);
        self.fx.after(pause, Ev::Fault(Fault::Start(node)));
    }

    pub(super) fn stop_node(&mut self, node: usize, kills: bool) {
        if self.nodes[node].daemon.is_some() {
            self.oracle.counts.crashes += 1;
            self.nodes[node].crash(kills, &mut self.fx);
            self.rumour(node, MemberState::Down);
        }
    }

    pub(super) fn start_node(&mut self, node: usize) {
        if self.nodes[node].daemon.is_none() {
            self.nodes[node].start(&mut self.fx);
            self.rumour(node, MemberState::Alive);
        }
    }

    /// Gossip tells everybody, each in its time; now and then it is wrong for a while.
    fn rumour(&mut self, about: usize, state: MemberState) {
        for node in 0..NODES {
            let run = self.nodes[node].run;
            let timer = NodeTimer::Member(node_id(about), state);
            let pause = self.fx.ms(300, 2_000);
            self.fx.after(pause, Ev::Node { node, run, timer });
            let timer = NodeTimer::Member(node_id(about), MemberState::Alive);
            if state == MemberState::Down && self.nodes[about].daemon.is_some() {
                self.fx.after(pause * 2, Ev::Node { node, run, timer });
            }
        }
    }

    /// Two sides that do not hear each other; sometimes only in one direction.
    fn partition(&mut self) {
        let sides: Vec<bool> = End::all().map(|_| self.fx.chance(0.5)).collect();
        let one_way = self.fx.chance(0.2);
        self.say(format_args!("partition {sides:?}, one way {one_way}"));
        for a in End::all() {
            for b in End::all() {
                let (left, right) = (sides[a.number()], sides[b.number()]);
                if left != right && (!one_way || left) {
                    self.fx.net.set_cut(a, b, true);
                }
            }
        }
        self.uncut_later();
    }

    /// A node that the other nodes do not hear, or that does not hear them; clients may.
    fn isolate(&mut self, victim: usize) {
        let (to, from) = (self.fx.chance(0.7), self.fx.chance(0.7));
        let clients = self.fx.chance(0.5);
        self.say(format_args!(
            "node {victim} is isolated, to {to}, from {from}, {clients}"
        ));
        for other in End::all() {
            if matches!(other, End::Node(_)) || clients {
                self.fx.net.set_cut(other, End::Node(victim), to);
                self.fx.net.set_cut(End::Node(victim), other, from);
            }
        }
        self.uncut_later();
    }

    /// Two nodes and a client are left among themselves for long: long enough for others to take
    /// over their groups.
    fn strand(&mut self) {
        let (a, b, client) = (
            self.fx.pick(NODES),
            self.fx.pick(NODES),
            self.fx.pick(CLIENTS),
        );
        self.say(format_args!(
            "nodes {a} and {b} and client {client} are stranded"
        ));
        let is_in =
            |end: End| end == End::Client(client) || end == End::Node(a) || end == End::Node(b);
        for x in End::all() {
            for y in End::all() {
                if is_in(x) != is_in(y) {
                    self.fx.net.set_cut(x, y, true);
                }
            }
        }
        self.uncut_in(6_000, 12_000);
    }

    fn uncut_later(&mut self) {
        let (from, to) = if self.fx.chance(0.2) {
            (6_000, 14_000)
        } else {
            (100, 6_000)
        };
        self.uncut_in(from, to);
    }

    fn uncut_in(&mut self, from: u64, to: u64) {
        let pause = self.fx.ms(from, to);
        self.uncut_after(pause);
    }

    pub(super) fn uncut_after(&mut self, pause: Duration) {
        self.oracle.counts.cuts += 1;
        self.nemesis.cuts += 1;
        let cuts = self.nemesis.cuts;
        self.fx.after(pause, Ev::Fault(Fault::Uncut(cuts)));
    }

    /// Everything is made well again, and stays so.
    pub(super) fn heal(&mut self) {
        self.fx.net.calm();
        self.fx.release_held();
        for node in 0..NODES {
            self.nodes[node].disk_slow = 1;
            self.nodes[node].disk.spare_next_sync();
            self.nodes[node].resume(&mut self.fx);
            self.on_fault(Fault::Replace(node));
            self.start_node(node);
            for seconds in 1..8 {
                let pause = Duration::from_secs(seconds);
                self.fx.after(pause, Ev::Fault(Fault::Start(node)));
                self.fx.after(pause, Ev::Fault(Fault::Replace(node)));
            }
        }
    }
}
