//! What operations cost: the requests that a mount sends for each, to the master and to stores.
//!
//! The mount counts them itself (`.dfs/status`), and counts apart what no program waits for. Each operation is
//! measured between two moments at which the mount has no file open, nor one that it has not yet released. A
//! get that waits long for a store asks another one too: that try is made again, with another file. A mount that
//! does nothing is there all the time: to one that is alone the kernel does not come with everything.
//!
//! The tables are what is true, not what is best: who saves a request changes the number here.
use dfs_tests::proc::{Cluster, Mount, exclusive, fuse_or_skip, wait_for};
use rustix::fs::{Mode, OFlags, open, openat};
use std::fmt::Write as _;
use std::fs::{File, Permissions};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

/// In a directory that the mount has made, and of which it knows all names. The first write asks for the map of
/// the placement groups. After a write the seal, which is not waited for, drops what was known of the file.
const OWN: &str = "\
operation                           changes questions opens prepares reads stamps
create, close                             1         0     0        0     0      0
open, close                               0         0     1        0     0      0
open twice, close twice                   0         0     1        0     0      0
create, first write, close                2         1     0        3     0      0
create, write 4 KiB, close                2         0     0        3     0      0
open, read what was written, close        0         1     1        0     0      0
open, overwrite 4 KiB, close              1         0     1        3     0      0
stat after a write                        0         1     0        0     0      0
stat                                      0         0     0        0     0      0
open with O_TRUNC, write, close           1         0     1        3     0      0
open, append 4 KiB, close                 1         1     1        3     0      0
chmod after a write                       1         1     0        0     0      0
stat of a missing name                    0         0     0        0     0      0
rename to a new name                      1         0     0        0     0      0
rename over a file                        1         0     0        0     0      0
unlink                                    1         0     0        0     0      0
mkdir                                     1         0     0        0     0      0
rmdir                                     1         0     0        0     0      0
";

/// In a directory that another mount has made, and of which this one knows its own attributes. Of what is
/// *cold* it knows nothing; names that are made are looked for first.
const OTHER: &str = "\
operation                           changes questions opens prepares reads stamps
stat, cold                                0         1     0        0     0      0
stat                                      0         0     0        0     0      0
stat of a missing name, cold              0         1     0        0     0      0
stat of a missing name                    0         0     0        0     0      0
open, close, cold                         0         1     1        0     0      0
open, close                               0         0     1        0     0      0
open, read 4 KiB, close, cold             0         1     1        0     1      1
open, read 4 KiB, close                   0         0     1        0     0      0
open, overwrite 4 KiB, close, cold        1         1     1        3     0      0
create, close                             1         1     0        0     0      0
create, write 4 KiB, close                2         1     0        3     0      0
rename to a new name, cold                1         2     0        0     0      0
unlink, cold                              1         1     0        0     0      0
mkdir                                     1         1     0        0     0      0
rmdir, cold                               1         1     0        0     0      0
list, cold                                0         3     0        0     0      0
list                                      0         2     0        0     0      0
stat of what was listed                   0         0     0        0     0      0
stat of a missing name, listed            0         1     0        0     0      0
";

/// Columns of the tables, and where among them gets begin.
const KINDS: [&str; 6] = [
    "changes",
    "questions",
    "opens",
    "prepares",
    "reads",
    "stamps",
];
const GETS: usize = 4;
/// Width of the first column.
const WIDTH: usize = 35;

/// Tries of each operation that count.
const TIMES: usize = 3;
/// Tries at most: there are as many files to read as this.
const TRIES_MAX: usize = 20;
/// Names in a directory that is listed.
const LISTED: usize = 4;

const PAGE: [u8; 4096] = [7; 4096];

/// Requests by kind.
type Counts = [u64; KINDS.len()];

/// More than was expected of gets, where any is: one was waited for.
fn was_slow(seen: &Counts, expected: &Counts) -> bool {
    let gets = |counts: &Counts| counts[GETS..].iter().sum::<u64>();
    gets(expected) > 0 && gets(seen) > gets(expected)
}

/// A line of a table: an operation, and of each kind the count, or all that tries differ in.
fn line(what: &str, cells: [String; KINDS.len()]) -> String {
    let mut line = format!("{what:<WIDTH$}");
    for (kind, cell) in KINDS.iter().zip(cells) {
        let _ = write!(line, " {cell:>width$}", width = kind.len());
    }
    line + "\n"
}

/// A mount whose requests are counted.
struct Counted {
    mount: Mount,
    /// Its `.dfs`: what is reached from here asks nobody for anything.
    status: OwnedFd,
    expected: &'static str,
    /// What was seen, as a table.
    seen: String,
}

impl Counted {
    fn new(cluster: &Cluster, name: &str, expected: &'static str) -> Self {
        let mount = Mount::new(cluster, name).unwrap();
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let status = open(mount.join(".dfs"), flags, Mode::empty()).unwrap();
        Self {
            mount,
            status,
            expected,
            seen: line("operation", KINDS.map(str::to_owned)),
        }
    }

    /// The counts so far, and whether no file is open.
    fn counts(&self) -> (Counts, bool) {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let file = openat(&self.status, "status", flags, Mode::empty()).unwrap();
        let mut text = String::new();
        File::from(file).read_to_string(&mut text).unwrap();
        let trips = text.lines().filter(|line| line.starts_with("to "));
        let words: Vec<&str> = trips.flat_map(|line| line.split([' ', ','])).collect();
        let count = |kind| {
            let at = words.iter().position(|word| *word == kind);
            let number = at.and_then(|at| words[at - 1].parse().ok());
            number.unwrap_or_else(|| panic!("no {kind} in {text}"))
        };
        let is_closed = |line: &str| line.starts_with("open ") && line.ends_with(" 0 files");
        (KINDS.map(count), text.lines().any(is_closed))
    }

    /// The counts at a moment of rest; what is still to be sent to reach these is waited for.
    fn counts_from(&self, least: Counts) -> Counts {
        let at_rest = || self.counts().1;
        wait_for("all files released", Duration::from_secs(30), at_rest).unwrap();
        let mut counts = least;
        // If it is never sent, the tables differ.
        let _ = wait_for("the rest is sent", Duration::from_secs(2), || {
            counts = self.counts().0;
            counts.iter().zip(least).all(|(now, least)| *now >= least)
        });
        counts
    }

    fn expected_of(&self, what: &str) -> Counts {
        let is_it = |line: &&str| line[..WIDTH].trim_end() == what;
        let line = self.expected.lines().find(is_it);
        let line = line.unwrap_or_else(|| panic!("{what} is not in the table"));
        let mut cells = line[WIDTH..].split_whitespace();
        KINDS.map(|_| cells.next().unwrap().parse().unwrap())
    }

    /// Does something several times, each with a number of its own, and notes what it costs.
    fn does(&mut self, what: &str, operation: impl Fn(usize)) {
        self.tries(TIMES, what, operation);
    }

    fn tries(&mut self, times: usize, what: &str, operation: impl Fn(usize)) {
        let expected = self.expected_of(what);
        let mut good: Vec<Counts> = Vec::new();
        let mut before = self.counts_from([0; KINDS.len()]);
        for i in 0..TRIES_MAX {
            operation(i);
            let least = std::array::from_fn(|kind| before[kind] + expected[kind]);
            let after = self.counts_from(least);
            let seen = std::array::from_fn(|kind| after[kind] - before[kind]);
            before = after;
            if was_slow(&seen, &expected) {
                println!("{what}: waited for a store, {seen:?}");
                continue;
            }
            good.push(seen);
            if good.len() == times {
                break;
            }
        }
        let cell = |kind: usize| {
            let mut cells: Vec<_> = good.iter().map(|seen| seen[kind].to_string()).collect();
            cells.dedup();
            cells.join("/")
        };
        self.seen += &line(what, std::array::from_fn(cell));
    }

    /// Unmounts, and gives what was seen.
    fn end(self) -> String {
        drop(self.status);
        self.mount.unmount().unwrap();
        self.seen
    }
}

fn open_close(path: impl AsRef<Path>) {
    File::open(path).unwrap();
}

fn create(path: impl AsRef<Path>) -> File {
    let mut options = File::options();
    options.write(true).create_new(true).open(path).unwrap()
}

fn write_new(path: impl AsRef<Path>) {
    create(path).write_all_at(&PAGE, 0).unwrap();
}

fn overwrite(path: impl AsRef<Path>) {
    let file = File::options().write(true).open(path).unwrap();
    file.write_all_at(&PAGE, 0).unwrap();
}

fn replace(path: impl AsRef<Path>) {
    File::create(path).unwrap().write_all_at(&PAGE, 0).unwrap();
}

fn append(path: impl AsRef<Path>) {
    let mut file = File::options().append(true).open(path).unwrap();
    file.write_all(&PAGE).unwrap();
}

fn read(path: impl AsRef<Path>) {
    let mut got = [0; PAGE.len()];
    let file = File::open(path).unwrap();
    file.read_exact_at(&mut got, 0).unwrap();
    assert_eq!(got, PAGE);
}

fn stat(path: impl AsRef<Path>) {
    std::fs::symlink_metadata(path).unwrap();
}

fn stat_missing(path: impl AsRef<Path>) {
    let error = std::fs::symlink_metadata(path).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
}

fn chmod(path: impl AsRef<Path>) {
    std::fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
}

fn rename(from: impl AsRef<Path>, to: impl AsRef<Path>) {
    std::fs::rename(from, to).unwrap();
}

fn unlink(path: impl AsRef<Path>) {
    std::fs::remove_file(path).unwrap();
}

fn mkdir(path: impl AsRef<Path>) {
    std::fs::create_dir(path).unwrap();
}

fn rmdir(path: impl AsRef<Path>) {
    std::fs::remove_dir(path).unwrap();
}

fn list(path: impl AsRef<Path>) {
    assert_eq!(std::fs::read_dir(path).unwrap().count(), LISTED);
}

/// What [`OWN`] says.
fn in_its_own(m: &mut Counted) {
    let dir = m.mount.join("own");
    mkdir(&dir);
    let at = |kind: &str, i: usize| dir.join(format!("{kind}{i}"));
    m.does("create, close", |i| drop(create(at("empty", i))));
    m.does("open, close", |i| open_close(at("empty", i)));
    m.does("open twice, close twice", |i| {
        let _open = File::open(at("empty", i)).unwrap();
        open_close(at("empty", i));
    });
    m.tries(1, "create, first write, close", |i| {
        write_new(at("first", i));
    });
    m.does("create, write 4 KiB, close", |i| write_new(at("file", i)));
    m.does("open, read what was written, close", |i| {
        read(at("file", i));
    });
    m.does("open, overwrite 4 KiB, close", |i| overwrite(at("file", i)));
    m.does("stat after a write", |i| stat(at("file", i)));
    m.does("stat", |i| stat(at("file", i)));
    m.does("open with O_TRUNC, write, close", |i| {
        replace(at("file", i));
    });
    m.does("open, append 4 KiB, close", |i| append(at("file", i)));
    m.does("chmod after a write", |i| chmod(at("file", i)));
    m.does("stat of a missing name", |i| stat_missing(at("none", i)));
    m.does("rename to a new name", |i| {
        rename(at("empty", i), at("new", i));
    });
    m.does("rename over a file", |i| {
        rename(at("new", i), at("file", i))
    });
    m.does("unlink", |i| unlink(at("file", i)));
    m.does("mkdir", |i| mkdir(at("dir", i)));
    m.does("rmdir", |i| rmdir(at("dir", i)));
}

/// Makes the directory that another mount will find.
fn leave(m: &Counted) {
    let dir = m.mount.join("other");
    mkdir(&dir);
    let at = |kind: &str, i: usize| dir.join(format!("{kind}{i}"));
    write_new(at("first", 0));
    (0..TRIES_MAX).for_each(|i| write_new(at("read", i)));
    for i in 0..TIMES {
        for kind in ["seen", "opened", "changed", "moved", "removed"] {
            write_new(at(kind, i));
        }
        mkdir(at("gone", i));
        mkdir(at("listed", i));
        (0..LISTED).for_each(|n| write_new(at("listed", i).join(n.to_string())));
    }
}

/// What [`OTHER`] says.
fn in_anothers(m: &mut Counted) {
    let dir = m.mount.join("other");
    let at = |kind: &str, i: usize| dir.join(format!("{kind}{i}"));
    // Asks for the map, too.
    read(at("first", 0));
    m.does("stat, cold", |i| stat(at("seen", i)));
    m.does("stat", |i| stat(at("seen", i)));
    m.does("stat of a missing name, cold", |i| {
        stat_missing(at("none", i));
    });
    m.does("stat of a missing name", |i| stat_missing(at("none", i)));
    m.does("open, close, cold", |i| open_close(at("opened", i)));
    m.does("open, close", |i| open_close(at("opened", i)));
    m.does("open, read 4 KiB, close, cold", |i| read(at("read", i)));
    m.does("open, read 4 KiB, close", |i| read(at("read", i)));
    m.does("open, overwrite 4 KiB, close, cold", |i| {
        overwrite(at("changed", i));
    });
    m.does("create, close", |i| drop(create(at("empty", i))));
    m.does("create, write 4 KiB, close", |i| write_new(at("file", i)));
    m.does("rename to a new name, cold", |i| {
        rename(at("moved", i), at("new", i));
    });
    m.does("unlink, cold", |i| unlink(at("removed", i)));
    m.does("mkdir", |i| mkdir(at("dir", i)));
    m.does("rmdir, cold", |i| rmdir(at("gone", i)));
    m.does("list, cold", |i| list(at("listed", i)));
    m.does("list", |i| list(at("listed", i)));
    m.does("stat of what was listed", |i| {
        stat(at("listed", i).join("0"));
    });
    m.does("stat of a missing name, listed", |i| {
        stat_missing(at("listed", i).join("none"));
    });
}

#[test]
fn every_operation_sends_the_requests_that_it_is_known_to_send() {
    if !fuse_or_skip("trips") {
        return;
    }
    let _alone = exclusive();
    let cluster = Cluster::start(3).unwrap();
    let wait = Duration::from_secs(60);
    cluster.wait_health("HEALTHY", wait).unwrap();
    let beside = Mount::new(&cluster, "beside").unwrap();
    let mut mount = Counted::new(&cluster, "one", OWN);
    in_its_own(&mut mount);
    leave(&mount);
    let own = mount.end();
    let mut mount = Counted::new(&cluster, "two", OTHER);
    in_anothers(&mut mount);
    let other = mount.end();
    beside.unmount().unwrap();
    println!("In a directory that the mount has made:\n{own}");
    println!("In a directory that another mount has made:\n{other}");
    assert!(own == OWN && other == OTHER, "other costs:\n{OWN}\n{OTHER}");
}
