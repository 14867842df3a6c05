//! Every decoder of outside bytes, over what is kept in `tests/fuzz/corpus` and over seeded mutations
//! of it. `DFS_SEED=<seed>` repeats a run, `DFS_ROUNDS=<factor>` makes it so much longer, `DFS_TARGET=<name>`
//! tries one decoder.
//!
//! Memory is bounded for the process: a decoder that allocates what a length claims ends it.
#![allow(clippy::unwrap_used)]
use dfs_tests::fuzz::{TARGETS, Target, mutate, seeds};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Instant;

const SEED: u64 = 1;
/// Bytes of all kept inputs together.
const CORPUS_MAX: u64 = 500_000;
/// Bytes that the process may map beyond what it has at the start.
const MEMORY_MAX: u64 = 1 << 30;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn fuzz_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

/// Kept inputs of a target, in the order of their names.
fn corpus(target: &str) -> BTreeMap<PathBuf, Vec<u8>> {
    let dir = fuzz_dir().join("corpus").join(target);
    let files = std::fs::read_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    let paths = files.map(|file| file.unwrap().path());
    paths
        .map(|p| (p.clone(), std::fs::read(p).unwrap()))
        .collect()
}

/// True if the target holds for the input; else says what to do.
fn holds(target: &Target, input: &[u8], what: &str) -> bool {
    let done = catch_unwind(AssertUnwindSafe(|| (target.run)(input)));
    if done.is_err() {
        let name = format!(
            "dfs-fuzz-{}-{:08x}",
            target.name,
            dfs_core::types::crc32c(input)
        );
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, input).unwrap();
        println!(
            "{} does not hold for {what}; kept as {}",
            target.name,
            path.display()
        );
    }
    done.is_ok()
}

fn limit_memory() {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = pages.split(' ').next().unwrap().parse().unwrap();
    let limit = Rlimit {
        current: Some(pages * 4096 + MEMORY_MAX),
        ..getrlimit(Resource::As)
    };
    setrlimit(Resource::As, limit).unwrap();
}

#[test]
fn kept_inputs_and_their_mutations_break_no_promise() {
    limit_memory();
    let seed = number("DFS_SEED").unwrap_or(SEED);
    let factor = u32::try_from(number("DFS_ROUNDS").unwrap_or(1)).unwrap();
    println!("repeat with DFS_SEED={seed}");
    let (began, mut runs, mut broken) = (Instant::now(), 0, Vec::new());
    let wanted = std::env::var("DFS_TARGET").ok();
    let is_wanted = |target: &&Target| wanted.as_deref().is_none_or(|name| name == target.name);
    for target in TARGETS.iter().filter(is_wanted) {
        let at = Instant::now();
        let kept = corpus(target.name);
        assert!(!kept.is_empty(), "{} has no inputs", target.name);
        for (path, input) in &kept {
            if !holds(target, input, &path.display().to_string()) {
                broken.push(target.name);
            }
        }
        let kept: Vec<Vec<u8>> = kept.into_values().collect();
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        for round in 0..target.rounds * factor {
            let input = mutate::mutated(&kept, &mut rng);
            if !holds(target, &input, &format!("round {round}")) {
                broken.push(target.name);
                break;
            }
        }
        runs += kept.len() as u32 + target.rounds * factor;
        println!("{:>16} {:>5} ms", target.name, at.elapsed().as_millis());
    }
    println!("{runs} inputs in {:?}", began.elapsed());
    assert!(broken.is_empty(), "promises are broken: {broken:?}");
}

#[test]
fn each_target_has_a_fuzzer_and_inputs_of_bounded_size() {
    let manifest = std::fs::read_to_string(fuzz_dir().join("Cargo.toml")).unwrap();
    let mut bytes = 0;
    for target in TARGETS {
        let entry = format!("name = \"{}\"\n", target.name);
        assert!(manifest.contains(&entry), "{} is no fuzzer", target.name);
        let source = format!("fuzz_targets/{}.rs", target.name);
        let source = std::fs::read_to_string(fuzz_dir().join(source)).unwrap();
        assert!(source.contains(&format!("::{}(data)", target.name)));
        bytes += corpus(target.name)
            .values()
            .map(|i| i.len() as u64)
            .sum::<u64>();
    }
    let targets = std::fs::read_dir(fuzz_dir().join("fuzz_targets")).unwrap();
    assert_eq!(targets.count(), TARGETS.len());
    assert!(bytes <= CORPUS_MAX, "the corpora have {bytes} bytes");
}

/// After a change of a format: `cargo test -p dfs-tests --test fuzz -- --ignored`.
#[test]
#[ignore = "writes tests/fuzz/corpus"]
fn writes_first_inputs() {
    let mut count: BTreeMap<&str, u32> = BTreeMap::new();
    for (target, input) in seeds::all() {
        assert!(TARGETS.iter().any(|t| t.name == target), "{target}");
        let count = count.entry(target).or_default();
        let dir = fuzz_dir().join("corpus").join(target);
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join(format!("seed-{count:03}")), input).unwrap();
        *count += 1;
    }
    println!("{count:?}");
}
