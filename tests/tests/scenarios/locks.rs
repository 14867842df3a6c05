//! Locks between mounts: held by one at a time, coherent, interruptible, and gone with their holder.
use dfs_tests::proc::{Cluster, LockAgent, Mount, exclusive, fuse_or_skip, wait_for};
use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal, kill_process};
use std::io::{Seek, SeekFrom, Write};
use std::time::{Duration, Instant};

const SECOND: Duration = Duration::from_secs(1);
/// A signal ends waiting within this time.
const INTERRUPT_MAX: Duration = Duration::from_millis(500);
/// The session lease, and what the master and the waiter need to notice.
const LEASE_MAX: Duration = Duration::from_secs(14);

fn cluster() -> Cluster {
    Cluster::start(3).unwrap()
}

fn mounts<const N: usize>(cluster: &Cluster) -> [Mount; N] {
    let mut i = 0;
    [(); N].map(|()| {
        i += 1;
        Mount::new(cluster, &format!("mnt{i}")).unwrap()
    })
}

/// An agent with the file `name` of a mount open, and the descriptor.
fn holder(mount: &Mount, name: &str) -> (LockAgent, String) {
    let mut agent = LockAgent::start().unwrap();
    let fd = agent.open(&mount.join(name)).unwrap();
    (agent, fd)
}

fn wait_no_locks(cluster: &Cluster) {
    let none = || {
        let status = cluster.status().unwrap();
        status["locks"] == 0 && status["lock_waits"] == 0
    };
    wait_for("all locks to be given up", 10 * SECOND, none).unwrap();
}

fn signal(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    kill_process(pid, signal).unwrap();
}

#[test]
fn eight_processes_on_three_mounts_count_exactly() {
    if !fuse_or_skip("a counter under a lock") {
        return;
    }
    let _alone = exclusive();
    // Each; DFS_LOCK_CYCLES sets another number.
    let set = std::env::var("DFS_LOCK_CYCLES").ok();
    let cycles: u64 = set.map_or(150, |v| v.parse().expect("a number"));
    let cluster = Cluster::start(5).unwrap();
    let mounts: [Mount; 3] = mounts(&cluster);
    std::fs::write(mounts[0].join("counter"), "").unwrap();
    let mut agents: Vec<LockAgent> = (0..8).map(|_| LockAgent::start().unwrap()).collect();
    let begin = Instant::now();
    for (i, agent) in agents.iter_mut().enumerate() {
        let path = mounts[i % 3].join("counter");
        agent
            .tell(&format!("count {} {cycles}", path.display()))
            .unwrap();
    }
    for agent in &agents {
        assert_eq!(agent.answer(300 * SECOND).unwrap(), "ok");
    }
    let took = begin.elapsed();
    println!("8 x {cycles} lock cycles in {took:?}");
    for mount in &mounts {
        let text = std::fs::read_to_string(mount.join("counter")).unwrap();
        assert_eq!(text.trim().parse::<u64>().unwrap(), 8 * cycles);
    }
    drop(agents);
    wait_no_locks(&cluster);
    for mount in mounts {
        mount.unmount().unwrap();
    }
}

#[test]
fn ping_pong_over_two_mounts_grows_by_two() {
    if !fuse_or_skip("ping_pong") {
        return;
    }
    let _alone = exclusive();
    const ROUNDS: u32 = 300;
    let cluster = cluster();
    let [a, b] = mounts(&cluster);
    std::fs::write(a.join("pp"), [0; 3]).unwrap();
    let mut agents = [LockAgent::start().unwrap(), LockAgent::start().unwrap()];
    let begin = Instant::now();
    for (agent, mount) in agents.iter_mut().zip([&a, &b]) {
        let path = mount.join("pp");
        agent
            .tell(&format!("ping_pong {} 3 {ROUNDS}", path.display()))
            .unwrap();
    }
    for agent in &agents {
        let answer = agent.answer(200 * SECOND).unwrap();
        println!("growth by round: {answer} after {:?}", begin.elapsed());
        let mut changes = answer.strip_prefix("ok ").unwrap().split(' ');
        let round = |change: &str| change.split(':').next().unwrap().parse::<u32>().unwrap();
        // From the first rounds, where one process may be alone, to the last.
        let steady = changes.clone().rfind(|c| round(c) <= ROUNDS / 4);
        assert!(steady.unwrap().ends_with(":2"), "{answer}");
        let later = changes.find(|c| round(c) > ROUNDS / 4 && round(c) < ROUNDS * 3 / 4);
        assert_eq!(later, None, "{answer}");
    }
    drop(agents);
    wait_no_locks(&cluster);
    a.unmount().unwrap();
    b.unmount().unwrap();
}

#[test]
fn ranges_whole_files_and_open_files_are_locked_as_the_manual_says() {
    if !fuse_or_skip("kinds of locks") {
        return;
    }
    let _alone = exclusive();
    let cluster = cluster();
    let [m1, m2] = mounts(&cluster);
    let (mut a, fa) = holder(&m1, "f");
    let (mut b, fb) = holder(&m2, "f");

    // Ranges: readers together, writers alone, each byte for itself.
    a.done(&format!("range_lock {fa} sh try 0 100")).unwrap();
    b.done(&format!("range_lock {fb} sh try 50 100")).unwrap();
    assert_eq!(
        b.ask(&format!("range_lock {fb} ex try 99 1")).unwrap(),
        "EAGAIN"
    );
    b.done(&format!("range_lock {fb} ex try 100 1")).unwrap();
    let held = b.done(&format!("getlk {fb} ex 0 0")).unwrap();
    assert_eq!(
        held,
        format!("sh 0 100 {}", a.pid()),
        "F_GETLK names the holder"
    );
    a.done(&format!("range_lock {fa} un try 0 60")).unwrap();
    b.done(&format!("range_lock {fb} ex try 0 60")).unwrap();
    assert_eq!(
        a.done(&format!("getlk {fa} sh 200 9")).unwrap(),
        "un 200 9 0"
    );
    assert_eq!(
        a.done(&format!("getlk {fa} sh 0 0")).unwrap(),
        format!("ex 0 60 {}", b.pid())
    );

    // Whole files: another kind, which knows nothing of ranges.
    a.done(&format!("flock {fa} ex try")).unwrap();
    assert_eq!(b.ask(&format!("flock {fb} sh try")).unwrap(), "EAGAIN");
    b.tell(&format!("flock {fb} ex wait")).unwrap();
    assert!(b.is_waiting(SECOND / 2));
    a.done(&format!("flock {fa} un try")).unwrap();
    assert_eq!(b.answer(SECOND).unwrap(), "ok");

    // A descriptor closed takes the process's ranges, not the others' and not the open file's.
    let (mut c, fc) = holder(&m1, "g");
    let (mut d, fd) = holder(&m2, "g");
    let spare = c.open(&m1.join("g")).unwrap();
    c.done(&format!("ofd_lock {fc} ex try 0 10")).unwrap();
    c.done(&format!("range_lock {fc} ex try 20 10")).unwrap();
    assert_eq!(
        c.ask(&format!("range_lock {fc} ex try 0 10")).unwrap(),
        "EAGAIN",
        "other owner"
    );
    assert_eq!(
        d.ask(&format!("range_lock {fd} ex try 5 1")).unwrap(),
        "EAGAIN"
    );
    assert_eq!(
        d.ask(&format!("ofd_lock {fd} ex try 25 1")).unwrap(),
        "EAGAIN"
    );
    c.done(&format!("close {spare}")).unwrap();
    d.done(&format!("range_lock {fd} ex try 20 10")).unwrap();
    assert_eq!(
        d.ask(&format!("range_lock {fd} ex try 5 1")).unwrap(),
        "EAGAIN"
    );
    // It stays with a duplicate, and goes with the last one.
    let copy = c.done(&format!("dup {fc}")).unwrap();
    c.done(&format!("close {fc}")).unwrap();
    assert_eq!(
        d.ask(&format!("range_lock {fd} ex try 5 1")).unwrap(),
        "EAGAIN"
    );
    d.tell(&format!("range_lock {fd} ex wait 5 1")).unwrap();
    c.done(&format!("close {copy}")).unwrap();
    assert_eq!(d.answer(SECOND).unwrap(), "ok");

    drop((a, b, c, d));
    wait_no_locks(&cluster);
    m1.unmount().unwrap();
    m2.unmount().unwrap();
}

#[test]
fn a_signal_ends_waiting_and_a_holder_that_dies_sets_its_locks_free() {
    if !fuse_or_skip("interrupted locks") {
        return;
    }
    let _alone = exclusive();
    let cluster = cluster();
    let [m1, m2] = mounts(&cluster);
    let (mut a, fa) = holder(&m1, "f");
    let (mut b, fb) = holder(&m2, "f");
    for (kind, waits) in [
        ("range_lock", "wait 0 10"),
        ("ofd_lock", "wait 0 10"),
        ("flock", "wait"),
    ] {
        a.done(&format!("{kind} {fa} ex {waits}")).unwrap();
        b.done("alarm 0.3").unwrap();
        b.tell(&format!("{kind} {fb} ex {waits}")).unwrap();
        let begin = Instant::now();
        assert_eq!(b.answer(5 * SECOND).unwrap(), "EINTR", "{kind}");
        let took = begin.elapsed();
        println!("{kind}: interrupted after {took:?} (alarm at 300 ms)");
        assert!(took <= SECOND * 3 / 10 + INTERRUPT_MAX, "{kind}: {took:?}");
        // What was given up is not granted later.
        a.done(&format!("{kind} {fa} un wait")).unwrap();
        a.done(&format!("{kind} {fa} ex {waits}")).unwrap();
        a.done(&format!("{kind} {fa} un wait")).unwrap();
    }
    wait_no_locks(&cluster);

    // Killed while it waits; killed while it holds; ended.
    a.done(&format!("range_lock {fa} ex wait 0 10")).unwrap();
    b.tell(&format!("range_lock {fb} ex wait 0 10")).unwrap();
    assert!(b.is_waiting(SECOND / 2));
    let took = b.kill(5 * SECOND).unwrap();
    println!("killed while waiting: gone after {took:?}");
    assert!(took <= INTERRUPT_MAX, "{took:?}");
    let (mut c, fc) = holder(&m2, "f");
    c.tell(&format!("range_lock {fc} ex wait 0 10")).unwrap();
    assert!(c.is_waiting(SECOND / 2));
    a.kill(SECOND).unwrap();
    assert_eq!(c.answer(SECOND).unwrap(), "ok");
    c.done(&format!("flock {fc} ex wait")).unwrap();
    let (mut d, fd) = holder(&m1, "f");
    d.tell(&format!("flock {fd} ex wait")).unwrap();
    assert!(d.is_waiting(SECOND / 2));
    drop(c);
    assert_eq!(d.answer(SECOND).unwrap(), "ok");

    // A mount that is told to end lets go of whoever waits there.
    let (mut e, fe) = holder(&m2, "f");
    e.tell(&format!("flock {fe} ex wait")).unwrap();
    assert!(e.is_waiting(SECOND / 2));
    signal(m2.pid(), Signal::TERM);
    assert_eq!(e.answer(5 * SECOND).unwrap(), "EIO");
    drop(e);
    drop(m2);
    drop(d);
    wait_no_locks(&cluster);
    m1.unmount().unwrap();
}

#[test]
fn a_dead_mount_loses_its_locks_and_cannot_write_afterwards() {
    if !fuse_or_skip("locks of a dead mount") {
        return;
    }
    let _alone = exclusive();
    let cluster = cluster();
    let [killed, stopped, other] = mounts(&cluster);
    let (mut a, fa) = holder(&killed, "f");
    let (mut b, fb) = holder(&stopped, "g");
    let (mut c, _) = holder(&other, "f");
    let fc = c.open(&other.join("f")).unwrap();
    let gc = c.open(&other.join("g")).unwrap();
    a.done(&format!("range_lock {fa} ex try 0 10")).unwrap();
    a.done(&format!("write {fa} killed")).unwrap();
    b.done(&format!("range_lock {fb} ex try 0 10")).unwrap();
    b.done(&format!("write {fb} first")).unwrap();
    b.done(&format!("fsync {fb}")).unwrap();

    let begin = Instant::now();
    killed.kill().unwrap();
    signal(stopped.pid(), Signal::STOP);
    c.tell(&format!("range_lock {fc} ex wait 0 10")).unwrap();
    assert_eq!(c.answer(LEASE_MAX).unwrap(), "ok");
    println!("a killed mount's lock was free after {:?}", begin.elapsed());
    c.tell(&format!("range_lock {gc} ex wait 0 10")).unwrap();
    assert_eq!(c.answer(LEASE_MAX).unwrap(), "ok");
    assert_eq!(c.done(&format!("read {gc}")).unwrap(), "first");
    c.done(&format!("write {gc} second")).unwrap();
    c.done(&format!("fsync {gc}")).unwrap();

    // The one that was only stopped comes back, and its program does not know yet.
    b.tell(&format!("write {fb} late")).unwrap();
    signal(stopped.pid(), Signal::CONT);
    let written = b.answer(30 * SECOND).unwrap();
    let synced = b.ask(&format!("fsync {fb}")).unwrap();
    println!("late write: {written}, then fsync: {synced}");
    assert_eq!(synced, "EIO");
    for command in ["write {} late", "read {}", "range_lock {} ex try 0 10"] {
        let command = command.replace("{}", &fb);
        assert_eq!(b.ask(&command).unwrap(), "EIO", "{command}");
    }
    assert_eq!(c.done(&format!("read {gc}")).unwrap(), "second");
    assert_eq!(std::fs::read_to_string(other.join("g")).unwrap(), "second");
    c.done(&format!("range_lock {gc} un try 0 10")).unwrap();
    // Closed and opened again, all is well.
    assert_eq!(b.ask(&format!("close {fb}")).unwrap(), "EIO");
    let fb = b.open(&stopped.join("g")).unwrap();
    b.done(&format!("range_lock {fb} ex try 0 10")).unwrap();
    assert_eq!(b.done(&format!("read {fb}")).unwrap(), "second");
    b.done(&format!("write {fb} third!")).unwrap();
    b.done(&format!("close {fb}")).unwrap();
    assert_eq!(std::fs::read_to_string(other.join("g")).unwrap(), "third!");
    drop((a, b, c));
    wait_no_locks(&cluster);
    stopped.unmount().unwrap();
    other.unmount().unwrap();
}

#[test]
fn locks_outlive_the_master_that_granted_them() {
    if !fuse_or_skip("locks and a failover") {
        return;
    }
    let _alone = exclusive();
    let cluster = Cluster::start(5).unwrap();
    let [m1, m2] = mounts(&cluster);
    let (mut a, fa) = holder(&m1, "f");
    let (mut b, fb) = holder(&m2, "f");
    let (mut c, fc) = holder(&m2, "f");
    a.done(&format!("range_lock {fa} ex try 0 10")).unwrap();
    b.tell(&format!("range_lock {fb} ex wait 5 10")).unwrap();
    assert!(b.is_waiting(SECOND / 2));
    let leader = cluster.leader().unwrap();
    cluster.kill(leader).unwrap();
    assert!(b.is_waiting(3 * SECOND), "the lock is held still");
    assert_ne!(cluster.leader().unwrap(), leader);
    assert_eq!(
        c.ask(&format!("range_lock {fc} ex try 0 1")).unwrap(),
        "EAGAIN"
    );
    a.done(&format!("write {fa} before")).unwrap();
    a.done(&format!("range_lock {fa} un try 0 10")).unwrap();
    assert_eq!(b.answer(3 * SECOND).unwrap(), "ok");
    assert_eq!(b.done(&format!("read {fb}")).unwrap(), "before");
    drop((a, b, c));
    wait_no_locks(&cluster);
    m1.unmount().unwrap();
    m2.unmount().unwrap();
}

/// The kernel discards attributes that it has asked for when it is notified before they come: the holder of
/// a lock wrote at the end that it had known before, over what another mount had written.
#[test]
fn regression_records_written_at_the_end_under_a_lock_are_all_there() {
    const RECORD: usize = 100;
    if !fuse_or_skip("records at the end under a lock") {
        return;
    }
    let _alone = exclusive();
    let cluster = cluster();
    let mounts: [Mount; 2] = mounts(&cluster);
    std::fs::write(mounts[0].join("log"), "").unwrap();
    let ends = Instant::now() + 6 * SECOND;
    let write = |mount: &Mount, who: u8| {
        let options = std::fs::File::options().read(true).write(true).clone();
        let mut file = options.open(mount.join("log")).unwrap();
        let mut written = 0;
        while Instant::now() < ends {
            flock(&file, FlockOperation::LockExclusive).unwrap();
            file.seek(SeekFrom::End(0)).unwrap();
            file.write_all(&[who; RECORD]).unwrap();
            if written % 2 == 0 {
                file.sync_data().unwrap();
            }
            flock(&file, FlockOperation::Unlock).unwrap();
            written += 1;
        }
        written
    };
    let look = |mount: &Mount| {
        while Instant::now() < ends {
            std::fs::metadata(mount.join("log")).unwrap();
            std::thread::sleep(Duration::from_millis(1));
        }
    };
    let written: Vec<usize> = std::thread::scope(|scope| {
        let (write, look) = (&write, &look);
        mounts
            .iter()
            .for_each(|m| drop(scope.spawn(move || look(m))));
        let writers = mounts.iter().zip(b"ab");
        let all: Vec<_> = writers
            .map(|(mount, who)| scope.spawn(move || write(mount, *who)))
            .collect();
        all.into_iter().map(|w| w.join().unwrap()).collect()
    });
    let all = std::fs::read(mounts[1].join("log")).unwrap();
    for (who, written) in b"ab".iter().zip(written) {
        let there = all.iter().filter(|b| *b == who).count();
        println!("{written} records of {}, {there} bytes", *who as char);
        assert_eq!(there, written * RECORD);
    }
    mounts.into_iter().for_each(|m| m.unmount().unwrap());
}
