//! Rounds of faults from a seed, limited to what a correct cluster must survive.
//!
//! 1. What destroys durable bytes comes alone, and only when everything has all its copies: two
//!    stores wiped in a row, or the same bit flipped on all, are no bug of ours when they lose a file.
//! 2. Everything else may come together, at any number of daemons: it costs time, never data.
use super::fault::Fault;
use super::lab::CLIENTS;
use super::net::Place;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeSet;
use std::time::Duration;

/// What is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// Every fault there is.
    Mixed,
    /// Power cuts only, every third of all daemons.
    Power,
}

/// Faults held together.
#[derive(Debug, Clone)]
pub struct Round {
    /// Begun in this order, ended in this order.
    pub faults: Vec<Fault>,
    /// For how long.
    pub hold: Duration,
    /// Health is waited for before: the round destroys something.
    pub is_careful: bool,
    /// From the end of this round to the next.
    pub rest: Duration,
}

/// Draws rounds for ever.
#[derive(Debug)]
pub struct Schedule {
    rng: ChaCha8Rng,
    size: usize,
    kind: Kind,
    drawn: usize,
}

impl Schedule {
    /// For a lab of `size` daemons.
    #[must_use]
    pub fn new(seed: u64, size: usize, kind: Kind) -> Self {
        Self {
            rng: ChaCha8Rng::seed_from_u64(seed),
            size,
            kind,
            drawn: 0,
        }
    }

    fn ms(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(self.rng.random_range(from..=to))
    }

    fn node(&mut self) -> Place {
        self.rng.random_range(0..self.size)
    }

    /// `n` of the daemons.
    fn nodes(&mut self, n: usize) -> BTreeSet<Place> {
        let mut all: Vec<Place> = (0..self.size).collect();
        all.shuffle(&mut self.rng);
        all.into_iter().take(n).collect()
    }

    fn all(&self) -> BTreeSet<Place> {
        (0..self.size).collect()
    }

    /// The next round.
    pub fn next_round(&mut self) -> Round {
        self.drawn += 1;
        match self.kind {
            Kind::Mixed => self.mixed(),
            Kind::Power => self.power(),
        }
    }

    fn power(&mut self) -> Round {
        let n = if self.drawn.is_multiple_of(3) {
            self.size
        } else {
            1
        };
        let fault = self.power_cut(n);
        Round {
            faults: vec![fault],
            hold: self.ms(100, 3000),
            is_careful: false,
            rest: self.ms(1500, 5000),
        }
    }

    fn power_cut(&mut self, n: usize) -> Fault {
        Fault::PowerCut {
            nodes: self.nodes(n),
            is_unseen: self.rng.random_bool(0.6),
        }
    }

    fn mixed(&mut self) -> Round {
        if self.rng.random_ratio(1, 8) {
            return self.destroying();
        }
        let mut faults: Vec<Fault> = Vec::new();
        let mut touched = BTreeSet::new();
        let wanted = [1, 1, 2, 3][self.rng.random_range(0..4)];
        for _ in 0..wanted {
            let fault = self.fault();
            let kind = fault.kind(self.size);
            let touches = fault.touches(self.size);
            let is_same = |f: &Fault| f.kind(self.size) == kind;
            if touches.is_disjoint(&touched) && !faults.iter().any(is_same) {
                touched.extend(touches);
                faults.push(fault);
            }
        }
        // Mostly short, now and then a minute.
        let hold = match self.rng.random_range(0..20) {
            0 => self.ms(20_000, 60_000),
            1..=5 => self.ms(100, 1000),
            _ => self.ms(1000, 9000),
        };
        Round {
            faults,
            hold,
            is_careful: false,
            rest: self.ms(200, 6000),
        }
    }

    fn destroying(&mut self) -> Round {
        let node = self.node();
        let fault = if self.rng.random_bool(0.5) {
            Fault::Wipe { node }
        } else {
            let (bits, seed) = (self.rng.random_range(1..30), self.rng.random());
            Fault::Flip { node, bits, seed }
        };
        Round {
            faults: vec![fault],
            hold: self.ms(100, 2000),
            is_careful: true,
            rest: self.ms(200, 2000),
        }
    }

    fn fault(&mut self) -> Fault {
        match self.rng.random_range(0..16) {
            0..=3 => self.partition(),
            4 => Fault::Loss {
                places: (0..self.size + CLIENTS).collect(),
                percent: self.rng.random_range(1..30),
            },
            5 | 6 => {
                let n = [1, 1, 1, 2, self.size][self.rng.random_range(0..5)];
                Fault::Kill {
                    nodes: self.nodes(n),
                }
            }
            7 | 8 => {
                let n = [1, 1, 2][self.rng.random_range(0..3)];
                Fault::Freeze {
                    nodes: self.nodes(n),
                }
            }
            9 => Fault::FreezeMount {
                mount: self.rng.random_range(0..CLIENTS),
            },
            10 => {
                let far = [1000, 60_000, 86_400_000, 400 * 86_400_000][self.rng.random_range(0..4)];
                let ms = if self.rng.random_bool(0.5) { far } else { -far };
                Fault::Clock {
                    node: self.node(),
                    ms,
                }
            }
            11 => {
                let left = [0, 65_536, 20 << 20][self.rng.random_range(0..3)];
                Fault::Full {
                    node: self.node(),
                    left,
                }
            }
            12 => {
                let ms = [3, 20, 100][self.rng.random_range(0..3)];
                Fault::Slow {
                    node: self.node(),
                    ms,
                }
            }
            13 => Fault::KillMount {
                mount: self.rng.random_range(0..CLIENTS),
            },
            14 if self.rng.random_bool(0.3) => Fault::Rolling,
            _ => {
                let n = if self.rng.random_bool(0.3) {
                    self.size
                } else {
                    1
                };
                self.power_cut(n)
            }
        }
    }

    /// Partitions of every shape.
    fn partition(&mut self) -> Fault {
        let everyone: BTreeSet<Place> = (0..self.size + CLIENTS).collect();
        let without = |some: &BTreeSet<Place>| &everyone - some;
        let is_both = self.rng.random_bool(0.65);
        let (from, to) = match self.rng.random_range(0..6) {
            // One daemon alone.
            0 => {
                let one = self.nodes(1);
                (one.clone(), without(&one))
            }
            // A minority, with or without a mount.
            1 => {
                let mut some = self.nodes(2);
                if self.rng.random_bool(0.5) {
                    some.insert(self.size + self.rng.random_range(0..CLIENTS));
                }
                (some.clone(), without(&some))
            }
            // Two halves that share one daemon.
            2 => {
                let mut order: Vec<Place> = self.nodes(self.size).into_iter().collect();
                order.shuffle(&mut self.rng);
                let half = (order.len() - 1) / 2;
                let left = order[1..=half].iter().copied().collect();
                (left, order[half + 1..].iter().copied().collect())
            }
            // One pair.
            3 => {
                let pair: Vec<Place> = self.nodes(2).into_iter().collect();
                ([pair[0]].into(), [pair[1]].into())
            }
            // A mount from some daemons.
            4 => {
                let mount = self.size + self.rng.random_range(0..CLIENTS);
                let n = self.rng.random_range(1..=self.size);
                ([mount].into(), self.nodes(n))
            }
            // Daemons from each other: nobody has a majority.
            _ => (self.all(), self.all()),
        };
        Fault::Cut { from, to, is_both }
    }
}
