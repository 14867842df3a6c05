//! Command line of `dfs-mount`.
use anyhow::{Context, bail};
use clap::Parser;
use std::path::PathBuf;
use std::time::Duration;

/// Mount a DFS cluster as an ordinary directory.
///
/// The cluster is found by --cluster, DFS_CLUSTER, the development cluster under DFS_DEV_DIR if
/// that is set, /etc/dfs/client.toml, or the daemon on this machine, in this order.
#[derive(Debug, Clone, Parser)]
#[command(name = "dfs-mount", version)]
pub struct Cli {
    /// Where to mount (an existing directory), or SOURCE MOUNTPOINT as mount(8) passes them
    #[arg(required = true, num_args = 1..=2, value_name = "MOUNTPOINT")]
    pub places: Vec<PathBuf>,
    /// Addresses of daemons (comma-separated), or a cluster directory
    #[arg(long, value_name = "ADDRS|DIR")]
    pub cluster: Option<String>,
    /// File with the cluster key
    #[arg(long, value_name = "FILE")]
    pub key_file: Option<PathBuf>,
    /// Start an embedded cluster of N nodes (default 5) in this process and mount it
    #[arg(long, value_name = "N", num_args = 0..=1, default_missing_value = "5", require_equals = true)]
    pub dev: Option<u8>,
    /// Where the embedded cluster keeps its state
    #[arg(long, value_name = "DIR", requires = "dev")]
    pub dev_dir: Option<PathBuf>,
    /// Stay in the foreground
    #[arg(short, long)]
    pub foreground: bool,
    /// Mount options, comma-separated: ro, noatime, noexec, nosuid, suid, nodev, dev, timeout=SECONDS,
    /// cache=MIB, dirty=MIB, behind, fsname=NAME, cluster=ADDRS|DIR, key-file=FILE, remount
    #[arg(short = 'o', value_name = "OPTIONS", action = clap::ArgAction::Append)]
    pub options: Vec<String>,
    /// Write the log to this file instead of standard error
    #[arg(long, value_name = "FILE")]
    pub log: Option<PathBuf>,
    /// Check the arguments and do nothing (as mount -f)
    #[arg(long, hide = true)]
    pub fake: bool,
    /// Used between the starting process and the one that stays
    #[arg(long, hide = true)]
    pub ready_fd: Option<i32>,
}

impl Cli {
    /// The mountpoint: the last place named.
    ///
    /// # Panics
    /// Never: the parser demands one.
    #[must_use]
    pub fn mountpoint(&self) -> &PathBuf {
        self.places.last().expect("the parser demands a mountpoint")
    }

    /// What mount(8) calls the source, where it names a cluster: addresses or a directory.
    #[must_use]
    pub fn source(&self) -> Option<&str> {
        let [source, _] = self.places.as_slice() else {
            return None;
        };
        let source = source.to_str()?;
        let source = source.strip_prefix("dfs:").unwrap_or(source);
        (!["", "dfs", "none"].contains(&source)).then_some(source)
    }
}

/// `-o` options, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Read-only.
    pub read_only: bool,
    /// Do not run programs.
    pub no_exec: bool,
    /// Reads move no access times.
    pub no_atime: bool,
    /// Honour set-uid bits.
    pub suid: bool,
    /// Honour device nodes.
    pub dev: bool,
    /// Deadline of data operations.
    pub timeout: Duration,
    /// Memory for cached data, in bytes.
    pub cache_bytes: usize,
    /// Memory for data not yet written, in bytes.
    pub dirty_bytes: usize,
    /// A close does not wait until what was written is stored.
    pub behind: bool,
    /// What `/proc/mounts` shows as the source.
    pub fs_name: Option<String>,
    /// Addresses of daemons, or a cluster directory.
    pub cluster: Option<String>,
    /// File with the cluster key.
    pub key_file: Option<PathBuf>,
    /// Change the flags of a mount that serves.
    pub remount: bool,
}

/// A 64th of the memory, within bounds: a tree of some thousand small files is read again from there.
fn default_cache_bytes(memory: u64) -> usize {
    const MIB: u64 = 1 << 20;
    usize::try_from((memory / 64).clamp(64 * MIB, 512 * MIB)).unwrap_or(64 << 20)
}

impl Default for Options {
    fn default() -> Self {
        Self {
            read_only: false,
            no_exec: false,
            no_atime: false,
            suid: false,
            dev: false,
            timeout: Duration::from_secs(30),
            cache_bytes: default_cache_bytes(crate::memory_bytes()),
            dirty_bytes: 64 << 20,
            behind: false,
            fs_name: None,
            cluster: None,
            key_file: None,
            remount: false,
        }
    }
}

/// Options of mount(8) that mean nothing to us, or only to /etc/fstab, or that every mount of ours has.
const IGNORED: [&str; 15] = [
    "defaults",
    "auto",
    "noauto",
    "user",
    "nouser",
    "users",
    "owner",
    "group",
    "_netdev",
    "nofail",
    "async",
    "diratime",
    "nodiratime",
    "allow_other",
    "default_permissions",
];

/// Options that the mount table shows and mount(8) hands back at a remount.
const SHOWN: [&str; 4] = ["user_id", "group_id", "max_read", "rootmode"];

/// Longest `-o timeout=`, in seconds: a year.
const TIMEOUT_MAX: u64 = 365 * 24 * 3600;

impl Options {
    /// Parses `-o` arguments. A value with commas stands between double quotes, as mount(8) says.
    ///
    /// # Errors
    /// An unknown option or a value that is no number, by name.
    pub fn parse(args: &[String]) -> anyhow::Result<Self> {
        let mut this = Self::default();
        for option in args.iter().flat_map(|a| split(a)).filter(|o| !o.is_empty()) {
            let (key, value) = match option.split_once('=') {
                Some((key, value)) => (key, Some(value)),
                None => (&*option, None),
            };
            let number = || -> anyhow::Result<u64> {
                let text = value.with_context(|| format!("-o {key} needs a value"))?;
                text.parse()
                    .with_context(|| format!("-o {key}={text}: not a number"))
            };
            let bytes = |mib: u64| {
                let bytes = usize::try_from(mib)
                    .ok()
                    .and_then(|n| n.checked_mul(1 << 20));
                bytes.with_context(|| format!("-o {key}={mib}: more than there is"))
            };
            match key {
                "ro" => this.read_only = true,
                "rw" => this.read_only = false,
                "noexec" => this.no_exec = true,
                "exec" => this.no_exec = false,
                "noatime" => this.no_atime = true,
                "atime" | "relatime" | "norelatime" => this.no_atime = false,
                "remount" => this.remount = true,
                "cluster" => this.cluster = value.map(str::to_owned),
                "key-file" => this.key_file = value.map(PathBuf::from),
                "suid" => this.suid = true,
                "nosuid" => this.suid = false,
                "dev" => this.dev = true,
                "nodev" => this.dev = false,
                "timeout" => match number()? {
                    seconds if seconds > TIMEOUT_MAX => {
                        bail!("-o timeout={seconds}: at most {TIMEOUT_MAX} seconds")
                    }
                    seconds => this.timeout = Duration::from_secs(seconds.max(1)),
                },
                "cache" => this.cache_bytes = bytes(number()?)?,
                "dirty" => this.dirty_bytes = bytes(number()?.max(8))?,
                "behind" => this.behind = true,
                "nobehind" => this.behind = false,
                "fsname" => this.fs_name = value.map(str::to_owned),
                key if IGNORED.contains(&key) || SHOWN.contains(&key) => {}
                key if key.starts_with("x-") => {}
                key => bail!(
                    "unknown mount option {key:?}; known: ro, noatime, noexec, suid, dev, timeout=SECONDS, \
                     cache=MIB, dirty=MIB, behind, fsname=NAME, cluster=ADDRS|DIR, key-file=FILE, remount"
                ),
            }
        }
        Ok(this)
    }
}

/// The options between the commas outside quotes, without the quotes.
fn split(options: &str) -> Vec<String> {
    let (mut all, mut is_quoted) = (vec![String::new()], false);
    for c in options.chars() {
        match c {
            '"' => is_quoted = !is_quoted,
            ',' if !is_quoted => all.push(String::new()),
            c => all.last_mut().expect("never empty").push(c),
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(s: &str) -> anyhow::Result<Options> {
        Options::parse(&[s.to_owned()])
    }

    #[test]
    fn options_follow_the_mount_convention() {
        let o = parse("ro,suid,timeout=5,cache=32,x-systemd.automount,_netdev").unwrap();
        assert!(o.read_only && o.suid && !o.dev);
        assert_eq!(
            (o.timeout, o.cache_bytes),
            (Duration::from_secs(5), 32 << 20)
        );
    }

    #[test]
    fn an_unknown_option_is_named() {
        let e = parse("rw,frobnicate").unwrap_err().to_string();
        assert!(e.contains("frobnicate"), "{e}");
        assert!(
            parse("timeout=soon")
                .unwrap_err()
                .to_string()
                .contains("soon")
        );
    }

    #[test]
    fn regression_a_number_that_no_clock_or_memory_has_is_refused() {
        for option in ["timeout", "cache", "dirty"] {
            for value in [u64::MAX, 1 << 44] {
                let e = parse(&format!("{option}={value}")).unwrap_err().to_string();
                assert!(e.contains(option) && e.contains(&value.to_string()), "{e}");
            }
        }
        assert!(parse("timeout=31536000,cache=1024,dirty=1024").is_ok());
    }

    #[test]
    fn regression_a_quoted_value_may_have_commas() {
        let o = parse("ro,cluster=\"10.0.0.1:7400,10.0.0.2:7400\",timeout=5").unwrap();
        assert_eq!(o.cluster.as_deref(), Some("10.0.0.1:7400,10.0.0.2:7400"));
        assert!(o.read_only && o.timeout == Duration::from_secs(5));
    }

    #[test]
    fn dev_takes_a_number_only_after_an_equals_sign() {
        let cli = Cli::parse_from(["dfs-mount", "--dev", "/mnt/dfs"]);
        assert_eq!(
            (cli.dev, cli.mountpoint().to_str()),
            (Some(5), Some("/mnt/dfs"))
        );
        let cli = Cli::parse_from(["dfs-mount", "--dev=3", "/mnt/dfs"]);
        assert_eq!(cli.dev, Some(3));
    }
}
