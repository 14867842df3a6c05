//! The nemesis: makes the planned faults happen, and ends them.
use super::fabric::Ev;
use super::fault_plan::{FaultPlan, Hit, Victim};
use super::network::End;
use super::node::NodeTimer;
use super::settings::{Settings, node_id};
use super::world::World;
use dfs_core::types::{ChunkNo, OpId};
use dfs_core::wire::node::MemberState;
use std::collections::BTreeSet;
use std::time::Duration;

/// Something that goes wrong, or its end.
#[derive(Debug, Clone)]
pub(super) enum Fault {
    /// A fault of the plan, by its number.
    Planned(usize),
    Start(usize),
    Resume(usize, u64),
    /// Cuts end; the number is of the last ones.
    Uncut(u64),
    DiskWell(usize),
    NetWell,
    PushesWell,
    GarbleWell,
    /// There is room again on a node's device.
    Unfill(usize),
    /// A client begins anew.
    ClientBack(usize),
    /// A node is no longer to be emptied.
    Undrain(usize),
    /// A broken store is noticed and its daemon restarted.
    Replace(usize),
}

/// What a run's nemesis does.
#[derive(Debug)]
pub(super) struct Nemesis {
    pub plan: FaultPlan,
    /// Faults left out.
    without: BTreeSet<usize>,
    cuts: u64,
    /// Puts that the last wipe found undecided: one of their copies may be gone.
    pub undecided: Vec<OpId>,
}

impl Nemesis {
    pub fn new(settings: &Settings) -> Self {
        Self {
            plan: FaultPlan::draw(settings),
            without: settings.without.clone(),
            cuts: 0,
            undecided: Vec::new(),
        }
    }
}

impl World {
    /// Chaos begins now.
    pub(super) fn plan_faults(&mut self) {
        for (number, fault) in self.nemesis.plan.faults.iter().enumerate() {
            if !self.nemesis.without.contains(&number) {
                self.fx.after(fault.at, Ev::Fault(Fault::Planned(number)));
            }
        }
    }

    pub(super) fn on_fault(&mut self, fault: Fault) {
        match fault {
            Fault::Planned(number) if self.is_chaos() => {
                let hit = self.nemesis.plan.faults[number].hit.clone();
                self.say(format_args!("fault {number}: {hit:?}"));
                self.strike(number, hit);
            }
            Fault::Planned(_) => {}
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
            Fault::DiskWell(node) => self.nodes[node].disk_well(&mut self.fx),
            Fault::PushesWell => self.fx.net.slow_pushes = None,
            Fault::NetWell => self.fx.net.slow = None,
            Fault::GarbleWell | Fault::Unfill(_) | Fault::ClientBack(_) | Fault::Undrain(_) => {
                self.on_loss_end(&fault)
            }
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

    pub(super) fn who(&self, victim: Victim) -> usize {
        let leader = self.leader().filter(|_| victim.or_leader);
        leader.unwrap_or(victim.node)
    }

    fn strike(&mut self, number: usize, hit: Hit) {
        match hit {
            Hit::Wipe { .. }
            | Hit::Rot { .. }
            | Hit::Garble { .. }
            | Hit::Fill { .. }
            | Hit::ClientDies { .. }
            | Hit::Drain { .. } => self.strike_losses(number, hit),
            Hit::Crash {
                victim,
                kills,
                lasts,
            } => self.crash_for(self.who(victim), kills, lasts),
            Hit::PowerCut { nodes } => {
                for (node, lasts) in nodes {
                    self.crash_for(node, false, lasts);
                }
            }
            Hit::Pause { victim, lasts } => {
                let node = self.who(victim);
                let pauses = self.nodes[node].pause();
                self.fx.after(lasts, Ev::Fault(Fault::Resume(node, pauses)));
            }
            Hit::SlowDisks { disks, lasts } => {
                for (node, factor) in disks {
                    self.nodes[node].disk_slow = factor;
                    self.fx.after(lasts, Ev::Fault(Fault::DiskWell(node)));
                }
            }
            Hit::StepClock { victim, by_s } => {
                let node = self.who(victim);
                self.nodes[node].clock.step_wall(by_s * 1_000_000_000);
                self.wrong_rumour(node);
            }
            Hit::FailSync { victim, lasts } => {
                let node = self.who(victim);
                self.nodes[node].fail_sync();
                self.fx.after(lasts, Ev::Fault(Fault::Replace(node)));
            }
            Hit::SlowPushes { slow, lasts } => {
                self.fx.net.slow_pushes = Some(slow);
                self.fx.after(lasts, Ev::Fault(Fault::PushesWell));
            }
            of_the_network => self.strike_network(of_the_network),
        }
    }

    fn strike_network(&mut self, hit: Hit) {
        match hit {
            Hit::Partition {
                sides,
                one_way,
                lasts,
            } => {
                self.partition(&sides, one_way);
                self.uncut_after(lasts);
            }
            Hit::Isolate {
                victim,
                to,
                from,
                clients,
                lasts,
            } => {
                self.isolate(self.who(victim), (to, from), clients);
                self.uncut_after(lasts);
            }
            Hit::Cut {
                from,
                to,
                both,
                lasts,
            } => {
                let ends: Vec<End> = self.fx.net.ends.all().collect();
                self.fx.net.set_cut(ends[from], ends[to], true);
                self.fx.net.set_cut(ends[to], ends[from], both);
                self.uncut_after(lasts);
            }
            Hit::SlowNet {
                victim,
                extra_us,
                lasts,
            } => {
                self.fx.net.slow = Some((End::Node(self.who(victim)), extra_us));
                self.fx.after(lasts, Ev::Fault(Fault::NetWell));
            }
            Hit::Strand {
                nodes,
                client,
                lasts,
            } => self.strand(nodes, client, lasts),
            Hit::StrandMembers {
                back,
                spared,
                client,
                lasts,
            } => {
                if let Some(nodes) = self.members_of_recent(back, spared) {
                    self.strand(nodes, client, lasts);
                }
            }
            _ => unreachable!("it is of no network"),
        }
    }

    fn crash_for(&mut self, node: usize, kills: bool, lasts: Duration) {
        self.stop_node(node, kills);
        self.fx.after(lasts, Ev::Fault(Fault::Start(node)));
    }

    pub(super) fn stop_node(&mut self, node: usize, kills: bool) {
        if self.nodes[node].daemon.is_some() {
            self.oracle.counts.crashes += 1;
            self.nodes[node].crash(kills, &mut self.fx);
        }
    }

    pub(super) fn start_node(&mut self, node: usize) {
        if self.nodes[node].daemon.is_none() {
            self.nodes[node].start(&mut self.fx);
        }
    }

    /// Gossip says to everybody, each in its time, that a node is down, until it is next asked.
    fn wrong_rumour(&mut self, about: usize) {
        for node in 0..self.nodes.len() {
            let run = self.nodes[node].run;
            let timer = NodeTimer::Member(node_id(about), MemberState::Down);
            let pause = self.fx.ms(300, 2_000);
            self.fx.after(pause, Ev::Node { node, run, timer });
        }
    }

    fn partition(&mut self, sides: &[u8], one_way: bool) {
        let ends = self.fx.net.ends.all().zip(sides);
        let ends: Vec<(End, u8)> = ends.map(|(end, side)| (end, *side)).collect();
        for (a, left) in ends.clone() {
            for (b, right) in ends.clone() {
                if left != right && (!one_way || left == 0) {
                    self.fx.net.set_cut(a, b, true);
                }
            }
        }
    }

    fn isolate(&mut self, node: usize, (to, from): (bool, bool), clients: bool) {
        for other in self.fx.net.ends.all() {
            if matches!(other, End::Node(_)) || clients {
                self.fx.net.set_cut(other, End::Node(node), to);
                self.fx.net.set_cut(End::Node(node), other, from);
            }
        }
    }

    fn strand(&mut self, (a, b): (usize, usize), client: usize, lasts: Duration) {
        let is_in =
            |end: End| end == End::Client(client) || end == End::Node(a) || end == End::Node(b);
        for x in self.fx.net.ends.all() {
            for y in self.fx.net.ends.all() {
                if is_in(x) != is_in(y) {
                    self.fx.net.set_cut(x, y, true);
                }
            }
        }
        self.uncut_after(lasts);
    }

    /// Two members of the home group of one of the last files.
    fn members_of_recent(&self, back: usize, spared: usize) -> Option<(usize, usize)> {
        let created = &self.oracle.created;
        let ino = created.iter().rev().nth(back).or(created.last())?;
        let state = self.state_of(self.leader()?)?;
        let (_, info) = state.map().of_chunk(*ino, ChunkNo::HOME);
        let mut members = info?.members.clone();
        if spared < members.len() {
            members.remove(spared);
        }
        let nodes = &self.nodes;
        let node = |at: usize| {
            (0..nodes.len()).find(|node| members.get(at) == Some(&nodes[*node].store()))
        };
        Some((node(0)?, node(1)?))
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
        self.heal_losses();
        for node in 0..self.nodes.len() {
            self.nodes[node].disk_well(&mut self.fx);
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
