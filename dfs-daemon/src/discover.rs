//! Where programs find their cluster: shared by `dfs-tools` and `dfs-mount`.
//!
//! The first of these that is there:
//! 1. `--cluster` and 2. `DFS_CLUSTER`: addresses (comma-separated, port 7400 unless given), or a
//!    development cluster's directory;
//! 3. the development cluster under `DFS_DEV_DIR`, if that is set;
//! 4. `/etc/dfs/client.toml`: `cluster = ["10.0.0.1:7400", ...]` and `key_file = "..."`;
//! 5. the development cluster in the default directory;
//! 6. the daemon on this machine.
//!
//! The key is in the file named by `--key-file` or `DFS_KEY_FILE`; else in the development cluster's
//! directory; else in what `client.toml` names; else in `/etc/dfs/cluster.key`.
use crate::config::DEFAULT_PORT;
use crate::dev::{DevDir, default_dir};
use dfs_core::client::ClientConfig;
use dfs_core::net::ClusterKey;
use dfs_core::net::auth::KeyError;
use serde::Deserialize;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};

/// Configuration of programs that use a cluster.
const CLIENT_TOML: &str = "/etc/dfs/client.toml";
/// Where the key is if nothing says otherwise.
const KEY_FILE: &str = "/etc/dfs/cluster.key";

/// Why no cluster was found.
#[derive(Debug, thiserror::Error)]
pub enum DiscoverError {
    /// An address that is none.
    #[error("{text:?} is neither an address (IP:PORT) nor the directory of a cluster: {why}")]
    Address {
        /// As given.
        text: String,
        /// What is wrong.
        why: String,
    },
    /// A directory without a cluster.
    #[error("there is no development cluster under {dir}; start one: dfs-tools dev up 5")]
    NoCluster {
        /// The directory.
        dir: PathBuf,
    },
    /// A file cannot be understood.
    #[error("{path}: {why}")]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// Nothing says where the cluster is.
    #[error(
        "no cluster is known; name one with --cluster IP:PORT and --key-file FILE, or start a \
         development cluster: dfs-tools dev up 5"
    )]
    Unknown,
    /// The key cannot be used.
    #[error(transparent)]
    Key(#[from] KeyError),
}

/// What `client.toml` says.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClientToml {
    /// Addresses of daemons.
    pub cluster: Vec<String>,
    /// File with the cluster key.
    pub key_file: Option<PathBuf>,
}

impl ClientToml {
    /// Reads the file's text.
    ///
    /// # Errors
    /// Line and reason, in words.
    pub fn parse(text: &str) -> Result<Self, String> {
        toml::from_str(text).map_err(|e| e.to_string())
    }
}

/// What the environment says; apart so that tests need not change it.
#[derive(Debug, Clone)]
struct Surroundings {
    cluster: Option<String>,
    key_file: Option<PathBuf>,
    dev_dir: Option<PathBuf>,
    default_dev_dir: PathBuf,
    client_toml: PathBuf,
    fallback_key: PathBuf,
}

impl Surroundings {
    fn detect() -> Self {
        let var = |name| std::env::var_os(name).filter(|v| !v.is_empty());
        Self {
            cluster: var("DFS_CLUSTER").map(|v| v.to_string_lossy().into_owned()),
            key_file: var("DFS_KEY_FILE").map(PathBuf::from),
            dev_dir: var("DFS_DEV_DIR").map(PathBuf::from),
            default_dev_dir: default_dir(),
            client_toml: CLIENT_TOML.into(),
            fallback_key: KEY_FILE.into(),
        }
    }
}

/// Finds the cluster and its key.
///
/// # Errors
/// [`DiscoverError`], saying what to do.
pub fn discover(
    cluster: Option<&str>,
    key_file: Option<&Path>,
) -> Result<ClientConfig, DiscoverError> {
    let (seeds, key_file) = find(cluster, key_file, &Surroundings::detect())?;
    Ok(ClientConfig::new(seeds, ClusterKey::load(&key_file)?))
}

fn find(
    cluster: Option<&str>,
    key_file: Option<&Path>,
    around: &Surroundings,
) -> Result<(Vec<SocketAddr>, PathBuf), DiscoverError> {
    let toml = client_toml(&around.client_toml)?;
    let key_file = key_file
        .map(Path::to_owned)
        .or_else(|| around.key_file.clone());
    let toml_key = || toml.as_ref().and_then(|t| t.key_file.clone());
    let system_key = || toml_key().unwrap_or_else(|| around.fallback_key.clone());
    if let Some(text) = cluster.or(around.cluster.as_deref()) {
        if text.contains('/') || Path::new(text).is_dir() {
            let (seeds, key) = dev_cluster(Path::new(text))?;
            return Ok((seeds, key_file.unwrap_or(key)));
        }
        let seeds = addresses(text.split(','))?;
        return Ok((seeds, key_file.unwrap_or_else(system_key)));
    }
    if let Some(dir) = &around.dev_dir {
        let (seeds, key) = dev_cluster(dir)?;
        return Ok((seeds, key_file.unwrap_or(key)));
    }
    if let Some(toml) = toml.as_ref().filter(|t| !t.cluster.is_empty()) {
        let seeds = addresses(toml.cluster.iter().map(String::as_str))?;
        return Ok((seeds, key_file.unwrap_or_else(system_key)));
    }
    if let Ok((seeds, key)) = dev_cluster(&around.default_dev_dir) {
        return Ok((seeds, key_file.unwrap_or(key)));
    }
    let key = key_file.unwrap_or_else(system_key);
    if !key.exists() {
        return Err(DiscoverError::Unknown);
    }
    Ok((vec![SocketAddr::from(([127, 0, 0, 1], DEFAULT_PORT))], key))
}

fn dev_cluster(dir: &Path) -> Result<(Vec<SocketAddr>, PathBuf), DiscoverError> {
    let dev = DevDir::new(dir);
    let unreadable = |e: std::io::Error| DiscoverError::File {
        path: dir.to_owned(),
        why: e.to_string(),
    };
    let seeds = dev.nodes().map_err(unreadable)?;
    if seeds.is_empty() {
        return Err(DiscoverError::NoCluster {
            dir: dir.to_owned(),
        });
    }
    Ok((seeds, dev.key_file()))
}

fn client_toml(path: &Path) -> Result<Option<ClientToml>, DiscoverError> {
    let wrong = |why: String| DiscoverError::File {
        path: path.to_owned(),
        why,
    };
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(wrong(e.to_string())),
    };
    ClientToml::parse(&text).map(Some).map_err(wrong)
}

fn addresses<'a>(texts: impl Iterator<Item = &'a str>) -> Result<Vec<SocketAddr>, DiscoverError> {
    let mut found = Vec::new();
    for text in texts.map(str::trim).filter(|t| !t.is_empty()) {
        let wrong = |why: String| DiscoverError::Address {
            text: text.to_owned(),
            why,
        };
        if let Ok(addr) = text.parse::<SocketAddr>() {
            found.push(addr);
            continue;
        }
        if let Ok(ip) = text.parse() {
            found.push(SocketAddr::new(ip, DEFAULT_PORT));
            continue;
        }
        let named = match text.contains(':') {
            true => text.to_socket_addrs(),
            false => (text, DEFAULT_PORT).to_socket_addrs(),
        };
        found.extend(named.map_err(|e| wrong(e.to_string()))?);
    }
    match found.is_empty() {
        true => Err(DiscoverError::Unknown),
        false => Ok(found),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn around(dir: &Path) -> Surroundings {
        Surroundings {
            cluster: None,
            key_file: None,
            dev_dir: None,
            default_dev_dir: dir.join("default"),
            client_toml: dir.join("client.toml"),
            fallback_key: dir.join("fallback.key"),
        }
    }

    #[test]
    fn the_flag_wins_over_the_environment_and_that_over_files() {
        let dir = tempfile::tempdir().unwrap();
        let mut around = around(dir.path());
        std::fs::write(
            &around.client_toml,
            "cluster = [\"10.0.0.3\"]\nkey_file = \"/k\"",
        )
        .unwrap();
        let port = |s: &Surroundings, flag| find(flag, None, s).unwrap().0[0].to_string();
        assert_eq!(port(&around, None), "10.0.0.3:7400");
        around.cluster = Some("10.0.0.2:1".into());
        assert_eq!(port(&around, None), "10.0.0.2:1");
        assert_eq!(port(&around, Some("10.0.0.1:9,10.0.0.2:9")), "10.0.0.1:9");
        assert_eq!(find(None, None, &around).unwrap().1, Path::new("/k"));
        let named = find(None, Some(Path::new("/x")), &around).unwrap();
        assert_eq!(named.1, Path::new("/x"));
    }

    #[test]
    fn a_development_cluster_brings_its_key() {
        let dir = tempfile::tempdir().unwrap();
        let mut around = around(dir.path());
        assert!(matches!(
            find(None, None, &around),
            Err(DiscoverError::Unknown)
        ));
        let seeds = DevDir::new(dir.path().join("default"))
            .prepare(2, "")
            .unwrap();
        let found = find(None, None, &around).unwrap();
        assert_eq!(
            found,
            (seeds.clone(), dir.path().join("default/cluster.key"))
        );
        let named = dir.path().join("default").display().to_string();
        assert_eq!(find(Some(&named), None, &around).unwrap(), found);
        around.dev_dir = Some(dir.path().join("none"));
        let missing = find(None, None, &around).unwrap_err().to_string();
        assert!(missing.contains("dev up"), "{missing}");
    }

    #[test]
    fn an_address_that_is_none_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let e = find(Some("10.0.0.1:port"), None, &around(dir.path())).unwrap_err();
        assert!(e.to_string().contains("10.0.0.1:port"), "{e}");
    }
}
