//! Listing directories.
//!
//! An entry's cookie is the master's, stable while entries come and go; 1 is `.`, 2 is `..`. A
//! handle keeps the page it fetched last and fetches again when the kernel asks for another place.
use super::handles::{Handle, Listed, Page};
use super::lookup::{synthetic_dir, version_file};
use super::status::StatusNode;
use super::versions::{VersionNode, VersionNodes};
use super::{Errno, Node, Vfs, VfsResult};
use dfs_core::types::{Attr, FileKind, Ino, Name, VersionInfo};
use dfs_core::wire::ErrorCode;
use dfs_core::wire::master::DirEntry;

/// Entries of one question.
const PAGE_ENTRIES: u32 = 256;
/// Names with history listed at most.
const NAMES_MAX: usize = 1_000_000;

impl Vfs {
    /// opendir(3).
    ///
    /// # Errors
    /// ENOTDIR for a version file.
    pub fn opendir(&self, node: u64) -> VfsResult<u64> {
        if let Node::Version(VersionNode::File(..)) | Node::Status(StatusNode::File) =
            self.node(node)?
        {
            return Err(Errno(libc::ENOTDIR));
        }
        let page = tokio::sync::Mutex::new(Page::default());
        Ok(self.handles.add(Handle::Dir { node, page }))
    }

    /// Entries after `after`, handed to `add` until it says that the buffer is full.
    /// With `attrs`, attributes come along where they are known.
    ///
    /// # Errors
    /// EBADF, ENOENT, and the like.
    pub async fn readdir(
        &self,
        handle: u64,
        after: u64,
        attrs: bool,
        mut add: impl FnMut(&Listed) -> bool,
    ) -> VfsResult<()> {
        let handle = self.handles.get(handle)?;
        let Handle::Dir { node, page } = &*handle else {
            return Err(Errno(libc::ENOTDIR));
        };
        let mut page = page.lock().await;
        let mut at = after;
        if at < 2 {
            if let Node::Real(dir) = self.node(*node)? {
                self.note_access(dir);
            }
            for dots in self.dots(*node).await?.iter().filter(|d| d.cookie > at) {
                if add(dots) {
                    return Ok(());
                }
            }
            at = 2;
            page.after = None;
        }
        loop {
            let begin = position(&page, at);
            let is_old = begin.is_some();
            if begin.is_none() {
                *page = self.fetch(*node, at, attrs).await?;
            }
            let begin = begin.unwrap_or(0);
            for entry in &page.entries[begin..] {
                let entry = match &entry.attr {
                    Some(attr)
                        if attrs && attr.kind == FileKind::File && entry.version.is_none() =>
                    {
                        &Listed {
                            attr: self.current(attr, is_old).await?,
                            ..entry.clone()
                        }
                    }
                    _ => entry,
                };
                if self.offer(entry, attrs, &mut add) {
                    return Ok(());
                }
                at = entry.cookie;
            }
            if page.end {
                return Ok(());
            }
        }
    }

    /// Attributes of a listed file, if they may be shown now. Those that were listed for an earlier
    /// request may be outdated: the kernel would take a size from them.
    async fn current(&self, listed: &Attr, is_old: bool) -> VfsResult<Option<Attr>> {
        let attr = match self.client.cached_attr(listed.ino) {
            Some(attr) => attr,
            None if is_old => match self.client.getattr(listed.ino).await {
                Ok(attr) => attr,
                // Gone meanwhile: it was there when it was listed.
                Err(e) if matches!(e.code(), ErrorCode::NotFound | ErrorCode::Stale) => {
                    return Ok(None);
                }
                Err(e) => return Err(e.into()),
            },
            None => listed.clone(),
        };
        // Who wants them asks for them, and waits until the file's pages are gone; the other names do not.
        Ok(self.may_show(&attr).then_some(attr))
    }

    /// Hands one entry over; with attributes, a node of a `.versions` tree counts as looked up.
    fn offer(&self, entry: &Listed, attrs: bool, add: &mut impl FnMut(&Listed) -> bool) -> bool {
        let (true, Some(version)) = (attrs, &entry.version) else {
            return add(entry);
        };
        let node = self.nodes.intern(version.clone());
        let mut entry = Listed {
            node,
            ..entry.clone()
        };
        if let Some(attr) = &mut entry.attr {
            attr.ino = Ino(node);
        }
        let full = add(&entry);
        if full {
            self.nodes.forget(node, 1);
        }
        full
    }

    async fn dots(&self, node: u64) -> VfsResult<[Listed; 2]> {
        let up = match self.node(node)? {
            Node::Real(dir) => self.client.parent(dir).await?.ino.0,
            Node::Version(VersionNode::Root(dir)) => dir.0,
            Node::Status(_) => Ino::ROOT.0,
            Node::Version(VersionNode::Name(dir, _) | VersionNode::File(dir, ..)) => {
                VersionNodes::root(dir)
            }
        };
        let dot = |name: &[u8], node, cookie| Listed {
            name: name.to_vec(),
            node,
            kind: FileKind::Dir,
            cookie,
            attr: None,
            version: None,
        };
        Ok([dot(b".", node, 1), dot(b"..", up, 2)])
    }

    async fn fetch(&self, node: u64, after: u64, attrs: bool) -> VfsResult<Page> {
        let (entries, end) = match self.node(node)? {
            Node::Real(dir) => {
                let (list, end) = self.client.readdir(dir, after, PAGE_ENTRIES, attrs).await?;
                (list.into_iter().map(listed).collect(), end)
            }
            Node::Version(VersionNode::Root(dir)) => (self.names(dir, after).await?, true),
            Node::Version(VersionNode::Name(dir, name)) => {
                (self.versions(dir, &name, after).await?, true)
            }
            Node::Version(VersionNode::File(..)) => return Err(Errno(libc::ENOTDIR)),
            Node::Status(_) => (self.status_entries(after), true),
        };
        Ok(Page {
            after: Some(after),
            entries,
            end,
        })
    }

    async fn names(&self, dir: Ino, after: u64) -> VfsResult<Vec<Listed>> {
        let real = self.client.getattr(dir).await?;
        let mut names: Vec<(Name, bool)> = Vec::new();
        while names.len() < NAMES_MAX {
            let last = names.last().map(|(n, _)| n.clone());
            let (page, limit) = (self.client.history_names(dir, last, 512).await?, 512);
            let full = page.len() >= limit;
            names.extend(page);
            if !full {
                break;
            }
        }
        let row = |(i, (name, _)): (usize, (Name, bool))| Listed {
            name: name.as_bytes().to_vec(),
            // Without a lookup the number only fills d_ino, which some programs want above 0.
            node: VersionNodes::root(dir),
            kind: FileKind::Dir,
            cookie: i as u64 + 3,
            attr: Some(synthetic_dir(&real, 0)),
            version: Some(VersionNode::Name(dir, name)),
        };
        Ok(names
            .into_iter()
            .enumerate()
            .map(row)
            .filter(|l| l.cookie > after)
            .collect())
    }

    async fn versions(&self, dir: Ino, name: &Name, after: u64) -> VfsResult<Vec<Listed>> {
        let mut history = self.history(dir, name).await?;
        history.sort_by_key(|v| v.version);
        let row = |v: VersionInfo| Listed {
            name: v.version.to_string().into_bytes(),
            node: VersionNodes::root(dir),
            kind: FileKind::File,
            cookie: v.version.0 + 2,
            attr: Some(version_file(&v, 0)),
            version: Some(VersionNode::File(dir, name.clone(), Box::new(v))),
        };
        Ok(history
            .into_iter()
            .map(row)
            .filter(|l| l.cookie > after)
            .collect())
    }
}

/// Where in the page the entries after `at` begin, if the page has them.
fn position(page: &Page, at: u64) -> Option<usize> {
    let first = page.after?;
    if at == first {
        return Some(0);
    }
    let i = page.entries.iter().position(|e| e.cookie == at)? + 1;
    (i < page.entries.len() || page.end).then_some(i)
}

fn listed(e: DirEntry) -> Listed {
    let DirEntry {
        name,
        ino,
        kind,
        cookie,
        attr,
    } = e;
    Listed {
        name: name.into(),
        node: ino.0,
        kind,
        cookie,
        attr,
        version: None,
    }
}
