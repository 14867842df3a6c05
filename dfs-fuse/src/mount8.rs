//! How mount(8) calls a mount helper, in the words of our own command line.
//!
//! ```text
//! mount.fuse.dfs SOURCE MOUNTPOINT [-sfnv] [-N NAMESPACE] [-t TYPE] [-o OPTIONS]
//! ```
//! Linked under that name in `/sbin`, `dfs-mount` serves `mount -t fuse.dfs`, lines of /etc/fstab and
//! `mount -o remount`. mount(8) keeps options that are defaults of a mount to itself (`dev`, `suid`,
//! `exec`, `rw`), so that a helper starts from these.
use anyhow::{Context, bail};
use std::ffi::{OsStr, OsString};
use std::path::Path;

/// What a mount by mount(8) has unless its options say otherwise.
const DEFAULTS: &str = "rw,suid,dev,exec";

/// The arguments, program name first, as [`crate::cli::Cli`] takes them: unchanged unless the
/// program was called by the name of a mount helper.
///
/// # Errors
/// An argument that mount(8) does not give.
pub fn arguments(args: Vec<OsString>) -> anyhow::Result<Vec<OsString>> {
    let called = args.first().map(Path::new).and_then(Path::file_name);
    let is_helper = called.is_some_and(|n| n.as_encoded_bytes().starts_with(b"mount.fuse"))
        || called == Some(OsStr::new("mount.dfs"));
    if !is_helper {
        return Ok(args);
    }
    let mut ours: Vec<OsString> = vec!["dfs-mount".into(), "-o".into(), DEFAULTS.into()];
    let mut rest = args.into_iter().skip(1);
    while let Some(arg) = rest.next() {
        let Some(flags) = arg
            .to_str()
            .and_then(|a| a.strip_prefix('-'))
            .map(str::to_owned)
        else {
            ours.push(arg);
            continue;
        };
        for flag in flags.chars() {
            match flag {
                // Sloppy, no mtab, verbose: nothing to do differently.
                's' | 'n' | 'v' => {}
                'f' => ours.push("--fake".into()),
                'o' => {
                    let options = rest.next().context("-o needs options")?;
                    ours.extend(["-o".into(), options]);
                }
                't' => drop(rest.next()),
                'N' => {
                    bail!("-N: mounting into another namespace is not supported; use nsenter(1)")
                }
                other => bail!("-{other}: no option of a mount helper"),
            }
        }
    }
    Ok(ours)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Options};
    use clap::Parser;

    fn cli(line: &str) -> Cli {
        let args = line.split(' ').map(OsString::from).collect();
        Cli::parse_from(arguments(args).unwrap())
    }

    #[test]
    fn a_call_by_mount_is_understood() {
        let cli = cli("/sbin/mount.fuse.dfs 10.0.0.1:7400 /mnt/dfs -sn -t fuse.dfs -o nodev,ro");
        assert_eq!(cli.mountpoint(), Path::new("/mnt/dfs"));
        assert_eq!(cli.source(), Some("10.0.0.1:7400"));
        let options = Options::parse(&cli.options).unwrap();
        assert!(options.suid && !options.dev && options.read_only && !options.remount);
    }

    #[test]
    fn a_remount_keeps_what_mount_calls_defaults() {
        let cli =
            cli("mount.fuse.dfs dfs:127.0.0.1:1 /mnt/dfs -o ro,relatime,remount,rw,user_id=0");
        let options = Options::parse(&cli.options).unwrap();
        assert!(options.remount && options.suid && options.dev && !options.read_only);
    }

    #[test]
    fn a_call_by_our_own_name_is_left_alone() {
        let args = |l: &str| -> Vec<OsString> { l.split(' ').map(OsString::from).collect() };
        let own = args("/usr/bin/dfs-mount -f /mnt/dfs");
        assert_eq!(arguments(own.clone()).unwrap(), own);
        assert!(arguments(args("mount.fuse.dfs a b -x")).is_err());
        assert!(arguments(args("mount.fuse.dfs a b -o")).is_err());
    }
}
