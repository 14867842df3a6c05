//! Settings of a client.
use crate::net::{ClusterKey, Credentials};
use crate::types::ClusterId;
use std::net::SocketAddr;
use std::time::Duration;

/// Settings of a [`Client`](super::Client).
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// Addresses of daemons to ask first; one that answers is enough.
    pub seeds: Vec<SocketAddr>,
    /// The cluster's key.
    pub key: ClusterKey,
    /// The cluster expected; `None` takes the one the key opens.
    pub cluster: Option<ClusterId>,
    /// For people, in the list of sessions: host, pid, mountpoint.
    pub label: String,
    /// Open a session: needed to change anything and to cache. Without one, `connect` does not wait
    /// for a leader.
    pub session: bool,
    /// A put or get that is not done by then fails.
    pub deadline_data: Duration,
    /// A metadata operation that is not done by then fails.
    pub deadline_meta: Duration,
    /// How long one attempt at the master may take before it is asked again (doubles while the
    /// master shows signs of life). Less than `deadline_meta`.
    pub attempt_timeout: Duration,
    /// From connect to the end of the handshake.
    pub connect_timeout: Duration,
    /// Distance of keep-alives. Less than half of what the master grants, 2 s at least.
    pub keep_alive_every: Duration,
    /// Buffered bytes not yet prepared; writers wait above.
    pub dirty_max_bytes: u64,
    /// Whether a close returns before what was written is committed.
    pub behind: bool,
    /// Buffered bytes are committed when they are this old.
    pub write_delay: Duration,
    /// File content kept for reading.
    pub data_cache_max_bytes: u64,
    /// Attributes, names, link targets and so on kept.
    pub meta_cache_max_entries: usize,
}

/// A setting that cannot work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("client: {field}: {rule}")]
pub struct ConfigError {
    /// The field.
    pub field: &'static str,
    /// The rule it breaks.
    pub rule: &'static str,
}

impl ClientConfig {
    /// Defaults for a cluster.
    #[must_use]
    pub fn new(seeds: Vec<SocketAddr>, key: ClusterKey) -> Self {
        Self {
            seeds,
            key,
            cluster: None,
            label: format!("pid {}", std::process::id()),
            session: true,
            deadline_data: Duration::from_secs(30),
            deadline_meta: Duration::from_secs(10),
            attempt_timeout: Duration::from_secs(1),
            connect_timeout: Duration::from_millis(500),
            keep_alive_every: Duration::from_millis(500),
            dirty_max_bytes: 64 << 20,
            behind: false,
            write_delay: Duration::from_secs(1),
            data_cache_max_bytes: 64 << 20,
            meta_cache_max_entries: 200_000,
        }
    }

    /// Checks every rule named on the fields.
    ///
    /// # Errors
    /// [`ConfigError`] naming the first broken rule.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let ms = Duration::from_millis;
        let rules = [
            (
                !self.seeds.is_empty(),
                "seeds",
                "at least one address is needed",
            ),
            (
                self.deadline_data >= ms(100),
                "deadline_data",
                "must be at least 100 ms",
            ),
            (
                self.deadline_meta >= ms(100),
                "deadline_meta",
                "must be at least 100 ms",
            ),
            (
                self.attempt_timeout >= ms(50) && self.attempt_timeout <= self.deadline_meta,
                "attempt_timeout",
                "must be at least 50 ms and at most deadline_meta",
            ),
            (
                self.connect_timeout >= ms(10),
                "connect_timeout",
                "must be at least 10 ms",
            ),
            (
                (ms(10)..=ms(1000)).contains(&self.keep_alive_every),
                "keep_alive_every",
                "must be 10 ms to 1 s",
            ),
            (
                self.dirty_max_bytes >= 8 << 20,
                "dirty_max_bytes",
                "must be at least 8 MiB (two objects)",
            ),
            (
                self.write_delay <= Duration::from_secs(60),
                "write_delay",
                "must be at most 60 s",
            ),
            (
                self.meta_cache_max_entries >= 16,
                "meta_cache_max_entries",
                "must be at least 16",
            ),
        ];
        for (holds, field, rule) in rules {
            if !holds {
                return Err(ConfigError { field, rule });
            }
        }
        Ok(())
    }

    pub(super) fn credentials(&self) -> Credentials {
        Credentials {
            key: self.key.clone(),
            cluster: self.cluster,
        }
    }
}
