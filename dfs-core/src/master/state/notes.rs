//! Notes for stores and the delete queue.
//!
//! A note is kept under its log index until every store that matters was told; a store's cursor is
//! the index up to which it has been told. An object that nothing refers to waits in the delete
//! queue until no reader can still be using it, then becomes a `Delete` note.
use super::{StateError, keys};
use crate::store::{Kv, KvRead, prefix_end};
use crate::types::{LogIndex, ObjectId, PgId, Time};
use crate::wire::master::Note;
use std::collections::BTreeMap;

/// A note with its log index and placement group.
pub type StoreNote = (LogIndex, PgId, Note);

/// Objects in one `Delete` note at most.
const DELETE_BATCH: usize = 512;

/// Stores `notes` under `index`.
pub fn add(kv: &mut impl Kv, index: LogIndex, first: u32, notes: &[(PgId, Note)]) {
    for (seq, note) in (first..).zip(notes) {
        keys::put(kv, keys::note(index, seq), note);
    }
}

/// Notes after `cursor` for the PGs that `wanted` says, and all of aborts, at most about `max`, and the index up to
/// which nothing is missing (never in the middle of an entry).
pub fn after(
    kv: &impl KvRead,
    cursor: LogIndex,
    applied: LogIndex,
    wanted: &dyn Fn(PgId) -> bool,
    max: usize,
) -> Result<(Vec<StoreNote>, LogIndex), StateError> {
    let mut found = Vec::new();
    let mut from = keys::note(cursor.next(), 0);
    let to = prefix_end(&[keys::NOTE]);
    loop {
        let page = kv.scan(&from, &to, 512)?;
        let Some((last, _)) = page.last() else {
            return Ok((found, applied));
        };
        let (end, whole) = (keys::note_index(last), page.len() < 512);
        for (key, value) in &page {
            let (pg, note): (PgId, Note) = keys::decode("note", key, value)?;
            // An aborted op may have left objects in any group.
            if wanted(pg) || matches!(note, Note::Aborted { .. }) {
                found.push((keys::note_index(key), pg, note));
            }
        }
        if whole {
            return Ok((found, applied));
        }
        // The last entry may go on behind the page: leave it for the next time, unless all that was
        // found is of it (then it is read to its end, however long).
        if found.len() >= max && found.first().is_some_and(|(first, ..)| *first < end) {
            found.retain(|(index, _, _)| *index < end);
            return Ok((found, LogIndex(end.0 - 1)));
        }
        from.clone_from(last);
        from.push(0);
    }
}

/// Drops notes with index <= `upto`, at most `max` of them (but one entry always goes, so that it
/// gets on); returns how far it came.
pub fn trim(kv: &mut impl Kv, upto: LogIndex, max: usize) -> Result<LogIndex, StateError> {
    // What went before may still be in the memtable, as removed.
    let trimmed = trimmed(kv)?;
    let from = keys::note(trimmed.next(), 0);
    let mut page = kv.scan(&from, &keys::note(upto.next(), 0), max)?;
    let done = match (page.first(), page.last()) {
        (Some((first, _)), Some((last, _))) if page.len() == max => {
            let (first, last) = (keys::note_index(first), keys::note_index(last));
            if first == last {
                page = kv.scan(&from, &keys::note(first.next(), 0), usize::MAX)?;
                first
            } else {
                LogIndex(last.0 - 1)
            }
        }
        _ => upto,
    };
    for (key, _) in page.iter().filter(|(k, _)| keys::note_index(k) <= done) {
        kv.delete(key);
    }
    if done > trimmed {
        keys::put(kv, keys::TRIMMED.to_vec(), &done);
    }
    Ok(done)
}

/// Notes up to here are gone.
pub fn trimmed(kv: &impl KvRead) -> Result<LogIndex, StateError> {
    Ok(keys::get(kv, "trimmed", keys::TRIMMED)?.unwrap_or_default())
}

/// Queues objects that nothing refers to any more.
pub fn queue_deletes(
    kv: &mut impl Kv,
    at: Time,
    index: LogIndex,
    garbage: &[(PgId, ObjectId)],
) -> Result<(), StateError> {
    if garbage.is_empty() {
        return Ok(());
    }
    for (seq, entry) in (0u32..).zip(garbage) {
        keys::put(kv, keys::delete(at, index, seq), entry);
    }
    let len = queue_len(kv)? + garbage.len() as u64;
    keys::put(kv, keys::DELETES.to_vec(), &len);
    Ok(())
}

/// Entries in the delete queue.
pub fn queue_len(kv: &impl KvRead) -> Result<u64, StateError> {
    Ok(keys::get(kv, "deletes", keys::DELETES)?.unwrap_or(0))
}

/// True iff an entry queued before `before` waits.
pub fn deletes_due(kv: &impl KvRead, before: Time) -> Result<bool, StateError> {
    let to = keys::delete(before, LogIndex(0), 0);
    Ok(!kv.scan(&[keys::DELETE], &to, 1)?.is_empty())
}

/// Takes entries queued before `before`, at most `max`, and returns them as notes.
pub fn release_deletes(
    kv: &mut impl Kv,
    before: Time,
    max: usize,
) -> Result<Vec<(PgId, Note)>, StateError> {
    let due = kv.scan(&[keys::DELETE], &keys::delete(before, LogIndex(0), 0), max)?;
    let mut by_pg: BTreeMap<PgId, Vec<ObjectId>> = BTreeMap::new();
    for (key, value) in &due {
        let (pg, object): (PgId, ObjectId) = keys::decode("delete", key, value)?;
        by_pg.entry(pg).or_default().push(object);
        kv.delete(key);
    }
    if !due.is_empty() {
        let len = queue_len(kv)?.saturating_sub(due.len() as u64);
        keys::put(kv, keys::DELETES.to_vec(), &len);
    }
    let mut notes = Vec::new();
    for (pg, objects) in by_pg {
        for batch in objects.chunks(DELETE_BATCH) {
            notes.push((
                pg,
                Note::Delete {
                    objects: batch.to_vec(),
                },
            ));
        }
    }
    Ok(notes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::MemKv;
    use crate::types::{ClientId, Ino, OpId};

    fn note(ino: u64) -> Note {
        Note::Forget { ino: Ino(ino) }
    }

    #[test]
    fn a_store_gets_the_notes_of_its_groups_after_its_cursor() {
        let mut kv = MemKv::default();
        for i in 1..=2000 {
            add(
                &mut kv,
                LogIndex(i),
                0,
                &[(PgId(0), note(i)), (PgId(1), note(i))],
            );
        }
        let (mut cursor, mut seen) = (LogIndex(0), Vec::new());
        while cursor < LogIndex(2000) {
            let (notes, upto) =
                after(&kv, cursor, LogIndex(2000), &|pg| pg == PgId(1), 300).unwrap();
            assert!(upto > cursor && notes.iter().all(|n| n.0 > cursor && n.0 <= upto));
            seen.extend(notes.iter().map(|n| n.0.0));
            cursor = upto;
        }
        assert_eq!(seen, (1..=2000).collect::<Vec<_>>());
    }

    #[test]
    fn trimming_goes_as_far_as_it_says() {
        let mut kv = MemKv::default();
        for i in 1..=10 {
            add(&mut kv, LogIndex(i), 0, &[(PgId(0), note(i))]);
        }
        assert_eq!(trim(&mut kv, LogIndex(8), 4).unwrap(), LogIndex(3));
        assert_eq!(trim(&mut kv, LogIndex(8), 100).unwrap(), LogIndex(8));
        assert_eq!(trimmed(&kv).unwrap(), LogIndex(8));
        let left = after(&kv, LogIndex(0), LogIndex(10), &|_| true, 100)
            .unwrap()
            .0;
        assert_eq!(left.iter().map(|n| n.0.0).collect::<Vec<_>>(), [9, 10]);
    }

    #[test]
    fn regression_a_large_entry_is_told_whole() {
        let mut kv = MemKv::default();
        let large = |ino| (PgId(0), note(ino));
        add(&mut kv, LogIndex(3), 0, &[large(1)]);
        add(
            &mut kv,
            LogIndex(5),
            0,
            &(0..1500).map(large).collect::<Vec<_>>(),
        );
        add(
            &mut kv,
            LogIndex(6),
            0,
            &(0..900).map(large).collect::<Vec<_>>(),
        );
        add(
            &mut kv,
            LogIndex(9),
            0,
            &(0..700).map(large).collect::<Vec<_>>(),
        );
        let (mut cursor, mut seen) = (LogIndex(0), Vec::new());
        while cursor < LogIndex(12) {
            let (notes, upto) = after(&kv, cursor, LogIndex(12), &|_| true, 300).unwrap();
            assert!(upto > cursor && notes.iter().all(|n| n.0 > cursor && n.0 <= upto));
            seen.extend(notes.iter().map(|n| n.0.0));
            cursor = upto;
        }
        let count = |index| seen.iter().filter(|i| **i == index).count();
        assert_eq!([3, 5, 6, 9].map(count), [1, 1500, 900, 700]);
    }

    #[test]
    fn regression_an_entry_larger_than_a_step_is_trimmed_all_the_same() {
        let mut kv = MemKv::default();
        let all: Vec<_> = (0..9).map(|ino| (PgId(0), note(ino))).collect();
        add(&mut kv, LogIndex(4), 0, &all);
        add(&mut kv, LogIndex(5), 0, &all[..2]);
        assert_eq!(trim(&mut kv, LogIndex(5), 4).unwrap(), LogIndex(4));
        assert_eq!(trimmed(&kv).unwrap(), LogIndex(4));
        assert_eq!(trim(&mut kv, LogIndex(5), 4).unwrap(), LogIndex(5));
        assert!(
            after(&kv, LogIndex(0), LogIndex(5), &|_| true, 9)
                .unwrap()
                .0
                .is_empty()
        );
    }

    #[test]
    fn regression_an_abort_is_told_to_every_store() {
        let mut kv = MemKv::default();
        let op = OpId::default();
        let aborted = Note::Aborted { ino: Ino(1), op };
        add(
            &mut kv,
            LogIndex(3),
            0,
            &[(PgId(0), note(1)), (PgId(0), aborted.clone())],
        );
        let told = after(&kv, LogIndex(0), LogIndex(3), &|_| false, 9)
            .unwrap()
            .0;
        assert_eq!(told, [(LogIndex(3), PgId(0), aborted)]);
    }

    #[test]
    fn deletes_wait_until_they_are_due() {
        let mut kv = MemKv::default();
        let object = |seq| ObjectId {
            op: OpId {
                client: ClientId(1),
                seq,
            },
            index: 0,
        };
        queue_deletes(&mut kv, Time(10), LogIndex(1), &[(PgId(0), object(1))]).unwrap();
        queue_deletes(&mut kv, Time(20), LogIndex(2), &[(PgId(0), object(2))]).unwrap();
        assert!(!deletes_due(&kv, Time(10)).unwrap() && deletes_due(&kv, Time(11)).unwrap());
        let notes = release_deletes(&mut kv, Time(15), 100).unwrap();
        assert_eq!(
            notes,
            [(
                PgId(0),
                Note::Delete {
                    objects: vec![object(1)]
                }
            )]
        );
        assert_eq!(queue_len(&kv).unwrap(), 1);
    }
}
