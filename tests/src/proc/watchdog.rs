//! Ends a scenario that hangs: its mounts and daemons are killed, so that nothing stays behind.
//!
//! A program stuck on a mount cannot be waited for, and not even a process that has a file of the
//! mount open can be replaced by another. Killing the mount's own process frees them all.
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, Signal, kill_process};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What runs now: processes of mounts, and directories below which pid files of daemons lie.
#[derive(Default)]
struct Running {
    mounts: BTreeSet<(u32, PathBuf)>,
    clusters: BTreeSet<PathBuf>,
}

static RUNNING: Mutex<Option<Running>> = Mutex::new(None);

fn running() -> MutexGuard<'static, Option<Running>> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn add_mount(pid: u32, path: &Path) {
    let mut all = running();
    let mounts = &mut all.get_or_insert_default().mounts;
    mounts.insert((pid, path.to_owned()));
}

pub(crate) fn remove_mount(pid: u32, path: &Path) {
    if let Some(all) = running().as_mut() {
        all.mounts.remove(&(pid, path.to_owned()));
    }
}

pub(super) fn add_cluster(dir: &Path) {
    let mut all = running();
    all.get_or_insert_default().clusters.insert(dir.to_owned());
}

pub(super) fn remove_cluster(dir: &Path) {
    if let Some(all) = running().as_mut() {
        all.clusters.remove(dir);
    }
}

/// Dropping it calls the watchdog off.
pub(super) struct Watched {
    _off: Sender<()>,
}

pub(super) fn watch(max: Duration) -> Watched {
    let (off, called_off) = channel();
    std::thread::spawn(move || {
        if called_off.recv_timeout(max) == Err(RecvTimeoutError::Timeout) {
            eprintln!("this scenario has not ended after {max:?}: killing what it started");
            end_all();
            std::process::exit(101);
        }
    });
    Watched { _off: off }
}

fn kill(pid: u32) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        // It may have ended by itself.
        let _ = kill_process(pid, Signal::KILL);
    }
}

fn end_all() {
    let all = running().take().unwrap_or_default();
    for (pid, path) in &all.mounts {
        kill(*pid);
        let _ = unmount(path, UnmountFlags::DETACH);
    }
    for dir in &all.clusters {
        let Ok(entries) = std::fs::read_dir(dir) else {
            continue;
        };
        for entry in entries.flatten() {
            let path = entry.path();
            let is_pid = path.extension().is_some_and(|e| e == "pid");
            let text = std::fs::read_to_string(path).unwrap_or_default();
            if let (true, Ok(pid)) = (is_pid, text.trim().parse()) {
                kill(pid);
            }
        }
        if let Some(scratch) = dir.parent() {
            let _ = std::fs::remove_dir_all(scratch);
        }
    }
}
