//! What a path argument means: a path in the cluster, or one below a mountpoint.
//!
//! 1. A relative path is taken from the working directory if that lies on a mount of ours, else from
//!    the cluster's root.
//! 2. An absolute path below a mountpoint of ours (`fuse.dfs` in `/proc/self/mounts`, the longest one
//!    that fits) loses the mountpoint; any other absolute path is one in the cluster.
//! 3. `.` and `..` are resolved lexically. Names are bytes; nothing is looked at on disk, so a mount
//!    that hangs does not matter.
use crate::error::ToolError;
use crate::format::escape;
use dfs_core::client::split_path;
use dfs_core::types::Name;
use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// Type of our mounts in `/proc/self/mounts`.
const FS_TYPE: &[u8] = b"fuse.dfs";

/// A path in the cluster.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClusterPath {
    names: Vec<Name>,
    /// It was written with a slash at the end: it must be a directory.
    pub wants_dir: bool,
}

impl ClusterPath {
    /// The root.
    #[must_use]
    pub fn root() -> Self {
        Self {
            names: Vec::new(),
            wants_dir: true,
        }
    }

    /// An absolute path.
    ///
    /// # Errors
    /// A component is no file name.
    pub fn parse(path: &[u8]) -> anyhow::Result<Self> {
        let names =
            split_path(path).map_err(|e| ToolError::Usage(format!("{}: {e}", escape(path))))?;
        let ends = [&b"/"[..], b"/.", b"/.."];
        let wants_dir = names.is_empty() || ends.iter().any(|end| path.ends_with(end));
        Ok(Self { names, wants_dir })
    }

    /// Its components.
    #[must_use]
    pub fn names(&self) -> &[Name] {
        &self.names
    }

    /// The last component; none of the root.
    #[must_use]
    pub fn name(&self) -> Option<&Name> {
        self.names.last()
    }

    /// The directory above; none of the root.
    #[must_use]
    pub fn parent(&self) -> Option<Self> {
        let (_, above) = self.names.split_last()?;
        Some(Self {
            names: above.to_vec(),
            wants_dir: true,
        })
    }

    /// An entry of this directory.
    #[must_use]
    pub fn join(&self, name: &Name) -> Self {
        let mut names = self.names.clone();
        names.push(name.clone());
        Self {
            names,
            wants_dir: false,
        }
    }

    /// `/a/b`, as bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for name in &self.names {
            bytes.push(b'/');
            bytes.extend_from_slice(name.as_bytes());
        }
        if bytes.is_empty() {
            bytes.push(b'/');
        }
        bytes
    }

    /// True if `other` is this path or lies below it.
    #[must_use]
    pub fn contains(&self, other: &Self) -> bool {
        other.names.starts_with(&self.names)
    }
}

impl fmt::Display for ClusterPath {
    /// Escaped, for messages.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&escape(&self.to_bytes()))
    }
}

/// Mounts of ours and the working directory.
#[derive(Debug, Clone, Default)]
pub struct Places {
    mounts: Vec<Vec<u8>>,
    cwd: Option<Vec<u8>>,
}

impl Places {
    /// As this process sees them.
    #[must_use]
    pub fn detect() -> Self {
        let mounts = std::fs::read("/proc/self/mounts").unwrap_or_default();
        let cwd = std::env::current_dir()
            .ok()
            .map(|d| d.into_os_string().into_vec());
        Self {
            mounts: mountpoints(&mounts),
            cwd,
        }
    }

    /// What an argument means.
    ///
    /// # Errors
    /// It is empty, or a component is no file name.
    pub fn resolve(&self, arg: &OsStr) -> anyhow::Result<ClusterPath> {
        let arg = arg.as_bytes();
        if arg.is_empty() {
            return Err(ToolError::Usage("an empty path; the root is /".into()).into());
        }
        let mut full = Vec::new();
        if arg.first() != Some(&b'/') {
            let on_mount = self
                .cwd
                .as_deref()
                .filter(|cwd| self.below_mount(cwd).is_some());
            full.extend_from_slice(on_mount.unwrap_or_default());
            full.push(b'/');
        }
        full.extend_from_slice(arg);
        let clean = normal(&full);
        let mut path = ClusterPath::parse(self.below_mount(&clean).unwrap_or(&clean))?;
        let ends = [&b"/"[..], b"/.", b"/.."];
        path.wants_dir |= ends.iter().any(|end| full.ends_with(end));
        Ok(path)
    }

    /// The part of an absolute path below the longest mountpoint that holds it.
    fn below_mount<'a>(&self, path: &'a [u8]) -> Option<&'a [u8]> {
        let below = |mount: &Vec<u8>| {
            let rest = path.strip_prefix(mount.as_slice())?;
            (rest.is_empty() || rest.starts_with(b"/")).then_some(rest)
        };
        self.mounts
            .iter()
            .filter_map(below)
            .min_by_key(|rest| rest.len())
    }
}

/// Resolves `.`, `..` and repeated slashes of an absolute path.
fn normal(path: &[u8]) -> Vec<u8> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in path.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                parts.pop();
            }
            _ => parts.push(part),
        }
    }
    let mut clean: Vec<u8> = Vec::with_capacity(path.len());
    for part in parts {
        clean.push(b'/');
        clean.extend_from_slice(part);
    }
    clean
}

/// Mountpoints of our type in the text of `/proc/self/mounts`; the root directory as nothing.
fn mountpoints(mounts: &[u8]) -> Vec<Vec<u8>> {
    let mountpoint = |line: &[u8]| {
        let mut fields = line.split(|b| *b == b' ');
        let place = fields.nth(1)?;
        let ours = fields.next()? == FS_TYPE;
        ours.then(|| normal(&unescape(place)))
    };
    mounts
        .split(|b| *b == b'\n')
        .filter_map(mountpoint)
        .collect()
}

/// Undoes the kernel's `\040` notation.
fn unescape(text: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, after)) = rest.split_first() {
        let digits = after
            .get(..3)
            .filter(|d| d.iter().all(|b| (b'0'..b'8').contains(b)));
        match digits.filter(|_| first == b'\\') {
            Some(d) => {
                let value = d.iter().fold(0u32, |v, b| v * 8 + u32::from(b - b'0'));
                plain.push(u8::try_from(value & 0xff).unwrap_or_default());
                rest = &after[3..];
            }
            None => {
                plain.push(first);
                rest = after;
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(cwd: &str) -> Places {
        let mounts = b"dfs:1 /mnt/dfs fuse.dfs rw 0 0\n\
            ext4 /mnt ext4 rw 0 0\n\
            dfs:1 /mnt/dfs/deep\\040er fuse.dfs rw 0 0\n";
        Places {
            mounts: mountpoints(mounts),
            cwd: Some(cwd.into()),
        }
    }

    fn resolve(cwd: &str, arg: &str) -> String {
        places(cwd).resolve(OsStr::new(arg)).unwrap().to_string()
    }

    #[test]
    fn an_absolute_path_is_one_in_the_cluster_unless_it_is_below_a_mount() {
        assert_eq!(resolve("/", "/a/b"), "/a/b");
        assert_eq!(resolve("/", "/mnt/dfs/a"), "/a");
        assert_eq!(resolve("/", "/mnt/dfs"), "/");
        assert_eq!(resolve("/", "/mnt/dfsx/a"), "/mnt/dfsx/a");
        assert_eq!(resolve("/", "/mnt/dfs/deep er/x"), "/x");
        assert_eq!(resolve("/", "/tmp/../mnt//dfs/./a"), "/a");
    }

    #[test]
    fn a_relative_path_starts_in_the_working_directory_only_on_a_mount() {
        assert_eq!(resolve("/mnt/dfs/sub", "f"), "/sub/f");
        assert_eq!(resolve("/mnt/dfs/sub", "../f"), "/f");
        assert_eq!(resolve("/home", "a/f"), "/a/f");
        assert_eq!(resolve("/home", "../../f"), "/f");
    }

    #[test]
    fn names_are_bytes() {
        let path = places("/").resolve(OsStr::from_bytes(b"/a\xff/b")).unwrap();
        assert_eq!(path.to_bytes(), b"/a\xff/b");
        assert_eq!(path.to_string(), "/a\\xff/b");
    }

    #[test]
    fn a_slash_at_the_end_asks_for_a_directory() {
        let dir = |s: &str| places("/").resolve(OsStr::new(s)).unwrap().wants_dir;
        assert!(dir("/a/") && dir("/") && dir("/a/..") && dir("/a/."));
        assert!(!dir("/a"));
    }

    #[test]
    fn what_is_no_path_is_refused() {
        assert!(places("/").resolve(OsStr::new("")).is_err());
        assert!(places("/").resolve(OsStr::new(&"x".repeat(256))).is_err());
    }

    #[test]
    fn parents_and_children_fit() {
        let path = ClusterPath::parse(b"/a/b").unwrap();
        let above = path.parent().unwrap();
        assert_eq!(above.join(path.name().unwrap()), path);
        assert!(above.contains(&path) && !path.contains(&above));
        assert!(ClusterPath::root().parent().is_none());
    }
}
