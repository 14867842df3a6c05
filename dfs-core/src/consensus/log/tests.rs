use super::*;
use crate::consensus::types::{ConfState, EntryKind, LogEntry};
use crate::store::{Disk, SimDisk};
use crate::types::{LogIndex, Term};
use bytes::Bytes;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

const DIR: &str = "raft";
const ID: LogId = LogId {
    cluster: ClusterId(77),
    raft: RaftId(1),
};
const CONFIG: LogConfig = LogConfig {
    segment_bytes: 16 << 10,
    spares_max: 1,
};

fn bootstrap() -> SnapshotMeta {
    SnapshotMeta::bootstrap([RaftId(1), RaftId(2), RaftId(3)])
}

fn create(disk: &SimDisk) -> RaftLog {
    let (log, found) =
        RaftLog::create(Arc::new(disk.clone()), DIR, ID, CONFIG, &bootstrap()).unwrap();
    assert_eq!((found.base, found.entries.len()), (bootstrap(), 0));
    log
}

fn open(disk: &SimDisk) -> Result<(RaftLog, RecoveredLog), LogError> {
    RaftLog::open(Arc::new(disk.clone()), DIR, ID, CONFIG)
}

fn entry(index: u64, term: u64, len: usize) -> LogRecord {
    LogRecord::Entry(LogEntry {
        index: LogIndex(index),
        term: Term(term),
        kind: EntryKind::Command,
        data: Bytes::from(vec![u8::try_from(index % 251).unwrap(); len]),
    })
}

fn write(records: impl IntoIterator<Item = LogRecord>) -> LogWrite {
    LogWrite {
        records: records.into_iter().collect(),
    }
}

fn hard(term: u64, commit: u64) -> LogRecord {
    LogRecord::HardState(HardState {
        term: Term(term),
        vote: Some(RaftId(2)),
        commit: LogIndex(commit),
    })
}

fn meta(index: u64, term: u64) -> SnapshotMeta {
    SnapshotMeta {
        index: LogIndex(index),
        term: Term(term),
        conf: ConfState::of_voters([RaftId(1), RaftId(4)]),
    }
}

fn shape(found: &RecoveredLog) -> Vec<(u64, u64)> {
    let entries = found.entries.iter();
    entries.map(|e| (e.index.0, e.term.0)).collect()
}

#[test]
fn a_batch_costs_one_sync_and_is_found_again() {
    let disk = SimDisk::new();
    let mut log = create(&disk);
    let syncs = disk.syncs();
    let batch = [
        write([entry(2, 1, 10), entry(3, 1, 10), hard(1, 2)]),
        write([entry(4, 1, 10)]),
    ];
    log.append(&batch).unwrap();
    assert_eq!(disk.syncs() - syncs, 1);
    disk.crash(&mut ChaCha8Rng::seed_from_u64(1));
    let (_, found) = open(&disk).unwrap();
    assert_eq!(shape(&found), [(2, 1), (3, 1), (4, 1)]);
    assert_eq!(found.hard.vote, Some(RaftId(2)));
    assert!(!found.dropped_torn_tail);
}

#[test]
fn a_conflicting_tail_is_overwritten() {
    let disk = SimDisk::new();
    let mut log = create(&disk);
    let old = (2..7).map(|i| entry(i, 1, 5));
    log.append(&[write(old)]).unwrap();
    log.append(&[write([entry(4, 2, 5)])]).unwrap();
    let (_, found) = open(&disk).unwrap();
    assert_eq!(shape(&found), [(2, 1), (3, 1), (4, 2)]);
}

#[test]
fn compaction_drops_whole_segments_and_recycles_them() {
    let disk = SimDisk::new();
    let mut log = create(&disk);
    for i in 2..60 {
        log.append(&[write([entry(i, 1, 1000)])]).unwrap();
    }
    let before = log.segments();
    assert!(before > 4 && log.needs_spare());
    log.append(&[write([LogRecord::Base(meta(50, 1)), hard(1, 55)])])
        .unwrap();
    assert!(log.segments() < before && !log.needs_spare());
    for i in 60..100 {
        log.append(&[write([entry(i, 2, 1000)])]).unwrap();
    }
    let (log, found) = open(&disk).unwrap();
    assert_eq!((&found.base, log.base()), (&meta(50, 1), &meta(50, 1)));
    let expected = (51..60).map(|i| (i, 1)).chain((60..100).map(|i| (i, 2)));
    assert_eq!(shape(&found), expected.collect::<Vec<_>>());
    assert_eq!(found.hard.commit, LogIndex(55));
}

#[test]
fn an_installed_snapshot_replaces_the_log() {
    let disk = SimDisk::new();
    let mut log = create(&disk);
    let batch = (2..9).map(|i| entry(i, 1, 5));
    log.append(&[write(batch)]).unwrap();
    log.append(&[write([LogRecord::Installing(meta(20, 3))])])
        .unwrap();
    let (_, found) = open(&disk).unwrap();
    assert_eq!(found.installing, Some(meta(20, 3)));
    let (mut log, _) = open(&disk).unwrap();
    log.append(&[write([LogRecord::Reset(meta(25, 3)), entry(26, 3, 5)])])
        .unwrap();
    let (_, found) = open(&disk).unwrap();
    assert_eq!((found.base.index.0, shape(&found)), (25, vec![(26, 3)]));
    assert_eq!(found.installing, None);
}

#[test]
fn entries_larger_than_a_segment_get_one_of_their_own() {
    let disk = SimDisk::new();
    let mut log = create(&disk);
    log.append(&[write([
        entry(2, 1, 9),
        entry(3, 1, 100_000),
        entry(4, 1, 9),
    ])])
    .unwrap();
    let (_, found) = open(&disk).unwrap();
    assert_eq!(shape(&found), [(2, 1), (3, 1), (4, 1)]);
    assert_eq!(found.entries[1].data.len(), 100_000);
}

/// Offset of the first frame in a segment.
const FIRST: u64 = 4096;

#[test]
fn rot_before_the_end_is_told_from_a_torn_tail() {
    let disk = SimDisk::new();
    let mut log = create(&disk);
    log.append(&[write([entry(2, 1, 1000)])]).unwrap();
    let second = log.active.offset;
    log.append(&[write([entry(3, 1, 1000)])]).unwrap();
    let path = segment::path(DIR, 0);
    for offset in [FIRST + 3, FIRST + 40, second - 500] {
        disk.flip_bit(&path, offset);
        let error = open(&disk).unwrap_err();
        assert!(matches!(error, LogError::Rot { .. }), "{error}");
        disk.flip_bit(&path, offset);
    }
    // The last frame has nothing after it: nothing but the second place says that it was durable.
    disk.flip_bit(&path, second + 500);
    disk.flip_bit("raft/acked", 15);
    let (_, found) = open(&disk).unwrap();
    assert_eq!(shape(&found), [(2, 1)]);
    assert!(found.dropped_torn_tail);
}

#[test]
fn regression_rot_of_the_last_frame_is_no_torn_tail() {
    for is_cut_off in [false, true] {
        let disk = SimDisk::new();
        let mut log = create(&disk);
        log.append(&[write([entry(2, 1, 1000)])]).unwrap();
        let second = log.active.offset;
        log.append(&[write([entry(3, 1, 1000), hard(2, 2)])])
            .unwrap();
        log.settle();
        disk.crash(&mut ChaCha8Rng::seed_from_u64(5));
        // Its header too: nothing claims to be a frame then.
        disk.flip_bit(&segment::path(DIR, 0), second + 500);
        if is_cut_off {
            disk.flip_bit(&segment::path(DIR, 0), second);
        }
        let error = open(&disk).unwrap_err();
        assert!(matches!(error, LogError::Rot { .. }), "{error}");
    }
}

#[test]
fn a_write_that_was_cut_short_is_a_torn_tail_also_after_a_clean_stop_before() {
    for seed in 0..40 {
        let disk = SimDisk::new();
        let mut log = create(&disk);
        log.append(&[write([entry(2, 1, 1000)])]).unwrap();
        log.settle();
        let (mut log, _) = open(&disk).unwrap();
        disk.fail_next_sync();
        log.append(&[write([entry(3, 1, 6000)])]).unwrap_err();
        disk.crash(&mut ChaCha8Rng::seed_from_u64(seed));
        let (mut log, found) = open(&disk).unwrap();
        let entries = shape(&found).len();
        log.append(&[write([entry(entries as u64 + 2, 2, 10)])])
            .unwrap();
        log.settle();
        let (_, found) = open(&disk).unwrap();
        assert_eq!(shape(&found).len(), entries + 1);
    }
}

#[test]
fn rot_at_the_end_of_a_sealed_segment_is_noticed() {
    let disk = SimDisk::new();
    let mut log = create(&disk);
    let mut end = 0;
    for i in 2.. {
        let (seq, offset) = (log.active.seq, log.active.offset);
        log.append(&[write([entry(i, 1, 1000)])]).unwrap();
        if log.active.seq != seq {
            break;
        }
        end = offset;
    }
    disk.flip_bit(&segment::path(DIR, 0), end + 40);
    assert!(matches!(open(&disk).unwrap_err(), LogError::Rot { .. }));
    disk.flip_bit(&segment::path(DIR, 0), end + 40);
    open(&disk).unwrap();
    disk.remove(&segment::path(DIR, 0)).unwrap();
    assert!(matches!(open(&disk).unwrap_err(), LogError::Rot { .. }));
}

#[test]
fn foreign_newer_and_missing_logs_are_refused() {
    let disk = SimDisk::new();
    assert!(matches!(open(&disk), Err(LogError::Missing { .. })));
    drop(create(&disk));
    let again = RaftLog::create(Arc::new(disk.clone()), DIR, ID, CONFIG, &bootstrap());
    assert!(matches!(again, Err(LogError::Exists { .. })));
    let other = LogId {
        raft: RaftId(2),
        ..ID
    };
    let foreign = RaftLog::open(Arc::new(disk.clone()), DIR, other, CONFIG);
    assert!(matches!(foreign, Err(LogError::Foreign { found, .. }) if found == ID));
    RaftLog::destroy(&disk, DIR).unwrap();
    assert!(matches!(open(&disk), Err(LogError::Missing { .. })));
}

#[test]
fn regression_an_entry_that_none_could_follow_is_rot() {
    let disk = SimDisk::new();
    let mut log = create(&disk);
    let last = entry(u64::MAX, 1, 3);
    let reset = LogRecord::Reset(meta(u64::MAX - 1, 1));
    log.append(&[write([reset, last.clone(), last])]).unwrap();
    drop(log);
    assert!(matches!(open(&disk), Err(LogError::Rot { .. })));
}

#[test]
fn a_failed_sync_stops_the_log() {
    let disk = SimDisk::new();
    let mut log = create(&disk);
    disk.fail_next_sync();
    let batch = [write([entry(2, 1, 10)])];
    assert!(matches!(log.append(&batch), Err(LogError::Disk(_))));
    assert_eq!(log.append(&batch), Err(LogError::Failed));
    // The failed batch is still in the cache; once it is reported it must also be durable.
    let (_, found) = open(&disk).unwrap();
    assert_eq!(shape(&found), [(2, 1)]);
    disk.crash(&mut ChaCha8Rng::seed_from_u64(3));
    assert_eq!(shape(&open(&disk).unwrap().1), [(2, 1)]);
}

/// Random batches, compactions and installs with a crash in one of the disk's operations: what was
/// acknowledged is found, and the rest is found whole or not at all.
#[test]
fn acknowledged_batches_survive_every_crash() {
    for seed in 0..150 {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let disk = SimDisk::new();
        let mut log = create(&disk);
        let mut model = vec![(1u64, 1u64)];
        let mut term = 1;
        for _ in 0..rng.random_range(1..60) {
            let fails = rng.random_bool(0.1);
            let mut next = model.clone();
            let batch = random_batch(&mut rng, &mut next, &mut term);
            if fails {
                disk.fail_next_sync();
            }
            let done = log.append(&[write(batch)]).is_ok();
            if !fails {
                assert!(done, "seed {seed}");
                model = next.clone();
            }
            if fails || rng.random_bool(0.1) {
                disk.crash(&mut rng);
                let (reopened, found) = open(&disk).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
                let mut seen = vec![(found.base.index.0, found.base.term.0)];
                seen.extend(shape(&found));
                assert!(seen == model || seen == next, "seed {seed}: {seen:?}");
                (log, model) = (reopened, seen);
            }
        }
    }
}

fn random_batch(
    rng: &mut ChaCha8Rng,
    model: &mut Vec<(u64, u64)>,
    term: &mut u64,
) -> Vec<LogRecord> {
    let (base, last) = (model[0].0, model[model.len() - 1].0);
    match rng.random_range(0..12) {
        0 if last > base => {
            let at = rng.random_range(1..model.len());
            model.drain(..at);
            vec![LogRecord::Base(meta(model[0].0, model[0].1))]
        }
        1 => {
            *term += 1;
            *model = vec![(last + 5, *term)];
            vec![LogRecord::Reset(meta(last + 5, *term))]
        }
        kind => {
            let mut from = last + 1;
            if kind == 2 {
                from = rng.random_range(base + 1..=last + 1);
                *term += 1;
            }
            model.retain(|(index, _)| *index < from);
            let count = rng.random_range(1..6);
            let mut batch = Vec::new();
            for index in from..from + count {
                model.push((index, *term));
                batch.push(entry(index, *term, rng.random_range(0..3000)));
            }
            batch.push(hard(*term, base));
            batch
        }
    }
}

#[test]
fn regression_numbers_without_bounds_are_rot_and_end_nothing() {
    let max = u64::MAX;
    let wrong = [
        vec![entry(2, max, 5)],
        vec![hard(max, 1)],
        vec![hard(1, max)],
        vec![LogRecord::Base(meta(max, 1))],
        vec![LogRecord::Reset(meta(max, 1)), entry(2, 1, 5)],
        vec![LogRecord::Reset(meta(5, max))],
        vec![LogRecord::Installing(meta(max, max))],
        vec![entry(max, 1, 5), entry(2, 1, 5)],
    ];
    for records in wrong {
        let disk = SimDisk::new();
        let words = format!("{records:?}");
        create(&disk).append(&[write(records)]).unwrap();
        assert!(matches!(open(&disk), Err(LogError::Rot { .. })), "{words}");
    }
    for ordinal_first in [0, max] {
        let disk = SimDisk::new();
        drop(create(&disk));
        let header = segment::Header {
            id: ID,
            seq: 1,
            ordinal_first,
        };
        let path = disk.paths(DIR).into_iter().find(|p| p.contains("seg-"));
        let file = disk.open(&path.unwrap(), false).unwrap();
        file.write_at(0, &header.encode()).unwrap();
        file.write_at(segment::HEADER_LEN, &[0; 4096]).unwrap();
        assert!(
            matches!(open(&disk), Err(LogError::Rot { .. })),
            "{ordinal_first}"
        );
    }
}
