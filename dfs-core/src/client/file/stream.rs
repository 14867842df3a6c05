//! Whole files in and out, in bounded memory: for tools.
//!
//! [`FileWriter`] replaces a file's content in one commit: objects are prepared as the bytes come,
//! and nothing is seen of them before [`FileWriter::finish`]. Bytes are let go once W members hold
//! them; should an epoch change make them needed again, a holder gives them back.
use super::error::FileResult;
use super::layer::FileLayer;
use super::open_file::{OpenFile, OpenMode};
use super::put_task::{Feed, PutTask, Turn};
use crate::client::put::{PutChange, PutDone, PutError, PutObject, PutSpec};
use crate::types::layout::{CHUNK_SIZE, FILE_SIZE_MAX};
use crate::types::{BlockSums, ChunkNo, Ino, SetTime};
use bytes::{Bytes, BytesMut};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Objects that wait between the writer and its put.
const FEED_MAX: usize = 4;

/// Replaces a file's content with what is written to it. Dropped unfinished, it changes nothing.
#[derive(Debug)]
pub struct FileWriter {
    layer: Arc<FileLayer>,
    file: Arc<OpenFile>,
    feed: mpsc::Sender<Feed>,
    stored: mpsc::UnboundedReceiver<u32>,
    task: Option<JoinHandle<Result<PutDone, PutError>>>,
    buffer: BytesMut,
    written: u64,
    next_index: u32,
    /// Lengths of objects that fewer than W members hold.
    unstored: BTreeMap<u32, u64>,
}

impl FileLayer {
    /// Begins to replace the content of `ino`, which this session opens for writing meanwhile.
    /// Should this session commit another change of the file before it is finished, it is aborted:
    /// commits of a session to an inode apply in the order in which they began.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub async fn replace(self: &Arc<Self>, ino: Ino) -> FileResult<FileWriter> {
        let file = self.open(ino, OpenMode::WRITE).await?;
        self.pg_map().await?;
        let lease = self.write_lease(&file.inode).await?.lease;
        let (feed, fed) = mpsc::channel(FEED_MAX);
        let (stored_in, stored) = mpsc::unbounded_channel();
        let change = PutChange::Replace { size: 0 };
        let (op, token, about) = {
            let mut state = file.inode.state();
            if state.is_dirty() {
                self.cut(&file.inode, &mut state, None, true);
            }
            let token = *state.token.get_or_insert_with(|| self.next_token());
            let mut about = self.about(ino, &state, &change);
            (about.size, about.mtime) = (None, Some(self.backend.wall()));
            (self.backend.begin_op(), token, about)
        };
        // Not one of the inode's flights: a recall does not wait for it, as nothing of it is seen.
        let turn: Turn = Box::new(|| Box::pin(async {}));
        let task = PutTask {
            ends: None,
            leisure: None,
            backend: Arc::clone(&self.backend),
            config: self.config.put.clone(),
            spec: PutSpec {
                op: op.op(),
                ino,
                lease,
                token,
                change,
                mtime: Some(SetTime::At(self.backend.wall())),
                renews: true,
                kill_suid: false,
                base: None,
                objects: Vec::new(),
                about,
                more: true,
            },
            bytes: BTreeMap::new(),
            sessions: self.sessions.subscribe(),
            turn,
            renew: self.renewal(&file.inode),
            feed: Some(fed),
            stored: Some(stored_in),
        };
        let inode = Arc::clone(&file.inode);
        let task = self.runtime.spawn(async move {
            let result = task.run().await;
            drop(op);
            let mut state = inode.state();
            if let Ok(done) = &result {
                state.used_tokens.insert(token);
                state.invalidate();
                state.learn_attr(&done.attr);
            }
            state.settle();
            drop(state);
            result
        });
        Ok(FileWriter {
            layer: Arc::clone(self),
            file,
            feed,
            stored,
            task: Some(task),
            buffer: BytesMut::new(),
            written: 0,
            next_index: 0,
            unstored: BTreeMap::new(),
        })
    }
}

impl FileWriter {
    /// Bytes written so far.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Adds `data` at the end; waits while too much is not yet stored.
    ///
    /// # Errors
    /// The put has failed already, or the file would be too large; nothing was changed.
    pub async fn write(&mut self, mut data: &[u8]) -> FileResult<()> {
        if self.written.saturating_add(data.len() as u64) > FILE_SIZE_MAX {
            return Err(super::FileError::TooBig);
        }
        while !data.is_empty() {
            if self.buffer.capacity() == 0 {
                self.buffer
                    .reserve(data.len().clamp(64 * 1024, CHUNK_SIZE as usize));
            }
            let room = CHUNK_SIZE as usize - self.buffer.len();
            let (now, rest) = data.split_at(data.len().min(room));
            self.buffer.extend_from_slice(now);
            self.written += now.len() as u64;
            data = rest;
            if self.buffer.len() == CHUNK_SIZE as usize {
                self.send().await?;
            }
        }
        Ok(())
    }

    async fn send(&mut self) -> FileResult<()> {
        let bytes: Bytes = std::mem::take(&mut self.buffer).freeze();
        let len = bytes.len() as u64;
        if len == 0 {
            return Ok(());
        }
        let sums = BlockSums::of(&bytes);
        let sum = sums.object_sum(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        let chunk = ChunkNo::of(self.written - 1);
        let object = PutObject {
            chunk,
            start: 0,
            sums,
            sum,
        };
        if self
            .feed
            .send(Feed::Object(object, vec![bytes]))
            .await
            .is_err()
        {
            return Err(self.failure().await);
        }
        self.unstored.insert(self.next_index, len);
        self.next_index += 1;
        while self.unstored.values().sum::<u64>() > self.layer.config.stream_max_bytes {
            match self.stored.recv().await {
                Some(index) => drop(self.unstored.remove(&index)),
                None => return Err(self.failure().await),
            }
        }
        while let Ok(index) = self.stored.try_recv() {
            self.unstored.remove(&index);
        }
        Ok(())
    }

    /// Why the put ended before it was finished.
    async fn failure(&mut self) -> super::FileError {
        match self.join().await {
            Ok(_) => PutError::Cancelled.into(),
            Err(e) => e,
        }
    }

    async fn join(&mut self) -> FileResult<PutDone> {
        match self.task.take() {
            Some(task) => match task.await {
                Ok(result) => Ok(result?),
                Err(_) => Err(PutError::Cancelled.into()),
            },
            None => Err(PutError::Cancelled.into()),
        }
    }

    /// Commits: the file's content is what was written, in one version. When it returns the bytes
    /// are durable.
    ///
    /// # Errors
    /// [`PutError`]; the content is unchanged (but see [`PutError::SessionLost`]).
    pub async fn finish(mut self) -> FileResult<PutDone> {
        self.send().await?;
        if self.feed.send(Feed::Complete(self.written)).await.is_err() {
            return Err(self.failure().await);
        }
        let done = self.join().await;
        self.file.release();
        done
    }
}

impl Drop for FileWriter {
    fn drop(&mut self) {
        if self.task.is_some() {
            // Undone in the background: X is abandoned, the stores drop what they hold.
            let feed = self.feed.clone();
            self.layer.runtime.spawn(async move {
                if feed.send(Feed::Cancel).await.is_err() {
                    tracing::debug!("a streamed put had ended before it was cancelled");
                }
            });
        }
    }
}

/// Reads a file from start to end in large pieces, with read-ahead.
#[derive(Debug)]
pub struct FileReader {
    file: Arc<OpenFile>,
    at: u64,
}

/// Bytes of one piece.
const READ_PIECE: usize = 1 << 20;

impl FileReader {
    /// From the start of `file`.
    #[must_use]
    pub fn new(file: Arc<OpenFile>) -> Self {
        Self { file, at: 0 }
    }

    /// The next bytes; empty at the end.
    ///
    /// # Errors
    /// As [`OpenFile::read`].
    pub async fn next(&mut self) -> FileResult<Vec<Bytes>> {
        let piece = self.file.read(self.at, READ_PIECE).await?;
        self.at += piece.iter().map(|b| b.len() as u64).sum::<u64>();
        Ok(piece)
    }
}
