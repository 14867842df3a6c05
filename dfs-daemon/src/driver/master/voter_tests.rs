use super::*;
use dfs_core::store::SimDisk;

const CLUSTER: ClusterId = ClusterId(7);

fn ready(id: RaftId) -> (SimDisk, Arc<dyn Disk>) {
    let disk = SimDisk::new();
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    create(&shared, CLUSTER, id, false, LogConfig::default()).unwrap();
    (disk, shared)
}

fn id(index: u64) -> RaftId {
    RaftId::first(3).assigned_after(index)
}

#[test]
fn regression_no_id_is_taken_twice_nor_an_older_one() {
    let (_, disk) = ready(id(10));
    remove(&*disk).unwrap();
    for old in [id(10), id(4)] {
        let error = create(&disk, CLUSTER, old, false, LogConfig::default())
            .unwrap_err()
            .to_string();
        assert!(error.contains("is not above"), "{error}");
    }
    create(&disk, CLUSTER, id(11), false, LogConfig::default()).unwrap();
    set_aside(&*disk).unwrap();
    assert!(create(&disk, CLUSTER, id(11), false, LogConfig::default()).is_err());
    create(&disk, CLUSTER, id(12), false, LogConfig::default()).unwrap();
    assert_eq!(member(&*disk).unwrap(), Some(id(12)));
}

#[test]
fn regression_an_older_id_does_not_destroy_a_newer_voter() {
    let (_, disk) = ready(id(10));
    assert!(create(&disk, CLUSTER, id(9), false, LogConfig::default()).is_err());
    assert_eq!(member(&*disk).unwrap(), Some(id(10)));
    assert!(open_log(&disk, CLUSTER, id(10), LogConfig::default()).is_ok());
}

#[test]
fn a_voter_that_does_not_open_is_kept_when_its_node_gets_a_new_id() {
    let (_, disk) = ready(id(10));
    create(&disk, CLUSTER, id(11), false, LogConfig::default()).unwrap();
    let kept = disk.list("voter.damaged-1").unwrap();
    assert!(kept.iter().any(|file| file == MEMBER), "{kept:?}");
    assert_eq!(member(&*disk).unwrap(), Some(id(11)));
}

#[test]
fn regression_what_is_set_aside_outlives_a_crash_in_between() {
    let (_, disk) = ready(id(10));
    let log = disk.list(LOG_DIR).unwrap();
    // The state after the first step of setting aside.
    disk.sync_dir("voter.damaged-1").unwrap();
    disk.rename(MEMBER, "voter.damaged-1/moving.member")
        .unwrap();
    assert_eq!(member(&*disk).unwrap(), None, "it is no voter any more");
    finish_set_aside(&*disk).unwrap();
    create(&disk, CLUSTER, id(11), false, LogConfig::default()).unwrap();
    assert_eq!(disk.list("voter.damaged-1/raft").unwrap(), log);
    let kept = read_id(&*disk, "voter.damaged-1/raft.member").unwrap();
    assert_eq!(kept, Some(id(10)));
    // The next one does not touch it.
    remove(&*disk).unwrap();
    finish_set_aside(&*disk).unwrap();
    assert_eq!(disk.list("voter.damaged-1/raft").unwrap(), log);
}
