//! What goes wrong in a run and when, drawn from the seed before the run begins.
//!
//! Each fault has a number. Leaving some out changes neither the others nor, by itself, anything
//! else that the seed decides: the plan has a random stream of its own, and a fault is drawn whether
//! it will happen or not.
use super::network::{Ends, SlowPushes};
use super::settings::{Part, Settings};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::time::Duration;

/// Kinds of faults.
const KINDS: usize = 19;

/// A node that something happens to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Victim {
    pub node: usize,
    /// Whoever leads then, if anybody does.
    pub or_leader: bool,
}

/// A fault, and how long it lasts.
#[derive(Debug, Clone)]
pub(super) enum Hit {
    /// The power goes, or the process dies.
    Crash {
        victim: Victim,
        kills: bool,
        lasts: Duration,
    },
    /// The power of several nodes goes.
    PowerCut { nodes: Vec<(usize, Duration)> },
    /// Two or three sides do not hear each other, or the first one does not hear the others.
    Partition {
        /// Of each end, nodes first.
        sides: Vec<u8>,
        one_way: bool,
        lasts: Duration,
    },
    /// The other nodes do not reach a node, or it does not reach them.
    Isolate {
        victim: Victim,
        to: bool,
        from: bool,
        /// Nor do clients.
        clients: bool,
        lasts: Duration,
    },
    /// What one end says does not reach another one, or neither reaches the other.
    Cut {
        from: usize,
        to: usize,
        both: bool,
        lasts: Duration,
    },
    /// A node stands still.
    Pause { victim: Victim, lasts: Duration },
    /// Disks are slow, by a factor.
    SlowDisks {
        disks: Vec<(usize, u32)>,
        lasts: Duration,
    },
    /// What one node sends and gets is slow, in microseconds.
    SlowNet {
        victim: Victim,
        extra_us: u64,
        lasts: Duration,
    },
    /// A wall clock jumps, and gossip says that its node is down.
    StepClock { victim: Victim, by_s: i64 },
    /// Two nodes and a client are left among themselves, long enough for others to take over.
    Strand {
        nodes: (usize, usize),
        client: usize,
        lasts: Duration,
    },
    /// So are two members of the group of one of the last files, which know what is in it, and a client.
    StrandMembers {
        /// Files made since.
        back: usize,
        /// The member that is not.
        spared: usize,
        client: usize,
        lasts: Duration,
    },
    /// The next sync of a node's disk fails, and somebody sees to it later.
    FailSync { victim: Victim, lasts: Duration },
    /// What the leader tells a client unasked comes late, or never.
    SlowPushes { slow: SlowPushes, lasts: Duration },
    /// A node's store is empty when it starts again, and with `all` it is no voter any more either.
    Wipe {
        victim: Victim,
        all: bool,
        lasts: Duration,
    },
    /// A byte of an object's file flips, or cannot be read.
    Rot {
        /// Of the object files there are, in thousandths.
        file: u32,
        /// Of its bytes, in thousandths.
        at: u32,
        unreadable: bool,
    },
    /// A bit of what stores tell each other and clients flips on the way, in this share of packets.
    Garble { share: f64, lasts: Duration },
    /// A device is as full as it may be.
    Fill { victim: Victim, lasts: Duration },
    /// A client dies, and begins anew.
    ClientDies { client: usize, lasts: Duration },
    /// A node is to be emptied, until somebody thinks better of it.
    Drain { node: usize, lasts: Duration },
}

/// A fault and when it happens, counted from the beginning of chaos.
#[derive(Debug, Clone)]
pub(super) struct Planned {
    pub at: Duration,
    pub hit: Hit,
}

/// See the [module docs](self).
#[derive(Debug)]
pub(super) struct FaultPlan {
    /// How long chaos lasts.
    pub chaos: Duration,
    /// Bytes rot on one node, and no store is wiped: each of these may take one copy of three.
    pub rots_on: Option<usize>,
    pub faults: Vec<Planned>,
}

impl FaultPlan {
    pub fn draw(settings: &Settings) -> Self {
        let rng = ChaCha8Rng::seed_from_u64(settings.seed ^ 0xfa_0175);
        let mut dice = Dice(rng, settings.ends());
        let chaos = match settings.part {
            Part::All => dice.ms(6_000, 16_000),
            Part::Replication => dice.ms(2_000, 5_000),
        };
        let rots_on = dice.chance(0.5).then(|| dice.node());
        let weights = dice.weights();
        let often = dice.0.random_range(200..1500);
        let mut faults = Vec::new();
        let mut at = dice.ms(often / 4, often * 2);
        while at < chaos {
            let kind = dice.kind(&weights);
            let mut hit = dice.hit(kind, rots_on.is_some());
            if let (Hit::Wipe { all, .. }, Part::Replication) = (&mut hit, settings.part) {
                *all = false; // There is one voter only.
            }
            faults.push(Planned { at, hit });
            at += dice.ms(often / 4, often * 2);
        }
        Self {
            chaos,
            rots_on,
            faults,
        }
    }
}

struct Dice(ChaCha8Rng, Ends);

impl Dice {
    fn chance(&mut self, probability: f64) -> bool {
        self.0.random_bool(probability)
    }

    fn ms(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_micros(self.0.random_range(from * 1000..=to * 1000))
    }

    /// What the nemesis of this seed likes to do.
    fn weights(&mut self) -> [u32; KINDS] {
        let mut weights = [0; KINDS];
        for weight in &mut weights {
            if self.chance(0.6) {
                *weight = self.0.random_range(1..10);
            }
        }
        // A run in which nothing goes wrong is seldom of use.
        if weights.iter().all(|w| *w == 0) {
            weights[0] = 1;
        }
        weights
    }

    fn kind(&mut self, weights: &[u32; KINDS]) -> usize {
        let mut at = self.0.random_range(0..weights.iter().sum::<u32>());
        for (kind, weight) in weights.iter().enumerate() {
            if at < *weight {
                return kind;
            }
            at -= weight;
        }
        0
    }

    fn node(&mut self) -> usize {
        self.0.random_range(0..self.1.nodes)
    }

    /// The leader, more often than chance would have it.
    fn victim(&mut self) -> Victim {
        Victim {
            node: self.node(),
            or_leader: self.chance(0.4),
        }
    }

    /// How long a cut lasts.
    fn cut(&mut self) -> Duration {
        if self.chance(0.2) {
            self.ms(6_000, 14_000)
        } else {
            self.ms(100, 6_000)
        }
    }

    fn hit(&mut self, kind: usize, rots: bool) -> Hit {
        let victim = self.victim();
        match kind {
            13.. => self.later_hit(kind, victim, rots),
            0 => Hit::Crash {
                victim,
                kills: false,
                lasts: self.ms(100, 8_000),
            },
            1 => Hit::Crash {
                victim,
                kills: true,
                lasts: self.ms(20, 3_000),
            },
            2 => self.power_cut(),
            3 => Hit::Partition {
                sides: self.sides(),
                one_way: self.chance(0.2),
                lasts: self.cut(),
            },
            4 => Hit::Isolate {
                victim,
                to: self.chance(0.7),
                from: self.chance(0.7),
                clients: self.chance(0.5),
                lasts: self.cut(),
            },
            5 => Hit::Cut {
                from: self.node(),
                to: self.0.random_range(0..self.1.nodes + self.1.clients),
                both: self.chance(0.5),
                lasts: self.cut(),
            },
            6 => Hit::Pause {
                victim,
                lasts: self.ms(50, 6_000),
            },
            7 => self.slow_disks(),
            8 => Hit::SlowNet {
                victim,
                extra_us: self.0.random_range(5_000..1_500_000),
                lasts: self.ms(500, 4_000),
            },
            9 => Hit::StepClock {
                victim,
                by_s: self.0.random_range(-5_000..5_000),
            },
            10 => Hit::Strand {
                nodes: (self.node(), self.node()),
                client: self.0.random_range(0..self.1.clients),
                lasts: self.ms(6_000, 12_000),
            },
            11 => Hit::StrandMembers {
                back: self.0.random_range(0..5),
                spared: self.0.random_range(0..3),
                client: self.0.random_range(0..self.1.clients),
                lasts: self.ms(4_000, 10_000),
            },
            _ => Hit::FailSync {
                victim,
                lasts: self.ms(500, 3_000),
            },
        }
    }

    fn later_hit(&mut self, kind: usize, victim: Victim, rots: bool) -> Hit {
        match kind {
            13 => Hit::SlowPushes {
                slow: SlowPushes {
                    client: self.0.random_range(0..self.1.clients),
                    extra_us: self.0.random_range(50_000..4_000_000),
                    lost: if self.chance(0.3) { 0.3 } else { 0.0 },
                },
                lasts: self.ms(1_000, 6_000),
            },
            14 if rots => Hit::Rot {
                file: self.0.random_range(0..1000),
                at: self.0.random_range(0..1000),
                unreadable: self.chance(0.3),
            },
            14 => Hit::Wipe {
                victim,
                all: self.chance(0.3),
                lasts: self.ms(100, 3_000),
            },
            15 => Hit::Garble {
                share: [0.01, 0.1, 0.5][self.0.random_range(0..3)],
                lasts: self.ms(500, 5_000),
            },
            16 => Hit::Fill {
                victim,
                lasts: self.ms(500, 5_000),
            },
            17 => Hit::ClientDies {
                client: self.0.random_range(0..self.1.clients),
                lasts: self.ms(50, 6_000),
            },
            _ => Hit::Drain {
                node: self.node(),
                lasts: self.ms(500, 8_000),
            },
        }
    }

    fn sides(&mut self) -> Vec<u8> {
        let groups = if self.chance(0.3) { 3 } else { 2 };
        let ends = self.1.nodes + self.1.clients;
        (0..ends).map(|_| self.0.random_range(0..groups)).collect()
    }

    fn power_cut(&mut self) -> Hit {
        let share = if self.chance(0.5) { 1.0 } else { 0.6 };
        let mut nodes = Vec::new();
        for node in 0..self.1.nodes {
            if self.chance(share) {
                nodes.push((node, self.ms(50, 2_500)));
            }
        }
        Hit::PowerCut { nodes }
    }

    /// One disk, or many on one device that is slow.
    fn slow_disks(&mut self) -> Hit {
        let victim = self.node();
        let share = if self.chance(0.5) { 0.0 } else { 0.7 };
        let mut disks = Vec::new();
        for node in 0..self.1.nodes {
            if node == victim || self.chance(share) {
                disks.push((node, self.0.random_range(3..80)));
            }
        }
        let lasts = self.ms(500, 5_000);
        Hit::SlowDisks { disks, lasts }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_plans_the_same_faults_each_time_and_all_of_them_within_chaos() {
        let mut most = 0;
        for seed in 0..200 {
            let settings = Settings::new(seed);
            let (one, other) = (FaultPlan::draw(&settings), FaultPlan::draw(&settings));
            assert_eq!(format!("{one:?}"), format!("{other:?}"));
            assert!(one.faults.iter().all(|fault| fault.at < one.chaos));
            most = most.max(one.faults.len());
        }
        assert!(most > 20, "{most} faults in the worst of 200 seeds");
    }
}
