//! Locks against a model that knows every byte by itself.
use super::*;
use crate::store::MemKv;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

const INO: Ino = Ino(7);
/// Bytes of the model's file; the last one stands for all beyond.
const BYTES: usize = 24;

fn ask(owner: u64, first: u64, last: u64, exclusive: bool) -> LockRequest {
    LockRequest {
        ino: INO,
        space: LockSpace::Posix,
        owner,
        lock: Lock {
            first,
            last,
            exclusive,
            pid: owner as u32,
        },
    }
}

fn flock(owner: u64, exclusive: bool) -> LockRequest {
    LockRequest {
        space: LockSpace::Flock,
        ..ask(owner, 0, Lock::LAST_MAX, exclusive)
    }
}

/// Per byte: who has it, and whether exclusively.
#[derive(Default)]
struct Model {
    bytes: Vec<BTreeMap<LockHolder, bool>>,
}

impl Model {
    fn new() -> Self {
        Self {
            bytes: vec![BTreeMap::new(); BYTES],
        }
    }

    fn conflicts(&self, holder: LockHolder, lock: &Lock) -> bool {
        (lock.first..=lock.last.min(BYTES as u64 - 1)).any(|at| {
            let mut others = self.bytes[at as usize]
                .iter()
                .filter(|(h, _)| **h != holder);
            others.any(|(_, exclusive)| *exclusive || lock.exclusive)
        })
    }

    fn set(&mut self, holder: LockHolder, first: u64, last: u64, to: Option<bool>) {
        for at in first..=last.min(BYTES as u64 - 1) {
            match to {
                Some(exclusive) => self.bytes[at as usize].insert(holder, exclusive),
                None => self.bytes[at as usize].remove(&holder),
            };
        }
    }

    /// What `holder` has, as the fewest ranges.
    fn ranges(&self, holder: LockHolder) -> Vec<(u64, u64, bool)> {
        let mut found: Vec<(u64, u64, bool)> = Vec::new();
        for (at, owners) in (0u64..).zip(&self.bytes) {
            let Some(&exclusive) = owners.get(&holder) else {
                continue;
            };
            let last = if at + 1 == BYTES as u64 {
                Lock::LAST_MAX
            } else {
                at
            };
            match found.last_mut() {
                Some(run) if run.1 + 1 == at && run.2 == exclusive => run.1 = last,
                _ => found.push((at, last, exclusive)),
            }
        }
        found
    }
}

fn random_run(seed: u64) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let (mut locks, mut kv, mut model) = (Locks::default(), MemKv::default(), Model::new());
    let clients = [ClientId(1), ClientId(2), ClientId(3)];
    for step in 0..400 {
        let client = clients[rng.random_range(0..3)];
        let owner = rng.random_range(0..3u64);
        let holder = LockHolder { client, owner };
        let a = rng.random_range(0..BYTES as u64);
        let b = rng.random_range(0..BYTES as u64);
        let (first, mut last) = (a.min(b), a.max(b));
        if last + 1 == BYTES as u64 {
            last = Lock::LAST_MAX;
        }
        match rng.random_range(0..20) {
            0 => {
                locks.end_session(&mut kv, client);
                for owner in 0..3 {
                    model.set(LockHolder { client, owner }, 0, Lock::LAST_MAX, None);
                }
            }
            1..8 => {
                let had = model.ranges(holder);
                let had = had.iter().any(|r| r.0 <= last && first <= r.1);
                let range = (first, last);
                let done = locks.unlock(&mut kv, INO, LockSpace::Posix, holder, range);
                assert_eq!(done, had, "seed {seed} step {step}");
                model.set(holder, first, last, None);
            }
            _ => {
                let exclusive = rng.random_bool(0.4);
                let ask = ask(owner, first, last, exclusive);
                let conflicts = model.conflicts(holder, &ask.lock);
                assert_eq!(locks.conflict(client, &ask).is_some(), conflicts);
                let (_, done) = locks.lock(&mut kv, client, &ask);
                let refused = done.err().map(|e| e.code);
                let want = conflicts.then_some(ErrorCode::Locked);
                assert_eq!(refused, want, "seed {seed} step {step}");
                if !conflicts {
                    model.set(holder, first, last, Some(exclusive));
                }
            }
        }
        check(&locks, &kv, &model, &format!("seed {seed} step {step}"));
    }
    for client in clients {
        locks.end_session(&mut kv, client);
    }
    assert_eq!(
        (locks.count(), kv),
        (0, MemKv::default()),
        "seed {seed}: a leak"
    );
}

fn check(locks: &Locks, kv: &MemKv, model: &Model, at: &str) {
    let mut count = 0;
    for client in 1..=3 {
        for owner in 0..3 {
            let holder = LockHolder {
                client: ClientId(client),
                owner,
            };
            let has = locks.file(INO).map(|f| f.of(LockSpace::Posix).of(holder));
            let has = has.unwrap_or_default().iter();
            let has: Vec<_> = has.map(|l| (l.first, l.last, l.exclusive)).collect();
            assert_eq!(has, model.ranges(holder), "{at}: {holder:?}");
            count += has.len() as u64;
        }
    }
    assert_eq!(locks.count(), count, "{at}");
    let again = Locks::load(kv).unwrap();
    assert_eq!(
        (&again.files, again.count),
        (&locks.files, locks.count),
        "{at}"
    );
}

#[test]
fn random_sequences_leave_what_a_table_of_single_bytes_says() {
    for seed in 0..300 {
        random_run(seed);
    }
}

#[test]
fn the_conflict_named_is_the_one_that_begins_first() {
    let (mut locks, mut kv) = (Locks::default(), MemKv::default());
    let (a, b) = (ClientId(1), ClientId(2));
    for first in [30, 10, 20] {
        assert!(
            locks
                .lock(&mut kv, a, &ask(1, first, first + 5, true))
                .1
                .is_ok()
        );
    }
    let held = locks.conflict(b, &ask(1, 12, 100, false)).unwrap();
    assert_eq!(
        (held.holder.client, held.lock.first, held.lock.pid),
        (a, 10, 1)
    );
    assert_eq!(locks.conflict(a, &ask(1, 12, 100, true)), None, "its own");
    assert_eq!(locks.conflict(b, &ask(1, 16, 19, true)), None, "between");
}

#[test]
fn the_two_kinds_of_locks_do_not_meet() {
    let (mut locks, mut kv) = (Locks::default(), MemKv::default());
    let (a, b) = (ClientId(1), ClientId(2));
    let whole = ask(1, 0, Lock::LAST_MAX, true);
    assert!(locks.lock(&mut kv, a, &whole).1.is_ok());
    assert!(locks.lock(&mut kv, b, &flock(1, true)).1.is_ok());
    assert_eq!(locks.count(), 2);
    assert_eq!(locks.end_session(&mut kv, b), BTreeSet::from([INO]));
    assert!(locks.conflict(b, &whole).is_some());
    assert!(locks.conflict(a, &flock(9, true)).is_none());
}

#[test]
fn a_reader_that_wants_to_write_gives_its_whole_file_lock_up_first() {
    let (mut locks, mut kv) = (Locks::default(), MemKv::default());
    let (a, b) = (ClientId(1), ClientId(2));
    assert!(locks.lock(&mut kv, a, &flock(1, false)).1.is_ok());
    assert!(locks.lock(&mut kv, b, &flock(1, false)).1.is_ok());
    let (freed, done) = locks.lock(&mut kv, a, &flock(1, true));
    assert!(freed && done.unwrap_err().code == ErrorCode::Locked);
    assert!(locks.lock(&mut kv, b, &flock(1, true)).1.is_ok());
    // A range is kept while its owner waits for more.
    assert!(locks.lock(&mut kv, a, &ask(1, 0, 9, false)).1.is_ok());
    assert!(locks.lock(&mut kv, b, &ask(1, 5, 5, false)).1.is_ok());
    let (freed, done) = locks.lock(&mut kv, a, &ask(1, 0, 9, true));
    assert!(!freed && done.is_err());
    assert!(locks.conflict(b, &ask(1, 0, 0, true)).is_some());
}

#[test]
fn the_bounds_hold_and_what_is_refused_changes_nothing() {
    let (mut locks, mut kv) = (Locks::default(), MemKv::default());
    let a = ClientId(1);
    locks.limits.file = 50;
    let mut last = Ok(());
    for i in 0..50 {
        last = locks.lock(&mut kv, a, &ask(1, i * 10, i * 10, true)).1;
        if last.is_err() {
            break;
        }
    }
    assert_eq!(last.unwrap_err().code, ErrorCode::NoLocks);
    let before = (locks.count(), kv.clone());
    assert!(locks.lock(&mut kv, a, &ask(2, 5, 5, true)).1.is_err());
    assert_eq!((locks.count(), kv.clone()), before);
    let elsewhere = LockRequest {
        ino: Ino(8),
        ..ask(1, 0, 0, true)
    };
    assert!(locks.lock(&mut kv, a, &elsewhere).1.is_ok());
    for bad in [ask(1, 5, 4, true), ask(1, 0, u64::MAX, true)] {
        let refused = locks.lock(&mut kv, a, &bad).1.unwrap_err();
        assert_eq!(refused.code, ErrorCode::Invalid);
    }
}

#[test]
fn a_file_that_is_gone_leaves_no_locks() {
    let (mut locks, mut kv) = (Locks::default(), MemKv::default());
    assert!(locks.lock(&mut kv, ClientId(1), &flock(1, false)).1.is_ok());
    assert!(locks.lock(&mut kv, ClientId(2), &flock(2, false)).1.is_ok());
    locks.drop_file(&mut kv, INO);
    assert_eq!((locks.count(), kv), (0, MemKv::default()));
}
