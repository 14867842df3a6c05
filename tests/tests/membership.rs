//! From SIGKILL to each node's own log line.
#![allow(clippy::unwrap_used, clippy::too_many_lines)]
use dfs_tests::proc::{Cluster, exclusive, wait_for};
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const SECOND: Duration = Duration::from_secs(1);
const KILLS: usize = 30;

fn unix_ms() -> u64 {
    u64::try_from(
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap()
            .as_millis(),
    )
    .unwrap()
}

/// When node `observer` logged after `since` that `victim` failed, in Unix milliseconds.
fn noticed(cluster: &Cluster, observer: u8, victim: &str, since: u64) -> Option<u64> {
    let log = cluster.log(observer).ok()?;
    let hit = |line: &&str| line.contains("member failed") && line.contains(victim);
    let time = |line: &str| {
        let (_, rest) = line.split_once("unix_ms=")?;
        rest.split_whitespace().next()?.parse::<u64>().ok()
    };
    log.lines()
        .filter(hit)
        .filter_map(time)
        .find(|t| *t + 50 >= since)
}

#[test]
#[ignore = "waits for each node's own list, which dfs-tools cannot show yet"]
fn every_failure_is_in_one_list_within_5_s_and_in_all_within_6_s() {
    let _alone = exclusive();
    let cluster = Cluster::start(5).unwrap();
    let seed: u64 = std::env::var("DFS_SEED")
        .ok()
        .and_then(|s| s.parse().ok())
        .unwrap_or(7);
    println!("DFS_SEED={seed}");
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    let id_of = |i: u8| {
        cluster.json(&["id", &i.to_string()]).unwrap()["node"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let ids: BTreeMap<u8, String> = (1..=5).map(|i| (i, id_of(i))).collect();
    let (mut first, mut all, mut leaders) = (Vec::new(), Vec::new(), 0);
    for _ in 0..KILLS {
        let victim = rng.random_range(1..=5u8);
        leaders += u32::from(cluster.leader().unwrap() == victim);
        let since = unix_ms();
        cluster.kill(victim).unwrap();
        let mut times = BTreeMap::new();
        wait_for("all lists", 8 * SECOND, || {
            for observer in (1..=5).filter(|o| *o != victim) {
                if let Some(at) = noticed(&cluster, observer, &ids[&victim], since) {
                    times.insert(observer, at.saturating_sub(since));
                }
            }
            times.len() == 4
        })
        .unwrap_or_else(|e| panic!("{e}: node {victim} noticed by {times:?}"));
        first.push(*times.values().min().unwrap());
        all.push(*times.values().max().unwrap());
        cluster.restart(victim).unwrap();
        wait_for("the victim is alive in every list", 20 * SECOND, || {
            (1..=5u8).all(|o| {
                let members = cluster
                    .json(&["members", &o.to_string()])
                    .unwrap_or_default();
                let rows = members.as_array().cloned().unwrap_or_default();
                rows.iter().filter(|m| m["state"] == "alive").count() == 5
            })
        })
        .unwrap();
    }
    first.sort_unstable();
    all.sort_unstable();
    println!(
        "{KILLS} kills ({leaders} of the master): first list p50 {} ms, max {} ms; all lists p50 {} ms, max {} ms",
        first[KILLS / 2],
        first[KILLS - 1],
        all[KILLS / 2],
        all[KILLS - 1]
    );
    assert!(first[KILLS - 1] <= 5000 && all[KILLS - 1] <= 6000);
}
