//! Which commits make one version, and which versions of an inode are kept.
//!
//! ```text
//!            change by a new period              Seal / pin / SealAll
//!  (none) ------------------------> open {tokens} -------------------> sealed
//!                                     ^    | change by a token of it      |
//!                                     |    v or one that joins            |
//!                                     +-- same version                    |
//!                                     +------- next change: new version --+
//! ```
//! A version is cut only by a content change: the new period's first change begins it, whatever was
//! before is sealed by that. A truncate's version is `unclaimed`: the next writer continues it, so that
//! truncate + write is one version.
//!
//! Kept are: the newest; while the inode has a name, the newest [`super::KEPT`]; what a name pins.
use super::keys;
use super::read;
use super::records::{Inode, OpenVersion, VersionRec};
use super::rows;
use super::tx::Tx;
use crate::master::state::StateError;
use crate::store::Kv;
use crate::types::{Ino, VersionNo};
use crate::wire::WriteToken;

/// How a change takes part in versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ChangeKind {
    /// Write, append, punch, extend.
    Write,
    /// Absolute size: the next writer continues its version.
    Truncate,
    /// The whole content; like a truncate and the write after it.
    Replace,
    /// An old version's content: a version of its own.
    Restore,
    /// Other objects with the same bytes: no part in versions.
    Compact,
}

/// Takes `token` into the open version, or answers true: a new version begins with this change.
pub(super) fn takes_new_version(inode: &mut Inode, token: WriteToken, kind: ChangeKind) -> bool {
    let fresh = OpenVersion {
        tokens: vec![token],
        unclaimed: kind == ChangeKind::Truncate,
    };
    if kind == ChangeKind::Restore {
        inode.open = None;
        return true;
    }
    let Some(open) = inode.open.as_mut() else {
        inode.open = Some(fresh);
        return true;
    };
    let claims = kind != ChangeKind::Truncate;
    if open.tokens.contains(&token) {
        open.unclaimed &= !claims;
        return false;
    }
    let own = open.tokens.iter().find(|t| t.client == token.client);
    if own.is_some_and(|own| own.seq > token.seq) {
        // A late commit of a period that its successor has closed.
        return false;
    }
    let has_others = open.tokens.len() > usize::from(own.is_some());
    if open.unclaimed && claims {
        // Only truncates took part so far, and who made them may never write or seal.
        *open = fresh;
    } else if has_others {
        open.tokens.retain(|t| t.client != token.client);
        open.tokens.push(token);
    } else {
        inode.open = Some(fresh);
        return true;
    }
    false
}

/// Ends a writing period; the last one seals the version.
pub(super) fn seal(inode: &mut Inode, is_ended: impl Fn(&WriteToken) -> bool) {
    let Some(open) = inode.open.as_mut() else {
        return;
    };
    open.tokens.retain(|t| !is_ended(t));
    if open.tokens.is_empty() && !open.unclaimed {
        inode.open = None;
    }
}

/// Begins the next version of an inode: what the newest one was is frozen.
pub(super) fn begin(tx: &mut Tx<'_>, ino: Ino, inode: &mut Inode) -> Result<(), StateError> {
    if let Some(old) = read::version(&tx.kv, ino, inode.version)? {
        tx.put_version(ino, &old.seen_in(inode));
    }
    inode.version = inode.version.next();
    tx.put_version(ino, &VersionRec::newest(inode, 0));
    Ok(())
}

/// Drops the versions of an inode that nothing keeps.
pub(super) fn trim(tx: &mut Tx<'_>, ino: Ino, window: usize) -> Result<(), StateError> {
    let Some(inode) = read::inode(&tx.kv, ino)? else {
        return Ok(());
    };
    let recs = read::versions(&tx.kv, ino)?;
    #[cfg(feature = "planted")]
    let window = window
        - usize::from(crate::planted::has(
            crate::planted::Planted::KeepsOneVersionLess,
        ));
    let window = if inode.nlink > 0 { window } else { 0 };
    let mut older = None;
    for (i, rec) in recs.iter().enumerate() {
        let rank = recs.len() - 1 - i;
        let is_content = rec.no.0 > 0;
        let is_kept = rec.pins > 0 || is_content && (rec.no == inode.version || rank < window);
        if is_kept {
            older = is_content.then_some(rec.no).or(older);
            continue;
        }
        tx.kv.delete(&keys::version(ino, rec.no));
        if let Some(newer) = recs.get(i + 1).filter(|_| is_content) {
            rows::drop_rows(tx, ino, older, rec.no, newer.no)?;
        }
    }
    Ok(())
}

/// The frozen or current facts of a kept version.
pub(super) fn facts(
    kv: &dyn crate::store::KvRead,
    ino: Ino,
    inode: &Inode,
    no: VersionNo,
) -> Result<Option<VersionRec>, StateError> {
    let rec = read::version(kv, ino, no)?;
    Ok(rec.map(|rec| rec.seen_in(inode)))
}
