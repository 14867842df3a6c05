//! Settings of the file layer.
use crate::client::get::GetConfig;
use crate::client::leisure::Leisure;
use crate::client::put::PutConfig;
use std::sync::Arc;
use std::time::Duration;

/// Settings of a [`FileLayer`](super::FileLayer).
#[derive(Debug, Clone)]
pub struct FileConfig {
    /// Buffered bytes not yet committed, all files together; writers wait above. At least 8 MiB.
    pub dirty_max_bytes: u64,
    /// A close does not wait until what was written is committed; the puts begin with it.
    pub behind: bool,
    /// When puts that nobody waits for are begun.
    pub leisure: Arc<Leisure>,
    /// Puts under way at which a close waits all the same.
    pub behind_puts_max: u64,
    /// Buffered bytes are put when they are this old.
    pub write_delay: Duration,
    /// File content kept for reading, in bytes.
    pub data_cache_max_bytes: u64,
    /// Bytes read ahead of a sequential reader, at most; 0 turns read-ahead off.
    pub read_ahead_max: u64,
    /// A file without handles stays registered at the master this long, so that reopening it is
    /// local.
    pub linger: Duration,
    /// How a streaming writer bounds its memory: bytes not yet stored at W members.
    pub stream_max_bytes: u64,
    /// Timing of puts.
    pub put: PutConfig,
    /// Timing of gets.
    pub get: GetConfig,
}

impl Default for FileConfig {
    fn default() -> Self {
        Self {
            dirty_max_bytes: 64 << 20,
            behind: false,
            leisure: Arc::default(),
            behind_puts_max: 4096,
            write_delay: Duration::from_secs(1),
            data_cache_max_bytes: 64 << 20,
            read_ahead_max: 8 << 20,
            linger: Duration::from_millis(300),
            stream_max_bytes: 32 << 20,
            put: PutConfig::default(),
            get: GetConfig::default(),
        }
    }
}
