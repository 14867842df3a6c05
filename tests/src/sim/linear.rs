//! Is there one order of all namespace operations that explains every answer?
//!
//! The search of [`history`](crate::history::search) over a model of a few names in two directories. An
//! operation of unknown outcome may have happened at any time after it began, or never.
use crate::history::search::{Call, Model, STEPS_MAX, Verdict, search};
use dfs_core::types::Ino;
use std::collections::BTreeSet;

/// Names per directory, and directories.
pub(super) const NAMES: usize = 5;
pub(super) const DIRS: usize = 2;
const KEYS: usize = NAMES * DIRS;

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
        let calls: Vec<Call<Numbered, NameAnswer>> =
            (0..).zip(&self.entries).filter_map(call).collect();
        match search(&Names { told }, &calls, STEPS_MAX) {
            Verdict::Explained => Ok(true),
            Verdict::Refuted { stuck } => Err(self.explain(stuck)),
            Verdict::GaveUp => Ok(false),
        }
    }

    /// The operations around the one that no order explains.
    fn explain(&self, deepest: u64) -> String {
        let near = |e: &&Entry| e.call.abs_diff(deepest) < 60;
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

/// An operation and its number, which names the inode that it made when nobody was told of one.
type Numbered = (u64, NameOp);

/// As the search wants it, if it may have happened.
fn call((number, entry): (u64, &Entry)) -> Option<Call<Numbered, NameAnswer>> {
    let (ret, answer) = match &entry.ret {
        Some((_, NameAnswer::Never)) => return None,
        Some((_, NameAnswer::Unknown)) | None => (None, None),
        Some((at, answer)) => (Some(*at), Some(answer.clone())),
    };
    Some(Call {
        op: (number, entry.op),
        call: entry.call,
        ret,
        answer,
    })
}

/// The sequential names.
struct Names {
    /// Inodes that somebody was told of.
    told: BTreeSet<u64>,
}

impl Model for Names {
    type Op = Numbered;
    type Answer = NameAnswer;
    type State = State;

    fn initial(&self) -> State {
        [0; KEYS]
    }

    fn step(
        &self,
        state: &State,
        (number, op): &Numbered,
        answer: Option<&NameAnswer>,
    ) -> Option<State> {
        let answer = answer.unwrap_or(&NameAnswer::Unknown);
        let mut next = *state;
        match (*op, answer) {
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
                next[key] = WILD + number;
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
}

impl Names {
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
