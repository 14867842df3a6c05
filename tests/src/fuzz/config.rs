//! What people write: configuration, options, the key file, paths.
use dfs_core::client::split_path;
use dfs_core::net::ClusterKey;
use dfs_core::types::about::PATH_HINT_MAX;
use dfs_core::types::{Name, PathHint};
use dfs_daemon::cli::Cli;
use dfs_daemon::config::Config;
use dfs_daemon::discover::ClientToml;
use dfs_fuse::cli::Options;
use dfs_tools::path::{ClusterPath, Places};
use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::PathBuf;

/// A file in memory that has a path.
fn file_of(bytes: &[u8]) -> (File, PathBuf) {
    let made = rustix::fs::memfd_create("dfs-fuzz", rustix::fs::MemfdFlags::CLOEXEC);
    let file = File::from(made.expect("memory for a small file"));
    file.write_all_at(bytes, 0)
        .expect("memory for a small file");
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    (file, path.into())
}

/// The daemon's configuration file.
pub fn daemon_config(data: &[u8]) {
    let (_file, path) = file_of(data);
    let cli = Cli {
        config: Some(path),
        data: Some("/nonexistent".into()),
        ..Cli::default()
    };
    if let Ok(config) = Config::load(&cli) {
        assert!(config.cluster.quorum().is_ok());
        assert_eq!(Config::load(&cli).ok(), Some(config));
    }
}

/// What programs that use a cluster are configured by.
pub fn client_config(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let parsed = ClientToml::parse(&text);
    assert_eq!(parsed, ClientToml::parse(&text));
}

/// `-o` options of a mount, one argument a line.
pub fn mount_options(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let args: Vec<String> = text.lines().map(str::to_owned).collect();
    let Ok(options) = Options::parse(&args) else {
        return;
    };
    assert!(!options.timeout.is_zero());
    // The last one counts, so saying everything twice says the same.
    let twice = [&args[..], &args[..]].concat();
    assert_eq!(Options::parse(&twice).ok(), Some(options));
}

/// The file with the cluster's key.
pub fn cluster_key(data: &[u8]) {
    let (file, path) = file_of(data);
    let mode = std::fs::Permissions::from_mode(0o600);
    file.set_permissions(mode).expect("the file is ours");
    let Ok(key) = ClusterKey::load(&path) else {
        let text = String::from_utf8_lossy(data);
        assert_eq!(ClusterKey::from_hex(&text), None);
        return;
    };
    let hex = key.to_hex();
    assert_eq!(ClusterKey::from_hex(&hex), Some(key));
    let text = String::from_utf8_lossy(data).to_lowercase();
    assert_eq!(text.trim(), hex);
}

/// Paths and names as programs and people give them.
pub fn paths(data: &[u8]) {
    if let Ok(names) = split_path(data) {
        let joined: Vec<u8> = names
            .iter()
            .flat_map(|name| [b"/", name.as_bytes()].concat())
            .collect();
        assert_eq!(split_path(&joined).ok(), Some(names));
    }
    for parsed in [
        ClusterPath::parse(data),
        Places::default().resolve(OsStr::from_bytes(data)),
    ] {
        let Ok(path) = parsed else { continue };
        let again = ClusterPath::parse(&path.to_bytes()).expect("a path of names is one");
        assert_eq!(again.names(), path.names());
        // It must not panic either.
        let _ = path.to_string();
    }
    if let Ok(name) = Name::new(data) {
        assert_eq!(name.as_bytes(), data);
    }
    let hint = PathHint::new(data.to_vec());
    assert!(hint.0.len() <= PATH_HINT_MAX && data.ends_with(&hint.0));
}
