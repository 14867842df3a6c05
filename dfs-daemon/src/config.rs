//! Configuration of a daemon: one TOML file, unknown keys refused, durable defaults.
//!
//! Flags win over the file, the file over the defaults. What [`ClusterConfig`] holds counts at
//! `--bootstrap` only: it becomes part of the cluster's identity.
use crate::cli::Cli;
use dfs_core::types::{QuorumError, QuorumSizes};
use serde::Deserialize;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Port of a daemon, TCP and UDP.
pub const DEFAULT_PORT: u16 = 7400;

/// A configuration that cannot work. Nothing was started.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("config file {path}: {cause}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The operating system's words.
        cause: std::io::Error,
    },
    /// The file is not what we understand.
    #[error("config file {path}: {cause}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Line and reason.
        cause: String,
    },
    /// Quorum sizes that lose or hide writes.
    #[error(
        "cluster.copies (N), cluster.write_quorum (W), cluster.read_quorum (R): {0}; raise the quorum \
         that is too small, or leave all three out for 3, 2, 2"
    )]
    Quorum(QuorumError),
    /// A field is out of its range.
    #[error("{field} = {value}: {rule}")]
    Range {
        /// The field.
        field: &'static str,
        /// What it is.
        value: String,
        /// What it must be.
        rule: &'static str,
    },
    /// Something needed is missing.
    #[error("{what} is missing: {hint}")]
    Missing {
        /// What.
        what: &'static str,
        /// What to do.
        hint: &'static str,
    },
}

/// Copies, quorums and voters of a new cluster.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClusterConfig {
    /// Copies of each file (N), 1 to 7.
    pub copies: u8,
    /// Durable acks before a write is acknowledged (W); `2W > N`.
    pub write_quorum: u8,
    /// Stamps before a read is answered (R); `W + R > N`.
    pub read_quorum: u8,
    /// Placement groups, 1 to 4096; fixed for ever.
    pub placement_groups: u16,
    /// Voters: 1, 3 or 5.
    pub masters: u8,
}

impl Default for ClusterConfig {
    fn default() -> Self {
        Self {
            copies: 3,
            write_quorum: 2,
            read_quorum: 2,
            placement_groups: 256,
            masters: 3,
        }
    }
}

impl ClusterConfig {
    /// The quorum sizes, checked.
    ///
    /// # Errors
    /// [`QuorumError`].
    pub fn quorum(&self) -> Result<QuorumSizes, QuorumError> {
        let Self {
            copies: n,
            write_quorum: w,
            read_quorum: r,
            ..
        } = *self;
        QuorumSizes { n, w, r }.validate()
    }
}

/// Limits of this node's store.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StoreConfig {
    /// Bytes the store may use; 0 for the whole device.
    pub capacity_bytes: u64,
    /// Part of the capacity kept for deletes and logs, in percent, 0 to 50; not given: 5, but at
    /// most 4 GiB.
    pub reserve_percent: Option<u8>,
    /// Memory for the store's tables, in MiB.
    pub cache_mib: usize,
    /// For tests only: every operation of the store's disk takes so much longer, in milliseconds.
    pub test_slow_disk_ms: u64,
    /// For tests only: a file with the milliseconds by which this process's wall clock is wrong, read
    /// ten times a second.
    pub test_clock_file: Option<PathBuf>,
    /// Every byte is read again and verified within this time, in hours, 1 to 8760.
    pub scrub_period_hours: u32,
    /// A snapshot of the namespace is kept every so many seconds, for `dfs-tools rescue`; 0: never
    /// by itself.
    pub namespace_snapshot_secs: u64,
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self {
            capacity_bytes: 0,
            reserve_percent: None,
            cache_mib: 16,
            test_slow_disk_ms: 0,
            test_clock_file: None,
            scrub_period_hours: 7 * 24,
            namespace_snapshot_secs: 3600,
        }
    }
}

/// Failure detection and repair.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RepairConfig {
    /// How long a node may be down before its data is copied elsewhere, in milliseconds.
    pub grace_ms: u64,
    /// Bytes per second a store copies for repair, so that programs come first; 0 for no limit.
    pub rate_bytes: u64,
    /// How long a voter may be down before another node votes instead, in milliseconds.
    pub voter_grace_ms: u64,
    /// How long deleted bytes stay on disk (readers may still be on them), in milliseconds.
    pub delete_grace_ms: u64,
    /// How long a store keeps what was deleted (after `delete_grace_ms`, and the replicas that were moved
    /// away from it) before the bytes leave its disk, in milliseconds; 0: not at all. As long as there
    /// is room: less than a quarter of its part of the device free above the reserve, and the oldest
    /// go at once. After a restart what rests may stay for as long again.
    pub quarantine_ms: u64,
    /// How long the history of deleted names is kept, in seconds.
    pub history_secs: u64,
    /// `true`: slower to accuse, for hosts with more runnable threads than cores.
    pub busy_host: bool,
    /// What a node that comes back with data does about the replicas it still counts for.
    pub rejoin: Rejoin,
}

/// What a node that comes back with data does about the replicas it still counts for. Those that
/// were re-replicated while it was away are wiped either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Rejoin {
    /// Copies what changed while it was away.
    #[default]
    Keep,
    /// Replaces all of them by copies of the others', a few placement groups at a time, and never
    /// gives up a copy before the new one is durable.
    Wipe,
}

impl Default for RepairConfig {
    fn default() -> Self {
        Self {
            grace_ms: 10_000,
            rate_bytes: 64 << 20,
            voter_grace_ms: 30_000,
            delete_grace_ms: 30_000,
            quarantine_ms: 600_000,
            history_secs: 24 * 3600,
            busy_host: false,
            rejoin: Rejoin::default(),
        }
    }
}

/// The file.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FileConfig {
    /// Data directory.
    pub data: Option<PathBuf>,
    /// Address for connections and membership.
    pub listen: Option<SocketAddr>,
    /// Address others use.
    pub advertise: Option<SocketAddr>,
    /// Address others use for membership datagrams, if it differs from `advertise`.
    pub advertise_gossip: Option<SocketAddr>,
    /// Live nodes to join through.
    pub join: Vec<SocketAddr>,
    /// File with the cluster key.
    pub key_file: Option<PathBuf>,
    /// Failure domain.
    pub zone: String,
    /// For `--bootstrap`.
    pub cluster: ClusterConfig,
    /// This node's store.
    pub store: StoreConfig,
    /// Failure detection and repair.
    pub repair: RepairConfig,
}

/// Everything a daemon needs to start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Data directory.
    pub data: PathBuf,
    /// Address for connections and membership.
    pub listen: SocketAddr,
    /// Address others use.
    pub advertise: Option<SocketAddr>,
    /// Address others use for membership datagrams, if it differs from `advertise`.
    pub advertise_gossip: Option<SocketAddr>,
    /// Begin a new cluster.
    pub bootstrap: bool,
    /// The key that exists was made for this cluster, which `bootstrap` begins.
    pub key_unused: bool,
    /// Live nodes to join through.
    pub join: Vec<SocketAddr>,
    /// File with the cluster key.
    pub key_file: PathBuf,
    /// Failure domain.
    pub zone: String,
    /// For `bootstrap`.
    pub cluster: ClusterConfig,
    /// This node's store.
    pub store: StoreConfig,
    /// Failure detection and repair.
    pub repair: RepairConfig,
}

impl Config {
    /// From flags and the file they name.
    ///
    /// # Errors
    /// [`ConfigError`], naming the field and what to do.
    pub fn load(cli: &Cli) -> Result<Self, ConfigError> {
        let file = match &cli.config {
            Some(path) => read(path)?,
            None => FileConfig::default(),
        };
        let data = cli.data.clone().or(file.data).ok_or(ConfigError::Missing {
            what: "the data directory",
            hint: "give --data DIR, or data = \"DIR\" in the config file",
        })?;
        let listen = cli.listen.or(file.listen).unwrap_or_else(default_listen);
        let key = cli.key_file.clone().or(file.key_file);
        let join = if cli.join.is_empty() {
            file.join
        } else {
            cli.join.clone()
        };
        let config = Self {
            key_file: key.unwrap_or_else(|| data.join("cluster.key")),
            data,
            listen,
            advertise: cli.advertise.or(file.advertise),
            advertise_gossip: file.advertise_gossip,
            bootstrap: cli.bootstrap,
            key_unused: cli.key_unused,
            join,
            zone: cli.zone.clone().unwrap_or(file.zone),
            cluster: file.cluster,
            store: file.store,
            repair: file.repair,
        };
        config.validate()?;
        Ok(config)
    }

    fn validate(&self) -> Result<(), ConfigError> {
        self.cluster.quorum().map_err(ConfigError::Quorum)?;
        let range = |ok: bool, field, value: String, rule| {
            if ok {
                Ok(())
            } else {
                Err(ConfigError::Range { field, value, rule })
            }
        };
        let c = &self.cluster;
        let masters = c.masters.to_string();
        let groups = c.placement_groups.to_string();
        let reserve = self.store.reserve_percent.unwrap_or_default();
        range(
            (1..=7).contains(&c.copies),
            "cluster.copies",
            c.copies.to_string(),
            "1 to 7",
        )?;
        range(
            matches!(c.masters, 1 | 3 | 5),
            "cluster.masters",
            masters,
            "must be 1, 3 or 5",
        )?;
        let groups_ok = (1..=4096).contains(&c.placement_groups);
        range(
            groups_ok,
            "cluster.placement_groups",
            groups,
            "must be 1 to 4096",
        )?;
        range(
            reserve <= 50,
            "store.reserve_percent",
            reserve.to_string(),
            "0 to 50",
        )?;
        range(
            (1..=8760).contains(&self.store.scrub_period_hours),
            "store.scrub_period_hours",
            self.store.scrub_period_hours.to_string(),
            "must be 1 to 8760",
        )?;
        range(
            self.zone.len() <= 32,
            "zone",
            self.zone.clone(),
            "at most 32 bytes",
        )?;
        let unspecified = self.listen.ip().is_unspecified() && self.advertise.is_none();
        if unspecified {
            return Err(ConfigError::Missing {
                what: "the address others shall use (advertise)",
                hint: "listening on all interfaces needs --advertise IP:PORT",
            });
        }
        Ok(())
    }

    /// How long a node may be down before its data is copied elsewhere.
    #[must_use]
    pub fn repair_grace(&self) -> Duration {
        Duration::from_millis(self.repair.grace_ms)
    }
}

fn default_listen() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], DEFAULT_PORT))
}

fn read(path: &Path) -> Result<FileConfig, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|cause| ConfigError::Read {
        path: path.to_owned(),
        cause,
    })?;
    toml::from_str(&text).map_err(|e| ConfigError::Parse {
        path: path.to_owned(),
        cause: e.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Config, ConfigError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("dfs.toml");
        std::fs::write(&path, text).unwrap();
        let data = Some(dir.path().join("data"));
        Config::load(&Cli {
            config: Some(path),
            data,
            ..Cli::default()
        })
    }

    #[test]
    fn an_unknown_key_is_named() {
        let e = load("listne = \"127.0.0.1:1\"").unwrap_err().to_string();
        assert!(e.contains("listne"), "{e}");
        let e = load("[cluster]\ncopys = 3").unwrap_err().to_string();
        assert!(e.contains("copys"), "{e}");
    }

    #[test]
    fn sizes_that_hide_writes_are_refused() {
        let e = load("[cluster]\nread_quorum = 1").unwrap_err().to_string();
        assert!(e.contains("W=2 + R=1 must exceed N=3"), "{e}");
        let e = load("[cluster]\nmasters = 2").unwrap_err().to_string();
        assert!(e.contains("cluster.masters"), "{e}");
    }

    #[test]
    fn flags_win_over_the_file() {
        let mut cli = Cli {
            data: Some("/d".into()),
            ..Cli::default()
        };
        assert_eq!(Config::load(&cli).unwrap().listen.port(), DEFAULT_PORT);
        cli.listen = Some("127.0.0.1:9".parse().unwrap());
        assert_eq!(Config::load(&cli).unwrap().listen.port(), 9);
        assert_eq!(
            Config::load(&cli).unwrap().key_file,
            Path::new("/d/cluster.key")
        );
    }

    #[test]
    fn listening_everywhere_needs_an_address_for_others() {
        let e = load("listen = \"0.0.0.0:7400\"").unwrap_err().to_string();
        assert!(e.contains("--advertise"), "{e}");
    }
}
