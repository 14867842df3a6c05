//! Several faults of a table file at once, and crashes while it is being opened.
use super::super::super::page_sums::{generation, set_generation};
use super::*;

/// A page that nothing refers to could not be read, so no start succeeded any more.
#[test]
fn regression_a_file_of_before_with_an_unreadable_page_gets_its_copy() {
    let pages = {
        let disk = SimDisk::new();
        filled(&disk);
        len(&disk, FILE) / PAGE as u64
    };
    for page in 0..pages {
        let disk = SimDisk::new();
        filled(&disk);
        as_of_before(&disk);
        assert!(disk.break_page(FILE, page * PAGE as u64));
        assert_agrees(&disk, opened(&disk));
    }
}

/// The zeros of two cut files agreed with each other against the one that was whole.
#[test]
fn regression_what_is_cut_off_is_no_witness() {
    for path in [FILE.to_owned(), copy_path(FILE)] {
        let disk = SimDisk::new();
        filled(&disk);
        let cut = |path: &str, len| disk.open(path, false).unwrap().set_len(len).unwrap();
        cut(&path, 9 * PAGE as u64);
        cut(&sums_path(FILE), 512 + 4 * 9);
        assert_agrees(&disk, opened(&disk));
    }
}

fn generations(disk: &SimDisk) -> [Option<u64>; 2] {
    [FILE.to_owned(), copy_path(FILE)].map(|path| generation(&bytes(disk, &path)))
}

/// A second crash in the first sync after a crash left the two first pages two generations apart.
#[test]
fn regression_an_open_makes_the_first_pages_one_before_it_goes_on() {
    let mut rng = ChaCha8Rng::seed_from_u64(11);
    for syncs in 0..4 {
        let disk = SimDisk::new();
        filled(&disk);
        let mut page = bytes(&disk, &copy_path(FILE));
        page.truncate(PAGE);
        let last = generation(&page).unwrap();
        set_generation(&mut page, last - 1);
        let copy = disk.open(&copy_path(FILE), false).unwrap();
        copy.write_at(0, &page).unwrap();
        copy.sync_data().unwrap();
        disk.fail_syncs_after(syncs);
        let _ = RedbBase::open(&disk, FILE, CACHE);
        disk.crash(&mut rng);
        let found = generations(&disk).map(|found| found.expect("a whole page"));
        assert!(found[0].abs_diff(found[1]) <= 1, "{syncs}: {found:?}");
        assert_agrees(&disk, opened(&disk));
    }
}

/// The sums were emptied before the file had its name, so that the copy alone counted for nothing.
#[test]
fn regression_a_crash_while_a_missing_file_is_made_anew_forgets_nothing() {
    let mut rng = ChaCha8Rng::seed_from_u64(12);
    for syncs in 0..8 {
        let disk = SimDisk::new();
        filled(&disk);
        as_of_before(&disk);
        disk.remove(FILE).unwrap();
        disk.sync_dir("").unwrap();
        disk.fail_syncs_after(syncs);
        let _ = RedbBase::open(&disk, FILE, CACHE);
        disk.crash(&mut rng);
        assert!(
            MirrorFile::exists(&disk, FILE).unwrap(),
            "after {syncs} syncs"
        );
        assert_agrees(&disk, opened(&disk));
    }
}
