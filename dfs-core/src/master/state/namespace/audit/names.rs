//! Inodes, entries, links, attributes and totals.
use super::super::keys;
use super::super::read;
use super::super::records::{Dentry, Inode, Meta, NameHistory};
use super::{Findings, find, find_inode, has, has_any};
use crate::store::KvRead;
use crate::types::{FileKind, Ino, Name};
use crate::wire::audit::FaultKind as K;

/// Directories above one that are looked at; a deeper tree counts as hanging under the root.
const DEPTH_MAX: usize = 65_536;

/// Rows of one owner that lie side by side.
#[derive(Debug, Default)]
struct Group {
    ino: Option<Ino>,
    rows: u64,
    /// Subdirectories, or bytes.
    more: u64,
}

impl Group {
    /// The finished group, if this row begins another.
    fn add(&mut self, ino: Ino, more: u64) -> Option<Self> {
        let done = match self.ino {
            Some(old) if old != ino => Some(std::mem::take(self)),
            _ => None,
        };
        self.ino = Some(ino);
        self.rows += 1;
        self.more += more;
        done
    }
}

#[derive(Debug, Default)]
pub(super) struct Names {
    entries: Group,
    links: Group,
    xattrs: Group,
    live: u64,
    bytes: u64,
    newest: u64,
}

/// The place that a key of a directory and a name means.
pub(super) fn place(key: &[u8], at: usize) -> Option<(Ino, Name)> {
    Some((Ino(keys::u64_at(key, at)?), keys::name_at(key, at + 8)?))
}

impl Names {
    pub fn orphan(&mut self, kv: &dyn KvRead, found: &mut Findings, key: &[u8]) {
        let ino = Ino(keys::u64_at(key, 2).unwrap_or(0));
        if let Ok(inode) = find_inode(kv, ino) {
            let is_orphan = inode.is_some_and(|i| i.is_orphan());
            let what = || format!("inode {ino} is listed as one without a name");
            found.expect(is_orphan, K::OrphanIndex, ino, what);
        }
    }

    pub fn xattr(&mut self, kv: &dyn KvRead, found: &mut Findings, key: &[u8], value_len: usize) {
        let ino = Ino(keys::u64_at(key, 2).unwrap_or(0));
        let bytes = (key.len().saturating_sub(10) + value_len) as u64;
        if let Some(done) = self.xattrs.add(ino, bytes) {
            Self::xattrs_end(kv, found, &done);
        }
    }

    fn xattrs_end(kv: &dyn KvRead, found: &mut Findings, of: &Group) {
        let Some(ino) = of.ino else { return };
        if let Ok(inode) = find_inode(kv, ino) {
            let counted = inode.map_or((0, 0), |i| (u64::from(i.xattrs), i.xattr_bytes));
            let (rows, bytes) = (of.rows, of.more);
            let what = || {
                format!(
                    "inode {ino}: {counted:?} counted, {:?} found",
                    (rows, bytes)
                )
            };
            found.expect(counted == (rows, bytes), K::AttributeCount, ino, what);
        }
    }

    pub fn inode(&mut self, kv: &dyn KvRead, found: &mut Findings, key: &[u8], value: &[u8]) {
        let Some(ino) = keys::u64_at(key, 1).map(Ino) else {
            return;
        };
        let Some(inode) = found.decode::<Inode>(key, value) else {
            return;
        };
        self.newest = self.newest.max(ino.0);
        if inode.nlink > 0 {
            self.live += 1;
            self.bytes += inode.allocated;
        }
        let is_listed = has(kv, &keys::orphan(ino));
        let what = || format!("inode {ino} has no name and is not listed so");
        found.expect(is_listed || !inode.is_orphan(), K::OrphanIndex, ino, what);
        let what = || {
            format!(
                "inode {ino}: {} attributes counted, none found",
                inode.xattrs
            )
        };
        let has_xattrs = inode.xattrs == 0 || has_any(kv, &keys::xattrs_of(ino));
        found.expect(has_xattrs, K::AttributeCount, ino, what);
        let what = || format!("inode {ino}: {} bytes counted, no rows", inode.allocated);
        let has_rows = inode.allocated == 0 || has_any(kv, &keys::rows_of(ino));
        found.expect(has_rows, K::AllocatedBytes, ino, what);
        let newest = inode.version.0 == 0 || has(kv, &keys::version(ino, inode.version));
        let what = || format!("inode {ino}: version {} is gone", inode.version);
        found.expect(newest, K::NewestVersion, ino, what);
        Self::inode_pins(kv, found, ino, &inode);
        let is_named = has_any(kv, &keys::links_of(ino));
        match &inode.dir {
            Some(_) => Self::directory(kv, found, (ino, &inode), is_named),
            None => {
                let is_dir = inode.kind == FileKind::Dir;
                let what = || format!("inode {ino} is a directory without its part");
                found.expect(!is_dir, K::EntryCount, ino, what);
                let what = || format!("inode {ino}: {} links counted, no name", inode.nlink);
                found.expect(is_named || inode.nlink == 0, K::LinkCount, ino, what);
            }
        }
    }

    fn inode_pins(kv: &dyn KvRead, found: &mut Findings, ino: Ino, inode: &Inode) {
        let Ok(recs) = read::versions(kv, ino) else {
            return; // the walk reports it
        };
        let total: u64 = recs.iter().map(|rec| u64::from(rec.pins)).sum();
        let what = || format!("inode {ino}: {} held counted, {total} found", inode.pins);
        found.expect(u64::from(inode.pins) == total, K::PinCount, ino, what);
    }

    fn directory(
        kv: &dyn KvRead,
        found: &mut Findings,
        (ino, inode): (Ino, &Inode),
        is_named: bool,
    ) {
        let Some(part) = &inode.dir else { return };
        let is_live = is_named || ino == Ino::ROOT;
        if !has_any(kv, &keys::dentries_of(ino)) {
            let nlink = if is_live { 2 } else { 0 };
            let what = || format!("empty directory {ino}: {} links of {nlink}", inode.nlink);
            found.expect(inode.nlink == nlink, K::LinkCount, ino, what);
            let what = || format!("directory {ino}: {} entries counted, none", part.entries);
            found.expect(part.entries == 0, K::EntryCount, ino, what);
        }
        let what = || {
            format!(
                "directory {ino}: {} histories counted, none",
                part.histories
            )
        };
        let has_histories = part.histories == 0 || has_any(kv, &keys::histories_of(ino));
        found.expect(has_histories, K::HistoryCount, ino, what);
        if let Some(removed) = &part.removed {
            let key = keys::history(part.parent, &removed.name);
            if let Ok(record) = find::<NameHistory>(kv, &key) {
                let is_known = record.is_some_and(|r| r.dirs.contains(&(ino, removed.at)));
                let what = || format!("removed directory {ino} is unknown where it was");
                found.expect(is_known, K::Tombstone, ino, what);
            }
            let what = || format!("removed directory {ino} has links or nothing to remember");
            let holds = inode.nlink == 0 && part.histories > 0;
            found.expect(holds, K::Tombstone, ino, what);
        }
        if is_live {
            let what = || format!("directory {ino} does not hang under the root");
            found.expect(hangs(kv, part.parent), K::DetachedDirectory, ino, what);
        }
    }

    pub fn dentry(&mut self, kv: &dyn KvRead, found: &mut Findings, key: &[u8], value: &[u8]) {
        let Some((dir, name)) = place(key, 1) else {
            let what = format!(
                "entry with a bad name in directory {:?}",
                keys::u64_at(key, 1)
            );
            return found.add(K::UnreadableRow, Ino(0), what);
        };
        let Some(entry) = found.decode::<Dentry>(key, value) else {
            return;
        };
        let is_dir = entry.kind == FileKind::Dir;
        if let Some(done) = self.entries.add(dir, u64::from(is_dir)) {
            Self::entries_end(kv, found, &done);
        }
        let ino = entry.ino;
        match find_inode(kv, ino) {
            Ok(None) => {
                let what = format!("{name} in directory {dir}: inode {ino} does not exist");
                found.add(K::EntryWithoutInode, ino, what);
            }
            Ok(Some(inode)) => {
                let what = || format!("{name} in directory {dir}: {:?} or not", entry.kind);
                found.expect(inode.kind == entry.kind, K::EntryKind, ino, what);
                let parent = inode.dir.as_ref().map(|p| p.parent);
                let what = || format!("directory {ino} is {name} in {dir}, says {parent:?}");
                found.expect(!is_dir || parent == Some(dir), K::WrongParent, ino, what);
            }
            Err(_) => {}
        }
        let what = || format!("{name} in directory {dir}: no link of inode {ino}");
        found.expect(
            has(kv, &keys::link(ino, dir, &name)),
            K::LinkIndex,
            ino,
            what,
        );
        if let Ok(cookie) = find::<(Name, Ino, FileKind)>(kv, &keys::cookie(dir, entry.cookie)) {
            let fits = cookie == Some((name.clone(), ino, entry.kind));
            let what = || format!("{name} in directory {dir}: its place in the order is taken");
            found.expect(fits, K::CookieIndex, ino, what);
        }
    }

    fn entries_end(kv: &dyn KvRead, found: &mut Findings, of: &Group) {
        let Some(dir) = of.ino else { return };
        let (rows, subdirs) = (of.rows, of.more);
        match find_inode(kv, dir) {
            Ok(Some(Inode {
                dir: Some(part),
                nlink,
                ..
            })) => {
                let what = || format!("directory {dir}: {} counted, {rows} found", part.entries);
                found.expect(part.entries == rows, K::EntryCount, dir, what);
                let what = || format!("directory {dir}: {nlink} links of {}", 2 + subdirs);
                found.expect(u64::from(nlink) == 2 + subdirs, K::LinkCount, dir, what);
            }
            Ok(_) => {
                let what = format!("{rows} entries in {dir}, which is no directory");
                found.add(K::EntryCount, dir, what);
            }
            Err(_) => {}
        }
    }

    pub fn cookie(&mut self, kv: &dyn KvRead, found: &mut Findings, key: &[u8], value: &[u8]) {
        let (Some(dir), Some(cookie)) = (keys::u64_at(key, 1), keys::u64_at(key, 9)) else {
            return;
        };
        let Some((name, ino, kind)) = found.decode::<(Name, Ino, FileKind)>(key, value) else {
            return;
        };
        let dir = Ino(dir);
        if let Ok(entry) = find::<Dentry>(kv, &keys::dentry(dir, &name)) {
            let fits = entry == Some(Dentry { ino, kind, cookie });
            let what = || format!("{name} in the order of directory {dir} is no entry");
            found.expect(fits, K::CookieIndex, ino, what);
        }
    }

    pub fn link(&mut self, kv: &dyn KvRead, found: &mut Findings, key: &[u8]) {
        let (Some(ino), Some((dir, name))) = (keys::u64_at(key, 1).map(Ino), place(key, 9)) else {
            return;
        };
        if let Some(done) = self.links.add(ino, 0) {
            Self::links_end(kv, found, &done);
        }
        if let Ok(entry) = find::<Dentry>(kv, &keys::dentry(dir, &name)) {
            let fits = entry.is_some_and(|entry| entry.ino == ino);
            let what = || format!("inode {ino} is not {name} in directory {dir}");
            found.expect(fits, K::LinkIndex, ino, what);
        }
    }

    fn links_end(kv: &dyn KvRead, found: &mut Findings, of: &Group) {
        let Some(ino) = of.ino else { return };
        if let Ok(Some(inode)) = find_inode(kv, ino) {
            let counted = match inode.dir {
                Some(_) => 1,
                None => u64::from(inode.nlink),
            };
            let names = of.rows;
            let what = || format!("inode {ino}: {counted} links counted, {names} names");
            found.expect(counted == names, K::LinkCount, ino, what);
        }
    }

    /// The last groups.
    pub fn end(&mut self, kv: &dyn KvRead, found: &mut Findings) {
        Self::xattrs_end(kv, found, &self.xattrs);
        Self::entries_end(kv, found, &self.entries);
        Self::links_end(kv, found, &self.links);
    }

    pub fn totals(&self, found: &mut Findings, meta: Option<&Meta>, deleted_names: u64) {
        let none = Meta::default();
        let meta = meta.unwrap_or(&none);
        for (what, counted, is) in [
            ("live inodes", meta.inodes, self.live),
            ("live bytes", meta.bytes, self.bytes),
            ("deleted names", meta.deleted_names, deleted_names),
        ] {
            let words = || format!("{what}: {counted} counted, {is} found");
            found.expect(counted == is, K::Totals, Ino(0), words);
        }
        let what = || format!("next is {}, {} exists", meta.next_ino, self.newest);
        found.expect(meta.next_ino > self.newest, K::InodeNumber, Ino(0), what);
    }
}

/// The directory is the root or lies below it.
fn hangs(kv: &dyn KvRead, mut above: Ino) -> bool {
    // A second walker at double speed meets the first in a circle.
    let mut ahead = above;
    let up = |ino: Ino| match find_inode(kv, ino) {
        Ok(Some(inode)) => inode.dir.map(|p| p.parent),
        Ok(None) => None,
        Err(_) => Some(Ino::ROOT),
    };
    for _ in 0..DEPTH_MAX {
        if above == Ino::ROOT || ahead == Ino::ROOT {
            return true;
        }
        let (Some(one), Some(two)) = (up(above), up(ahead).and_then(up)) else {
            return false;
        };
        (above, ahead) = (one, two);
        if above == ahead && above != Ino::ROOT {
            return false;
        }
    }
    true
}
