//! `.dfs/status` at the mount's root: what this mount knows of its cluster and why operations failed.
//!
//! Hidden as `.versions` is: found by lookup, absent from listings, read-only. It is written from
//! memory at open, so that it can be read when no daemon answers.
use super::handles::{Handle, Listed};
use super::versions::TOP;
use super::{Vfs, VfsResult, failures};
use bytes::Bytes;
use dfs_core::types::{Attr, FileKind, Ino};
use std::fmt::Write as _;
use std::time::{Duration, Instant};

/// Name of the directory, in the root only.
pub const DIR: &[u8] = b".dfs";
/// Name of the file in it.
pub const FILE: &[u8] = b"status";

/// Node number of the directory.
const DIR_NODE: u64 = TOP | 1 << 61;
/// Node number of the file.
const FILE_NODE: u64 = DIR_NODE | 1;
/// How long the root's attributes are waited for before those known last are given.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long after that they are given at once.
const PAUSE: Duration = Duration::from_secs(3);

/// What is known of the root.
#[derive(Debug, Default)]
pub struct Root {
    /// Attributes as they were known last.
    attr: Option<Attr>,
    /// When no master answered in time.
    silent: Option<Instant>,
}

/// A node of the status tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StatusNode {
    /// `.dfs`.
    Dir,
    /// `.dfs/status`.
    File,
}

impl StatusNode {
    /// What a node number stands for, if it is of this tree.
    #[must_use]
    pub fn of(node: u64) -> Option<Self> {
        match node {
            DIR_NODE => Some(Self::Dir),
            FILE_NODE => Some(Self::File),
            _ => None,
        }
    }

    fn number(self) -> u64 {
        match self {
            Self::Dir => DIR_NODE,
            Self::File => FILE_NODE,
        }
    }
}

impl Vfs {
    /// Attributes of the root: those known last if no master says otherwise in a second, or did not
    /// a moment ago. Without them not even `.dfs` could be reached while the cluster is gone.
    pub(crate) async fn root_attr(&self) -> VfsResult<Attr> {
        let known = self.root_known(|root| {
            let is_silent = root.silent.is_some_and(|at| at.elapsed() < PAUSE);
            root.attr.clone().map(|attr| (attr, is_silent))
        });
        let Some((known, is_silent)) = known else {
            let attr = self.client.getattr(Ino::ROOT).await?;
            self.root_known(|root| root.attr = Some(attr.clone()));
            return Ok(attr);
        };
        if is_silent {
            return Ok(known);
        }
        let asked = tokio::time::timeout(PATIENCE, self.client.getattr(Ino::ROOT)).await;
        Ok(self.root_known(|root| match asked {
            Ok(Ok(attr)) => {
                root.silent = None;
                root.attr.insert(attr).clone()
            }
            _ => {
                root.silent = Some(Instant::now());
                known
            }
        }))
    }

    fn root_known<T>(&self, f: impl FnOnce(&mut Root) -> T) -> T {
        f(&mut self
            .root
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    /// Attributes of a node of the status tree.
    pub(crate) async fn status_attr(&self, node: StatusNode) -> VfsResult<Attr> {
        // Of the root only times count here, and they may be old.
        let root = match self.root_known(|root| root.attr.clone()) {
            Some(attr) => attr,
            None => self.root_attr().await?,
        };
        let (kind, mode, nlink) = match node {
            StatusNode::Dir => (FileKind::Dir, 0o555, 2),
            StatusNode::File => (FileKind::File, 0o444, 1),
        };
        Ok(Attr {
            ino: Ino(node.number()),
            kind,
            mode,
            nlink,
            uid: 0,
            gid: 0,
            size: 0,
            allocated: 0,
            has_xattrs: false,
            ..root
        })
    }

    /// Entries of `.dfs`.
    pub(crate) fn status_entries(&self, after: u64) -> Vec<Listed> {
        let status = Listed {
            name: FILE.to_vec(),
            node: FILE_NODE,
            kind: FileKind::File,
            cookie: 3,
            attr: None,
            version: None,
        };
        [status].into_iter().filter(|e| e.cookie > after).collect()
    }

    /// Opens `.dfs/status` on what is true now.
    pub(crate) fn open_status(&self) -> u64 {
        self.handles
            .add(Handle::Text(Bytes::from(self.status_text())))
    }

    fn status_text(&self) -> String {
        let (config, contact) = (self.client.config(), self.client.contact_state());
        let files = self.files.stats();
        let leader = match contact.leader {
            Some(addr) => format!("{addr}, in contact"),
            None => format!("none: {}", contact.trouble),
        };
        let mut text = String::new();
        let mut line = |key: &str, value: String| {
            let _ = writeln!(text, "{key:<10} {value}");
        };
        line("mount", config.label.clone());
        line("session", self.client.client_id().to_string());
        line("master", leader);
        line(
            "deadlines",
            format!(
                "{:?} data, {:?} metadata",
                config.deadline_data, config.deadline_meta
            ),
        );
        let lends = match self.client.lends() {
            true => "names and attributes to the kernel: no other session exists",
            false => "nothing: there are other sessions, or no master is in contact",
        };
        line("lends", lends.to_owned());
        line("buffered", format!("{} bytes", files.dirty_bytes));
        if config.behind {
            let (waiting, ever) = (self.client.queued_changes(), self.client.ever_queued());
            line("behind", format!("{waiting} changes of {ever}"));
        }
        line("puts", files.puts.to_string());
        line(
            "gets",
            format!(
                "{}, {} stamp reads, {} resolved at the master",
                files.gets, files.stamp_reads, files.resolves
            ),
        );
        line("open", format!("{} files", files.files));
        let trips = self.client.trips();
        line(
            "to master",
            format!(
                "{} changes, {} questions, {} opens, {} background",
                trips.changes, trips.questions, trips.opens, trips.background
            ),
        );
        line(
            "to stores",
            format!(
                "{} prepares, {} reads, {} stamps, {} others",
                trips.prepares, trips.reads, trips.stamps, trips.others
            ),
        );
        for f in failures::newest() {
            let ago = f.at.elapsed().as_secs();
            line(
                "failure",
                format!(
                    "errno {} {ago} s ago, {} times: {}",
                    f.errno, f.times, f.reason
                ),
            );
        }
        text
    }
}
