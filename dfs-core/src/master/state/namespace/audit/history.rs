//! What names remember: records, the index of deleted names, versions and who holds them.
use super::super::KEPT;
use super::super::keys;
use super::super::records::{Dentry, Inode, NameHistory, VersionRec};
use super::names::place;
use super::{Findings, find, find_inode, has};
use crate::store::{KvRead, prefix_end};
use crate::types::{FileKind, Ino, Time, VersionNo};
use crate::wire::audit::FaultKind as K;

#[derive(Debug, Default)]
pub(super) struct Histories {
    dir: Option<Ino>,
    records: u64,
    /// Rows of the index of deleted names.
    pub deleted_names: u64,
    ino: Option<Ino>,
    versions: Vec<VersionRec>,
}

impl Histories {
    pub fn record(&mut self, kv: &dyn KvRead, found: &mut Findings, key: &[u8], value: &[u8]) {
        let Some((dir, name)) = place(key, 1) else {
            return;
        };
        if self.dir != Some(dir) {
            self.directory_end(kv, found);
            (self.dir, self.records) = (Some(dir), 0);
        }
        self.records += 1;
        let Some(rec) = found.decode::<NameHistory>(key, value) else {
            return;
        };
        let at = || format!("history of {name} in directory {dir}");
        found.expect(!rec.is_empty(), K::HistoryRecord, dir, || {
            format!("{}: empty", at())
        });
        for (ino, when) in &rec.dirs {
            if let Ok(inode) = find_inode(kv, *ino) {
                let part = inode.and_then(|i| i.dir);
                let removed = part.filter(|p| p.parent == dir).and_then(|p| p.removed);
                let fits = removed.is_some_and(|r| r.name == name && r.at == *when);
                let what = || format!("{}: directory {ino} is not what was removed", at());
                found.expect(fits, K::Tombstone, *ino, what);
            }
        }
        for pin in &rec.pins {
            let is_there = has(kv, &keys::version(pin.ino, pin.version));
            let what = || {
                format!(
                    "{}: version {} of inode {} is gone",
                    at(),
                    pin.version,
                    pin.ino
                )
            };
            found.expect(is_there, K::PinWithoutVersion, pin.ino, what);
        }
        let Ok(entry) = find::<Dentry>(kv, &keys::dentry(dir, &name)) else {
            return;
        };
        let live = entry.filter(|d| d.kind == FileKind::File).map(|d| d.ino);
        let is_deleted = live.is_none() && !rec.pins.is_empty();
        let what = || format!("{}: deleted is {:?}", at(), rec.deleted);
        found.expect(
            is_deleted == rec.deleted.is_some(),
            K::HistoryRecord,
            dir,
            what,
        );
        if let Some(when) = rec.deleted {
            let what = || format!("{}: not in the index of deleted names", at());
            let is_listed = has(kv, &keys::deleted(when, dir, &name));
            found.expect(is_listed, K::DeletedIndex, dir, what);
        }
        Self::shown(kv, found, (dir, &rec, live), &at);
    }

    /// Numbers rise, and there are not too many.
    fn shown(
        kv: &dyn KvRead,
        found: &mut Findings,
        (dir, rec, live): (Ino, &NameHistory, Option<Ino>),
        at: &dyn Fn() -> String,
    ) {
        let mut shown: Vec<u64> = rec.pins.iter().map(|p| p.display).collect();
        if let Some(ino) = live {
            let own = rec.pins.iter().any(|p| p.ino == ino);
            let what = || format!("{}: holds what it is", at());
            found.expect(!own, K::HistoryRecord, dir, what);
            let to = prefix_end(&keys::versions_of(ino));
            let from = keys::version(ino, VersionNo(1));
            let (Ok(window), Ok(Some(inode))) =
                (kv.scan_back(&from, &to, KEPT), find_inode(kv, ino))
            else {
                return;
            };
            let numbers = window.iter().rev().filter_map(|(k, _)| keys::u64_at(k, 9));
            shown.extend(numbers.map(|no| inode.display_base + no));
        }
        let is_rising = shown.windows(2).all(|w| w[0] < w[1]);
        let what = || format!("{}: numbers {shown:?}", at());
        found.expect(
            is_rising && shown.len() <= KEPT,
            K::HistoryRecord,
            dir,
            what,
        );
    }

    fn directory_end(&mut self, kv: &dyn KvRead, found: &mut Findings) {
        let Some(dir) = self.dir else { return };
        let records = self.records;
        if let Ok(inode) = find_inode(kv, dir) {
            let counted = inode.and_then(|i| i.dir).map(|p| p.histories);
            let what = || format!("directory {dir}: {counted:?} histories, {records} found");
            found.expect(counted == Some(records), K::HistoryCount, dir, what);
        }
    }

    pub fn deleted(&mut self, kv: &dyn KvRead, found: &mut Findings, key: &[u8]) {
        self.deleted_names += 1;
        let (Some(when), Some((dir, name))) = (keys::u64_at(key, 1).map(Time), place(key, 9))
        else {
            return;
        };
        if let Ok(rec) = find::<NameHistory>(kv, &keys::history(dir, &name)) {
            let fits = rec.is_some_and(|rec| rec.deleted == Some(when));
            let what = || format!("{name} in directory {dir} is listed as deleted");
            found.expect(fits, K::DeletedIndex, dir, what);
        }
    }

    pub fn version(&mut self, kv: &dyn KvRead, found: &mut Findings, key: &[u8], value: &[u8]) {
        let (Some(ino), Some(no)) = (keys::u64_at(key, 1).map(Ino), keys::u64_at(key, 9)) else {
            return;
        };
        if self.ino != Some(ino) {
            self.versions_end(kv, found);
            self.ino = Some(ino);
            self.versions.clear();
        }
        let Some(rec) = found.decode::<VersionRec>(key, value) else {
            return;
        };
        let what = || format!("inode {ino}: version {} is filed as {no}", rec.no);
        found.expect(rec.no.0 == no, K::StrayVersion, ino, what);
        self.versions.push(rec);
    }

    fn versions_end(&mut self, kv: &dyn KvRead, found: &mut Findings) {
        let Some(ino) = self.ino else { return };
        let inode: Inode = match find_inode(kv, ino) {
            Ok(Some(inode)) => inode,
            Ok(None) => {
                let what = format!(
                    "{} versions of inode {ino}, which is gone",
                    self.versions.len()
                );
                return found.add(K::StrayVersion, ino, what);
            }
            Err(_) => return,
        };
        let window = if inode.nlink > 0 { KEPT } else { 1 };
        for (rank, rec) in self.versions.iter().rev().enumerate() {
            let is_kept = rec.pins > 0 || rec.no.0 > 0 && rank < window;
            let what = || format!("inode {ino}: nothing keeps version {}", rec.no);
            found.expect(is_kept, K::StrayVersion, ino, what);
            let what = || format!("inode {ino}: version {} is still to come", rec.no);
            found.expect(rec.no <= inode.version, K::StrayVersion, ino, what);
            let is_frozen = rec.pins == 0 || rec.no != inode.version || inode.open.is_none();
            let what = || format!("inode {ino}: version {} is held and open", rec.no);
            found.expect(is_frozen, K::PinCount, ino, what);
        }
    }

    /// The last groups.
    pub fn end(&mut self, kv: &dyn KvRead, found: &mut Findings) {
        self.directory_end(kv, found);
        self.versions_end(kv, found);
    }
}
