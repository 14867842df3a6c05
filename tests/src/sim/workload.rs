//! What the clients do: mostly puts and gets of a few hot files, and contended names.
use super::client::{Client, Cx};
use super::linear::{DIRS, Key, Mode, NAMES, NameOp};
use super::oracle::{CHUNKS, Range, SLOT, SLOTS, Shape};
use dfs_core::types::{ChunkNo, Ino};
use rand::Rng;
use rand_chacha::ChaCha8Rng;

/// What a worker takes up.
#[derive(Debug, Clone)]
pub(super) enum Task {
    Name(NameOp),
    List(usize),
    Put(Ino, Shape),
    Get(Ino),
    /// A directory into another one.
    Move,
    Nothing,
}

/// Chooses the next task of a client's worker.
pub(super) fn next(client: &Client, cx: &mut Cx<'_>) -> Task {
    let recent = hot_file(cx);
    // Without a master only what is known can be done.
    if client.bound().is_none() && cx.fx.chance(0.7) {
        let known: Vec<Ino> = client.layouts.keys().copied().collect();
        if let Some(ino) = known.get(cx.fx.pick(known.len().max(1))) {
            return Task::Get(*ino);
        }
    }
    // Who hears late of changes is asked what it believes.
    let is_deaf = cx.fx.net.slow_pushes_to(client.end()).is_some();
    if is_deaf && !client.names.is_empty() && cx.fx.chance(0.6) {
        let keys: Vec<Key> = client.names.keys().copied().collect();
        let key = keys[cx.fx.pick(keys.len())];
        return Task::Name(NameOp::Lookup { key });
    }
    let is_small = cx.plan.is_small;
    // Only objects with files rot.
    let long = if cx.plan.rots { 0.15 } else { 0.03 };
    let rng = &mut cx.fx.rng;
    // Few names, and none that go, so that most of it is about bytes.
    if is_small {
        return match (rng.random_range(0..100), recent) {
            (0..45, Some(ino)) if !client.is_putting(ino) => Task::Put(ino, shape(long, rng)),
            (0..93, Some(ino)) => Task::Get(ino),
            _ => Task::Name(NameOp::Create {
                key: key(rng),
                exclusive: true,
            }),
        };
    }
    match (rng.random_range(0..100), recent) {
        (0..35, Some(ino)) if !client.is_putting(ino) => Task::Put(ino, shape(long, rng)),
        (35..70, Some(ino)) => Task::Get(ino),
        (0..35, Some(_)) => Task::Nothing,
        (97.., _) => Task::Move,
        _ => Task::Name(name_op(rng)),
    }
}

/// One of the last few files created.
fn hot_file(cx: &mut Cx<'_>) -> Option<Ino> {
    let count = cx.oracle.created.len();
    let back = cx.fx.pick(5).min(count.checked_sub(1)?);
    Some(cx.oracle.created[count - 1 - back])
}

fn key(rng: &mut ChaCha8Rng) -> Key {
    rng.random_range(0..NAMES * DIRS)
}

fn name_op(rng: &mut ChaCha8Rng) -> NameOp {
    let (a, b) = (key(rng), key(rng));
    let b = if a == b { (b + 1) % (NAMES * DIRS) } else { b };
    match rng.random_range(0..100) {
        0..25 => NameOp::Create {
            key: a,
            exclusive: rng.random_bool(0.7),
        },
        25..45 => {
            let mode = match rng.random_range(0..4) {
                0 => Mode::NoReplace,
                1 => Mode::Exchange,
                _ => Mode::Replace,
            };
            NameOp::Rename {
                from: a,
                to: b,
                mode,
            }
        }
        45..52 => NameOp::Unlink { key: a },
        52..60 => NameOp::List {
            dir: rng.random_range(0..DIRS),
        },
        _ => NameOp::Lookup { key: a },
    }
}

/// `long` is the share of ranges that are long.
fn range(long: f64, rng: &mut ChaCha8Rng) -> Range {
    let chunk = ChunkNo(rng.random_range(0..CHUNKS));
    // Above 64 KiB an object has a file of its own.
    let is_long = rng.random_bool(long);
    let count = match is_long {
        true => rng.random_range(65..=SLOTS),
        false => rng.random_range(1..=6),
    };
    let first = if is_long { 0 } else { rng.random_range(0..16) };
    Range {
        chunk,
        first: first.min(SLOTS - count),
        count,
    }
}

fn shape(long: f64, rng: &mut ChaCha8Rng) -> Shape {
    let mut ranges = vec![range(long, rng)];
    if rng.random_bool(0.2) {
        let other = range(long, rng);
        if other.chunk != ranges[0].chunk {
            ranges.push(other);
            ranges.sort_by_key(|range| range.chunk);
        }
    }
    match rng.random_range(0..20) {
        0 => Shape::Truncate(u64::from(rng.random_range(0..SLOTS) * SLOT)),
        1 | 2 => Shape::Replace(ranges),
        _ => Shape::Write(ranges),
    }
}
