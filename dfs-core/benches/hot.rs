//! Micro-benchmarks of the paths that every operation takes: time and instructions of one operation.
//!
//! What one operation is stands beside each entry of [`PATHS`]. All of them go through the public
//! interface of the library, with everything in memory: the tables are maps, and nothing waits for a
//! disk or a network. What an operation leaves behind stays (names in a directory, objects in a
//! store), so a path costs a little more the longer it runs.
//!
//! * `cargo bench -p dfs-core --bench hot` times each path: the median of [`ROUNDS`] rounds after one
//!   to warm up, in nanoseconds. It depends on the machine and on what else runs there.
//! * `… -- --count` counts instructions, which hardly depend on either, so that two commits can be
//!   compared: the program runs itself under valgrind (callgrind) with N and with 2 N operations of
//!   a path, and the difference over N has no share of start and preparation in it. It is what the
//!   operations N + 1 to 2 N cost. Checksums count as the instruction set that valgrind offers
//!   has them, which may not be what the machine itself would use.
//! * `… -- --count --save FILE` writes the counts too, `… -- --count --compare FILE` prints the ratio
//!   to those of an earlier run.
//!
//! Both kinds of run take only the paths whose names contain one of the words given besides, if any.
#[path = "hot/paths.rs"]
#[allow(clippy::disallowed_methods)] // It times: it is a driver.
mod paths;

use paths::BLOCK;
use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

/// Rounds of a path that are timed; odd.
const ROUNDS: usize = 15;

/// One path: its name, how many operations a round has, and a round, which returns the time of its
/// operations alone.
type Path = (&'static str, u64, fn(u64) -> Duration);

const PATHS: [Path; 11] = [
    // The head of a frame with a PREPARE of one 4 KiB object; its payload is not copied.
    ("encode_prepare", 2000, |n| {
        paths::encode(n, paths::prepare_frame(), BLOCK)
    }),
    // That frame taken from a receive buffer, the copy into the buffer included.
    ("decode_prepare", 2000, |n| {
        paths::decode_frame(n, paths::prepare_frame(), BLOCK)
    }),
    // A frame with the answer to a create.
    ("encode_mutated", 2000, |n| {
        paths::encode(n, paths::mutated_frame(), 0)
    }),
    ("decode_mutated", 2000, |n| {
        paths::decode_frame(n, paths::mutated_frame(), 0)
    }),
    // Two log entries: a name made, and removed again.
    ("apply_create_unlink", 1000, paths::apply_create_unlink),
    // One log entry: a name made under a reserved number, after another.
    ("apply_create_as", 1000, paths::apply_create_as),
    // A store's machine: from PREPARE of one 4 KiB object to its batch, and from the news that the
    // batch is durable to the ack. Making it durable is not part of it.
    ("replica_prepare_4k", 500, paths::replica_prepare),
    // A store: a read of a 4 KiB object with a stamp, verified.
    ("replica_read_4k", 1000, paths::replica_read),
    // A client's machine: a get of a 4 KiB object with the stamps of two stores, verified.
    ("client_get_4k", 1000, paths::client_get),
    // Sums of the blocks of an object.
    ("checksum_4k", 2000, |n| paths::checksum(n, BLOCK)),
    ("checksum_64k", 1000, |n| paths::checksum(n, 16 * BLOCK)),
];

/// Prints nanoseconds per operation.
fn time(paths: &[Path]) {
    println!("{:<22} {:>12}", "path", "ns");
    for (name, n, run) in paths {
        run(*n);
        let mut rounds: Vec<Duration> = (0..ROUNDS).map(|_| run(*n)).collect();
        rounds.sort_unstable();
        let nanos = rounds[ROUNDS / 2].as_nanos() as f64 / *n as f64;
        println!("{name:<22} {nanos:>12.0}");
    }
}

/// Instructions of a run of this program with `n` operations of a path.
fn instructions(name: &str, n: u64) -> Result<u64, String> {
    let program = std::env::current_exe().map_err(|e| e.to_string())?;
    let run = std::process::Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(program)
        .args(["run", name, &n.to_string()])
        .output();
    let run = run.map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => "there is no valgrind here: apt install valgrind".into(),
        _ => format!("valgrind does not run: {e}"),
    })?;
    let said = String::from_utf8_lossy(&run.stderr);
    let collected = said
        .lines()
        .filter_map(|line| line.split_once("Collected :"))
        .find_map(|(_, count)| count.trim().parse().ok());
    match collected {
        Some(count) if run.status.success() => Ok(count),
        _ => Err(format!("{name} fails under valgrind:\n{said}")),
    }
}

/// Prints instructions per operation, and what they are to those of an earlier run.
fn count(paths: &[Path], save: Option<&str>, compare: Option<&str>) -> Result<(), String> {
    let in_file = |file: &str, e: std::io::Error| format!("{file}: {e}");
    let mut earlier = BTreeMap::new();
    if let Some(file) = compare {
        let text = std::fs::read_to_string(file).map_err(|e| in_file(file, e))?;
        for line in text.lines() {
            let parsed = line
                .split_once(' ')
                .and_then(|(name, count)| Some((name.to_owned(), count.parse::<u64>().ok()?)));
            let (name, count) = parsed.ok_or(format!("{file}: not a line of counts: {line}"))?;
            earlier.insert(name, count);
        }
    }
    println!("{:<22} {:>12} {:>8}", "path", "instructions", "ratio");
    let mut lines = String::new();
    for (name, n, _) in paths {
        let (once, twice) = (instructions(name, *n)?, instructions(name, 2 * n)?);
        let count = twice.saturating_sub(once) / n;
        let ratio = earlier.get(*name).map_or("-".into(), |before| {
            format!("{:.3}", count as f64 / *before as f64)
        });
        println!("{name:<22} {count:>12} {ratio:>8}");
        lines.push_str(&format!("{name} {count}\n"));
    }
    match save {
        Some(file) => std::fs::write(file, lines).map_err(|e| in_file(file, e)),
        None => Ok(()),
    }
}

/// What a counted run does: one round of a path.
fn run(name: &str, n: &str) -> Result<(), String> {
    let path = PATHS.iter().find(|path| path.0 == name);
    let (_, _, round) = path.ok_or(format!("no path is named {name}"))?;
    round(n.parse().map_err(|e| format!("{n}: {e}"))?);
    Ok(())
}

fn dispatch(args: &[String]) -> Result<(), String> {
    if let [word, name, n] = args
        && word == "run"
    {
        return run(name, n);
    }
    let (mut is_counted, mut save, mut compare, mut words) = (false, None, None, Vec::new());
    let mut args = args.iter().map(String::as_str);
    while let Some(arg) = args.next() {
        let mut file = || args.next().ok_or(format!("{arg} wants a file")).map(Some);
        match arg {
            "--bench" => {} // Cargo says so.
            "--count" => is_counted = true,
            "--save" => save = file()?,
            "--compare" => compare = file()?,
            option if option.starts_with('-') => return Err(format!("unknown: {option}")),
            word => words.push(word),
        }
    }
    if !is_counted && (save.is_some() || compare.is_some()) {
        return Err("only counts are saved and compared: say --count".into());
    }
    let is_asked = |name: &str| words.is_empty() || words.iter().any(|w| name.contains(w));
    let paths: Vec<Path> = PATHS.into_iter().filter(|p| is_asked(p.0)).collect();
    if is_counted {
        return count(&paths, save, compare);
    }
    time(&paths);
    Ok(())
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match dispatch(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
