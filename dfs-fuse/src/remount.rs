//! `-o remount`: other flags for a mount that serves, without touching its process.
use crate::cli::Options;
use anyhow::{Context, bail};
use rustix::mount::MountFlags;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Changes read-only, nosuid, nodev and noexec of the mount at `mountpoint`; everything else
/// (deadline, caches) stays as it was mounted.
///
/// # Errors
/// No DFS mount there, or no permission; nothing was changed.
pub fn remount(mountpoint: &Path, options: &Options) -> anyhow::Result<()> {
    let shown = mountpoint.display();
    let real = std::fs::canonicalize(mountpoint).with_context(|| format!("mountpoint {shown}"))?;
    let table = std::fs::read("/proc/self/mountinfo").context("/proc/self/mountinfo")?;
    if !is_dfs(&table, &real) {
        bail!("{shown} is no DFS mount; mount it first, without -o remount");
    }
    rustix::mount::mount_remount(&real, flags(options), "")
        .with_context(|| format!("cannot remount {shown}"))
}

/// Flags of mount(2) for these options.
#[must_use]
pub fn flags(options: &Options) -> MountFlags {
    // The kernel keeps no access times for us; it shows what this mount does.
    let mut flags = MountFlags::empty();
    flags.set(MountFlags::NOATIME, options.no_atime);
    flags.set(MountFlags::RELATIME, !options.no_atime);
    flags.set(MountFlags::NOSUID, !options.suid);
    flags.set(MountFlags::NODEV, !options.dev);
    flags.set(MountFlags::NOEXEC, options.no_exec);
    flags.set(MountFlags::RDONLY, options.read_only);
    flags
}

/// The topmost mount at `path` is ours.
fn is_dfs(mountinfo: &[u8], path: &Path) -> bool {
    let mut ours = false;
    for line in mountinfo.split(|b| *b == b'\n') {
        let mut fields = line.split(|b| *b == b' ');
        if fields.nth(4).map(unescape).as_deref() == Some(path.as_os_str().as_bytes()) {
            let mut rest = fields.skip_while(|f| *f != b"-");
            ours = rest.nth(1) == Some(b"fuse.dfs");
        }
    }
    ours
}

/// Takes back the octal escapes of a mount table.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, tail)) = rest.split_first() {
        let digits = tail.get(..3).and_then(|d| std::str::from_utf8(d).ok());
        let value = digits.and_then(|d| u8::from_str_radix(d, 8).ok());
        if let (b'\\', Some(value)) = (byte, value) {
            out.push(value);
            rest = &tail[3..];
        } else {
            out.push(byte);
            rest = tail;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_mount_of_ours_that_is_on_top_counts() {
        let ours = "36 1 0:40 / /mnt/a\\040b rw,noatime shared:1 - fuse.dfs dfs:1 rw";
        let other = "37 1 0:41 / /mnt/a\\040b rw - tmpfs tmpfs rw";
        let path = Path::new("/mnt/a b");
        assert!(is_dfs(format!("{other}\n{ours}\n").as_bytes(), path));
        assert!(!is_dfs(format!("{ours}\n{other}\n").as_bytes(), path));
        assert!(!is_dfs(ours.as_bytes(), Path::new("/mnt/a")));
        assert!(!is_dfs(b"", path));
    }

    #[test]
    fn flags_follow_the_options() {
        let of = |o: &str| flags(&Options::parse(&[o.to_owned()]).unwrap());
        assert!(of("ro").contains(MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV));
        assert_eq!(of("suid,dev,ro,rw"), MountFlags::RELATIME);
        assert_eq!(of("suid,dev,noatime"), MountFlags::NOATIME);
    }
}
