//! Deterministic simulation of membership over a lossy network with virtual time.
//!
//! Every random choice comes from the seed, which a failure prints. Repeat one with
//! `DFS_SEED=<seed> cargo test -p dfs-core --test sim_membership -- --nocapture`.
//! Times of detection are in `sim_detection`.
#![allow(clippy::unwrap_used)]

mod membership_world;

use dfs_core::membership::{MemberAction, MemberChange, MemberEvent, MemberState, TimerToken};
use dfs_core::types::Time;
use membership_world::{MS, World, datagram, id, percentile, seeds};
use rand::Rng;
use std::time::Duration;

#[test]
fn a_pause_of_half_a_second_is_survived_and_accuses_nobody() {
    for seed in seeds(60) {
        let n = 2 + usize::try_from(seed % 8).unwrap();
        let mut world = World::formed(seed, n, 0.0);
        let wait = Duration::from_micros(world.rng.random_range(0..3_000_000));
        world.run(wait);
        let victim = world.rng.random_range(0..n);
        world.stop_for(victim, 500 * MS);
        world.run(Duration::from_secs(3));
        assert_eq!(world.all_notices("failed"), 0, "seed {seed}, n {n}");
        assert_eq!(world.all_notices("renewed"), 0, "seed {seed}, n {n}");
        assert!(world.complete(), "seed {seed}, n {n}");
    }
}

#[test]
fn an_overloaded_host_on_which_every_process_stalls_again_and_again_accuses_nobody() {
    let (mut false_downs, mut renewals) = (0, 0);
    for seed in seeds(20) {
        let n = 2 + usize::try_from(seed % 8).unwrap();
        let mut world = World::formed(seed, n, 0.0);
        for _ in 0..n * 20 {
            let i = world.rng.random_range(0..n);
            let stall = world.rng.random_range(20..350) * MS;
            if world.is_running(i) {
                world.stop_for(i, stall);
            }
            let gap = world.rng.random_range(0..600) * MS / u32::try_from(n).unwrap();
            world.run(gap);
        }
        world.run(Duration::from_secs(3));
        assert!(world.complete(), "seed {seed}, n {n}");
        false_downs += world.all_notices("failed");
        renewals += world.all_notices("renewed");
    }
    assert_eq!((false_downs, renewals), (0, 0));
}

#[test]
fn after_a_false_down_the_node_is_back_with_a_higher_incarnation_within_two_seconds() {
    let mut times = Vec::new();
    for seed in seeds(60) {
        let n = 2 + usize::try_from(seed % 8).unwrap();
        let loss = [0.0, 0.05][usize::try_from(seed % 2).unwrap()];
        let mut world = World::formed(seed, n, loss);
        let victim = world.rng.random_range(0..n);
        let before = world.durable(victim);
        world.stop_for(victim, Duration::from_secs(4));
        world.run(Duration::from_secs(4));
        let down = world.listed_as(victim, MemberState::Down);
        assert_eq!(down, n - 1, "seed {seed}, n {n}: a long pause is a death");
        let back = world.run_until(2000 * MS, |w| w.complete() && w.durable(victim) > before);
        assert!(back.is_some(), "seed {seed}, n {n}, loss {loss}");
        assert!(world.notices(victim, "renewed") > 0, "seed {seed}");
        times.push(back.unwrap());
        world.run(Duration::from_secs(3));
        assert!(
            loss > 0.0 || world.complete(),
            "seed {seed}, n {n}: it stays"
        );
    }
    let (p50, p99) = (percentile(&mut times, 50), percentile(&mut times, 99));
    println!("back after a false down: p50 {p50:?} p99 {p99:?}");
}

#[test]
fn a_goodbye_is_shown_as_left_and_never_as_failed() {
    for seed in seeds(60) {
        let n = 2 + usize::try_from(seed % 10).unwrap();
        let loss = [0.0, 0.1][usize::try_from(seed % 2).unwrap()];
        let mut world = World::formed(seed, n, loss);
        let leaver = world.rng.random_range(0..n);
        let failed_before = world.notices(leaver, "failed");
        world.event(leaver, MemberEvent::Leave);
        let gone = world.run_until(Duration::from_secs(1), |w| w.departed(leaver));
        assert!(gone.is_some(), "seed {seed}");
        world.kill(leaver);
        world.run(Duration::from_secs(3));
        let told = world.listed_as(leaver, MemberState::Left);
        assert_eq!(told, n - 1, "seed {seed}, n {n}");
        assert_eq!(
            world.notices(leaver, "failed"),
            failed_before,
            "seed {seed}"
        );
    }
}

#[test]
fn a_restart_before_anybody_missed_it_is_a_restart_and_the_peers_file_is_enough() {
    for seed in seeds(30) {
        let n = 2 + usize::try_from(seed % 5).unwrap();
        let mut world = World::formed(seed, n, 0.0);
        world.run(2000 * MS);
        let victim = world.rng.random_range(0..n);
        world.kill(victim);
        world.run(50 * MS);
        world.start(victim, &[]);
        let back = world.run_until(Duration::from_secs(2), World::complete);
        assert!(back.is_some(), "seed {seed}");
        assert_eq!(world.notices(victim, "failed"), 0, "seed {seed}");
        assert_eq!(world.notices(victim, "restarted"), n - 1, "seed {seed}");
    }
}

#[test]
fn the_whole_cluster_restarts_from_its_peers_files_without_the_introducer() {
    for seed in seeds(20) {
        let n = 3 + usize::try_from(seed % 5).unwrap();
        let mut world = World::formed(seed, n, 0.05);
        world.run(2000 * MS);
        (0..n).for_each(|i| world.kill(i));
        world.run(5000 * MS);
        for i in 1..n {
            let gap = world.rng.random_range(0..2000);
            world.run(gap * MS);
            world.start(i, &[]);
        }
        let formed = world.run_until(Duration::from_secs(10), World::complete);
        assert!(formed.is_some(), "seed {seed}, n {n}");
    }
}

#[test]
fn a_healed_partition_becomes_one_list_again() {
    let mut times = Vec::new();
    for seed in seeds(20) {
        let n = 4 + usize::try_from(seed % 4).unwrap();
        let mut world = World::formed(seed, n, 0.0);
        world.run(2000 * MS);
        world.cut(n / 2);
        world.run(5000 * MS);
        assert_eq!(
            world.listed_as(0, MemberState::Down),
            n - n / 2,
            "seed {seed}"
        );
        world.cut(0);
        let healed = world.run_until(Duration::from_secs(15), World::complete);
        assert!(healed.is_some(), "seed {seed}, n {n}");
        times.push(healed.unwrap());
    }
    let (p50, max) = (percentile(&mut times, 50), percentile(&mut times, 100));
    println!("healed a partition: p50 {p50:?} max {max:?}");
}

#[test]
fn regression_who_is_declared_dead_while_it_suspects_others_does_not_suspect_them_for_good() {
    for seed in seeds(20) {
        let mut world = World::formed(seed, 5, 0.0);
        world.run(2000 * MS);
        world.cut(1);
        let suspects = |world: &World| {
            let list = world.machine(0).list();
            list.iter()
                .filter(|m| m.state == MemberState::Suspect)
                .count()
        };
        let accuses = world.run_until(Duration::from_secs(5), |world| suspects(world) >= 2);
        assert!(accuses.is_some(), "seed {seed}");
        // What there is to tell of it has been told, to nobody.
        world.run(300 * MS);
        world.stop_for(0, Duration::from_secs(4));
        world.run(3000 * MS);
        world.cut(0);
        let agreed = world.run_until(Duration::from_secs(7), World::complete);
        assert!(
            agreed.is_some(),
            "seed {seed}: {} suspected",
            suspects(&world)
        );
        // Nobody had to die for it but the one that was silent.
        let dead: usize = (1..5).map(|i| world.notices(i, "failed")).sum();
        assert_eq!(dead, 0, "seed {seed}");
    }
}

#[test]
fn the_log_tells_the_story_in_order() {
    let mut world = World::formed(3, 3, 0.0);
    world.kill(2);
    world.run(3000 * MS);
    world.start(2, &[0]);
    world.run(2000 * MS);
    let list = world.machine(0).list();
    let about_2 = list.log().filter(|n| n.node == id(2));
    let story: Vec<&str> = about_2.map(|n| n.what.name()).collect();
    assert_eq!(story, ["joined", "suspected", "failed", "joined"]);
    assert!(list.log().map(|n| n.at).collect::<Vec<Time>>().is_sorted());
}

#[test]
fn garbage_and_stale_timers_change_nothing() {
    let mut world = World::formed(9, 3, 0.0);
    let before = world.machine(0).list().revision();
    for len in 1..200 {
        let mut bytes = vec![0; len];
        world.rng.fill(bytes.as_mut_slice());
        for kind in [1, 2] {
            bytes[0] = kind;
            world.event(0, datagram(1, bytes.clone().into()));
        }
        world.event(0, MemberEvent::Timer(TimerToken(1 << 40 | len as u64)));
    }
    assert_eq!(world.machine(0).list().revision(), before);
    assert!(world.machine(0).stats().rejected > 300);
}

#[test]
fn the_same_seed_gives_the_same_history() {
    let history = || {
        let mut world = World::formed(42, 7, 0.1);
        world.kill(3);
        world.run(5000 * MS);
        world.history()
    };
    assert!(history() == history());
}

#[test]
fn an_idle_cluster_of_20_is_frugal() {
    let mut world = World::formed(1, 20, 0.0);
    world.run(Duration::from_secs(20));
    let before = world.sent();
    world.run(Duration::from_secs(10));
    let after = world.sent();
    let bytes = (after.1 - before.1) / 200;
    let datagrams = (after.0 - before.0) / 200;
    println!("idle, 20 nodes: each sends {bytes} bytes/s in {datagrams} datagrams/s");
    assert!(bytes < 5_000);
}

#[test]
fn a_renewal_is_reported_before_anything_is_sent_with_it() {
    let mut world = World::formed(5, 3, 0.0);
    world.stop_for(1, Duration::from_secs(4));
    world.run(3900 * MS);
    let mut renewals = 0;
    for event in world.take_inbox(1) {
        let out = world.handle(1, event);
        let persists = |a: &MemberAction| matches!(a, MemberAction::PersistIncarnation(_));
        if let Some(at) = out.iter().position(persists) {
            let sends = |a: &MemberAction| matches!(a, MemberAction::Send { .. });
            assert!(!out[..at].iter().any(sends) && out[at..].iter().any(sends));
            let renewed = |a: &MemberAction| matches!(a, MemberAction::Notify(n) if matches!(n.what, MemberChange::Renewed { .. }));
            assert!(out.iter().any(renewed));
            renewals += 1;
        }
    }
    assert_eq!(renewals, 1);
}
