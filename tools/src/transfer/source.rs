//! Where bytes come from: a local file read by a thread of its own, or a file of the cluster.
use crate::error::ToolError;
use anyhow::Context;
use bytes::{Bytes, BytesMut};
use dfs_core::client::OpenFile;
use std::io::{self, Read};
use std::sync::Arc;
use tokio::sync::mpsc;

/// Bytes read at once.
const BLOCK: usize = 1 << 20;
/// Blocks read ahead of whoever takes them.
const AHEAD: usize = 4;

/// A stream of bytes.
pub enum Source {
    /// From a reader.
    Local {
        /// What a thread reads.
        blocks: mpsc::Receiver<io::Result<Bytes>>,
        /// For messages.
        name: String,
    },
    /// From the cluster: verified bytes.
    Cluster {
        /// The open file.
        file: Arc<OpenFile>,
        /// How far.
        at: u64,
        /// Where it ends.
        size: u64,
        /// For messages.
        name: String,
    },
}

impl Source {
    /// Everything that `reader` gives.
    #[must_use]
    pub fn local(mut reader: Box<dyn Read + Send>, name: String) -> Self {
        let (sender, blocks) = mpsc::channel(AHEAD);
        std::thread::spawn(move || {
            loop {
                let block = read_block(&mut reader);
                let end = !matches!(&block, Ok(b) if !b.is_empty());
                if matches!(&block, Ok(b) if b.is_empty()) {
                    return;
                }
                // Nobody wants more: the other end failed.
                if sender.blocking_send(block).is_err() || end {
                    return;
                }
            }
        });
        Self::Local { blocks, name }
    }

    /// The bytes of an open file of the cluster.
    #[must_use]
    pub fn cluster(file: Arc<OpenFile>, name: String) -> Self {
        let size = file.size();
        Self::Cluster {
            file,
            at: 0,
            size,
            name,
        }
    }

    /// The next bytes; `None` at the end.
    ///
    /// # Errors
    /// Reading failed, or no copy of the bytes could be verified.
    pub async fn next(&mut self) -> anyhow::Result<Option<Bytes>> {
        match self {
            Self::Local { blocks, name } => match blocks.recv().await {
                None => Ok(None),
                Some(Ok(block)) => Ok(Some(block)),
                Some(Err(e)) => Err(e).with_context(|| format!("reading {name}")),
            },
            Self::Cluster {
                file,
                at,
                size,
                name,
            } => {
                if *at >= *size {
                    return Ok(None);
                }
                let len = usize::try_from(*size - *at).unwrap_or(BLOCK).min(BLOCK);
                let pieces = file
                    .read(*at, len)
                    .await
                    .with_context(|| format!("reading {name}"))?;
                let block = join(pieces);
                if block.is_empty() {
                    let words = format!("{name} became shorter while it was read");
                    return Err(ToolError::Damaged(words).into());
                }
                *at += block.len() as u64;
                Ok(Some(block))
            }
        }
    }
}

/// One block, shorter only at the end.
fn read_block(reader: &mut dyn Read) -> io::Result<Bytes> {
    let mut block = BytesMut::zeroed(BLOCK);
    let mut filled = 0;
    while filled < BLOCK {
        match reader.read(&mut block[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    block.truncate(filled);
    Ok(block.freeze())
}

fn join(mut pieces: Vec<Bytes>) -> Bytes {
    if pieces.len() == 1 {
        return pieces.pop().unwrap_or_default();
    }
    let mut all = BytesMut::with_capacity(pieces.iter().map(Bytes::len).sum());
    for piece in &pieces {
        all.extend_from_slice(piece);
    }
    all.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn all(mut source: Source) -> anyhow::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        while let Some(block) = source.next().await? {
            bytes.extend_from_slice(&block);
        }
        Ok(bytes)
    }

    #[tokio::test]
    async fn a_reader_of_short_reads_comes_through_whole() {
        struct Short(usize);
        impl Read for Short {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                let n = buffer.len().min(self.0).min(70_001);
                buffer[..n].fill(7);
                self.0 -= n;
                Ok(n)
            }
        }
        let len = 3 * BLOCK + 5;
        let bytes = all(Source::local(Box::new(Short(len)), "short".into()))
            .await
            .unwrap();
        assert!(bytes.len() == len && bytes.iter().all(|b| *b == 7));
        assert!(
            all(Source::local(Box::new(io::empty()), "empty".into()))
                .await
                .unwrap()
                .is_empty()
        );
    }

    #[tokio::test]
    async fn a_failing_reader_is_named() {
        struct Failing;
        impl Read for Failing {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::other("bad disk"))
            }
        }
        let e = all(Source::local(Box::new(Failing), "x".into()))
            .await
            .unwrap_err();
        assert_eq!(format!("{e:#}"), "reading x: bad disk");
    }
}
