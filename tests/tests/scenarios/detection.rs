//! Silent deaths among real daemons in network namespaces, with loss, and what membership costs.
//!
//! `DFS_DETECTION_NODES`, `DFS_DETECTION_LOSS` (percent) and `DFS_DETECTION_DEATHS` make it large.
use dfs_tests::proc::netns::{Lan, obstacle};
use dfs_tests::proc::{exclusive, number, wait_for};
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const SECOND: Duration = Duration::from_secs(1);
/// Ethernet, IPv4 and UDP headers of a datagram.
/// (A frame of ARP is as long as these, so that it counts as nothing.)
const HEADERS: f64 = 42.0;

fn unix_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    u64::try_from(now.as_millis()).unwrap()
}

/// The daemon's id, as its log says it.
fn id_of(lan: &Lan, node: usize) -> Option<String> {
    let log = lan.log(node);
    let line = log.lines().find(|l| l.contains("membership started"))?;
    let (_, rest) = line.split_once("node=")?;
    Some(rest.split_whitespace().next()?.to_owned())
}

/// When a log says that `id` failed, at `since` or later, in Unix milliseconds.
fn noticed(log: &str, id: &str, since: u64) -> Option<u64> {
    let hit = |line: &&str| line.contains("member failed") && line.contains(id);
    let time = |line: &str| {
        let (_, rest) = line.split_once("unix_ms=")?;
        rest.split_whitespace().next()?.parse::<u64>().ok()
    };
    let times = log.lines().filter(hit).filter_map(time);
    times.filter(|t| *t >= since).min()
}

/// Everybody lists everybody as alive.
fn is_complete(lan: &Lan) -> bool {
    (0..lan.len()).all(|node| {
        let list = lan.json(node, &["members"]).unwrap_or_default();
        let rows = list.as_array().map(Vec::as_slice).unwrap_or_default();
        rows.iter().filter(|m| m["state"] == "alive").count() == lan.len()
    })
}

/// What a node has sent for membership so far, or within a while.
#[derive(Clone, Copy)]
struct Sent {
    /// Payload of UDP by the daemons' own account.
    said: f64,
    /// The same by the interfaces' counters.
    counted: f64,
    frames: f64,
}

/// The interface is looked at before and after its daemon is asked: the middle is compared.
fn sent(lan: &Lan, node: usize) -> Sent {
    let before = lan.sent(node).unwrap();
    let all = lan.json(node, &["bandwidth", &lan.addr(node)]).unwrap();
    let after = lan.sent(node).unwrap();
    let frames = (before.out_frames + after.out_frames) as f64 / 2.0;
    Sent {
        said: all[0]["gossip"]["bytes_out"].as_u64().unwrap() as f64,
        counted: (before.out_bytes + after.out_bytes) as f64 / 2.0 - frames * HEADERS,
        frames,
    }
}

/// What each node sends within a while, and how long that was.
fn sent_within(lan: &Lan, lasts: Duration) -> (Vec<Sent>, Duration) {
    let all = || -> Vec<Sent> { (0..lan.len()).map(|node| sent(lan, node)).collect() };
    let (before, began) = (all(), Instant::now());
    std::thread::sleep(lasts); // an interval to count in, no condition
    let (after, took) = (all(), began.elapsed());
    let pairs = before.iter().zip(&after);
    let within = |(b, a): (&Sent, &Sent)| Sent {
        said: a.said - b.said,
        counted: a.counted - b.counted,
        frames: a.frames - b.frames,
    };
    (pairs.map(within).collect(), took)
}

fn sum(all: &[Sent], what: impl Fn(&Sent) -> f64) -> f64 {
    all.iter().map(what).sum()
}

/// Compares what the daemons say they sent with what their interfaces counted.
fn compare_bytes(lan: &Lan, lasts: Duration) {
    let (all, took) = sent_within(lan, lasts);
    let (said, counted) = (sum(&all, |s| s.said), sum(&all, |s| s.counted));
    let per_node = |bytes: f64| bytes / lan.len() as f64 / took.as_secs_f64();
    let apart = |said: f64, counted: f64| (said - counted).abs() / counted * 100.0;
    let off = apart(said, counted);
    let worst = all.iter().map(|s| apart(s.said, s.counted));
    let worst = worst.fold(0.0, f64::max);
    println!(
        "figures: {} nodes at rest: each sends {:.0} bytes of membership per second by `bandwidth`, \
         {:.0} by its interface (payload of UDP; {:.1} frames/s with {HEADERS} bytes of headers each \
         not counted): {off:.1} % apart, of one node {worst:.1} % at most",
        lan.len(),
        per_node(said),
        per_node(counted),
        per_node(sum(&all, |s| s.frames)),
    );
    assert!(
        off <= 5.0,
        "{said} bytes by bandwidth, {counted} by interface"
    );
    // The two are not read at one moment: of a single node that weighs more.
    assert!(worst <= 15.0, "one node is {worst} % off");
}

/// The share of what the daemons send that does not leave their interfaces, in percent.
fn measured_loss(lan: &Lan, lasts: Duration) -> f64 {
    let (all, _) = sent_within(lan, lasts);
    let (said, counted) = (sum(&all, |s| s.said), sum(&all, |s| s.counted));
    (said - counted) / said * 100.0
}

/// Notices of deaths that were none: by any node, of others than the victims in their times, given as
/// node, begin and end in Unix milliseconds.
fn false_downs(lan: &Lan, deaths: &[(usize, u64, u64)]) -> usize {
    let is_false = |line: &str| {
        let Some((_, rest)) = line.split_once("unix_ms=") else {
            return false;
        };
        let at = rest.split_whitespace().next().and_then(|t| t.parse().ok());
        let at: u64 = at.unwrap_or_default();
        // Who is cut off takes the others for dead, rightly as far as it can know, and says so when it is
        // back: they object at once, and all lists must be whole again.
        let excuses = |(_, from, to): &(usize, u64, u64)| (*from..=*to).contains(&at);
        line.contains("member failed") && !deaths.iter().any(excuses)
    };
    let of = |observer: usize| {
        let log = lan.log(observer);
        log.lines().filter(|line| is_false(line)).count()
    };
    (0..lan.len()).map(of).sum()
}

/// Median and largest.
fn shown(times: &mut [u64]) -> String {
    times.sort_unstable();
    let at = |p: usize| times[(times.len() * p / 100).min(times.len() - 1)];
    format!(
        "p50 {} p99 {} max {} ms",
        at(50),
        at(99),
        times[times.len() - 1]
    )
}

#[test]
fn silent_deaths_are_in_all_lists_in_time_in_network_namespaces() {
    let _alone = exclusive();
    if let Some(why) = obstacle() {
        println!("SKIPPED silent_deaths_are_in_all_lists_in_time_in_network_namespaces: {why}");
        return;
    }
    let n = number("DFS_DETECTION_NODES", 5);
    let loss = number("DFS_DETECTION_LOSS", 5);
    let deaths = number("DFS_DETECTION_DEATHS", 2);
    let lan = Lan::start(n).unwrap();
    wait_for("everybody in every list", 60 * SECOND, || is_complete(&lan)).unwrap();
    let ids: BTreeMap<usize, String> = (0..n).map(|i| (i, id_of(&lan, i).unwrap())).collect();
    // Bytes of the moments between two looks weigh less the longer it lasts.
    let lasts = Duration::from_secs(if deaths >= 30 { 30 } else { 4 });
    compare_bytes(&lan, lasts);
    let how = lan.set_loss(u32::try_from(loss).unwrap()).unwrap();
    let lost = measured_loss(&lan, lasts);
    let wanted = loss as f64;
    assert!(
        (wanted / 2.0 - 2.0..=wanted * 1.8 + 2.0).contains(&lost),
        "{lost} % are lost instead of {loss} %"
    );
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(number("DFS_SEED", 7) as u64);
    let mut died = Vec::new();
    let (mut first, mut all, mut back) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..deaths {
        let victim = rng.random_range(0..n);
        let since = unix_ms();
        lan.silence(victim, true).unwrap();
        let mut times = BTreeMap::new();
        wait_for("the death in all lists", 8 * SECOND, || {
            for observer in (0..n).filter(|o| *o != victim) {
                if let Some(at) = noticed(&lan.log(observer), &ids[&victim], since) {
                    times.insert(observer, at - since);
                }
            }
            times.len() == n - 1
        })
        .unwrap_or_else(|e| panic!("{e}: node {victim} noticed by {times:?}"));
        first.push(*times.values().min().unwrap());
        all.push(*times.values().max().unwrap());
        lan.silence(victim, false).unwrap();
        let waited = wait_for("the victim in every list again", 30 * SECOND, || {
            is_complete(&lan)
        });
        back.push(u64::try_from(waited.unwrap().as_millis()).unwrap());
        died.push((victim, since, unix_ms()));
    }
    let accused = false_downs(&lan, &died);
    println!(
        "figures: {deaths} silent deaths of {n} nodes at {loss} % loss ({how}, {lost:.1} % measured): \
         one list {}, all lists {}; all lists whole again after {}; {accused} notices of deaths that \
         were none",
        shown(&mut first),
        shown(&mut all),
        shown(&mut back),
    );
    assert!(*first.iter().max().unwrap() <= 5000, "one list: {first:?}");
    assert!(*all.iter().max().unwrap() <= 6000, "all lists: {all:?}");
    // A false death has up to n - 1 notices; a machine of few cores may stall a daemon now and then.
    assert!(
        loss > 5 || accused <= deaths.div_ceil(4) * n,
        "{accused} false notices"
    );
}
