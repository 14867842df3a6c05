use super::*;
use crate::store::SimDisk;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

const DIR: &str = "journal";

fn options() -> JournalOptions {
    JournalOptions {
        segment_bytes: 4096,
        ..JournalOptions::new(DIR, 77)
    }
}

type Records = Vec<(u64, Vec<u8>)>;

fn open(disk: &SimDisk) -> Result<(Journal, Records), JournalError> {
    let mut seen = Vec::new();
    let disk = Arc::new(disk.clone());
    let journal = Journal::open(disk, options(), &mut |seq, payload| {
        seen.push((seq, payload.to_vec()));
    })?;
    Ok((journal, seen))
}

fn payload(seq: u64, len: usize) -> Vec<u8> {
    (0..len).map(|i| (seq as usize * 31 + i) as u8).collect()
}

/// Where in its file the payload of record `seq` stands.
fn find(disk: &SimDisk, bytes: &[u8]) -> (String, u64) {
    for path in disk.paths(DIR) {
        let file = disk.open(&path, false).unwrap();
        let content = file.read_at(0, 1 << 20).unwrap();
        let at = content.windows(bytes.len()).position(|w| w == bytes);
        if let Some(at) = at {
            return (path, at as u64);
        }
    }
    panic!("not in the journal");
}

fn synced(disk: &SimDisk, lens: &[usize]) -> Journal {
    let (mut journal, _) = open(disk).unwrap();
    for &len in lens {
        let seq = journal.append(&payload(journal.next_seq(), len)).unwrap();
        assert_eq!(seq + 1, journal.next_seq());
        journal.sync().unwrap();
    }
    journal
}

/// One life of a random journal: appends, syncs, rotations, trims, then a crash or a kill.
struct Model {
    disk: SimDisk,
    lens: Vec<usize>,
    synced: u64,
    trimmed: u64,
}

impl Model {
    fn live(&mut self, rng: &mut ChaCha8Rng) {
        let (mut journal, seen) = open(&self.disk).unwrap();
        for (seq, bytes) in &seen {
            assert_eq!(*bytes, payload(*seq, self.lens[*seq as usize - 1]));
        }
        let next = journal.next_seq();
        assert!(next > self.synced, "synced records are replayed");
        assert!(journal.first_seq() <= self.trimmed.max(1));
        let numbers: Vec<u64> = seen.iter().map(|(seq, _)| *seq).collect();
        assert_eq!(numbers, (journal.first_seq()..next).collect::<Vec<_>>());
        self.lens.truncate(next as usize - 1);
        self.synced = next - 1;
        if rng.random_bool(0.5) {
            self.disk.fail_syncs_after(rng.random_range(0..40));
        }
        for _ in 0..rng.random_range(0..60) {
            if self.step(&mut journal, rng).is_err() {
                assert_eq!(journal.append(&[]), Err(JournalError::Failed));
                break;
            }
        }
        if rng.random_bool(0.8) {
            self.disk.crash(rng);
        } else {
            self.disk.fail_syncs_after(u32::MAX);
            self.disk.kill();
        }
    }

    fn step(&mut self, journal: &mut Journal, rng: &mut ChaCha8Rng) -> Result<(), JournalError> {
        match rng.random_range(0..20) {
            0..10 => {
                let long = rng.random_bool(0.05);
                let len = rng.random_range(0..if long { 6000 } else { 700 });
                self.lens.push(len);
                journal.append(&payload(self.lens.len() as u64, len))?;
            }
            10..16 => {
                journal.sync()?;
                self.synced = self.lens.len() as u64;
            }
            16 | 17 => journal.mark()?,
            18 => {
                journal.rotate()?;
                self.synced = self.lens.len() as u64;
            }
            _ => {
                let to = rng.random_range(0..=self.synced);
                self.trimmed = self.trimmed.max(to);
                journal.trim_before(to)?;
            }
        }
        Ok(())
    }
}

#[test]
fn synced_records_survive_every_crash_and_nothing_torn_is_replayed() {
    for seed in 0..150 {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut model = Model {
            disk: SimDisk::new(),
            lens: Vec::new(),
            synced: 0,
            trimmed: 0,
        };
        for _ in 0..6 {
            model.live(&mut rng);
        }
    }
}

#[test]
fn a_torn_tail_is_dropped_and_its_number_given_again() {
    let disk = SimDisk::new();
    let mut journal = synced(&disk, &[100, 200]);
    journal.append(&payload(3, 300)).unwrap();
    journal.write_out().unwrap();
    let (path, at) = find(&disk, &payload(3, 300));
    disk.flip_bit(&path, at + 299);
    disk.kill();
    let (mut journal, seen) = open(&disk).unwrap();
    assert_eq!(seen.len(), 2);
    assert_eq!(journal.append(b"again").unwrap(), 3);
    journal.sync().unwrap();
    disk.kill();
    let (_, seen) = open(&disk).unwrap();
    assert_eq!(seen[2], (3, b"again".to_vec()));
}

#[test]
fn a_hole_in_an_unsynced_group_is_a_torn_tail_though_a_valid_record_follows() {
    let disk = SimDisk::new();
    let mut journal = synced(&disk, &[100]);
    for seq in 2..5 {
        journal.append(&payload(seq, 300)).unwrap();
    }
    journal.write_out().unwrap();
    let (path, at) = find(&disk, &payload(2, 300));
    disk.flip_bit(&path, at);
    disk.kill();
    let (_, seen) = open(&disk).unwrap();
    assert_eq!(seen.len(), 1);
}

#[test]
fn a_damaged_record_before_a_later_synced_one_is_rot() {
    for (field, offset) in [("payload", 5), ("header", -30)] {
        let disk = SimDisk::new();
        drop(synced(&disk, &[100, 200, 300]));
        let (path, at) = find(&disk, &payload(2, 200));
        disk.flip_bit(&path, at.checked_add_signed(offset).unwrap());
        disk.kill();
        let refused = open(&disk).map(|_| ()).unwrap_err();
        assert!(
            matches!(&refused, JournalError::Rot { seq: 2, .. }),
            "{field}"
        );
    }
}

#[test]
fn damage_of_the_last_durable_record_is_rot_once_it_was_marked() {
    let disk = SimDisk::new();
    let mut journal = synced(&disk, &[100, 200]);
    journal.mark().unwrap();
    let (path, at) = find(&disk, &payload(2, 200));
    disk.flip_bit(&path, at);
    disk.kill();
    let refused = open(&disk).map(|_| ()).unwrap_err();
    assert!(matches!(refused, JournalError::Rot { seq: 2, .. }));
}

#[test]
fn damage_in_a_segment_that_has_a_successor_is_rot() {
    let disk = SimDisk::new();
    drop(synced(&disk, &[100, 3000, 3000]));
    assert_eq!(disk.paths(DIR).len(), 2);
    let (path, at) = find(&disk, &payload(2, 3000));
    disk.flip_bit(&path, at);
    disk.kill();
    assert!(matches!(open(&disk), Err(JournalError::Rot { seq: 2, .. })));
}

/// Takes the header of a segment, and with `first` also that of its first record.
fn behead(disk: &SimDisk, path: &str, first: bool) {
    assert!(disk.flip_bit(path, 20));
    assert!(!first || disk.flip_bit(path, SEGMENT_HEADER_BYTES + 9));
}

#[test]
fn a_missing_segment_or_one_without_header_and_first_record_is_rot() {
    for damage in [0, 1, 2] {
        let disk = SimDisk::new();
        drop(synced(&disk, &[3000, 3000, 3000]));
        let paths = disk.paths(DIR);
        match damage {
            0 => disk.remove(&paths[1]).unwrap(),
            1 => behead(&disk, &paths[1], true),
            _ => {
                disk.kill();
                let (mut journal, _) = open(&disk).unwrap();
                for record in [b"x", b"y"] {
                    journal.append(record).unwrap();
                    journal.sync().unwrap();
                }
                behead(&disk, &disk.paths(DIR).pop().unwrap(), true);
            }
        }
        disk.kill();
        assert!(
            matches!(open(&disk), Err(JournalError::Rot { .. })),
            "{damage}"
        );
    }
}

#[test]
fn regression_a_segment_gets_its_damaged_header_again_from_its_first_record() {
    for at in 0..3 {
        let disk = SimDisk::new();
        drop(synced(&disk, &[3000, 3000, 3000]));
        behead(&disk, &disk.paths(DIR)[at], false);
        disk.kill();
        for _ in 0..2 {
            let (_, seen) = open(&disk).unwrap();
            let all: Records = (1..=3).map(|seq| (seq, payload(seq, 3000))).collect();
            assert!(seen == all, "segment {at}");
            disk.crash(&mut ChaCha8Rng::seed_from_u64(1));
        }
    }
}

#[test]
fn regression_a_last_segment_without_header_is_dropped_if_the_tables_cover_it() {
    let disk = SimDisk::new();
    drop(synced(&disk, &[3000, 1000, 1000, 1000]));
    behead(&disk, &disk.paths(DIR).pop().unwrap(), true);
    disk.kill();
    let open = |covered| {
        let options = JournalOptions {
            covered,
            ..options()
        };
        Journal::open(Arc::new(disk.clone()), options, &mut |_, _| {})
    };
    assert!(
        matches!(open(3), Err(JournalError::Rot { .. })),
        "record 4 is nowhere else"
    );
    let mut journal = open(4).unwrap();
    assert_eq!(journal.next_seq(), 5);
    assert_eq!(journal.append(b"next").unwrap(), 5);
    journal.sync().unwrap();
    disk.kill();
    assert_eq!(open(4).unwrap().next_seq(), 6);
}

#[test]
fn recycled_segments_show_nothing_of_their_past() {
    let disk = SimDisk::new();
    let mut journal = synced(&disk, &[1000; 12]);
    let before = journal.segments();
    assert!(before >= 4);
    journal.trim_before(journal.next_seq()).unwrap();
    assert_eq!(journal.segments(), 1);
    let spares = |disk: &SimDisk| {
        let paths = disk.paths(DIR);
        paths.iter().filter(|p| p.ends_with(".spare")).count()
    };
    assert_eq!(spares(&disk), 2);
    let first = journal.next_seq();
    journal.rotate().unwrap();
    journal.append(b"one").unwrap();
    journal.sync().unwrap();
    assert_eq!(spares(&disk), 1);
    disk.kill();
    let (_, seen) = open(&disk).unwrap();
    assert_eq!(seen.last().unwrap(), &(first, b"one".to_vec()));
}

#[test]
fn one_sync_covers_many_appends() {
    let disk = SimDisk::new();
    let (mut journal, _) = open(&disk).unwrap();
    let before = disk.syncs();
    for seq in 1..20 {
        journal.append(&payload(seq, 50)).unwrap();
    }
    journal.sync().unwrap();
    journal.sync().unwrap();
    assert_eq!(disk.syncs() - before, 1);
}

#[test]
fn a_failed_sync_stops_the_journal_until_it_is_opened_again() {
    let disk = SimDisk::new();
    let mut journal = synced(&disk, &[10]);
    journal.append(b"lost").unwrap();
    disk.fail_next_sync();
    assert!(matches!(journal.sync(), Err(JournalError::Disk(_))));
    assert_eq!(journal.sync(), Err(JournalError::Failed));
    assert_eq!(journal.append(b"more"), Err(JournalError::Failed));
    disk.crash(&mut ChaCha8Rng::seed_from_u64(1));
    let (journal, seen) = open(&disk).unwrap();
    assert_eq!((seen.len(), journal.next_seq()), (1, 2));
}

#[test]
fn regression_what_is_replayed_after_a_failed_sync_outlives_the_next_power_cut() {
    let disk = SimDisk::new();
    let mut journal = synced(&disk, &[100]);
    journal.append(&payload(2, 700)).unwrap();
    disk.fail_next_sync();
    assert!(journal.sync().is_err());
    disk.kill();
    let (mut journal, seen) = open(&disk).unwrap();
    assert_eq!(seen.len(), 2, "it still stands in the page cache");
    journal.append(&payload(3, 100)).unwrap();
    journal.sync().unwrap();
    disk.crash(&mut ChaCha8Rng::seed_from_u64(1));
    let (_, seen) = open(&disk).unwrap();
    assert_eq!(seen.len(), 3);
}

#[test]
fn regression_a_file_that_ends_within_the_last_records_padding_opens() {
    let disk = SimDisk::new();
    drop(synced(&disk, &[5]));
    let (path, at) = find(&disk, &payload(1, 5));
    let file = disk.open(&path, false).unwrap();
    file.set_len(at + 5).unwrap();
    file.sync_data().unwrap();
    drop(file);
    let (_, seen) = open(&disk).unwrap();
    assert_eq!(seen, [(1, payload(1, 5))]);
    let (_, again) = open(&disk).unwrap();
    assert_eq!(again, seen);
}
