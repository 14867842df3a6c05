//! A disk in memory that loses at a crash what a real one may lose, and nothing else.
//!
//! Steps of a crash ([`SimDisk::crash`]):
//! 1. every unsynced name change is kept or dropped, each by itself, in the order they were made;
//! 2. of every file the unsynced writes are kept or dropped sector by sector (512 B), unsynced
//!    length changes as a whole;
//! 3. handles opened before the crash are dead: using one is an I/O error.
//!
//! Invariants:
//! 1. content that was synced, under a name that was synced, is always there after a crash;
//! 2. the same seed of the generator gives the same disk;
//! 3. after a failed sync the writes it covered stay readable but never become durable.
//!
//! Source of the fault model: Pillai et al., *All File Systems Are Not Created Equal* (OSDI 2014),
//! section 2; Rebello et al., *Can Applications Recover from fsync Failures?* (ATC 2020).
use super::{Disk, DiskError, DiskFile, DiskSpace};
use bytes::Bytes;
use rand::{Rng, RngCore};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};

/// Bytes a device writes whole or not at all.
const SECTOR: u64 = 512;
/// Bytes that the system reads and writes whole.
const PAGE: u64 = 4096;

/// A simulated disk; clones are handles of the same one. See the [module docs](self).
#[derive(Debug, Clone, Default)]
pub struct SimDisk(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    files: BTreeMap<u64, File>,
    file_next: u64,
    names: BTreeMap<String, u64>,
    durable_names: BTreeMap<String, u64>,
    unsynced_names: Vec<NameChange>,
    dirs: BTreeSet<String>,
    boot: u64,
    capacity_bytes: Option<u64>,
    is_full: bool,
    /// Syncs that still succeed, then all fail until the crash.
    syncs_left: Option<u32>,
    fail_next_sync: bool,
    syncs: u64,
    /// Pages of files, by number, that cannot be read until they are written whole.
    unreadable: BTreeSet<(u64, u64)>,
}

#[derive(Debug, Default)]
struct File {
    current: Vec<u8>,
    durable: Vec<u8>,
    unsynced: Vec<Change>,
}

#[derive(Debug)]
enum Change {
    Write(u64, Vec<u8>),
    SetLen(u64),
}

/// One change of one directory.
#[derive(Debug)]
enum NameChange {
    Link(String, u64),
    Unlink(String),
    Rename(String, String, u64),
}

impl NameChange {
    fn dir(&self) -> &str {
        match self {
            Self::Link(path, _) | Self::Unlink(path) | Self::Rename(path, ..) => parent(path),
        }
    }

    fn apply(&self, names: &mut BTreeMap<String, u64>) {
        match self {
            Self::Link(path, id) => {
                names.insert(path.clone(), *id);
            }
            Self::Unlink(path) => {
                names.remove(path);
            }
            Self::Rename(from, to, id) => {
                names.remove(from);
                names.insert(to.clone(), *id);
            }
        }
    }
}

#[derive(Debug)]
struct SimFile {
    disk: SimDisk,
    path: String,
    id: u64,
    boot: u64,
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(dir, _)| dir)
}

fn io_error(path: &str, what: &'static str, cause: &str) -> DiskError {
    DiskError::Io {
        path: path.to_owned(),
        what,
        cause: cause.to_owned(),
    }
}

fn not_found(path: &str) -> DiskError {
    DiskError::NotFound {
        path: path.to_owned(),
    }
}

fn write_to(content: &mut Vec<u8>, offset: u64, bytes: &[u8]) {
    let start = usize::try_from(offset).expect("a simulated file fits memory");
    let end = start + bytes.len();
    if content.len() < end {
        content.resize(end, 0);
    }
    content[start..end].copy_from_slice(bytes);
}

impl Change {
    fn apply(&self, content: &mut Vec<u8>) {
        match self {
            Self::Write(offset, bytes) => write_to(content, *offset, bytes),
            Self::SetLen(len) => {
                content.resize(
                    usize::try_from(*len).expect("a simulated file fits memory"),
                    0,
                );
            }
        }
    }

    /// Applies a random part: any subset of the sectors of a write, all or nothing of a length.
    fn apply_torn(&self, content: &mut Vec<u8>, rng: &mut impl RngCore) {
        let Self::Write(offset, bytes) = self else {
            if rng.random_bool(0.5) {
                self.apply(content);
            }
            return;
        };
        // All, nothing, a prefix-like mix: each is worth testing often.
        let kept = [0.0, 1.0, 0.5, 0.9][rng.random_range(0..4)];
        let mut done = 0;
        while done < bytes.len() {
            let at = offset + done as u64;
            let to_boundary = usize::try_from(SECTOR - at % SECTOR).expect("at most 512");
            let end = bytes.len().min(done + to_boundary);
            if rng.random_bool(kept) {
                write_to(content, at, &bytes[done..end]);
            }
            done = end;
        }
    }
}

impl SimDisk {
    /// An empty disk without a size limit.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no holder of this lock panics")
    }

    /// Loses power and comes back: see the steps in the [module docs](self).
    pub fn crash(&self, rng: &mut impl RngCore) {
        let mut guard = self.lock();
        let state = &mut *guard;
        for change in std::mem::take(&mut state.unsynced_names) {
            if rng.random_bool(0.5) {
                change.apply(&mut state.durable_names);
            }
        }
        state.names = state.durable_names.clone();
        let live: BTreeSet<u64> = state.names.values().copied().collect();
        state.files.retain(|id, _| live.contains(id));
        for file in state.files.values_mut() {
            for change in std::mem::take(&mut file.unsynced) {
                change.apply_torn(&mut file.durable, rng);
            }
            file.current = file.durable.clone();
        }
        state.boot += 1;
        state.syncs_left = None;
        state.fail_next_sync = false;
    }

    /// Stops the process without losing power (kill -9): nothing is lost, old handles die. What was
    /// not synced is still to be.
    pub fn kill(&self) {
        let mut state = self.lock();
        state.boot += 1;
        state.syncs_left = None;
    }

    /// Another disk that holds what is durable here: the least that a crash now would leave.
    #[must_use]
    pub fn durable(&self) -> Self {
        let state = self.lock();
        let names = state.durable_names.clone();
        let whole = |id: &u64| {
            let durable = state
                .files
                .get(id)
                .map_or_else(Vec::new, |f| f.durable.clone());
            let file = File {
                current: durable.clone(),
                durable,
                unsynced: Vec::new(),
            };
            (*id, file)
        };
        Self(Arc::new(Mutex::new(State {
            files: names.values().map(whole).collect(),
            file_next: state.file_next,
            names: names.clone(),
            durable_names: names,
            dirs: state.dirs.clone(),
            capacity_bytes: state.capacity_bytes,
            unreadable: state.unreadable.clone(),
            ..State::default()
        })))
    }

    /// Refuses (or accepts again) every write that extends a file.
    pub fn set_full(&self, is_full: bool) {
        self.lock().is_full = is_full;
    }

    /// Limits the bytes of all files together; `None` lifts the limit.
    pub fn set_capacity(&self, capacity_bytes: Option<u64>) {
        self.lock().capacity_bytes = capacity_bytes;
    }

    /// Makes the next sync of a file or directory fail; what it covered is lost for good.
    pub fn fail_next_sync(&self) {
        self.lock().fail_next_sync = true;
    }

    /// Takes back a [`fail_next_sync`](Self::fail_next_sync) that has hit nothing yet.
    pub fn spare_next_sync(&self) {
        self.lock().fail_next_sync = false;
    }

    /// Lets `syncs` more syncs succeed and fails all later ones until the next crash: power goes
    /// at that point of whatever is under way.
    pub fn fail_syncs_after(&self, syncs: u32) {
        self.lock().syncs_left = Some(syncs);
    }

    /// Flips the lowest bit of one stored byte, durably. False if there is no such byte.
    pub fn flip_bit(&self, path: &str, offset: u64) -> bool {
        let mut state = self.lock();
        let Some(id) = state.names.get(path).copied() else {
            return false;
        };
        let file = state.files.get_mut(&id).expect("a name has its file");
        let at = usize::try_from(offset).unwrap_or(usize::MAX);
        if at >= file.current.len() {
            return false;
        }
        file.current[at] ^= 1;
        if let Some(byte) = file.durable.get_mut(at) {
            *byte ^= 1;
        }
        true
    }

    /// Makes the page around a byte unreadable, until it is written whole. False if there is no file.
    pub fn break_page(&self, path: &str, offset: u64) -> bool {
        let mut state = self.lock();
        let id = state.names.get(path).copied();
        id.is_some_and(|id| state.unreadable.insert((id, offset / PAGE)))
    }

    /// All file paths below the prefix, sorted.
    #[must_use]
    pub fn paths(&self, prefix: &str) -> Vec<String> {
        let state = self.lock();
        let under = state.names.keys().filter(|path| path.starts_with(prefix));
        under.cloned().collect()
    }

    /// Syncs of files and directories so far: what group commit saves.
    #[must_use]
    pub fn syncs(&self) -> u64 {
        self.lock().syncs
    }
}

impl State {
    fn used_bytes(&self) -> u64 {
        let named: BTreeSet<u64> = self.names.values().copied().collect();
        let len = |id: &u64| self.files.get(id).map_or(0, |f| f.current.len() as u64);
        named.iter().map(len).sum()
    }

    fn take_sync_failure(&mut self) -> bool {
        self.syncs += 1;
        let is_over = self.syncs_left == Some(0);
        self.syncs_left = self.syncs_left.map(|left| left.saturating_sub(1));
        is_over || std::mem::take(&mut self.fail_next_sync)
    }

    fn check_growth(&self, path: &str, from: u64, to: u64) -> Result<(), DiskError> {
        let grows = to > from;
        let over = self
            .capacity_bytes
            .is_some_and(|cap| self.used_bytes() + to.saturating_sub(from) > cap);
        if grows && (self.is_full || over) {
            return Err(DiskError::NoSpace {
                path: path.to_owned(),
            });
        }
        Ok(())
    }
}

impl Disk for SimDisk {
    fn open(&self, path: &str, create: bool) -> Result<Box<dyn DiskFile>, DiskError> {
        let mut state = self.lock();
        let id = match state.names.get(path) {
            Some(id) => *id,
            None if create => {
                state.file_next += 1;
                let id = state.file_next;
                state.files.insert(id, File::default());
                state.names.insert(path.to_owned(), id);
                let change = NameChange::Link(path.to_owned(), id);
                state.unsynced_names.push(change);
                id
            }
            None => return Err(not_found(path)),
        };
        Ok(Box::new(SimFile {
            disk: self.clone(),
            path: path.to_owned(),
            id,
            boot: state.boot,
        }))
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), DiskError> {
        let mut state = self.lock();
        let id = state.names.remove(from).ok_or_else(|| not_found(from))?;
        state.names.insert(to.to_owned(), id);
        if parent(from) == parent(to) {
            let change = NameChange::Rename(from.to_owned(), to.to_owned(), id);
            state.unsynced_names.push(change);
        } else {
            let link = NameChange::Link(to.to_owned(), id);
            state.unsynced_names.push(link);
            let unlink = NameChange::Unlink(from.to_owned());
            state.unsynced_names.push(unlink);
        }
        Ok(())
    }

    fn remove(&self, path: &str) -> Result<(), DiskError> {
        let mut state = self.lock();
        state.names.remove(path).ok_or_else(|| not_found(path))?;
        let change = NameChange::Unlink(path.to_owned());
        state.unsynced_names.push(change);
        Ok(())
    }

    fn list(&self, dir: &str) -> Result<Vec<String>, DiskError> {
        let state = self.lock();
        let prefix = if dir.is_empty() {
            String::new()
        } else {
            format!("{dir}/")
        };
        let below = state.names.keys().chain(&state.dirs);
        let names: BTreeSet<String> = below
            .filter_map(|path| path.strip_prefix(&prefix))
            .filter_map(|rest| rest.split('/').next())
            .filter(|name| !name.is_empty())
            .map(str::to_owned)
            .collect();
        Ok(names.into_iter().collect())
    }

    fn sync_dir(&self, dir: &str) -> Result<(), DiskError> {
        let mut guard = self.lock();
        let state = &mut *guard;
        let fails = state.take_sync_failure();
        if fails && state.syncs_left == Some(0) {
            return Err(io_error(dir, "sync directory", "power is failing"));
        }
        state.dirs.insert(dir.to_owned());
        let changes = std::mem::take(&mut state.unsynced_names);
        let (covered, rest): (Vec<_>, Vec<_>) = changes.into_iter().partition(|c| c.dir() == dir);
        state.unsynced_names = rest;
        if fails {
            return Err(io_error(dir, "sync directory", "injected failure"));
        }
        for change in covered {
            change.apply(&mut state.durable_names);
        }
        Ok(())
    }

    fn space(&self) -> Result<DiskSpace, DiskError> {
        let state = self.lock();
        let total_bytes = state.capacity_bytes.unwrap_or(1 << 40);
        let free_bytes = total_bytes.saturating_sub(state.used_bytes());
        Ok(DiskSpace {
            total_bytes,
            free_bytes: if state.is_full { 0 } else { free_bytes },
        })
    }
}

impl SimFile {
    /// Fails if a range touches an unreadable page; a write mends those that it covers whole.
    fn meet_unreadable(
        &self,
        state: &mut State,
        (offset, len): (u64, u64),
        is_write: bool,
    ) -> Result<(), DiskError> {
        if state.unreadable.is_empty() || len == 0 {
            return Ok(());
        }
        let file_len = state.files[&self.id].current.len() as u64;
        for page in offset / PAGE..=(offset + len - 1) / PAGE {
            let page_end = ((page + 1) * PAGE).min(file_len);
            let is_whole = offset <= page * PAGE && page_end <= offset + len;
            let key = (self.id, page);
            if is_write && is_whole {
                state.unreadable.remove(&key);
            } else if state.unreadable.contains(&key) {
                return Err(io_error(&self.path, "read", "Input/output error"));
            }
        }
        Ok(())
    }

    fn with<T>(&self, f: impl FnOnce(&mut State) -> Result<T, DiskError>) -> Result<T, DiskError> {
        let mut state = self.disk.lock();
        if state.boot != self.boot {
            return Err(io_error(&self.path, "use", "opened before the crash"));
        }
        f(&mut state)
    }

    fn change(&self, state: &mut State, change: Change) {
        let file = state.files.get_mut(&self.id).expect("open files are kept");
        change.apply(&mut file.current);
        file.unsynced.push(change);
    }
}

impl DiskFile for SimFile {
    fn read_at(&self, offset: u64, len: usize) -> Result<Bytes, DiskError> {
        self.with(|state| {
            let content = &state.files[&self.id].current;
            let start = usize::try_from(offset).unwrap_or(usize::MAX);
            let start = start.min(content.len());
            let end = start.saturating_add(len).min(content.len());
            let found = Bytes::copy_from_slice(&content[start..end]);
            self.meet_unreadable(state, (start as u64, found.len() as u64), false)?;
            Ok(found)
        })
    }

    fn forget_cached(&self, _offset: u64, _len: u64) {}

    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), DiskError> {
        self.with(|state| {
            let len = state.files[&self.id].current.len() as u64;
            state.check_growth(&self.path, len, offset + bytes.len() as u64)?;
            self.meet_unreadable(state, (offset, bytes.len() as u64), true)?;
            self.change(state, Change::Write(offset, bytes.to_vec()));
            Ok(())
        })
    }

    fn sync_data(&self) -> Result<(), DiskError> {
        self.with(|state| {
            let fails = state.take_sync_failure();
            let is_over = state.syncs_left == Some(0);
            let file = state.files.get_mut(&self.id).expect("open files are kept");
            if fails && is_over {
                // Power goes here: the writes are still on their way.
                return Err(io_error(&self.path, "fdatasync", "power is failing"));
            }
            let changes = std::mem::take(&mut file.unsynced);
            if fails {
                return Err(io_error(&self.path, "fdatasync", "injected failure"));
            }
            for change in changes {
                change.apply(&mut file.durable);
            }
            Ok(())
        })
    }

    fn len(&self) -> Result<u64, DiskError> {
        self.with(|state| Ok(state.files[&self.id].current.len() as u64))
    }

    fn set_len(&self, len: u64) -> Result<(), DiskError> {
        self.with(|state| {
            let now = state.files[&self.id].current.len() as u64;
            state.check_growth(&self.path, now, len)?;
            self.change(state, Change::SetLen(len));
            Ok(())
        })
    }
}

#[cfg(test)]
#[path = "sim_disk_tests.rs"]
mod tests;
