use super::super::mirror_open::{copy_path, sums_path};
use super::*;
use crate::store::{Base, Disk, KvRead, LazyKv, RedbBase, SimDisk};
use crate::store::{Kv, KvError};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

#[path = "mirror_fault_tests.rs"]
mod faults;

const CACHE: usize = 1 << 20;
const KEYS: u32 = 600;
const FILE: &str = "tables.redb";

/// Tables with enough in them for a tree of several levels; the keys are their numbers.
fn filled(disk: &SimDisk) {
    let base = RedbBase::open(disk, FILE, CACHE).unwrap();
    let mut kv = LazyKv::open(Arc::new(base)).unwrap();
    for key in 0..KEYS {
        kv.put(key.to_be_bytes().to_vec(), vec![key as u8; 100]);
    }
    let job = kv.freeze().unwrap();
    kv.finish(job.run().unwrap());
}

fn assert_whole(base: RedbBase) {
    let kv = LazyKv::open(Arc::new(base)).unwrap();
    let all = kv.scan(&[], &[0xff; 5], usize::MAX).unwrap();
    assert_eq!(all.len(), KEYS as usize);
    for (at, (key, value)) in all.iter().enumerate() {
        assert_eq!(key, &(at as u32).to_be_bytes());
        assert_eq!(value, &vec![at as u8; 100]);
    }
}

fn len(disk: &SimDisk, path: &str) -> u64 {
    disk.open(path, false).unwrap().len().unwrap()
}

fn check_all(base: &RedbBase) -> Result<(), KvError> {
    base.check_header()?;
    let mut at = Some(0);
    while let Some(first) = at {
        at = base.check(first, 7)?.next;
    }
    Ok(())
}

fn random_place(disk: &SimDisk, rng: &mut impl Rng) -> (String, u64) {
    let path = [FILE.to_owned(), copy_path(FILE), sums_path(FILE)][rng.random_range(0..3)].clone();
    let at = rng.random_range(0..len(disk, &path));
    (path, at)
}

#[test]
fn a_flip_anywhere_is_found_by_a_check_and_made_good() {
    let disk = SimDisk::new();
    filled(&disk);
    let counts = Arc::new(TableCounts::default());
    let base = RedbBase::open_counted(&disk, FILE, CACHE, Arc::clone(&counts)).unwrap();
    check_all(&base).unwrap();
    assert_eq!(counts.totals().repaired, 0);
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    for n in 1..=60 {
        let (path, at) = random_place(&disk, &mut rng);
        assert!(disk.flip_bit(&path, at));
        check_all(&base).unwrap();
        assert_eq!(counts.totals().repaired, n, "{path} byte {at}");
    }
    assert_eq!(counts.totals().lost, 0);
    assert_whole(base);
}

#[test]
fn a_flip_anywhere_before_a_start_changes_no_answer() {
    let mut rng = ChaCha8Rng::seed_from_u64(8);
    for _ in 0..12 {
        let disk = SimDisk::new();
        filled(&disk);
        let (path, at) = random_place(&disk, &mut rng);
        assert!(disk.flip_bit(&path, at));
        let base = RedbBase::open(&disk, FILE, CACHE);
        let base = base.unwrap_or_else(|e| panic!("{path} byte {at}: {e}"));
        check_all(&base).unwrap();
        assert_whole(base);
    }
}

#[test]
fn a_page_that_is_damaged_in_two_places_is_an_error_and_never_bytes() {
    let disk = SimDisk::new();
    filled(&disk);
    let pages = len(&disk, FILE) / PAGE as u64;
    for page in 1..pages {
        assert!(disk.flip_bit(FILE, page * PAGE as u64 + 5));
        assert!(disk.flip_bit(&copy_path(FILE), page * PAGE as u64 + 6));
    }
    let Ok(base) = RedbBase::open(&disk, FILE, CACHE) else {
        return; // as good: nothing can be asked
    };
    assert!(check_all(&base).is_err());
    if let Ok(kv) = LazyKv::open(Arc::new(base)) {
        for key in 0..KEYS {
            assert!(kv.get(&key.to_be_bytes()).is_err());
        }
    }
}

#[test]
fn a_file_from_before_there_were_copies_gets_them() {
    let disk = SimDisk::new();
    filled(&disk);
    for lost in [vec![copy_path(FILE)], vec![sums_path(FILE)]] {
        lost.iter().for_each(|path| disk.remove(path).unwrap());
        let base = RedbBase::open(&disk, FILE, CACHE).unwrap();
        assert!(disk.flip_bit(FILE, len(&disk, FILE) / 2));
        check_all(&base).unwrap();
        assert_whole(base);
    }
}

fn opened(disk: &SimDisk) -> (RedbBase, Arc<TableCounts>) {
    let counts = Arc::new(TableCounts::default());
    let base = RedbBase::open_counted(disk, FILE, CACHE, Arc::clone(&counts));
    (base.unwrap_or_else(|e| panic!("{e}")), counts)
}

fn bytes(disk: &SimDisk, path: &str) -> Vec<u8> {
    let file = disk.open(path, false).unwrap();
    file.read_at(0, usize::MAX).unwrap().to_vec()
}

fn put_back(disk: &SimDisk, path: &str, bytes: &[u8]) {
    let file = disk.open(path, true).unwrap();
    file.set_len(0).unwrap();
    file.write_at(0, bytes).unwrap();
}

/// All three places agree, and hold what was written.
fn assert_agrees(disk: &SimDisk, (base, counts): (RedbBase, Arc<TableCounts>)) {
    let before = counts.totals().repaired;
    check_all(&base).unwrap();
    assert_eq!(
        counts.totals().repaired,
        before,
        "nothing is left to repair"
    );
    assert_eq!(counts.totals().lost, 0);
    assert_whole(base);
    assert!(
        bytes(disk, FILE) == bytes(disk, &copy_path(FILE)),
        "the copy is one"
    );
}

#[test]
fn regression_a_sector_that_cannot_be_read_is_made_good_from_the_other_place() {
    for path in [FILE.to_owned(), copy_path(FILE), sums_path(FILE)] {
        let disk = SimDisk::new();
        filled(&disk);
        let (base, counts) = opened(&disk);
        let pages = len(&disk, &path) / PAGE as u64;
        for page in 0..pages.min(40) {
            assert!(disk.break_page(&path, page * PAGE as u64));
            check_all(&base).unwrap_or_else(|e| panic!("{path} page {page}: {e}"));
            assert_eq!(counts.totals().repaired, page + 1, "{path} page {page}");
        }
        assert_agrees(&disk, (base, counts));
    }
}

#[test]
fn regression_sectors_that_cannot_be_read_do_not_hinder_a_start() {
    for path in [FILE.to_owned(), copy_path(FILE), sums_path(FILE)] {
        let disk = SimDisk::new();
        filled(&disk);
        for page in 0..len(&disk, &path).div_ceil(PAGE as u64) {
            assert!(disk.break_page(&path, page * PAGE as u64));
        }
        let (base, counts) = opened(&disk);
        check_all(&base).unwrap();
        assert!(counts.totals().repaired > 0);
        assert_agrees(&disk, (base, counts));
    }
}

#[test]
fn a_page_that_can_be_read_in_no_place_is_an_error() {
    let disk = SimDisk::new();
    filled(&disk);
    let (base, _) = opened(&disk);
    for path in [FILE.to_owned(), copy_path(FILE)] {
        disk.break_page(&path, 5 * PAGE as u64);
    }
    let error = base.check(5, 1).unwrap_err();
    assert!(error.is_damage(), "{error}");
}

#[test]
fn regression_a_file_that_is_gone_or_cut_short_is_filled_from_its_copy() {
    for path in [FILE.to_owned(), copy_path(FILE)] {
        for kept in [
            None,
            Some(0),
            Some(1),
            Some(PAGE as u64),
            Some(9 * PAGE as u64 + 17),
        ] {
            let disk = SimDisk::new();
            filled(&disk);
            match kept {
                None => disk.remove(&path).unwrap(),
                Some(len) => disk.open(&path, false).unwrap().set_len(len).unwrap(),
            }
            let opened = opened(&disk);
            assert!(opened.1.totals().repaired > 0, "{path} {kept:?}");
            // What was filled is durable before anything else is done.
            disk.crash(&mut ChaCha8Rng::seed_from_u64(3));
            drop(opened);
            let opened = self::opened(&disk);
            assert_eq!(opened.1.totals().repaired, 0, "{path} {kept:?}");
            assert_agrees(&disk, opened);
        }
    }
}

#[test]
fn tables_of_which_file_and_copy_are_gone_are_damaged_and_not_new() {
    let disk = SimDisk::new();
    filled(&disk);
    disk.remove(FILE).unwrap();
    disk.remove(&copy_path(FILE)).unwrap();
    let error = RedbBase::open(&disk, FILE, CACHE).unwrap_err();
    assert!(error.is_damage(), "{error}");
}

/// Writes another version of what [`filled`] wrote, and that again.
fn aged(disk: &SimDisk) {
    let (base, _) = opened(disk);
    let mut kv = LazyKv::open(Arc::new(base)).unwrap();
    for _ in 0..4 {
        for key in 0..KEYS {
            kv.put(key.to_be_bytes().to_vec(), vec![0xee; 100]);
        }
        let job = kv.freeze().unwrap();
        kv.finish(job.run().unwrap());
    }
}

#[test]
fn regression_places_of_another_time_do_not_outvote_the_newest() {
    let names = [FILE.to_owned(), copy_path(FILE), sums_path(FILE)];
    // Which of the three were put back from a backup.
    for old in [[0].as_slice(), &[1], &[2], &[1, 2], &[0, 2]] {
        let disk = SimDisk::new();
        aged(&disk);
        let backup = names.clone().map(|path| bytes(&disk, &path));
        filled(&disk);
        for i in old {
            put_back(&disk, &names[*i], &backup[*i]);
        }
        let opened = opened(&disk);
        check_all(&opened.0).unwrap();
        assert_agrees(&disk, opened);
    }
}

#[test]
fn regression_a_newer_file_that_is_damaged_is_not_replaced_by_an_older_one() {
    let disk = SimDisk::new();
    aged(&disk);
    let names = [copy_path(FILE), sums_path(FILE)];
    let backup = names.clone().map(|path| bytes(&disk, &path));
    filled(&disk);
    (0..2).for_each(|i| put_back(&disk, &names[i], &backup[i]));
    for page in 1..len(&disk, FILE) / PAGE as u64 {
        disk.flip_bit(FILE, page * PAGE as u64 + 9);
    }
    let error = RedbBase::open(&disk, FILE, CACHE).unwrap_err();
    assert!(error.is_damage(), "{error}");
}

/// Makes the three places look as a program that knew no generations left them.
fn as_of_before(disk: &SimDisk) {
    for path in [FILE.to_owned(), copy_path(FILE)] {
        disk.open(&path, false)
            .unwrap()
            .write_at(496, &[0; 16])
            .unwrap();
    }
    let mut page = bytes(disk, FILE);
    page.truncate(PAGE);
    let sums = disk.open(&sums_path(FILE), false).unwrap();
    let mut header = b"DFS page sums 1\n".to_vec();
    header.resize(512, 0);
    header.extend(sum(&page).to_le_bytes());
    sums.write_at(0, &header).unwrap();
}

#[test]
fn regression_a_file_that_an_older_program_wrote_alone_counts() {
    let disk = SimDisk::new();
    aged(&disk);
    let names = [copy_path(FILE), sums_path(FILE)];
    as_of_before(&disk);
    let backup = names.clone().map(|path| bytes(&disk, &path));
    filled(&disk);
    as_of_before(&disk);
    (0..2).for_each(|i| put_back(&disk, &names[i], &backup[i]));
    assert_agrees(&disk, opened(&disk));
}

#[test]
fn files_of_an_older_program_are_taken_over_and_their_damage_healed() {
    for flipped in [None, Some(FILE.to_owned()), Some(copy_path(FILE))] {
        let disk = SimDisk::new();
        filled(&disk);
        as_of_before(&disk);
        if let Some(path) = flipped {
            for page in 1..len(&disk, FILE) / PAGE as u64 {
                disk.flip_bit(&path, page * PAGE as u64 + 9);
            }
        }
        let opened = opened(&disk);
        check_all(&opened.0).unwrap();
        assert_agrees(&disk, opened);
    }
}

#[test]
fn regression_damage_met_while_running_ends_the_use_of_the_tables() {
    let disk = SimDisk::new();
    filled(&disk);
    let base = RedbBase::open(&disk, FILE, CACHE).unwrap();
    // All of it is in the engine's memory, which is no excuse.
    base.view()
        .unwrap()
        .scan(&[], &[0xff; 5], usize::MAX)
        .unwrap();
    base.read_all().unwrap();
    for page in 1..len(&disk, FILE) / PAGE as u64 {
        disk.flip_bit(FILE, page * PAGE as u64 + 5);
        disk.flip_bit(&copy_path(FILE), page * PAGE as u64 + 6);
    }
    assert!(check_all(&base).is_err());
    assert_eq!(base.fault(), None, "nobody may need that page");
    assert!(base.read_all().is_err());
    let cause = base.fault().expect("rows need it").to_owned();
    for error in [base.view().err(), base.write(&mut std::iter::empty()).err()] {
        let error = error.unwrap();
        assert!(
            error.is_damage() && error.to_string().contains(&cause),
            "{error}"
        );
    }
}
