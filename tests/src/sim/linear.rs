//! Is there one order of all namespace operations that explains every answer?
//!
//! The search of Wing and Gong with the memory of Lowe (*Testing for Linearizability*, 2017), over
//! a model of a few names in two directories. An operation of unknown outcome may have happened at
//! any time after it began, or never.
use dfs_core::types::Ino;
use std::collections::{BTreeMap, BTreeSet, HashSet};

/// Names per directory, and directories.
pub(super) const NAMES: usize = 5;
pub(super) const DIRS: usize = 2;
const KEYS: usize = NAMES * DIRS;
/// Steps after which the search gives up without a verdict.
const STEPS_MAX: u64 = 3_000_000;

/// A name: directory and number in it.
pub(super) type Key = usize;

pub(super) fn dir_of(key: Key) -> usize {
    key / NAMES
}

/// What was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NameOp {
    Create { key: Key, exclusive: bool },
    Unlink { key: Key },
    Rename { from: Key, to: Key, mode: Mode },
    Lookup { key: Key },
    List { dir: usize },
}

/// How a rename treats its target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Replace,
    NoReplace,
    Exchange,
}

/// What was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum NameAnswer {
    Created(Ino),
    Found(Ino),
    Done,
    Exists,
    NotFound,
    Listed(Vec<(Key, Ino)>),
    /// It may have happened, or may still.
    Unknown,
    /// It has not happened and never will.
    Never,
}

#[derive(Debug, Clone)]
struct Entry {
    op: NameOp,
    who: usize,
    call: u64,
    /// When it was answered, and what.
    ret: Option<(u64, NameAnswer)>,
}

/// What each name stands for; 0 is nothing. Values from [`WILD`] are inodes that nobody was told of.
type State = [u64; KEYS];
const WILD: u64 = 1 << 62;

/// All operations of a run.
#[derive(Debug, Default)]
pub(super) struct History {
    entries: Vec<Entry>,
    clock: u64,
}

impl History {
    /// An operation begins.
    pub fn begin(&mut self, who: usize, op: NameOp) -> usize {
        self.clock += 1;
        self.entries.push(Entry {
            op,
            who,
            call: self.clock,
            ret: None,
        });
        self.entries.len() - 1
    }

    /// It was answered.
    pub fn end(&mut self, number: usize, answer: NameAnswer) {
        self.clock += 1;
        self.entries[number].ret = Some((self.clock, answer));
    }

    /// Checks the whole history, which ends in `last`. `Ok(false)`: gave up.
    pub fn check(&self) -> Result<bool, String> {
        let told: BTreeSet<u64> = self.entries.iter().filter_map(told).collect();
        let mut search = Search::new(&self.entries, told);
        match search.run() {
            Some(verdict) if verdict => Ok(true),
            Some(_) => Err(self.explain(search.deepest)),
            None => Ok(false),
        }
    }

    /// The operations around the one that no order explains.
    fn explain(&self, deepest: usize) -> String {
        let near = |e: &&Entry| e.call.abs_diff(deepest as u64) < 60;
        let lines = self.entries.iter().filter(near).map(|e| {
            let ret = e
                .ret
                .as_ref()
                .map_or_else(|| "-".into(), |(at, a)| format!("{at} {a:?}"));
            format!("  client {} {}..{ret}: {:?}", e.who, e.call, e.op)
        });
        let lines: Vec<String> = lines.collect();
        format!(
            "no order of the namespace operations explains all answers (stuck near {deepest}):\n{}",
            lines.join("\n")
        )
    }
}

fn told(entry: &Entry) -> Option<u64> {
    match &entry.ret {
        Some((_, NameAnswer::Created(ino))) => Some(ino.0),
        _ => None,
    }
}

/// One end of an operation in the list of what happened.
#[derive(Debug, Clone, Copy)]
struct Link {
    op: usize,
    is_call: bool,
    at: u64,
    prev: usize,
    next: usize,
}

struct Search<'a> {
    ops: Vec<&'a Entry>,
    told: BTreeSet<u64>,
    /// Link 0 is the head.
    links: Vec<Link>,
    /// Of each op: its call and its return.
    places: BTreeMap<usize, (usize, Option<usize>)>,
    deepest: usize,
}

impl<'a> Search<'a> {
    fn new(entries: &'a [Entry], told: BTreeSet<u64>) -> Self {
        let happened = |e: &&Entry| !matches!(&e.ret, Some((_, NameAnswer::Never)));
        let ops: Vec<&Entry> = entries.iter().filter(happened).collect();
        let mut ends: Vec<(u64, usize, bool)> = Vec::new();
        for (op, entry) in ops.iter().enumerate() {
            ends.push((entry.call, op, true));
            if let Some((at, answer)) = &entry.ret
                && *answer != NameAnswer::Unknown
            {
                ends.push((*at, op, false));
            }
        }
        ends.sort_unstable();
        let head = Link {
            op: usize::MAX,
            is_call: true,
            at: 0,
            prev: 0,
            next: 0,
        };
        let mut links = vec![head];
        let mut places: BTreeMap<usize, (usize, Option<usize>)> = BTreeMap::new();
        for (at, op, is_call) in ends {
            let me = links.len();
            links[me - 1].next = me;
            links.push(Link {
                op,
                is_call,
                at,
                prev: me - 1,
                next: 0,
            });
            let place = places.entry(op).or_insert((me, None));
            if !is_call {
                place.1 = Some(me);
            }
        }
        Self {
            ops,
            told,
            links,
            places,
            deepest: 0,
        }
    }

    fn unlink(&mut self, at: usize) {
        let Link { prev, next, .. } = self.links[at];
        self.links[prev].next = next;
        if next != 0 {
            self.links[next].prev = prev;
        }
    }

    fn relink(&mut self, at: usize) {
        let Link { prev, next, .. } = self.links[at];
        self.links[prev].next = at;
        if next != 0 {
            self.links[next].prev = at;
        }
    }

    /// True: an order was found. None: too long.
    fn run(&mut self) -> Option<bool> {
        let mut state: State = [0; KEYS];
        let mut done = vec![0u64; self.ops.len().div_ceil(64)];
        let mut seen: HashSet<(Vec<u64>, State)> = HashSet::new();
        let mut stack: Vec<(usize, State)> = Vec::new();
        let mut at = self.links[0].next;
        for _ in 0..STEPS_MAX {
            if at == 0 {
                return Some(true);
            }
            let Link {
                op,
                is_call,
                at: time,
                ..
            } = self.links[at];
            if is_call {
                if let Some(next) = self.step(&state, op) {
                    done[op / 64] |= 1 << (op % 64);
                    if seen.insert((done.clone(), next)) {
                        stack.push((op, state));
                        state = next;
                        let (call, ret) = self.places[&op];
                        self.unlink(call);
                        if let Some(ret) = ret {
                            self.unlink(ret);
                        }
                        at = self.links[0].next;
                        continue;
                    }
                    done[op / 64] &= !(1 << (op % 64));
                }
                at = self.links[at].next;
                continue;
            }
            self.deepest = self
                .deepest
                .max(usize::try_from(time).unwrap_or(usize::MAX));
            let Some((op, before)) = stack.pop() else {
                return Some(false);
            };
            state = before;
            done[op / 64] &= !(1 << (op % 64));
            let (call, ret) = self.places[&op];
            if let Some(ret) = ret {
                self.relink(ret);
            }
            self.relink(call);
            at = self.links[call].next;
        }
        None
    }

    /// The state after an operation, if its answer fits the state before it.
    fn step(&self, state: &State, op: usize) -> Option<State> {
        let entry = self.ops[op];
        let answer = entry
            .ret
            .as_ref()
            .map_or(&NameAnswer::Unknown, |(_, answer)| answer);
        let mut next = *state;
        match (entry.op, answer) {
            (NameOp::Create { key, .. }, NameAnswer::Created(ino)) => {
                (state[key] == 0).then_some(())?;
                next[key] = ino.0;
            }
            (
                NameOp::Create {
                    key,
                    exclusive: false,
                },
                NameAnswer::Found(ino),
            )
            | (NameOp::Lookup { key }, NameAnswer::Found(ino)) => {
                next[key] = self.same(state[key], *ino)?;
            }
            (
                NameOp::Create {
                    key,
                    exclusive: true,
                },
                NameAnswer::Exists,
            ) => {
                (state[key] != 0).then_some(())?;
            }
            (NameOp::Create { key, .. }, NameAnswer::Unknown) => {
                (state[key] == 0).then_some(())?;
                next[key] = WILD + op as u64;
            }
            (NameOp::Lookup { key } | NameOp::Unlink { key }, NameAnswer::NotFound) => {
                (state[key] == 0).then_some(())?;
            }
            (NameOp::Unlink { key }, NameAnswer::Done | NameAnswer::Unknown) => {
                (state[key] != 0).then_some(())?;
                next[key] = 0;
            }
            (NameOp::Rename { from, to, mode }, answer) => {
                return renamed(state, (from, to, mode), answer);
            }
            (NameOp::List { dir }, NameAnswer::Listed(found)) => {
                for key in dir * NAMES..(dir + 1) * NAMES {
                    let ino = found.iter().find(|(k, _)| *k == key).map(|(_, ino)| *ino);
                    next[key] = match ino {
                        Some(ino) => self.same(state[key], ino)?,
                        None => (state[key] == 0).then_some(0)?,
                    };
                }
            }
            _ => return None,
        }
        Some(next)
    }

    /// A name stands for this inode; one that nobody was told of may be it.
    fn same(&self, is: u64, ino: Ino) -> Option<u64> {
        let fits = is == ino.0 || (is >= WILD && !self.told.contains(&ino.0));
        fits.then_some(ino.0)
    }
}

fn renamed(
    state: &State,
    (from, to, mode): (Key, Key, Mode),
    answer: &NameAnswer,
) -> Option<State> {
    let (has_from, has_to) = (state[from] != 0, state[to] != 0);
    let mut next = *state;
    match answer {
        NameAnswer::NotFound => {
            let missing = !has_from || (mode == Mode::Exchange && !has_to);
            missing.then_some(next)
        }
        NameAnswer::Exists => (mode == Mode::NoReplace && has_from && has_to).then_some(next),
        NameAnswer::Done | NameAnswer::Unknown => {
            let can = match mode {
                Mode::Replace => has_from,
                Mode::NoReplace => has_from && !has_to,
                Mode::Exchange => has_from && has_to,
            };
            can.then_some(())?;
            next[to] = state[from];
            next[from] = if mode == Mode::Exchange { state[to] } else { 0 };
            Some(next)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(h: &mut History, op: NameOp, answer: NameAnswer) {
        let number = h.begin(0, op);
        h.end(number, answer);
    }

    const A: Key = 0;
    const B: Key = 1;

    #[test]
    fn an_acknowledged_create_must_be_seen_exactly_once() {
        let create = NameOp::Create {
            key: A,
            exclusive: true,
        };
        let mut h = History::default();
        put(&mut h, create, NameAnswer::Created(Ino(5)));
        put(&mut h, NameOp::Lookup { key: A }, NameAnswer::Found(Ino(5)));
        assert_eq!(h.check(), Ok(true));
        put(&mut h, create, NameAnswer::Created(Ino(6)));
        assert!(h.check().is_err(), "twice");
        let mut h = History::default();
        put(&mut h, create, NameAnswer::Created(Ino(5)));
        put(&mut h, NameOp::Lookup { key: A }, NameAnswer::NotFound);
        assert!(h.check().is_err(), "lost");
    }

    #[test]
    fn concurrent_operations_may_take_either_order_and_later_ones_not() {
        let mut h = History::default();
        put(
            &mut h,
            NameOp::Create {
                key: A,
                exclusive: true,
            },
            NameAnswer::Created(Ino(5)),
        );
        let rename = h.begin(
            0,
            NameOp::Rename {
                from: A,
                to: B,
                mode: Mode::Replace,
            },
        );
        put(&mut h, NameOp::Lookup { key: B }, NameAnswer::Found(Ino(5)));
        h.end(rename, NameAnswer::Done);
        assert_eq!(h.check(), Ok(true));
        put(&mut h, NameOp::Lookup { key: A }, NameAnswer::Found(Ino(5)));
        assert!(h.check().is_err(), "stale");
    }

    #[test]
    fn an_unknown_operation_may_happen_late_or_never() {
        let mut h = History::default();
        put(
            &mut h,
            NameOp::Create {
                key: A,
                exclusive: true,
            },
            NameAnswer::Unknown,
        );
        put(&mut h, NameOp::Lookup { key: A }, NameAnswer::NotFound);
        assert_eq!(h.check(), Ok(true));
        put(&mut h, NameOp::Lookup { key: A }, NameAnswer::Found(Ino(9)));
        assert_eq!(h.check(), Ok(true));
        put(&mut h, NameOp::Lookup { key: A }, NameAnswer::NotFound);
        assert!(h.check().is_err());
    }
}
