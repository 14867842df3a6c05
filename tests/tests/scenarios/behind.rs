//! `-o behind`: programs do not wait for names, nobody sees them out of order, and fsync means what it says.
use dfs_tests::proc::{Cluster, Mount, exclusive, fsck, fuse_or_skip};
use dfs_tests::proc::{compare::same_trees, number, wait_for};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

const MINUTE: Duration = Duration::from_secs(60);

/// What the mount says of itself.
fn status(mount: &Mount, key: &str) -> String {
    let status = fs::read_to_string(mount.join(".dfs/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with(key)).unwrap();
    line[key.len()..].trim().to_owned()
}

fn queued(mount: &Mount) -> usize {
    let said = status(mount, "behind");
    said.rsplit(' ').next().unwrap().parse().unwrap()
}

fn alone(mount: &Mount) {
    let lends = || status(mount, "lends").contains("to the kernel");
    wait_for("alone", MINUTE, lends).unwrap();
    // The first file asks for numbers.
    let begin = queued(mount);
    wait_for("inode numbers", MINUTE, || {
        let name = mount.join("number");
        File::create(&name).unwrap();
        fs::remove_file(&name).unwrap();
        queued(mount) > begin + 2
    })
    .unwrap();
}

/// The same random changes of several trees.
struct Changes {
    rng: StdRng,
    roots: Vec<PathBuf>,
    dirs: Vec<String>,
    files: Vec<String>,
    next: u32,
}

impl Changes {
    fn all(&self, change: impl Fn(&Path)) {
        self.roots.iter().for_each(|root| change(root));
    }

    fn new_name(&mut self) -> String {
        self.next += 1;
        let dir = &self.dirs[self.rng.random_range(0..self.dirs.len())];
        format!("{dir}/n{}", self.next)
    }

    fn file(&mut self) -> Option<usize> {
        (!self.files.is_empty()).then(|| self.rng.random_range(0..self.files.len()))
    }

    fn step(&mut self) {
        let what = self.rng.random_range(0..100);
        match what {
            0..=29 => {
                let name = self.new_name();
                let content = name.repeat(self.rng.random_range(0..400));
                self.all(|root| fs::write(root.join(&name), &content).unwrap());
                self.files.push(name);
            }
            30..=39 => {
                let name = self.new_name();
                self.all(|root| fs::create_dir(root.join(&name)).unwrap());
                self.dirs.push(name);
            }
            40..=49 if self.dirs.len() > 1 => {
                // Empty or not: both trees agree.
                let at = self.rng.random_range(1..self.dirs.len());
                let name = self.dirs[at].clone();
                let done: Vec<_> = self
                    .roots
                    .iter()
                    .map(|root| fs::remove_dir(root.join(&name)).map_err(|e| e.kind()))
                    .collect();
                assert!(done.iter().all(|one| *one == done[0]), "{name}: {done:?}");
                if done[0].is_ok() {
                    self.dirs.swap_remove(at);
                }
            }
            _ => {
                if let Some(at) = self.file() {
                    self.change_file(what, at);
                }
            }
        }
    }

    fn change_file(&mut self, what: u32, at: usize) {
        let name = self.files[at].clone();
        match what {
            0..=64 => {
                self.all(|root| fs::remove_file(root.join(&name)).unwrap());
                self.files.swap_remove(at);
            }
            65..=74 => {
                let new = self.new_name();
                self.all(|root| fs::rename(root.join(&name), root.join(&new)).unwrap());
                self.files[at] = new;
            }
            75..=84 => {
                let over = self.file().unwrap_or(at);
                if over != at {
                    let target = self.files[over].clone();
                    self.all(|root| fs::rename(root.join(&name), root.join(&target)).unwrap());
                    // Two names of one file both stay.
                    if !self.roots[1].join(&name).exists() {
                        self.files.swap_remove(at);
                    }
                }
            }
            85..=89 => {
                let mode = 0o600 | self.rng.random_range(0..0o100);
                let mode = || Permissions::from_mode(mode);
                self.all(|root| fs::set_permissions(root.join(&name), mode()).unwrap());
            }
            90..=94 => {
                let tail = name.repeat(self.rng.random_range(1..50));
                self.all(|root| {
                    let mut file = File::options().append(true).open(root.join(&name)).unwrap();
                    std::io::Write::write_all(&mut file, tail.as_bytes()).unwrap();
                });
            }
            _ => {
                let new = self.new_name();
                self.all(|root| fs::hard_link(root.join(&name), root.join(&new)).unwrap());
                self.files.push(new);
            }
        }
    }

    /// Times that no program of the two trees could make equal by itself.
    fn set_times(&self) {
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        for name in self.files.iter().chain(&self.dirs) {
            self.all(|root| {
                File::open(root.join(name))
                    .unwrap()
                    .set_modified(at)
                    .unwrap()
            });
        }
    }
}

#[test]
fn what_is_done_behind_is_what_a_local_directory_has_though_leaders_die() {
    if !fuse_or_skip("-o behind") {
        return;
    }
    let _alone = exclusive();
    let seed = number("DFS_SEED", 20_261_123);
    println!("seed {seed}");
    let cluster = Cluster::start(5).unwrap();
    let mount = Mount::with_options(&cluster, "a", "behind").unwrap();
    alone(&mount);
    let local = cluster.scratch().join("local");
    let roots = vec![mount.join("tree"), local.clone()];
    roots.iter().for_each(|root| fs::create_dir(root).unwrap());
    let mut changes = Changes {
        rng: StdRng::seed_from_u64(seed as u64),
        roots,
        dirs: vec![".".to_owned()],
        files: Vec::new(),
        next: 0,
    };
    let (mut longest, before) = (Duration::ZERO, queued(&mount));
    for step in 0..3000 {
        if matches!(step, 700 | 1900) {
            let leader = cluster.leader().unwrap();
            cluster.kill(leader).unwrap();
            cluster.restart(leader).unwrap();
        }
        let begin = Instant::now();
        changes.step();
        longest = longest.max(begin.elapsed());
    }
    changes.set_times();
    let behind = queued(&mount) - before;
    println!("figures: {behind} of 3000 changes behind, longest {longest:?}");
    assert!(behind > 1000, "the rest was waited for");
    // Another mount, while things are queued.
    let other = Mount::new(&cluster, "b").unwrap();
    same_trees(&mount.join("tree"), &local).unwrap();
    same_trees(&other.join("tree"), &local).unwrap();
    other.unmount().unwrap();
    mount.unmount().unwrap();
    let again = Mount::new(&cluster, "c").unwrap();
    same_trees(&again.join("tree"), &local).unwrap();
    again.unmount().unwrap();
    cluster.wait_health("HEALTHY", MINUTE).unwrap();
    fsck::fsck_clean(&cluster).unwrap();
}

#[test]
fn whoever_looks_sees_all_that_was_done_before() {
    if !fuse_or_skip("-o behind") {
        return;
    }
    let _alone = exclusive();
    let cluster = Cluster::start(3).unwrap();
    let mount = Mount::with_options(&cluster, "a", "behind").unwrap();
    alone(&mount);
    // A tool, which has no session.
    for round in 0..5 {
        let dir = format!("d{round}");
        fs::create_dir(mount.join(&dir)).unwrap();
        for i in 0..200 {
            File::create(mount.join(&dir).join(i.to_string())).unwrap();
        }
        fs::remove_file(mount.join(&dir).join("7")).unwrap();
        let listed = cluster.tools(&["ls", &format!("/{dir}")]).unwrap();
        assert_eq!(listed.lines().count(), 199, "{listed}");
        alone(&mount);
    }
    // What fsync of a directory has promised outlives the mount's process.
    fs::create_dir(mount.join("kept")).unwrap();
    for i in 0..500 {
        File::create(mount.join("kept").join(i.to_string())).unwrap();
    }
    File::open(mount.join("kept")).unwrap().sync_all().unwrap();
    mount.kill().unwrap();
    let again = Mount::new(&cluster, "b").unwrap();
    assert_eq!(fs::read_dir(again.join("kept")).unwrap().count(), 500);
    again.unmount().unwrap();
}

#[test]
fn a_lost_quorum_ends_what_is_behind_with_an_error_to_whoever_syncs() {
    if !fuse_or_skip("-o behind") {
        return;
    }
    let _alone = exclusive();
    let cluster = Cluster::start(3).unwrap();
    let mount = Mount::with_options(&cluster, "a", "behind,timeout=5").unwrap();
    alone(&mount);
    fs::create_dir(mount.join("dir")).unwrap();
    File::open(mount.join("dir")).unwrap().sync_all().unwrap();
    cluster.kill_together(&[1, 2]).unwrap();
    let begin = Instant::now();
    let made = File::create(mount.join("dir/lost"));
    let synced = File::open(mount.join("dir")).and_then(|dir| dir.sync_all());
    println!(
        "made {made:?}, synced {synced:?} after {:?}",
        begin.elapsed()
    );
    assert!(made.is_err() || synced.is_err(), "nobody has it");
    assert!(begin.elapsed() < MINUTE);
    drop(made);
    cluster.start_all().unwrap();
    wait_for("the mount works again", MINUTE, || {
        fs::write(mount.join("dir/again"), b"again").is_ok()
    })
    .unwrap();
    assert_eq!(fs::read(mount.join("dir/again")).unwrap(), b"again");
    mount.unmount().unwrap();
}
