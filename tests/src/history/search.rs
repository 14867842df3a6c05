//! Is there one order of all operations that explains every answer?
//!
//! The search of Wing and Gong with the memory of Lowe (*Testing for Linearizability*, 2017), over a
//! sequential [`Model`]. It believes no version number: only calls, returns and answers.
//!
//! 1. Calls and returns stand in a list by time. An operation may be next if it was called before the
//!    first return that is left; it is tried on the model, and if its answer fits, both its ends leave
//!    the list. A return that is reached with nothing left to try undoes the last choice.
//! 2. An operation without a return (of unknown outcome) may be next at any time after its call, or
//!    never. It is tried after all others, as most histories need few of them.
//! 3. What was tried before is not tried again: of each (set of operations done, state) a digest of 128
//!    bits is kept, so that ten thousand operations cost what one does, each.
//!
//! What makes it quick changes no verdict:
//! 1. An operation that may be next and changes nothing (a read whose answer fits) is taken before all
//!    others and without alternative: an order that has it later is as good with it here.
//! 2. One of unknown outcome that would change nothing is not taken: leaving it out is as good.
//! 3. Of equal operations of unknown outcome only the one called first is tried: they are
//!    interchangeable, and none of them ever has to happen.
use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};

/// Steps after which a search gives up, unless its caller wants another limit.
pub const STEPS_MAX: u64 = 3_000_000;

/// What a sequence of operations does, one after the other.
pub trait Model {
    /// What is asked.
    type Op: PartialEq;
    /// What is answered.
    type Answer;
    /// What is remembered between operations.
    type State: Clone + Eq + Hash;

    /// Before all operations.
    fn initial(&self) -> Self::State;

    /// The state after an operation, if this answer fits the state before it; `None` stands for an
    /// operation that happened and of whose answer nobody knows.
    fn step(
        &self,
        state: &Self::State,
        op: &Self::Op,
        answer: Option<&Self::Answer>,
    ) -> Option<Self::State>;

    /// Another state that may follow, where an answer does not tell which of two things was done. Not asked
    /// of operations of unknown outcome.
    fn step_otherwise(
        &self,
        _state: &Self::State,
        _op: &Self::Op,
        _answer: &Self::Answer,
    ) -> Option<Self::State> {
        None
    }

    /// This operation, which leads from one state to the other, can as well be here as anywhere later: it
    /// is taken as soon as it can be. Without a word to the contrary that is what changes nothing here;
    /// right for answers that never come with a change when they once come without one.
    fn is_harmless(&self, before: &Self::State, _op: &Self::Op, after: &Self::State) -> bool {
        before == after
    }
}

/// An operation as the search sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call<O, A> {
    /// What was asked.
    pub op: O,
    /// A time before it happened.
    pub call: u64,
    /// A time after it happened; without one it may happen at any time, or never.
    pub ret: Option<u64>,
    /// What was answered, if it was.
    pub answer: Option<A>,
}

/// What a search found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// An order explains all answers.
    Explained,
    /// None does.
    Refuted {
        /// No order explains what had returned by then.
        stuck: u64,
    },
    /// Not known within the steps allowed.
    GaveUp,
}

/// Searches for an order of `calls`, in at most `steps_max` steps.
pub fn search<M: Model>(model: &M, calls: &[Call<M::Op, M::Answer>], steps_max: u64) -> Verdict {
    Search::new(model, calls).run(steps_max)
}

/// One end of an operation in the list of what happened. Link 0 is the head.
#[derive(Debug, Clone, Copy)]
struct Link {
    op: usize,
    is_call: bool,
    at: u64,
    prev: usize,
    next: usize,
}

/// What is to be tried next.
#[derive(Debug, Clone, Copy)]
enum Cursor {
    /// A link of the list, in search of what is harmless.
    Harmless(usize),
    /// A link of the list.
    Link(usize),
    /// The operation of a link once more, if it may have done something else.
    Otherwise(usize),
    /// One of the operations that need not happen, called no later than this.
    Optional(usize, u64),
    Nothing,
}

enum Candidate {
    Op(usize),
    /// Only if it is harmless.
    Harmless(usize),
    /// By what else it may have done.
    Otherwise(usize),
    /// All that must have happened has.
    AllDone,
    /// Every choice was tried.
    None,
}

/// A choice that can be undone.
struct Choice<S> {
    op: usize,
    before: S,
    then: Cursor,
    /// It had no alternative.
    is_forced: bool,
}

struct Search<'a, M: Model> {
    model: &'a M,
    calls: &'a [Call<M::Op, M::Answer>],
    links: Vec<Link>,
    /// Of each operation that returned: its call and its return.
    places: Vec<Option<(usize, usize)>>,
    /// Operations that need not happen, by call.
    optional: Vec<usize>,
    /// Of each of them, an equal one that was called before.
    twin: Vec<Option<usize>>,
    done: Vec<bool>,
    /// The exclusive or of the marks of what is done.
    set: u128,
    seen: HashSet<u128>,
    stuck: u64,
}

/// A number of 128 bits for each operation.
fn mark(op: usize) -> u128 {
    let mix = |salt: u64| {
        let mut x = (op as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ salt;
        x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ x >> 31
    };
    u128::from(mix(0x6a09_e667_f3bc_c908)) << 64 | u128::from(mix(0xbb67_ae85_84ca_a73b))
}

impl<'a, M: Model> Search<'a, M> {
    fn new(model: &'a M, calls: &'a [Call<M::Op, M::Answer>]) -> Self {
        let mut ends: Vec<(u64, bool, usize)> = Vec::new();
        let mut optional = Vec::new();
        for (op, call) in calls.iter().enumerate() {
            match call.ret {
                Some(ret) => ends.extend([(call.call, false, op), (ret, true, op)]),
                None => optional.push(op),
            }
        }
        // At the same time calls come first: nothing is known of the order then.
        ends.sort_unstable();
        optional.sort_by_key(|op| calls[*op].call);
        let head = Link {
            op: usize::MAX,
            is_call: true,
            at: 0,
            prev: 0,
            next: 0,
        };
        let mut links = vec![head];
        let mut places: Vec<Option<(usize, usize)>> = vec![None; calls.len()];
        for (at, is_ret, op) in ends {
            let me = links.len();
            links[me - 1].next = me;
            links.push(Link {
                op,
                is_call: !is_ret,
                at,
                prev: me - 1,
                next: 0,
            });
            places[op].get_or_insert((me, me)).1 = me;
        }
        let mut twin = vec![None; calls.len()];
        for (i, op) in optional.iter().enumerate() {
            let equal = |o: &&usize| calls[**o].op == calls[*op].op;
            twin[*op] = optional[..i].iter().rev().find(equal).copied();
        }
        Self {
            model,
            calls,
            links,
            places,
            optional,
            twin,
            done: vec![false; calls.len()],
            set: 0,
            seen: HashSet::new(),
            stuck: 0,
        }
    }

    fn run(&mut self, steps_max: u64) -> Verdict {
        let mut state = self.model.initial();
        let mut choices: Vec<Choice<M::State>> = Vec::new();
        let mut cursor = self.start();
        for _ in 0..steps_max {
            let (op, only_harmless, otherwise) = match self.candidate(&mut cursor) {
                Candidate::AllDone => return Verdict::Explained,
                Candidate::Op(op) => (op, false, false),
                Candidate::Harmless(op) => (op, true, false),
                Candidate::Otherwise(op) => (op, false, true),
                Candidate::None => {
                    let Some(choice) = choices.pop() else {
                        return Verdict::Refuted { stuck: self.stuck };
                    };
                    state = choice.before;
                    self.undo(choice.op);
                    cursor = match choice.is_forced {
                        true => Cursor::Nothing,
                        false => choice.then,
                    };
                    continue;
                }
            };
            let call = &self.calls[op];
            let answer = call.answer.as_ref();
            let next = match answer.filter(|_| otherwise) {
                Some(answer) => self.model.step_otherwise(&state, &call.op, answer),
                None => self.model.step(&state, &call.op, answer),
            };
            let Some(next) = next else {
                continue;
            };
            let is_forced = self.model.is_harmless(&state, &call.op, &next);
            // One that need not happen and changes nothing does not happen.
            if is_forced != only_harmless {
                continue;
            }
            self.take(op);
            if !self.is_new(&next) {
                self.undo(op);
                if is_forced {
                    cursor = Cursor::Nothing;
                }
                continue;
            }
            choices.push(Choice {
                op,
                before: std::mem::replace(&mut state, next),
                then: cursor,
                is_forced,
            });
            cursor = self.start();
        }
        Verdict::GaveUp
    }

    fn start(&self) -> Cursor {
        Cursor::Harmless(self.links[0].next)
    }

    /// The next operation that may be next.
    fn candidate(&mut self, cursor: &mut Cursor) -> Candidate {
        loop {
            match *cursor {
                Cursor::Nothing => return Candidate::None,
                // Whatever is left has a return, which stands behind its call.
                Cursor::Harmless(0) | Cursor::Link(0) => return Candidate::AllDone,
                Cursor::Harmless(at) => {
                    let link = self.links[at];
                    if link.is_call {
                        *cursor = Cursor::Harmless(link.next);
                        return Candidate::Harmless(link.op);
                    }
                    *cursor = Cursor::Link(self.links[0].next);
                }
                Cursor::Link(at) => {
                    let link = self.links[at];
                    if link.is_call {
                        *cursor = Cursor::Otherwise(at);
                        return Candidate::Op(link.op);
                    }
                    self.stuck = self.stuck.max(link.at);
                    *cursor = Cursor::Optional(0, link.at);
                }
                Cursor::Otherwise(at) => {
                    *cursor = Cursor::Link(self.links[at].next);
                    return Candidate::Otherwise(self.links[at].op);
                }
                Cursor::Optional(i, until) => match self.optional.get(i).copied() {
                    Some(op) if self.calls[op].call <= until => {
                        *cursor = Cursor::Optional(i + 1, until);
                        let twin_waits = self.twin[op].is_some_and(|t| !self.done[t]);
                        if !self.done[op] && !twin_waits {
                            return Candidate::Op(op);
                        }
                    }
                    _ => *cursor = Cursor::Nothing,
                },
            }
        }
    }

    /// Nobody was here before.
    fn is_new(&mut self, state: &M::State) -> bool {
        let half = |salt: u8| {
            let mut hasher = DefaultHasher::new();
            (salt, self.set).hash(&mut hasher);
            state.hash(&mut hasher);
            u128::from(hasher.finish())
        };
        let digest = half(1) << 64 | half(2);
        self.seen.insert(digest)
    }

    fn take(&mut self, op: usize) {
        self.done[op] = true;
        self.set ^= mark(op);
        if let Some((call, ret)) = self.places[op] {
            self.unlink(call);
            self.unlink(ret);
        }
    }

    fn undo(&mut self, op: usize) {
        self.done[op] = false;
        self.set ^= mark(op);
        if let Some((call, ret)) = self.places[op] {
            self.relink(ret);
            self.relink(call);
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
}
