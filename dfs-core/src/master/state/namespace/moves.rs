//! Saving by moving the old file away: the history comes back to the name.
//!
//! Editors rename `F` to a backup name, make `F` anew and remove the backup. A plain rename carries
//! history along, so without this it would end as the deleted history of the backup. Steps: a plain
//! rename of a file is remembered for [`WINDOW`]; when its target is unlinked meanwhile and a file
//! was made under the old name, what came with the rename goes there. Invariants:
//! 1. what is remembered pins nothing, and at most [`KEPT_MOVES`] are, the newest;
//! 2. a backup that stays keeps the history that it took along.
use super::history;
use super::keys;
use super::read;
use super::records::Pin;
use super::tx::Tx;
use crate::master::state::StateError;
use crate::store::Kv;
use crate::types::{FileKind, Ino, Name, Time};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::time::Duration;

/// How long after the rename the backup may be removed.
const WINDOW: Duration = Duration::from_secs(60);
/// Renames remembered.
const KEPT_MOVES: usize = 32;

/// A file went from one name to another that was free.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Move {
    from: (Ino, Name),
    to: (Ino, Name),
    ino: Ino,
    /// Highest number that the target showed before: what is above came along.
    above: u64,
    at: Time,
}

type Moves = VecDeque<Move>;

fn load(tx: &Tx<'_>) -> Result<Moves, StateError> {
    let moves: Option<Moves> = read::get(&tx.kv, "moves", keys::MOVES)?;
    Ok(moves.unwrap_or_default())
}

fn store(tx: &mut Tx<'_>, moves: &Moves) {
    if moves.is_empty() {
        tx.kv.delete(keys::MOVES);
    } else {
        tx.put(keys::MOVES.to_vec(), moves);
    }
}

/// Remembers a plain rename; to be called before the pins are carried along.
pub(super) fn note(
    tx: &mut Tx<'_>,
    from: (Ino, &Name),
    to: (Ino, &Name),
    ino: Ino,
) -> Result<(), StateError> {
    let last = history::record(&tx.kv, to.0, to.1)?.pins.last().copied();
    let now = tx.at;
    let mut moves = load(tx)?;
    moves.retain(|m| now.since(m.at) < WINDOW && (m.to.0, &m.to.1) != to);
    while moves.len() >= KEPT_MOVES {
        moves.pop_front();
    }
    moves.push_back(Move {
        from: (from.0, from.1.clone()),
        to: (to.0, to.1.clone()),
        ino,
        above: last.map_or(0, |p| p.display),
        at: now,
    });
    store(tx, &moves);
    Ok(())
}

/// A name was unlinked and remembers what it was: gives what came by a rename back to where it came
/// from, if a file is there again. The unlinked name is not settled yet.
pub(super) fn give_back(
    tx: &mut Tx<'_>,
    dir: Ino,
    name: &Name,
    ino: Ino,
) -> Result<(), StateError> {
    let mut moves = load(tx)?;
    let of = |m: &Move| (m.to.0, &m.to.1, m.ino) == (dir, name, ino);
    let Some(moved) = moves.iter().position(of).and_then(|i| moves.remove(i)) else {
        return Ok(());
    };
    store(tx, &moves);
    let (home, old) = &moved.from;
    let again = read::dentry(&tx.kv, *home, old)?;
    let is_file = again.is_some_and(|d| d.kind == FileKind::File && d.ino != ino);
    if !is_file || tx.at.since(moved.at) >= WINDOW {
        return Ok(());
    }
    let mut rest = history::record(&tx.kv, dir, name)?;
    let mut own = history::record(&tx.kv, *home, old)?;
    let (came, stays): (Vec<Pin>, Vec<Pin>) =
        rest.pins.iter().partition(|p| p.display > moved.above);
    rest.pins = stays;
    let mut last = came.last().map_or(0, |p| p.display);
    let later = own.pins.drain(..).map(|p| {
        last = p.display.max(last + 1);
        Pin { display: last, ..p }
    });
    own.pins = came.into_iter().chain(later.collect::<Vec<_>>()).collect();
    // The home's record first, so that no directory looks empty in between.
    tx.put_history(*home, old, &own)?;
    tx.put_history(dir, name, &rest)?;
    history::settle(tx, *home, old)
}
