//! One handler per kernel request.
use super::convert::{bare_attr, file_attr, kind_of, set_time};
use super::locks::Wanted;
use super::{Adapter, TTL, caller, configure, err};
use crate::vfs::file::{Opened, Place};
use crate::vfs::handles::Listed;
use crate::vfs::lookup::SetAttr;
use crate::vfs::{Errno, Vfs};
use bytes::Bytes;
use dfs_core::types::{Attr, FileKind};
use fuser::{
    BsdFileFlags, CopyFileRangeFlags, FileHandle, Filesystem, FopenFlags, Generation, INodeNo,
    KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyLock, ReplyLseek, ReplyOpen,
    ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::SystemTime;

fn entry(reply: ReplyEntry, result: Result<Attr, Errno>) {
    match result {
        Ok(attr) => reply.entry(&TTL, &file_attr(&attr), Generation(0)),
        Err(e) => reply.error(err(e)),
    }
}

fn found(vfs: &Vfs, (parent, name): (u64, &[u8]), reply: ReplyEntry, result: Result<Attr, Errno>) {
    match result {
        Ok(attr) => {
            let lent = vfs.lent(parent, name, &attr);
            let shown = file_attr(&attr);
            reply.entry_with_ttls(&lent.attr, &lent.entry, &shown, Generation(0));
        }
        Err(e) => reply.error(err(e)),
    }
}

fn attr(vfs: &Vfs, reply: ReplyAttr, result: Result<Attr, Errno>) {
    match result {
        Ok(attr) => reply.attr(&vfs.lent_attr(&attr), &file_attr(&attr)),
        Err(e) => reply.error(err(e)),
    }
}

pub(super) fn empty(reply: ReplyEmpty, result: Result<(), Errno>) {
    match result {
        Ok(()) => reply.ok(),
        Err(e) => reply.error(err(e)),
    }
}

fn pieces(reply: ReplyData, result: Result<Vec<Bytes>, Errno>) {
    match result {
        Ok(parts) => match parts.as_slice() {
            [] => reply.data(&[]),
            [one] => reply.data(one),
            many => reply.data(&many.concat()),
        },
        Err(e) => reply.error(err(e)),
    }
}

fn value(reply: ReplyXattr, size: u32, result: Result<Vec<u8>, Errno>) {
    match result {
        Ok(v) if size == 0 => reply.size(v.len() as u32),
        Ok(v) if v.len() > size as usize => reply.error(err(Errno(libc::ERANGE))),
        Ok(v) => reply.data(&v),
        Err(e) => reply.error(err(e)),
    }
}

fn fopen(opened: &Opened) -> FopenFlags {
    let mut flags = FopenFlags::empty();
    flags.set(
        FopenFlags::FOPEN_KEEP_CACHE,
        opened.keep_pages && !opened.direct,
    );
    flags.set(FopenFlags::FOPEN_DIRECT_IO, opened.direct);
    flags
}

impl Filesystem for Adapter {
    fn init(&mut self, req: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        configure(req, config);
        Ok(())
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if let Some(known) = self.vfs.lookup_cached(parent.0, name.as_bytes()) {
            return found(&self.vfs, (parent.0, name.as_bytes()), reply, known);
        }
        let (vfs, name) = (self.vfs.clone(), name.as_bytes().to_vec());
        let (shown, sought) = (vfs.clone(), name.clone());
        self.run(
            "lookup",
            async move { vfs.lookup(parent.0, &name).await },
            move |r| found(&shown, (parent.0, &sought), reply, r),
        );
    }

    fn forget(&self, _req: &Request, ino: INodeNo, nlookup: u64) {
        self.vfs.forget(ino.0, nlookup);
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        if let Some(found) = self.vfs.getattr_cached(ino.0) {
            return attr(&self.vfs, reply, Ok(found));
        }
        let vfs = self.vfs.clone();
        let shown = self.vfs.clone();
        self.run(
            "getattr",
            async move { vfs.getattr(ino.0).await },
            move |r| attr(&shown, reply, r),
        );
    }

    fn setattr(
        &self,
        req: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let (atime, mtime) = (atime.map(set_time), mtime.map(set_time));
        let set = SetAttr {
            mode,
            uid,
            gid,
            size,
            atime,
            mtime,
        };
        let (vfs, root) = (self.vfs.clone(), req.uid() == 0);
        let shown = self.vfs.clone();
        self.run(
            "setattr",
            async move { vfs.setattr(ino.0, fh.map(|h| h.0), root, set).await },
            move |r| attr(&shown, reply, r),
        );
    }

    fn readlink(&self, _req: &Request, ino: INodeNo, reply: ReplyData) {
        let vfs = self.vfs.clone();
        self.run(
            "readlink",
            async move { vfs.readlink(ino.0).await },
            move |r| {
                pieces(reply, r.map(|t| vec![Bytes::from(t)]));
            },
        );
    }

    fn mknod(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let Some(kind) = kind_of(mode) else {
            return reply.error(err(Errno(libc::EINVAL)));
        };
        let (vfs, name, who) = (self.vfs.clone(), name.as_bytes().to_vec(), caller(req));
        let rdev = u64::from(rdev);
        self.run(
            "mknod",
            async move {
                vfs.make(parent.0, &name, kind, mode, rdev, Vec::new(), who)
                    .await
            },
            move |r| entry(reply, r),
        );
    }

    fn mkdir(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        let (vfs, name, who) = (self.vfs.clone(), name.as_bytes().to_vec(), caller(req));
        let kind = FileKind::Dir;
        self.run(
            "mkdir",
            async move {
                vfs.make(parent.0, &name, kind, mode, 0, Vec::new(), who)
                    .await
            },
            move |r| entry(reply, r),
        );
    }

    fn unlink(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (vfs, name) = (self.vfs.clone(), name.as_bytes().to_vec());
        self.run(
            "unlink",
            async move { vfs.unlink(parent.0, &name).await },
            move |r| empty(reply, r),
        );
    }

    fn rmdir(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (vfs, name) = (self.vfs.clone(), name.as_bytes().to_vec());
        self.run(
            "rmdir",
            async move { vfs.rmdir(parent.0, &name).await },
            move |r| empty(reply, r),
        );
    }

    fn symlink(
        &self,
        req: &Request,
        parent: INodeNo,
        link_name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let (vfs, name, who) = (self.vfs.clone(), link_name.as_bytes().to_vec(), caller(req));
        let target = target.as_os_str().as_bytes().to_vec();
        let kind = FileKind::Symlink;
        self.run(
            "symlink",
            async move { vfs.make(parent.0, &name, kind, 0o777, 0, target, who).await },
            move |r| entry(reply, r),
        );
    }

    fn rename(
        &self,
        _req: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let (vfs, flags) = (self.vfs.clone(), flags.bits());
        let (from, to) = (name.as_bytes().to_vec(), newname.as_bytes().to_vec());
        self.run(
            "rename",
            async move { vfs.rename(parent.0, &from, newparent.0, &to, flags).await },
            move |r| empty(reply, r),
        );
    }

    fn link(
        &self,
        _req: &Request,
        ino: INodeNo,
        newparent: INodeNo,
        newname: &OsStr,
        reply: ReplyEntry,
    ) {
        let (vfs, name) = (self.vfs.clone(), newname.as_bytes().to_vec());
        self.run(
            "link",
            async move { vfs.link(ino.0, newparent.0, &name).await },
            move |r| entry(reply, r),
        );
    }

    fn open(&self, req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let (vfs, uid) = (self.vfs.clone(), req.uid());
        self.run(
            "open",
            async move { vfs.open(ino.0, flags.0, uid).await },
            move |r| match r {
                Ok(opened) => reply.opened(FileHandle(opened.handle), fopen(&opened)),
                Err(e) => reply.error(err(e)),
            },
        );
    }

    fn create(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let (vfs, name, who) = (self.vfs.clone(), name.as_bytes().to_vec(), caller(req));
        self.run(
            "create",
            async move { vfs.create(parent.0, &name, mode, flags, who).await },
            move |r| match r {
                Ok((attr, opened)) => {
                    let handle = FileHandle(opened.handle);
                    let flags = fopen(&opened);
                    reply.created(&TTL, &file_attr(&attr), Generation(0), handle, flags);
                }
                Err(e) => reply.error(err(e)),
            },
        );
    }

    fn read(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        // Read past the pages, it shall not come into them.
        let fills_pages = flags.0 & libc::O_DIRECT == 0;
        if let Some(parts) = self.vfs.read_cached(fh.0, offset, size as usize) {
            pieces(reply, Ok(parts));
            if fills_pages {
                self.vfs.fill_pages(fh.0, offset, size as usize);
            }
            return;
        }
        let (vfs, fills) = (self.vfs.clone(), self.vfs.clone());
        self.run(
            "read",
            async move { vfs.read(fh.0, offset, size as usize).await },
            move |r| {
                let is_read = r.is_ok();
                pieces(reply, r);
                if is_read && fills_pages {
                    fills.fill_pages(fh.0, offset, size as usize);
                }
            },
        );
    }

    fn write(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        // The kernel writes pages of mappings through any handle that it finds: they have their place.
        let is_page = write_flags.contains(WriteFlags::FUSE_WRITE_CACHE);
        let place = Place {
            offset,
            append: !is_page && flags.0 & libc::O_APPEND != 0,
            kill_suid: write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID),
            sync: !is_page && flags.0 & libc::O_DSYNC != 0,
            direct: flags.0 & libc::O_DIRECT != 0,
        };
        let len = data.len() as u32;
        let answer = move |reply: ReplyWrite, done: Result<(), Errno>| match done {
            Ok(()) => reply.written(len),
            Err(e) => reply.error(err(e)),
        };
        if let Some(done) = self.vfs.write_buffered(fh.0, place, data) {
            return answer(reply, done);
        }
        let (vfs, data) = (self.vfs.clone(), data.to_vec());
        self.run(
            "write",
            async move { vfs.write(fh.0, place, &data).await },
            move |r| answer(reply, r),
        );
    }

    fn flush(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        let vfs = self.vfs.clone();
        let work = async move { vfs.close(fh.0, lock_owner.0).await };
        self.run("flush", work, move |r| empty(reply, r));
    }

    fn release(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        let _entered = self.runtime.enter();
        self.vfs.release(fh.0);
        reply.ok();
    }

    fn fsync(&self, _: &Request, _ino: INodeNo, fh: FileHandle, _data: bool, reply: ReplyEmpty) {
        let vfs = self.vfs.clone();
        self.run("fsync", async move { vfs.fsync(fh.0).await }, move |r| {
            empty(reply, r)
        });
    }

    fn opendir(&self, _req: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        match self.vfs.opendir(ino.0) {
            Ok(handle) => reply.opened(FileHandle(handle), FopenFlags::empty()),
            Err(e) => reply.error(err(e)),
        }
    }

    fn readdir(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let vfs = self.vfs.clone();
        let work = async move {
            let add = |e: &Listed| {
                let kind = super::convert::file_type(e.kind);
                reply.add(INodeNo(e.node), e.cookie, kind, OsStr::from_bytes(&e.name))
            };
            match vfs.readdir(fh.0, offset, false, add).await {
                Ok(()) => reply.ok(),
                Err(e) => reply.error(err(e)),
            }
            Ok(())
        };
        // Given up, the reply goes with the work, and the kernel hears EIO.
        self.run("readdir", work, |_| ());
    }

    fn readdirplus(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let vfs = self.vfs.clone();
        let work = async move {
            let add = |e: &Listed| {
                let attr = match &e.attr {
                    Some(attr) => file_attr(attr),
                    None => bare_attr(e.node, e.kind),
                };
                let name = OsStr::from_bytes(&e.name);
                reply.add(attr.ino, e.cookie, name, &TTL, &attr, Generation(0))
            };
            match vfs.readdir(fh.0, offset, true, add).await {
                Ok(()) => reply.ok(),
                Err(e) => reply.error(err(e)),
            }
            Ok(())
        };
        // Given up, the reply goes with the work, and the kernel hears EIO.
        self.run("readdirplus", work, |_| ());
    }

    fn releasedir(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.vfs.handles.remove(fh.0);
        reply.ok();
    }

    fn fsyncdir(&self, _: &Request, ino: INodeNo, _fh: FileHandle, _d: bool, reply: ReplyEmpty) {
        let vfs = self.vfs.clone();
        self.run(
            "fsyncdir",
            async move { vfs.fsync_dir(ino.0).await },
            move |r| empty(reply, r),
        );
    }

    fn statfs(&self, _req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        const BLOCK: u64 = 4096;
        const INODES: u64 = 1 << 32;
        let vfs = self.vfs.clone();
        self.run(
            "statfs",
            async move { vfs.statfs().await },
            move |r| match r {
                Ok(s) => {
                    let (total, free) = (s.total_bytes / BLOCK, s.free_bytes / BLOCK);
                    let spare = INODES.saturating_sub(s.inodes);
                    reply.statfs(
                        total,
                        free,
                        free,
                        INODES,
                        spare,
                        BLOCK as u32,
                        255,
                        BLOCK as u32,
                    );
                }
                Err(e) => reply.error(err(e)),
            },
        );
    }

    fn setxattr(
        &self,
        _req: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let (vfs, name, value) = (self.vfs.clone(), name.as_bytes().to_vec(), value.to_vec());
        self.run(
            "setxattr",
            async move { vfs.setxattr(ino.0, &name, value, flags).await },
            move |r| empty(reply, r),
        );
    }

    fn getxattr(&self, _req: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let (vfs, name) = (self.vfs.clone(), name.as_bytes().to_vec());
        self.run(
            "getxattr",
            async move { vfs.getxattr(ino.0, &name).await },
            move |r| value(reply, size, r),
        );
    }

    fn listxattr(&self, req: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let (vfs, root) = (self.vfs.clone(), req.uid() == 0);
        self.run(
            "listxattr",
            async move { vfs.listxattr(ino.0, root).await },
            move |r| value(reply, size, r),
        );
    }

    fn removexattr(&self, _req: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (vfs, name) = (self.vfs.clone(), name.as_bytes().to_vec());
        self.run(
            "removexattr",
            async move { vfs.removexattr(ino.0, &name).await },
            move |r| empty(reply, r),
        );
    }

    fn fallocate(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let vfs = self.vfs.clone();
        self.run(
            "fallocate",
            async move { vfs.fallocate(ino.0, fh.0, offset, length, mode).await },
            move |r| empty(reply, r),
        );
    }

    fn lseek(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let data = match whence {
            libc::SEEK_DATA => true,
            libc::SEEK_HOLE => false,
            _ => return reply.error(err(Errno(libc::EINVAL))),
        };
        let Ok(offset) = u64::try_from(offset) else {
            return reply.error(err(Errno(libc::ENXIO)));
        };
        let vfs = self.vfs.clone();
        self.run(
            "lseek",
            async move { vfs.seek(fh.0, offset, data).await },
            move |r| match r {
                Ok(at) => reply.offset(i64::try_from(at).unwrap_or(i64::MAX)),
                Err(e) => reply.error(err(e)),
            },
        );
    }

    fn getlk(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        lock_owner: LockOwner,
        start: u64,
        end: u64,
        typ: i32,
        pid: u32,
        reply: ReplyLock,
    ) {
        let wanted = Wanted {
            start,
            end,
            typ,
            pid,
        };
        self.get_lock(ino, fh, lock_owner, wanted, reply);
    }

    fn setlk(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        lock_owner: LockOwner,
        start: u64,
        end: u64,
        typ: i32,
        pid: u32,
        sleep: bool,
        reply: ReplyEmpty,
    ) {
        let wanted = Wanted {
            start,
            end,
            typ,
            pid,
        };
        self.set_lock(req, (ino, fh, lock_owner), wanted, sleep, reply);
    }

    fn copy_file_range(
        &self,
        _req: &Request,
        _ino_in: INodeNo,
        _fh_in: FileHandle,
        _offset_in: u64,
        _ino_out: INodeNo,
        _fh_out: FileHandle,
        _offset_out: u64,
        _len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        // The kernel then copies through its page cache.
        reply.error(err(Errno(libc::EOPNOTSUPP)));
    }
}
