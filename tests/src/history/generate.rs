//! Good and bad histories by seed, to check the checkers.
//!
//! A simulated store takes each operation at one moment between its call and its return; one of unknown
//! outcome at any later moment, or never. A [`Fault`] makes it a bad store. Whether the history that
//! comes of it is really bad (a fault that nobody sees is none) is decided by [`is_explained`]: all orders
//! are tried, without memory and without what makes the search quick.
use super::existence::{NameAnswer, NameOp, NameRecord};
use super::log::{LogAnswer, LogOp, LogRecord};
use super::record::{Outcome, Record, Who};
use super::register::{NOTHING, RegisterAnswer, RegisterOp, RegisterRecord};
use super::search::{Call, Model};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// What is wrong with the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// A read shows what was there before.
    Stale,
    /// An acknowledged write is lost.
    Lost,
    /// What was there earlier comes back.
    Resurrected,
    /// A write happens a second time later.
    Twice,
    /// A read shows what nobody wrote.
    Invented,
    /// A write that was reported as failed happens.
    FailedButSeen,
    /// An operation happens before its call or after its return.
    OutOfOrder,
}

pub(super) const FAULTS: [Fault; 7] = [
    Fault::Stale,
    Fault::Lost,
    Fault::Resurrected,
    Fault::Twice,
    Fault::Invented,
    Fault::FailedButSeen,
    Fault::OutOfOrder,
];

/// How large a history is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Size {
    pub clients: u32,
    /// Of each client.
    pub ops: usize,
    /// Of a hundred operations.
    pub unknown: u32,
    /// Longest time of a part of an operation.
    pub delay_max: u64,
}

/// An operation before it is known what it answers.
#[derive(Debug, Clone, Copy)]
struct Plan {
    client: u32,
    call: u64,
    ret: u64,
    /// When it happens, if it does.
    effect: Option<u64>,
    fate: Fate,
    /// Which of the kinds of operations it is: 0 to 99.
    kind: u32,
    /// The store does with it what its fault says.
    is_faulty: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Ok,
    Fail,
    Unknown,
}

/// Draws when everything happens; the plans are in the order of their effects.
fn plans(rng: &mut ChaCha8Rng, size: Size, fault: Option<Fault>) -> Vec<Plan> {
    let mut plans = Vec::new();
    for client in 0..size.clients {
        let mut now = rng.random_range(0..=size.delay_max);
        for _ in 0..size.ops {
            let mut part = || rng.random_range(0..=size.delay_max);
            let call = now;
            let effect = call + part();
            let ret = effect + part();
            now = ret + 1 + part();
            let late = effect + part() * part();
            let fate = match rng.random_range(0..100) {
                n if n < size.unknown => Fate::Unknown,
                n if n < size.unknown + size.unknown / 2 => Fate::Fail,
                _ => Fate::Ok,
            };
            let effect = match fate {
                Fate::Ok => Some(effect),
                Fate::Fail => None,
                Fate::Unknown => rng.random_bool(0.6).then_some(late),
            };
            plans.push(Plan {
                client,
                call,
                ret,
                effect,
                fate,
                kind: rng.random_range(0..100),
                is_faulty: false,
            });
        }
    }
    if let Some(fault) = fault {
        let bad = rng.random_range(0..plans.len());
        let plan = &mut plans[bad];
        plan.is_faulty = true;
        match fault {
            Fault::Stale | Fault::Invented => (plan.fate, plan.kind) = (Fate::Ok, 99),
            Fault::Lost | Fault::Twice => (plan.fate, plan.kind) = (Fate::Ok, 0),
            _ => {}
        }
        plan.effect.get_or_insert(plan.call);
        if fault == Fault::OutOfOrder {
            let (early, late) = (plan.call / 2, plan.ret + 4 * size.delay_max);
            plan.effect = Some(if rng.random_bool(0.5) { early } else { late });
        }
        if fault == Fault::FailedButSeen {
            plan.fate = Fate::Fail;
            plan.effect = Some(plan.ret);
        }
    }
    plans.sort_by_key(|p| (p.effect.unwrap_or(u64::MAX), p.call));
    plans
}

fn record<O, A>(plan: &Plan, op: O, is_read: bool, answer: A) -> Record<O, A> {
    // Whoever reads is on another mount than whoever writes: nothing is own pending.
    let mount = plan.client + if is_read { 100 } else { 0 };
    let client = plan.client;
    Record {
        who: Who { client, mount },
        key: 0,
        op,
        call: plan.call,
        ret: Some(plan.ret),
        outcome: match plan.fate {
            Fate::Ok => Outcome::Ok(answer),
            Fate::Fail => Outcome::Fail,
            Fate::Unknown => Outcome::Unknown,
        },
    }
}

/// A history of a register, with the versions that the store gave.
pub(super) fn register(seed: u64, size: Size, fault: Option<Fault>) -> Vec<RegisterRecord> {
    let rng = &mut ChaCha8Rng::seed_from_u64(seed);
    let mut held: Vec<(u64, u64)> = vec![(NOTHING, 0)];
    let (mut last_version, mut records) = (0, Vec::new());
    let mut again: Option<(u64, u64)> = None;
    for (plan, value) in plans(rng, size, fault).iter().zip(1u64..) {
        let is_bad = |f: Fault| plan.is_faulty && fault == Some(f);
        if is_bad(Fault::Resurrected) {
            held.push(held[rng.random_range(0..held.len())]);
        }
        if let Some(old) = again.take_if(|_| rng.random_bool(0.5)) {
            held.push(old);
        }
        if plan.kind < 50 {
            let op = RegisterOp::Write(value);
            let mut version = None;
            if plan.effect.is_some() {
                last_version += 1;
                version = Some(last_version);
                if !is_bad(Fault::Lost) {
                    held.push((value, last_version));
                }
                if is_bad(Fault::Twice) {
                    again = Some((value, last_version));
                }
            }
            let answer = RegisterAnswer::Wrote { version };
            records.push(record(plan, op, false, answer));
        } else {
            let mut seen = *held.last().expect("never empty");
            if is_bad(Fault::Stale) {
                seen = held[held.len().saturating_sub(2)];
            }
            if is_bad(Fault::Invented) {
                seen.0 = 1_000_000;
            }
            let (value, version) = (seen.0, Some(seen.1));
            let answer = RegisterAnswer::Saw { value, version };
            records.push(record(plan, RegisterOp::Read, true, answer));
        }
    }
    records
}

/// A history of a log.
pub(super) fn log(seed: u64, size: Size, fault: Option<Fault>) -> Vec<LogRecord> {
    let rng = &mut ChaCha8Rng::seed_from_u64(seed);
    let (mut held, mut records): (Vec<u64>, Vec<LogRecord>) = (Vec::new(), Vec::new());
    for (plan, id) in plans(rng, size, fault).iter().zip(1u64..) {
        let is_bad = |f: Fault| plan.is_faulty && fault == Some(f);
        if is_bad(Fault::Resurrected) {
            held.pop();
        }
        if plan.kind < 50 {
            let times = match plan.effect {
                Some(_) if is_bad(Fault::Lost) => 0,
                Some(_) if is_bad(Fault::Twice) => 2,
                Some(_) => 1,
                None => 0,
            };
            held.extend(std::iter::repeat_n(id, times));
            let op = LogOp::Append(id);
            records.push(record(plan, op, false, LogAnswer::Appended));
        } else {
            let mut seen = held.clone();
            if is_bad(Fault::Stale) {
                seen.pop();
            }
            if is_bad(Fault::Invented) {
                seen.push(1_000_000);
            }
            records.push(record(plan, LogOp::Read, true, LogAnswer::Saw(seen)));
        }
    }
    records
}

/// A history of a name.
pub(super) fn name(seed: u64, size: Size, fault: Option<Fault>) -> Vec<NameRecord> {
    let rng = &mut ChaCha8Rng::seed_from_u64(seed);
    let (mut is_there, mut records) = (false, Vec::new());
    for plan in &plans(rng, size, fault) {
        let is_bad = |f: Fault| plan.is_faulty && fault == Some(f);
        if is_bad(Fault::Resurrected) {
            is_there = !is_there;
        }
        let before = is_there;
        let op = match plan.kind {
            0..40 => NameOp::Create,
            40..60 => NameOp::Unlink,
            _ => NameOp::Look,
        };
        let is_change = matches!(
            (op, is_there),
            (NameOp::Create, false) | (NameOp::Unlink, true)
        );
        if is_change && plan.effect.is_some() && !is_bad(Fault::Lost) {
            is_there = op == NameOp::Create;
        }
        let seen = before != (is_bad(Fault::Stale) || is_bad(Fault::Invented));
        let answer = match (is_change, seen) {
            (true, _) => NameAnswer::Done,
            (false, true) => NameAnswer::There,
            (false, false) => NameAnswer::Missing,
        };
        records.push(record(plan, op, false, answer));
    }
    records
}

/// The operations as they were recorded: none is left out, none is bounded.
pub(super) fn raw<O: Clone, A: Clone>(records: &[Record<O, A>]) -> Vec<Call<O, A>> {
    let happened = records
        .iter()
        .filter(|r| !matches!(r.outcome, Outcome::Fail));
    let call = |r: &Record<O, A>| Call {
        op: r.op.clone(),
        call: r.call,
        ret: r.done(),
        answer: r.answer().cloned(),
    };
    happened.map(call).collect()
}

/// Tries all orders.
pub(super) fn is_explained<M: Model>(model: &M, calls: &[Call<M::Op, M::Answer>]) -> bool {
    fn from<M: Model>(
        model: &M,
        calls: &[Call<M::Op, M::Answer>],
        done: &mut Vec<bool>,
        state: &M::State,
    ) -> bool {
        let left = |i: &usize| !done[*i] && calls[*i].ret.is_some();
        let rets = (0..calls.len()).filter(left).filter_map(|i| calls[i].ret);
        let Some(first) = rets.min() else {
            return true;
        };
        (0..calls.len()).any(|i| {
            if done[i] || calls[i].call > first {
                return false;
            }
            let call = &calls[i];
            let Some(next) = model.step(state, &call.op, call.answer.as_ref()) else {
                return false;
            };
            done[i] = true;
            let found = from(model, calls, done, &next);
            done[i] = false;
            found
        })
    }
    from(
        model,
        calls,
        &mut vec![false; calls.len()],
        &model.initial(),
    )
}
