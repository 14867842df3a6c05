//! Each content that was read is what the puts up to its revision add up to.
//!
//! A put of unknown outcome may have made a revision that nobody was told of. There may be no more
//! such revisions of a file than puts of it whose outcome is unknown, and one choice of puts for them
//! must explain everything that was read of the file.
use super::oracle::{CHUNKS, Content, Fate, Oracle, Put, SLOT, SLOTS, Seen, Shape};
use dfs_core::types::{ChunkNo, Ino, ObjectId, OpId, Revision};
use std::collections::BTreeMap;

/// Ways to fill gaps that are tried for one file.
const TRIES_MAX: u32 = 2000;

impl Oracle {
    /// Checks each content that was read against the puts it is made of. Gives the number of files
    /// that there were too many possibilities for.
    pub fn check_contents(&self) -> Result<u64, String> {
        let mut files: BTreeMap<Ino, Vec<&Seen>> = BTreeMap::new();
        for seen in &self.seen {
            files.entry(seen.ino).or_default().push(seen);
        }
        let mut undecided = 0;
        for (ino, seen) in files {
            undecided += u64::from(!self.check_file(ino, &seen)?);
        }
        Ok(undecided)
    }

    /// Puts of unknown outcome fill the revisions that nobody was told of: in one way at least, the
    /// same for all that was read. False if that was not found out.
    fn check_file(&self, ino: Ino, seen: &[&Seen]) -> Result<bool, String> {
        let mut made = self
            .revisions
            .get(&ino)
            .map_or_else(BTreeMap::new, |file| file.made.clone());
        let newest = seen.iter().map(|seen| seen.revision.0).max().unwrap_or(0);
        let is_gap = |revision: &Revision| !made.contains_key(revision);
        let gaps: Vec<Revision> = (1..=newest).map(Revision).filter(is_gap).collect();
        let may_be = |put: &Put| put.ino == ino && matches!(put.fate, Fate::Unknown | Fate::Open);
        let puts = self.puts.iter().filter(|(_, put)| may_be(put));
        let candidates: Vec<OpId> = puts.map(|(op, _)| *op).collect();
        if gaps.len() > candidates.len() {
            return Err(format!(
                "inode {ino}: revisions {gaps:?} were made by nobody; of unknown outcome are {candidates:?}"
            ));
        }
        let mut search = Assignment {
            gaps: &gaps,
            candidates,
            tries: 0,
            first: None,
        };
        let is_right = |made: &_| seen.iter().try_for_each(|seen| self.check_seen(made, seen));
        if search.fits(&mut made, &is_right) {
            return Ok(true);
        }
        match search.first {
            Some(what) if search.tries < TRIES_MAX => Err(what),
            _ => Ok(false),
        }
    }

    fn check_seen(&self, made: &BTreeMap<Revision, OpId>, seen: &Seen) -> Result<(), String> {
        let (mut content, mut size) = (Content::new(), 0u64);
        for op in made.range(..=seen.revision).map(|(_, op)| op) {
            apply(&self.puts[op].shape, *op, &mut content, &mut size);
        }
        let tell = |what: String| {
            let order: Vec<String> = made.iter().map(|(r, op)| format!("{r}:{op}")).collect();
            let (ino, revision) = (seen.ino, seen.revision);
            Err(format!(
                "inode {ino} at revision {revision}: {what}; puts {}",
                order.join(" ")
            ))
        };
        if seen.size != size {
            return tell(format!("size {}, expected {size}", seen.size));
        }
        let slots = (0..CHUNKS).flat_map(|c| (0..SLOTS).map(move |s| (ChunkNo(c), s)));
        for slot in slots {
            let (is, shall) = (seen.content.get(&slot), content.get(&slot));
            if is != shall {
                return tell(format!("slot {slot:?} holds {is:?}, expected {shall:?}"));
            }
        }
        Ok(())
    }
}

/// Says what is wrong if these puts made these revisions.
type Judge<'a> = dyn Fn(&BTreeMap<Revision, OpId>) -> Result<(), String> + 'a;

/// A search for puts that fill gaps in the order of revisions.
struct Assignment<'a> {
    gaps: &'a [Revision],
    candidates: Vec<OpId>,
    tries: u32,
    /// What was wrong with the first possibility.
    first: Option<String>,
}

impl Assignment<'_> {
    /// True if some of the candidates fill the gaps so that all is right.
    fn fits(&mut self, made: &mut BTreeMap<Revision, OpId>, is_right: &Judge<'_>) -> bool {
        let Some((gap, rest)) = self.gaps.split_first() else {
            self.tries += 1;
            let done = is_right(made);
            let is_well = done.is_ok();
            self.first = self.first.take().or(done.err());
            return is_well;
        };
        let gaps = std::mem::replace(&mut self.gaps, rest);
        for at in 0..self.candidates.len() {
            if self.tries >= TRIES_MAX {
                break;
            }
            let op = self.candidates.remove(at);
            made.insert(*gap, op);
            let fits = self.fits(made, is_right);
            made.remove(gap);
            self.candidates.insert(at, op);
            if fits {
                return true;
            }
        }
        self.gaps = gaps;
        false
    }
}

/// Applies a put to a content.
fn apply(shape: &Shape, op: OpId, content: &mut Content, size: &mut u64) {
    match shape {
        Shape::Truncate(to) => {
            content.retain(|(chunk, slot), _| chunk.start() + u64::from(slot * SLOT) < *to);
            *size = *to;
            return;
        }
        Shape::Replace(_) => {
            content.clear();
            *size = 0;
        }
        Shape::Write(_) => {}
    }
    for (range, index) in shape.ranges().iter().zip(0u32..) {
        let object = ObjectId { op, index };
        for slot in 0..range.count {
            content.insert((range.chunk, range.first + slot), (object, slot * SLOT));
        }
    }
    *size = (*size).max(shape.end());
}

#[cfg(test)]
mod tests {
    use super::super::oracle::Range;
    use super::*;
    use dfs_core::types::ClientId;

    const FILE: Ino = Ino(7);

    fn op(seq: u64) -> OpId {
        let client = ClientId(1);
        OpId { client, seq }
    }

    fn slot(first: u32) -> Shape {
        let chunk = ChunkNo(0);
        Shape::Write(vec![Range {
            chunk,
            first,
            count: 1,
        }])
    }

    fn after(puts: &[(u64, u32)]) -> (u64, Content) {
        let (mut content, mut size) = (Content::new(), 0);
        for (seq, first) in puts {
            apply(&slot(*first), op(*seq), &mut content, &mut size);
        }
        (size, content)
    }

    /// Put 1 made revision 1, puts 2 and 3 are of unknown outcome, put 4 made `newest`.
    fn oracle(newest: u64) -> Oracle {
        let mut oracle = Oracle::default();
        for seq in 1..5 {
            let first = u32::try_from(seq).unwrap() / 2;
            oracle.put_begins(op(seq), FILE, slot(first));
        }
        let fates = [
            Fate::Applied(Revision(1)),
            Fate::Unknown,
            Fate::Unknown,
            Fate::Applied(Revision(newest)),
        ];
        for (seq, fate) in (1..).zip(fates) {
            oracle.put_ends(op(seq), Revision(0), fate).unwrap();
        }
        oracle
    }

    fn got(oracle: &mut Oracle, newest: u64, (size, content): (u64, Content)) {
        let done = (Revision(newest), op(4), size);
        oracle.got((FILE, Revision(0)), done, content).unwrap();
    }

    #[test]
    fn a_put_of_unknown_outcome_may_have_happened_and_only_as_a_whole() {
        let mut one = oracle(3);
        got(&mut one, 3, after(&[(1, 0), (3, 1), (4, 2)]));
        assert_eq!(one.check_contents(), Ok(0));
        let mut other = oracle(3);
        got(&mut other, 3, after(&[(1, 0), (4, 2)]));
        assert!(other.check_contents().is_err(), "revision 2 did something");
        let mut both = oracle(4);
        got(&mut both, 4, after(&[(1, 0), (3, 1), (2, 1), (4, 2)]));
        assert_eq!(both.check_contents(), Ok(0));
    }

    #[test]
    fn what_was_read_twice_has_one_explanation() {
        let mut oracle = oracle(3);
        got(&mut oracle, 3, after(&[(1, 0), (3, 1), (4, 2)]));
        got(&mut oracle, 3, after(&[(1, 0), (2, 1), (4, 2)]));
        assert!(oracle.check_contents().is_err());
    }

    #[test]
    fn a_revision_that_nobody_can_have_made_is_told() {
        let mut oracle = oracle(5);
        got(&mut oracle, 5, after(&[(1, 0), (2, 1), (3, 1), (4, 2)]));
        assert!(oracle.check_contents().unwrap_err().contains("by nobody"));
    }
}
