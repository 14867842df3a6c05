//! Changes of a file's content through a handle.
use super::error::{FileError, FileResult};
use super::inode::State;
use super::open_file::OpenFile;
use crate::client::put::{PutChange, PutDone};
use crate::types::layout::FILE_SIZE_MAX;
use crate::types::{Attr, ChunkNo, Ino, SetTime, VersionNo, without_suid};
use crate::wire::{Mutation, MutationOk};
use bytes::Bytes;

impl OpenFile {
    /// Not under the inode's lock.
    fn check_write(&self, offset: u64, len: u64) -> FileResult<()> {
        self.check_failed()?;
        self.check_range(offset, len)
    }

    fn check_range(&self, offset: u64, len: u64) -> FileResult<()> {
        if !self.mode().write {
            return Err(FileError::WrongMode("writing"));
        }
        match offset.checked_add(len) {
            Some(end) if end <= FILE_SIZE_MAX => Ok(()),
            _ => Err(FileError::TooBig),
        }
    }

    /// Writes `data` at `offset`. Buffered while nobody else has the file open: then it returns
    /// when the bytes are copied (waiting while the mount's budget is used up), else when they are
    /// committed. `kill_suid`: clear suid and sgid, as a write by an ordinary user does.
    ///
    /// # Errors
    /// [`FileError::Put`] of a write-through; nothing was written then.
    pub async fn write(&self, offset: u64, data: &[u8], kill_suid: bool) -> FileResult<()> {
        self.check_write(offset, data.len() as u64)?;
        if let Some(result) = self.try_write(offset, data, kill_suid) {
            return result;
        }
        let layer = &self.layer;
        layer.write_lease(&self.inode).await?;
        layer.make_room(data.len() as u64).await;
        let outcome = {
            let mut state = self.inode.state();
            self.check_period(&mut state)?;
            if state.may_buffer() {
                self.buffer(&mut state, offset, data, kill_suid);
                return Ok(());
            }
            if state.is_dirty() {
                layer.cut(&self.inode, &mut state, None, true);
            }
            let bytes = Bytes::copy_from_slice(data);
            layer.budget.take(bytes.len() as u64);
            self.touch(&mut state, kill_suid);
            state.size = state.size.max(offset + data.len() as u64);
            layer.launch(
                &self.inode,
                &mut state,
                PutChange::Write,
                vec![(offset, bytes)],
                false,
            )
        };
        layer.outcome(&self.inode, &outcome).await.map(drop)
    }

    /// As [`write`](Self::write), if it can be buffered at once; `None`: call that.
    #[must_use]
    pub fn try_write(&self, offset: u64, data: &[u8], kill_suid: bool) -> Option<FileResult<()>> {
        if let Err(e) = self.check_write(offset, data.len() as u64) {
            return Some(Err(e));
        }
        let mut state = self.inode.state();
        if !state.may_buffer() || !self.layer.budget.has_room(data.len() as u64) {
            return None;
        }
        if let Err(e) = self.check_period(&mut state) {
            return Some(Err(e));
        }
        self.buffer(&mut state, offset, data, kill_suid);
        Some(Ok(()))
    }

    /// Appends `data` at the end of the file, wherever that is; returns the offset.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub async fn append(&self, data: &[u8], kill_suid: bool) -> FileResult<u64> {
        if let Some(result) = self.try_append(data, kill_suid) {
            return result;
        }
        let layer = &self.layer;
        layer.write_lease(&self.inode).await?;
        layer.make_room(data.len() as u64).await;
        let outcome = {
            let mut state = self.inode.state();
            let at = state.size;
            self.check_range(at, data.len() as u64)?;
            self.check_period(&mut state)?;
            if state.may_buffer() {
                self.buffer(&mut state, at, data, kill_suid);
                return Ok(at);
            }
            if state.is_dirty() {
                layer.cut(&self.inode, &mut state, None, true);
            }
            let bytes = Bytes::copy_from_slice(data);
            layer.budget.take(bytes.len() as u64);
            self.touch(&mut state, kill_suid);
            state.size = at + data.len() as u64;
            let change = PutChange::Append { at };
            layer.launch(&self.inode, &mut state, change, vec![(at, bytes)], false)
        };
        layer
            .outcome(&self.inode, &outcome)
            .await
            .map(|done| done.offset)
    }

    /// As [`append`](Self::append), if it can be buffered at once.
    #[must_use]
    pub fn try_append(&self, data: &[u8], kill_suid: bool) -> Option<FileResult<u64>> {
        if let Err(e) = self.check_failed() {
            return Some(Err(e));
        }
        let mut state = self.inode.state();
        let at = state.size;
        if let Err(e) = self.check_range(at, data.len() as u64) {
            return Some(Err(e));
        }
        if !state.may_buffer() || !self.layer.budget.has_room(data.len() as u64) {
            return None;
        }
        if let Err(e) = self.check_period(&mut state) {
            return Some(Err(e));
        }
        self.buffer(&mut state, at, data, kill_suid);
        Some(Ok(at))
    }

    fn touch(&self, state: &mut State, kill_suid: bool) {
        self.reopen(state);
        state.mtime = Some(self.layer.backend.wall());
        state.kill_suid |= kill_suid;
        if let Some(later) = state.later.as_mut() {
            later.overtaken(kill_suid);
        }
        state.token.get_or_insert_with(|| self.layer.next_token());
    }

    /// The writing period that a change now belongs to is of the session that the handle's locks are
    /// of: with that session it is refused.
    fn check_period(&self, state: &mut State) -> FileResult<()> {
        if self.lock_owners().is_empty() {
            return Ok(());
        }
        let token = state.token.get_or_insert_with(|| self.layer.next_token());
        let session = token.client;
        self.check_locks_in(state, session)
    }

    fn buffer(&self, state: &mut State, offset: u64, data: &[u8], kill_suid: bool) {
        if data.is_empty() {
            return;
        }
        let grown = state.dirty.write(self.layer.backend.now(), offset, data);
        self.layer.budget.take(grown);
        let end = offset + data.len() as u64;
        state.size = state.size.max(end);
        self.touch(state, kill_suid);
        for no in ChunkNo::of(offset).0..=ChunkNo::of(end - 1).0 {
            if state.dirty.is_complete(ChunkNo(no)) {
                self.layer.cut(&self.inode, state, Some(ChunkNo(no)), true);
            }
        }
    }

    /// Cuts what is dirty, then puts `change`, and waits for it.
    async fn change(
        &self,
        change: PutChange,
        size: Option<u64>,
        kill_suid: bool,
    ) -> FileResult<PutDone> {
        if !self.mode().write {
            return Err(FileError::WrongMode("writing"));
        }
        let outcome = {
            let mut state = self.inode.state();
            self.check_period(&mut state)?;
            if state.is_dirty() {
                self.layer.cut(&self.inode, &mut state, None, true);
            }
            self.touch(&mut state, kill_suid);
            if let Some(size) = size {
                state.size = size;
            }
            self.layer
                .launch(&self.inode, &mut state, change, Vec::new(), false)
        };
        self.layer.outcome(&self.inode, &outcome).await
    }

    /// Sets the size; bytes beyond are gone, a gap reads as zeros. Cutting to nothing is buffered
    /// like a write while nobody else has the file open. `kill_suid` as of [`write`](Self::write).
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub async fn truncate(&self, size: u64, kill_suid: bool) -> FileResult<()> {
        self.check_write(size, 0)?;
        if size == 0 {
            if self.is_untouched(kill_suid) {
                return self.stamp().await; // There is nothing to cut.
            }
            let mut state = self.inode.state();
            self.check_period(&mut state)?;
            if state.may_buffer() {
                let dropped = state.drop_dirty();
                state.replace = Some(self.layer.backend.now());
                state.size = 0;
                self.touch(&mut state, kill_suid);
                drop(state);
                self.layer.budget.give(dropped);
                return Ok(());
            }
        }
        self.change(PutChange::Truncate { size }, Some(size), kill_suid)
            .await
            .map(drop)
    }

    /// Nothing was ever written to the file, and no bit of its mode has to go.
    fn is_untouched(&self, kill_suid: bool) -> bool {
        let state = self.inode.state();
        let is_new = |a: &Attr| a.revision.0 == 0 && !(kill_suid && without_suid(a.mode) != a.mode);
        // What is known is true only while nobody else may write.
        state.attr.as_ref().is_some_and(is_new) && state.may_buffer() && !state.is_pending()
    }

    /// Moves the content time, and nothing else.
    async fn stamp(&self) -> FileResult<()> {
        let body = Mutation::SetAttr {
            ino: self.ino(),
            mode: None,
            uid: None,
            gid: None,
            atime: None,
            mtime: Some(SetTime::At(self.layer.backend.wall())),
        };
        if let MutationOk::Attr(attr) = self.layer.backend.mutate(body).await? {
            self.inode.state().learn_attr(&attr);
        }
        Ok(())
    }

    /// Makes a hole; the size stays.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub async fn punch(&self, offset: u64, len: u64) -> FileResult<()> {
        self.check_write(offset, len)?;
        self.change(PutChange::Punch { offset, len }, None, false)
            .await
            .map(drop)
    }

    /// Makes the file at least `size` long (fallocate); no bytes change.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub async fn extend(&self, size: u64) -> FileResult<()> {
        self.check_write(size, 0)?;
        let now = self.inode.state().size;
        if size <= now {
            return Ok(());
        }
        self.change(PutChange::Extend { size }, Some(size), false)
            .await
            .map(drop)
    }

    /// The content of an older version becomes the current one.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub async fn restore(&self, from: Ino, inode_version: VersionNo) -> FileResult<PutDone> {
        self.change(
            PutChange::Restore {
                from,
                inode_version,
            },
            None,
            false,
        )
        .await
    }
}
