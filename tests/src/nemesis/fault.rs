//! What the nemesis does to a lab, and how it takes it back.
use super::flips;
use super::lab::{CLIENTS, Lab};
use super::net::Place;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeSet;
use std::fmt;

/// A fault: begun, held for a while, ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// What these send to those is lost; the other direction too if `is_both`.
    Cut {
        /// Senders.
        from: BTreeSet<Place>,
        /// Receivers.
        to: BTreeSet<Place>,
        /// In both directions.
        is_both: bool,
    },
    /// A share of all that these send is lost.
    Loss {
        /// Senders.
        places: BTreeSet<Place>,
        /// Percent.
        percent: u32,
    },
    /// Daemons are killed, and started again at the end.
    Kill {
        /// Which.
        nodes: BTreeSet<Place>,
    },
    /// Daemons are frozen, and go on at the end.
    Freeze {
        /// Which.
        nodes: BTreeSet<Place>,
    },
    /// A mount is frozen, and goes on at the end.
    FreezeMount {
        /// Which, from 0.
        mount: usize,
    },
    /// A daemon's wall clock jumps, and back at the end.
    Clock {
        /// Which daemon.
        node: Place,
        /// By so many milliseconds.
        ms: i64,
    },
    /// A daemon's disk is full but for so many bytes.
    Full {
        /// Which daemon.
        node: Place,
        /// What is left.
        left: u64,
    },
    /// A daemon starts again with a slow disk, and at the end with a good one.
    Slow {
        /// Which daemon.
        node: Place,
        /// Milliseconds by which each operation takes longer.
        ms: u64,
    },
    /// A daemon's disk is replaced by an empty one.
    Wipe {
        /// Which daemon.
        node: Place,
    },
    /// Bits on a daemon's disk flip.
    Flip {
        /// Which daemon.
        node: Place,
        /// How many.
        bits: usize,
        /// Which.
        seed: u64,
    },
    /// All daemons are stopped politely and started again, one after the other.
    Rolling,
    /// A mount's process is killed, and it is mounted again at the end.
    KillMount {
        /// Which, from 0.
        mount: usize,
    },
    /// Daemons' machines lose their power, and have it again at the end.
    PowerCut {
        /// Which.
        nodes: BTreeSet<Place>,
        /// The daemon sees nothing of it: else it may see its disk fail first.
        is_unseen: bool,
    },
}

impl Fault {
    /// Its kind, for counts.
    #[must_use]
    pub fn kind(&self, size: usize) -> &'static str {
        match self {
            Self::Cut { is_both: true, .. } => "partitions",
            Self::Cut { .. } => "one-way partitions",
            Self::Loss { .. } => "loss",
            Self::Kill { .. } => "kills of daemons",
            Self::Freeze { .. } => "frozen daemons",
            Self::FreezeMount { .. } => "frozen mounts",
            Self::Clock { .. } => "clock steps",
            Self::Full { .. } => "full disks",
            Self::Slow { .. } => "slow disks",
            Self::Wipe { .. } => "wiped stores",
            Self::Flip { .. } => "flips of bits",
            Self::Rolling => "rolling restarts",
            Self::KillMount { .. } => "kills of mounts",
            Self::PowerCut { nodes, .. } if nodes.len() == size => "power cuts of all",
            Self::PowerCut { .. } => "power cuts of one",
        }
    }

    /// It destroys what was durable: only a cluster that has all its copies must survive it.
    #[must_use]
    pub fn destroys(&self) -> bool {
        matches!(self, Self::Wipe { .. } | Self::Flip { .. })
    }

    /// Daemons whose processes or disks it touches. Two faults of a round share none.
    #[must_use]
    pub fn touches(&self, size: usize) -> BTreeSet<Place> {
        match self {
            Self::Kill { nodes } | Self::Freeze { nodes } | Self::PowerCut { nodes, .. } => {
                nodes.clone()
            }
            Self::Full { node, .. }
            | Self::Slow { node, .. }
            | Self::Wipe { node }
            | Self::Flip { node, .. } => [*node].into(),
            Self::Rolling => (0..size).collect(),
            _ => BTreeSet::new(),
        }
    }

    /// Begins it.
    ///
    /// # Errors
    /// The nemesis itself failed.
    pub fn begin(&self, lab: &mut Lab) -> anyhow::Result<()> {
        match self {
            Self::Cut { from, to, is_both } => {
                for_pairs(from, to, *is_both, |a, b| lab.net().cut(a, b))
            }
            Self::Loss { places, percent } => {
                places.iter().try_for_each(|p| lab.net().lose(*p, *percent))
            }
            Self::Kill { nodes } => nodes.iter().try_for_each(|n| lab.node(*n).kill()),
            Self::Freeze { nodes } => nodes.iter().try_for_each(|n| lab.node(*n).freeze(true)),
            Self::FreezeMount { mount } => lab.client(*mount).freeze(true),
            Self::Clock { node, ms } => lab.node(*node).set_clock(*ms),
            Self::Full { node, left } => lab.node(*node).disk().fill(*left),
            Self::Slow { node, ms } => restart_slow(lab, *node, *ms),
            Self::Wipe { node } => {
                lab.node(*node).kill()?;
                lab.node(*node).wipe()?;
                lab.start_node(*node)
            }
            Self::Flip { node, bits, seed } => {
                let data = lab.node(*node).data();
                flips::flip(&data, *bits, &mut ChaCha8Rng::seed_from_u64(*seed));
                Ok(())
            }
            Self::Rolling => rolling(lab),
            Self::KillMount { mount } => lab.client(*mount).kill(),
            Self::PowerCut { nodes, is_unseen } => cut_power(lab, nodes, *is_unseen),
        }
    }

    /// Ends it.
    ///
    /// # Errors
    /// The nemesis itself failed.
    pub fn end(&self, lab: &mut Lab) -> anyhow::Result<()> {
        match self {
            Self::Cut { from, to, is_both } => {
                for_pairs(from, to, *is_both, |a, b| lab.net().mend(a, b))
            }
            Self::Loss { places, .. } => places.iter().try_for_each(|p| lab.net().lose(*p, 0)),
            Self::Kill { nodes } => nodes.iter().try_for_each(|n| lab.start_node(*n)),
            Self::Freeze { nodes } => nodes.iter().try_for_each(|n| lab.node(*n).freeze(false)),
            Self::FreezeMount { mount } => lab.client(*mount).freeze(false),
            Self::Clock { node, .. } => lab.node(*node).set_clock(0),
            Self::Full { node, .. } => lab.node(*node).disk().free(),
            Self::Slow { node, .. } => restart_slow(lab, *node, 0),
            Self::Wipe { .. } | Self::Flip { .. } | Self::Rolling => Ok(()),
            Self::KillMount { mount } => lab.mount_again(*mount),
            Self::PowerCut { nodes, .. } => {
                for node in nodes {
                    lab.node(*node).power_on()?;
                    lab.start_node(*node)?;
                }
                Ok(())
            }
        }
    }
}

fn for_pairs(
    from: &BTreeSet<Place>,
    to: &BTreeSet<Place>,
    is_both: bool,
    mut each: impl FnMut(Place, Place) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    for a in from {
        for b in to.iter().filter(|b| *b != a) {
            each(*a, *b)?;
            if is_both {
                each(*b, *a)?;
            }
        }
    }
    Ok(())
}

fn restart_slow(lab: &mut Lab, node: Place, ms: u64) -> anyhow::Result<()> {
    lab.node(node).set_slow(ms);
    lab.node(node).kill()?;
    lab.start_node(node)
}

/// As an operator does it: the next one when the cluster says that it can do without.
fn rolling(lab: &mut Lab) -> anyhow::Result<()> {
    for node in 0..lab.size() {
        // It may not become healthy under the other faults of the round.
        let _ = lab.wait_health("HEALTHY", std::time::Duration::from_secs(15));
        lab.node(node).stop()?;
        lab.start_node(node)?;
    }
    Ok(())
}

/// All disks first, so that it is one moment, then the processes.
fn cut_power(lab: &mut Lab, nodes: &BTreeSet<Place>, is_unseen: bool) -> anyhow::Result<()> {
    for node in nodes {
        lab.node(*node).cut_power(is_unseen)?;
    }
    nodes.iter().try_for_each(|n| lab.node(*n).off())
}

/// "3 (mount)" and the like.
fn name(place: Place, size: usize) -> String {
    if place >= size && place < size + CLIENTS {
        return format!("mount {}", place - size);
    }
    format!("{place}")
}

/// How it is printed; `size` is the number of daemons.
#[derive(Debug)]
pub struct Shown<'a>(pub &'a Fault, pub usize);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let set = |places: &BTreeSet<Place>| {
            let names: Vec<String> = places.iter().map(|p| name(*p, self.1)).collect();
            names.join(",")
        };
        match self.0 {
            Fault::Cut { from, to, is_both } => {
                let arrow = if *is_both { "<->" } else { "->" };
                write!(f, "cut {} {arrow} {}", set(from), set(to))
            }
            Fault::Loss { places, percent } => write!(f, "{percent} % loss from {}", set(places)),
            Fault::Kill { nodes } => write!(f, "kill {}", set(nodes)),
            Fault::Freeze { nodes } => write!(f, "freeze {}", set(nodes)),
            Fault::FreezeMount { mount } => write!(f, "freeze mount {mount}"),
            Fault::Clock { node, ms } => write!(f, "clock of {node} by {ms} ms"),
            Fault::Full { node, left } => write!(f, "disk of {node} full but {left} bytes"),
            Fault::Slow { node, ms } => write!(f, "disk of {node} slow by {ms} ms"),
            Fault::Wipe { node } => write!(f, "wipe {node}"),
            Fault::Flip { node, bits, .. } => write!(f, "flip {bits} bits of {node}"),
            Fault::Rolling => write!(f, "rolling restart"),
            Fault::KillMount { mount } => write!(f, "kill mount {mount}"),
            Fault::PowerCut { nodes, is_unseen } => {
                let how = if *is_unseen { ", unseen" } else { "" };
                write!(f, "power cut of {}{how}", set(nodes))
            }
        }
    }
}
