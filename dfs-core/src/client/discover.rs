//! Which cluster a program means, and its key. The first source that names one is used:
//!
//! 1. `--cluster`: addresses (`HOST[:PORT]`, comma-separated) or a cluster directory;
//! 2. the variable `DFS_CLUSTER`, same form;
//! 3. `DFS_DEV_DIR`: the cluster directory there (or the only one below it);
//! 4. `/etc/dfs/client.toml`: `seeds = ["HOST:PORT"]`, `key_file = "PATH"`;
//! 5. the daemon on this machine: the cluster directory `/run/dfs`, or port 7400 on the loopback.
//!
//! A *cluster directory* holds `seeds` (one address per line, `#` begins a comment) and
//! `cluster.key`. The key is `--key-file`, or `DFS_KEY_FILE`, or the one that goes with the source,
//! or `/etc/dfs/cluster.key`. A source that is named but broken is an error: no other cluster is
//! taken in its place.
use crate::net::ClusterKey;
use crate::net::auth::KeyError;
use std::ffi::OsString;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};

/// TCP port of a daemon when none is named.
pub const DEFAULT_PORT: u16 = 7400;

/// What the command line says.
#[derive(Debug, Clone, Default)]
pub struct ClusterArgs {
    /// `--cluster`: addresses or a directory.
    pub cluster: Option<String>,
    /// `--key-file`.
    pub key_file: Option<PathBuf>,
}

/// A cluster found.
#[derive(Debug, Clone)]
pub struct Found {
    /// Where to ask first.
    pub seeds: Vec<SocketAddr>,
    /// Its key.
    pub key: ClusterKey,
    /// Which source named it, for people.
    pub source: String,
}

/// Why no cluster was found. The text says what to do next.
#[derive(Debug, thiserror::Error)]
pub enum DiscoverError {
    /// No source names one.
    #[error(
        "no cluster is named. Tried: {tried}. Name one with --cluster HOST:PORT[,HOST:PORT...] or \
         --cluster DIR (a directory with `seeds` and `cluster.key`), or set DFS_CLUSTER"
    )]
    Nothing {
        /// What was looked at.
        tried: String,
    },
    /// An address cannot be understood.
    #[error(
        "{source_name}: `{text}` is no address ({why}); write HOST:PORT, or the path of a cluster directory"
    )]
    Address {
        /// Which source.
        source_name: String,
        /// The text.
        text: String,
        /// Why.
        why: String,
    },
    /// A file of a named source cannot be used.
    #[error("{path}: {why}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// The key cannot be used.
    #[error("{0}; name another one with --key-file PATH or DFS_KEY_FILE")]
    Key(#[from] KeyError),
}

/// Where things are on this machine; a parameter so that tests can move it.
struct Places<'a> {
    env: &'a dyn Fn(&str) -> Option<OsString>,
    etc: PathBuf,
    run: PathBuf,
}

/// Finds the cluster that the arguments, the environment or this machine name.
///
/// # Errors
/// [`DiscoverError`].
pub fn find_cluster(args: &ClusterArgs) -> Result<Found, DiscoverError> {
    let places = Places {
        env: &|name| std::env::var_os(name).filter(|v| !v.is_empty()),
        etc: "/etc/dfs".into(),
        run: "/run/dfs".into(),
    };
    places.find(args)
}

/// The addresses in the `seeds` file of a cluster directory.
///
/// # Errors
/// It cannot be read, or a line is no address.
pub fn read_seeds(dir: &Path) -> Result<Vec<SocketAddr>, DiscoverError> {
    let path = dir.join("seeds");
    let text = std::fs::read_to_string(&path).map_err(|e| DiscoverError::File {
        path: path.clone(),
        why: e.to_string(),
    })?;
    let lines = text
        .lines()
        .map(|line| line.split('#').next().unwrap_or_default().trim())
        .filter(|line| !line.is_empty());
    let seeds = parse_addresses(lines, &path.display().to_string())?;
    if seeds.is_empty() {
        let why = "names no address".into();
        return Err(DiscoverError::File { path, why });
    }
    Ok(seeds)
}

fn parse_addresses<'t>(
    texts: impl Iterator<Item = &'t str>,
    source_name: &str,
) -> Result<Vec<SocketAddr>, DiscoverError> {
    let mut all = Vec::new();
    for text in texts {
        let bad = |why: String| DiscoverError::Address {
            source_name: source_name.to_owned(),
            text: text.to_owned(),
            why,
        };
        let bare = text
            .parse()
            .ok()
            .map(|ip| SocketAddr::new(ip, DEFAULT_PORT));
        let found: Vec<SocketAddr> = match (text.parse(), bare) {
            (Ok(addr), _) | (_, Some(addr)) => vec![addr],
            _ if text.contains('/') => return Err(bad("no such directory".into())),
            _ if text.contains(':') => text
                .to_socket_addrs()
                .map_err(|e| bad(e.to_string()))?
                .collect(),
            _ => (text, DEFAULT_PORT)
                .to_socket_addrs()
                .map_err(|e| bad(e.to_string()))?
                .collect(),
        };
        all.extend(found);
    }
    Ok(all)
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct ClientToml {
    seeds: Vec<String>,
    key_file: Option<PathBuf>,
}

impl Places<'_> {
    fn find(&self, args: &ClusterArgs) -> Result<Found, DiscoverError> {
        let mut tried = Vec::new();
        if let Some(text) = &args.cluster {
            return self.named(args, text, "--cluster");
        }
        tried.push("--cluster (not given)".to_owned());
        if let Some(text) = (self.env)("DFS_CLUSTER") {
            return self.named(args, &text.to_string_lossy(), "DFS_CLUSTER");
        }
        tried.push("DFS_CLUSTER (not set)".to_owned());
        match (self.env)("DFS_DEV_DIR") {
            Some(dir) => match dev_cluster(Path::new(&dir)) {
                Some(dir) => {
                    let source = format!("DFS_DEV_DIR ({})", dir.display());
                    return self.directory(args, &dir, source);
                }
                None => tried.push(format!(
                    "DFS_DEV_DIR ({} holds no cluster, or several)",
                    dir.to_string_lossy()
                )),
            },
            None => tried.push("DFS_DEV_DIR (not set)".to_owned()),
        }
        let file = self.etc.join("client.toml");
        if file.exists() {
            return self.config_file(args, &file);
        }
        tried.push(format!("{} (not there)", file.display()));
        if self.run.join("seeds").exists() {
            let source = "the daemon on this machine".to_owned();
            return self.directory(args, &self.run, source);
        }
        tried.push(format!("{} (no seeds)", self.run.display()));
        if self.etc.join("cluster.key").exists() {
            return Ok(Found {
                seeds: vec![SocketAddr::from(([127, 0, 0, 1], DEFAULT_PORT))],
                key: self.key(args, None)?,
                source: format!("the daemon on this machine (port {DEFAULT_PORT})"),
            });
        }
        let key = self.etc.join("cluster.key");
        tried.push(format!("{} (not there)", key.display()));
        Err(DiscoverError::Nothing {
            tried: tried.join(", "),
        })
    }

    /// Addresses or a directory.
    fn named(&self, args: &ClusterArgs, text: &str, by: &str) -> Result<Found, DiscoverError> {
        let dir = Path::new(text);
        if dir.is_dir() {
            return self.directory(args, dir, format!("{by} {text}"));
        }
        let texts = text.split(',').map(str::trim).filter(|t| !t.is_empty());
        let seeds = parse_addresses(texts, by)?;
        if seeds.is_empty() {
            return Err(DiscoverError::Address {
                source_name: by.to_owned(),
                text: text.to_owned(),
                why: "it is empty".to_owned(),
            });
        }
        Ok(Found {
            seeds,
            key: self.key(args, None)?,
            source: format!("{by} {text}"),
        })
    }

    fn directory(
        &self,
        args: &ClusterArgs,
        dir: &Path,
        source: String,
    ) -> Result<Found, DiscoverError> {
        Ok(Found {
            seeds: read_seeds(dir)?,
            key: self.key(args, Some(dir.join("cluster.key")))?,
            source,
        })
    }

    fn config_file(&self, args: &ClusterArgs, file: &Path) -> Result<Found, DiscoverError> {
        let broken = |why: String| DiscoverError::File {
            path: file.to_owned(),
            why,
        };
        let text = std::fs::read_to_string(file).map_err(|e| broken(e.to_string()))?;
        let config: ClientToml = toml::from_str(&text).map_err(|e| broken(e.to_string()))?;
        let texts = config.seeds.iter().map(String::as_str);
        let seeds = parse_addresses(texts, &file.display().to_string())?;
        if seeds.is_empty() {
            return Err(broken("seeds names no address".into()));
        }
        Ok(Found {
            seeds,
            // A relative path is relative to the file.
            key: self.key(args, config.key_file.map(|k| self.etc.join(k)))?,
            source: file.display().to_string(),
        })
    }

    fn key(&self, args: &ClusterArgs, own: Option<PathBuf>) -> Result<ClusterKey, DiscoverError> {
        let path = args
            .key_file
            .clone()
            .or_else(|| (self.env)("DFS_KEY_FILE").map(PathBuf::from))
            .or_else(|| own.filter(|p| p.exists()))
            .unwrap_or_else(|| self.etc.join("cluster.key"));
        Ok(ClusterKey::load(&path)?)
    }
}

/// The cluster directory at `dir`, or the only one directly below it.
fn dev_cluster(dir: &Path) -> Option<PathBuf> {
    if dir.join("seeds").exists() {
        return Some(dir.to_owned());
    }
    let below = std::fs::read_dir(dir).ok()?;
    let mut found = below
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .filter(|path| path.join("seeds").exists());
    let first = found.next()?;
    found.next().is_none().then_some(first)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    struct Machine {
        root: tempfile::TempDir,
        env: BTreeMap<&'static str, OsString>,
    }

    impl Machine {
        fn new() -> Self {
            let root = tempfile::tempdir().unwrap();
            for dir in ["etc", "run", "dev"] {
                std::fs::create_dir(root.path().join(dir)).unwrap();
            }
            Self {
                root,
                env: BTreeMap::new(),
            }
        }

        fn path(&self, path: &str) -> PathBuf {
            self.root.path().join(path)
        }

        /// Makes a cluster directory; gives its key.
        fn cluster(&self, dir: &str, seeds: &str) -> ClusterKey {
            let dir = self.path(dir);
            std::fs::create_dir_all(&dir).unwrap();
            std::fs::write(dir.join("seeds"), seeds).unwrap();
            ClusterKey::generate(&dir.join("cluster.key")).unwrap()
        }

        fn find(&self, cluster: Option<&str>) -> Result<Found, DiscoverError> {
            let env = |name: &str| self.env.get(name).cloned();
            let places = Places {
                env: &env,
                etc: self.path("etc"),
                run: self.path("run"),
            };
            places.find(&ClusterArgs {
                cluster: cluster.map(str::to_owned),
                key_file: None,
            })
        }
    }

    #[test]
    fn nothing_named_says_what_was_tried_and_what_to_do() {
        let error = Machine::new().find(None).unwrap_err().to_string();
        for part in [
            "--cluster",
            "DFS_CLUSTER",
            "DFS_DEV_DIR",
            "client.toml",
            "cluster.key",
        ] {
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn sources_are_taken_in_order() {
        let mut m = Machine::new();
        let local = ClusterKey::generate(&m.path("etc/cluster.key")).unwrap();
        let found = m.find(None).unwrap();
        assert_eq!(found.seeds, ["127.0.0.1:7400".parse().unwrap()]);
        assert_eq!(found.key, local);

        m.cluster("run", "127.0.0.1:7401\n");
        assert_eq!(m.find(None).unwrap().seeds[0].port(), 7401);
        std::fs::write(m.path("etc/client.toml"), "seeds = [\"127.0.0.1:7402\"]\n").unwrap();
        assert_eq!(m.find(None).unwrap().seeds[0].port(), 7402);

        let dev = m.cluster("dev/one", "# nodes\n127.0.0.1:7403 # a\n127.0.0.1:7404\n");
        m.env.insert("DFS_DEV_DIR", m.path("dev").into());
        let found = m.find(None).unwrap();
        assert_eq!((found.seeds.len(), found.key), (2, dev));
        m.env
            .insert("DFS_CLUSTER", "127.0.0.1:7405, 127.0.0.1".into());
        let found = m.find(None).unwrap();
        assert_eq!(
            (found.seeds[0].port(), found.seeds[1].port()),
            (7405, DEFAULT_PORT)
        );
        assert_eq!(found.key, local);
        let dir = m.path("dev/one");
        assert_eq!(m.find(dir.to_str()).unwrap().seeds[0].port(), 7403);
    }

    #[test]
    fn a_named_but_broken_source_is_an_error() {
        let m = Machine::new();
        m.cluster("dev/one", "# empty\n");
        let dir = m.path("dev/one");
        assert!(matches!(
            m.find(dir.to_str()),
            Err(DiscoverError::File { .. })
        ));
        let error = m.find(Some("/no/such/dir")).unwrap_err();
        assert!(error.to_string().contains("no such directory"), "{error}");
        let error = m.find(Some("127.0.0.1:1")).unwrap_err();
        assert!(error.to_string().contains("--key-file"), "{error}");
        std::fs::write(m.path("etc/client.toml"), "sedes = []\n").unwrap();
        assert!(matches!(m.find(None), Err(DiscoverError::File { .. })));
    }
}
