//! Namespace snapshots of this store: objects that no master knows, in no placement group.
//!
//! They have no row in the tables, so that notes, filling, purging and listings never meet them.
//! Steps: the driver hands over one part at a time, each durable before the next; the manifest comes
//! last; then what is older than the newest two is dropped, and so is an attempt that failed. They
//! leave a margin to what users write.
use super::event::ReplicaAction;
use super::machine::{After, Cx, Replica};
use super::tables::TableError;
use crate::rescue::snapshot::MANIFEST_PART;
use crate::store::ObjectWrite;
use crate::types::ObjectId;
use std::collections::BTreeSet;

/// Complete snapshots that a store keeps.
const KEPT: usize = 2;
/// Objects listed at a time.
const PAGE: usize = 256;
/// Snapshots are refused when less than this part of the space would be left above the reserve.
const MARGIN_PERCENT: u64 = 2;
/// The same in bytes, at most.
const MARGIN_MAX: u64 = 1 << 30;

/// What the driver wants done about snapshots.
#[derive(Debug, Clone, PartialEq)]
pub enum NamespaceWork {
    /// Keeps a part or a manifest.
    Keep(ObjectWrite),
    /// Drops all but the newest two complete snapshots. Not while parts of one are being handed over.
    Trim,
}

impl Replica {
    pub(super) fn on_namespace(
        &mut self,
        cx: &mut Cx<'_>,
        token: u64,
        work: NamespaceWork,
    ) -> Result<(), TableError> {
        let refused = match (&self.failure, &work) {
            (Some(cause), _) => Some(cause.clone()),
            (None, NamespaceWork::Keep(object)) => {
                let margin = (cx.store.part_bytes() / 100 * MARGIN_PERCENT).min(MARGIN_MAX);
                let bytes = u64::from(object.header.len) + margin;
                cx.store.admit(bytes).err().map(|e| e.to_string())
            }
            (None, NamespaceWork::Trim) => None,
        };
        if let Some(cause) = refused {
            let result = Err(cause);
            cx.out.push(ReplicaAction::NamespaceDone { token, result });
            return Ok(());
        }
        let old = match work {
            NamespaceWork::Keep(_) => Vec::new(),
            NamespaceWork::Trim => outdated(cx)?,
        };
        let mut tx = self.tables.begin();
        if let NamespaceWork::Keep(object) = work {
            assert!(object.header.id.is_namespace(), "made by the snapshot code");
            tx.put_unlisted(object);
        }
        old.into_iter().for_each(|id| tx.delete_unlisted(id));
        self.persist(cx, tx, vec![After::Namespace(token)]);
        Ok(())
    }
}

/// Objects of snapshots that are not among the newest complete ones, and of attempts.
fn outdated(cx: &Cx<'_>) -> Result<Vec<ObjectId>, TableError> {
    let mut all = Vec::new();
    let mut after = ObjectId::of_namespace(0, 0);
    loop {
        let page = cx.store.list_objects(Some(after), PAGE);
        let page = page.map_err(|e| crate::store::KvError::Engine {
            cause: e.to_string(),
        })?;
        let ours = page.iter().map(|listed| listed.id);
        let before = all.len();
        all.extend(ours.take_while(|id| id.is_namespace()));
        match all.last() {
            Some(last) if all.len() > before => after = *last,
            _ => break,
        }
    }
    let manifests = all.iter().filter(|id| id.index == MANIFEST_PART);
    let complete: BTreeSet<u64> = manifests.map(|id| id.op.seq).collect();
    let kept: BTreeSet<u64> = complete.iter().rev().take(KEPT).copied().collect();
    all.retain(|id| !kept.contains(&id.op.seq));
    Ok(all)
}
