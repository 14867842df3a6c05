use super::*;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

fn content(disk: &SimDisk, path: &str) -> Option<Bytes> {
    let file = disk.open(path, false).ok()?;
    Some(file.read_at(0, 1 << 20).unwrap())
}

#[test]
fn synced_content_under_a_synced_name_survives_every_crash() {
    for seed in 0..50 {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let disk = SimDisk::new();
        let file = disk.open("d/a", true).unwrap();
        file.write_at(0, &[1; 3000]).unwrap();
        file.sync_data().unwrap();
        disk.sync_dir("d").unwrap();
        file.write_at(0, &[2; 1024]).unwrap();
        disk.crash(&mut rng);
        assert!(file.read_at(0, 1).is_err(), "a handle of before the crash");
        let bytes = content(&disk, "d/a").unwrap();
        assert_eq!(&bytes[1024..], &[1; 1976]);
        for sector in bytes[..1024].chunks(512) {
            assert!(sector == [1; 512] || sector == [2; 512], "seed {seed}");
        }
    }
}

#[test]
fn unsynced_names_and_writes_may_go_or_stay() {
    let (mut names, mut writes) = (BTreeSet::new(), BTreeSet::new());
    for seed in 0..64 {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let disk = SimDisk::new();
        let file = disk.open("a", true).unwrap();
        file.write_at(0, &[1; 512]).unwrap();
        file.sync_data().unwrap();
        disk.sync_dir("").unwrap();
        disk.rename("a", "b").unwrap();
        file.write_at(0, &[2; 512]).unwrap();
        disk.crash(&mut rng);
        let seen = disk.paths("");
        assert_eq!(seen.len(), 1, "a rename is atomic");
        writes.insert(content(&disk, &seen[0]).unwrap()[0]);
        names.insert(seen[0].clone());
    }
    assert_eq!(names.len(), 2);
    assert_eq!(writes.len(), 2);
}

#[test]
fn a_failed_sync_loses_what_it_covered() {
    let disk = SimDisk::new();
    let file = disk.open("a", true).unwrap();
    disk.sync_dir("").unwrap();
    file.write_at(0, &[1; 512]).unwrap();
    disk.fail_next_sync();
    assert!(file.sync_data().is_err());
    file.sync_data().unwrap();
    disk.crash(&mut ChaCha8Rng::seed_from_u64(1));
    assert_eq!(content(&disk, "a").unwrap(), Bytes::new());
}

#[test]
fn a_full_disk_refuses_growth_but_not_overwrites() {
    let disk = SimDisk::new();
    let file = disk.open("a", true).unwrap();
    file.write_at(0, &[1; 512]).unwrap();
    disk.set_capacity(Some(600));
    file.write_at(0, &[2; 512]).unwrap();
    let full = file.write_at(512, &[2; 512]).unwrap_err();
    assert_eq!(full, DiskError::NoSpace { path: "a".into() });
    assert_eq!(disk.space().unwrap().free_bytes, 88);
    assert!(disk.flip_bit("a", 3) && !disk.flip_bit("a", 512));
    assert_eq!(content(&disk, "a").unwrap()[2..5], [2, 3, 2]);
}

#[test]
fn a_durable_copy_holds_what_was_synced_and_changes_nothing_here() {
    let disk = SimDisk::new();
    let file = disk.open("a", true).unwrap();
    file.write_at(0, &[1; 4]).unwrap();
    file.sync_data().unwrap();
    disk.sync_dir("").unwrap();
    file.write_at(0, &[2; 4]).unwrap();
    disk.open("b", true).unwrap();
    let copy = disk.durable();
    assert_eq!(copy.paths(""), ["a"]);
    assert_eq!(content(&copy, "a").unwrap()[..], [1; 4]);
    copy.remove("a").unwrap();
    assert_eq!(content(&disk, "a").unwrap()[..], [2; 4]);
}

#[test]
fn what_a_killed_process_had_not_synced_can_be_read_and_can_still_be_lost() {
    let disk = SimDisk::new();
    let file = disk.open("a", true).unwrap();
    disk.sync_dir("").unwrap();
    file.write_at(0, &[1; 4]).unwrap();
    disk.fail_syncs_after(0);
    assert!(file.sync_data().is_err());
    disk.kill();
    assert_eq!(content(&disk, "a").unwrap()[..], [1; 4]);
    assert_eq!(content(&disk.durable(), "a").unwrap(), Bytes::new());
    disk.open("a", false).unwrap().sync_data().unwrap();
    assert_eq!(content(&disk.durable(), "a").unwrap()[..], [1; 4]);
}
