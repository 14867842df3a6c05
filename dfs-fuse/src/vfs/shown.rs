//! Attributes on their way to the kernel.
//!
//! The kernel takes a new size from whatever tells it, and shows what its pages then have there. So
//! attributes of a regular file that is open wait until its pages of an older revision are gone
//! ([`super::pages`], rule 2), and what is read from then on is at least as new.
use super::pages::Writing;
use super::{Node, Vfs, VfsResult, failed};
use dfs_core::types::{Attr, FileKind, Ino, Revision};
use std::time::Duration;

/// How long pages may take to go: a read that waits for dead stores may hold one for longer.
const WAIT_MAX: Duration = Duration::from_secs(10);

/// A page that a read holds for longer keeps nobody from an open or a lock.
const SETTLE_MAX: Duration = Duration::from_secs(2);

/// How long the kernel may keep an answer without asking again.
#[derive(Debug, Clone, Copy, Default)]
pub struct Lent {
    /// Attributes.
    pub attr: Duration,
    /// That the name stands for the inode.
    pub entry: Duration,
}

impl Vfs {
    /// How long the kernel may keep these attributes, which are sent next: not those of a file that is
    /// written here, and none that something has changed since they were read.
    #[must_use]
    pub fn lent_attr(&self, attr: &Attr) -> Duration {
        let is_plain = attr.kind != FileKind::File
            || (attr.mode & 0o6000 == 0 && self.files.is_quiet(attr.ino));
        if !is_plain || !matches!(self.node(attr.ino.0), Ok(Node::Real(_))) {
            return Duration::ZERO;
        }
        let lent = self.client.lend();
        // Looked at only now: what changes from here on is told to the kernel after this, or waits.
        let is_current = lent.is_zero() || self.client.cached_attr(attr.ino).as_ref() == Some(attr);
        if is_current { lent } else { Duration::ZERO }
    }

    /// The same for a name that was found.
    #[must_use]
    pub fn lent(&self, parent: u64, name: &[u8], attr: &Attr) -> Lent {
        let entry = self.client.lend();
        let Some(Ok(found)) = self
            .lookup_cached(parent, name)
            .filter(|_| !entry.is_zero())
        else {
            return Lent::default();
        };
        if found.ino != attr.ino {
            return Lent::default();
        }
        let attr = self.lent_attr(attr);
        Lent { attr, entry }
    }

    /// This mount has changed these inodes. The kernel knows what a call changes, but an answer that was on
    /// its way may reach it later: it must not be kept.
    pub(crate) fn changed(&self, inos: &[Ino]) {
        if let Some(told) = self.told.get().filter(|_| self.client.has_lent()) {
            inos.iter().for_each(|ino| told(*ino));
        }
    }

    /// `told` makes the kernel forget attributes. Only the first call counts.
    pub fn on_change(&self, told: impl Fn(Ino) + Send + Sync + 'static) {
        let _ = self.told.set(Box::new(told));
    }

    /// The kernel's pages have followed this mount's own puts.
    pub(crate) fn follow(&self, ino: Ino) {
        if let Some(revisions) = self.files.own_puts(ino) {
            self.pages.advance(ino, &revisions);
        }
    }

    /// These attributes may be shown at once.
    pub(crate) fn may_show(&self, attr: &Attr) -> bool {
        if attr.kind != FileKind::File || self.pages.may_show(attr.ino, attr.revision) {
            return true;
        }
        self.follow(attr.ino);
        self.pages.may_show(attr.ino, attr.revision)
    }

    /// These attributes, once they may be shown.
    ///
    /// # Errors
    /// EIO: the kernel does not drop old pages.
    pub(crate) async fn shown(&self, attr: Attr) -> VfsResult<Attr> {
        if !self.may_show(&attr) {
            self.wait_for_pages(attr.ino, attr.revision).await?;
        }
        Ok(attr)
    }

    /// Returns when the kernel has heard of all changes that are known here, so that it keeps the attributes
    /// that it asks for next; or when that takes long.
    pub(crate) async fn settled(&self, ino: Ino) {
        let told = tokio::time::timeout(SETTLE_MAX, self.pages.settled(ino)).await;
        if told.is_err() {
            tracing::debug!(%ino, "the kernel has not heard of all changes in {SETTLE_MAX:?}");
        }
    }

    /// This mount is about to change the content, and no pages come late any more.
    ///
    /// # Errors
    /// EIO: the kernel does not take what it is being given.
    pub(crate) async fn writing(&self, ino: Ino) -> VfsResult<Writing<'_>> {
        let waited = tokio::time::timeout(WAIT_MAX, self.pages.writing(ino)).await;
        waited.map_err(|_| failed(libc::EIO, &Stuck(ino)))
    }

    /// Returns when no page of a revision before this one can be seen.
    ///
    /// # Errors
    /// EIO: the kernel does not drop old pages.
    pub(crate) async fn wait_for_pages(&self, ino: Ino, revision: Revision) -> VfsResult<()> {
        self.files.outdated(ino, revision);
        let dropped = self.pages.drop_before(ino, revision);
        let waited = tokio::time::timeout(WAIT_MAX, dropped).await;
        waited.map_err(|_| failed(libc::EIO, &Stuck(ino)))
    }
}

/// Why attributes cannot be shown.
struct Stuck(Ino);

impl std::fmt::Display for Stuck {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "the kernel did not drop outdated pages of {} in {WAIT_MAX:?}",
            self.0
        )
    }
}
