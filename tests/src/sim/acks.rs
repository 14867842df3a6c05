//! Invariant: a commit names as acknowledging only members that have acknowledged, for each object
//! and the mark, under the very epoch that the commit names.
use dfs_core::types::{Epoch, ObjectId, StoreId};
use dfs_core::wire::{Change, Commit, ReplicaRequest};
use std::collections::{BTreeMap, BTreeSet};

/// What a member is asked to keep: an object, or the mark.
type Kept = Option<ObjectId>;

/// What the members of one put were asked and have acknowledged.
#[derive(Debug, Default)]
pub(super) struct Acks {
    asked: BTreeMap<u64, (StoreId, Vec<(Kept, Epoch)>)>,
    given: BTreeSet<(StoreId, Kept, Epoch)>,
}

fn kept_of(request: &ReplicaRequest) -> Vec<(Kept, Epoch)> {
    let ReplicaRequest::Prepare { mark, objects, .. } = request else {
        return Vec::new();
    };
    let objects = objects.iter().map(|o| (Some(o.id), o.epoch));
    objects.chain(mark.map(|m| (None, m.epoch))).collect()
}

impl Acks {
    /// A PREPARE goes out.
    pub fn asked(&mut self, token: u64, to: StoreId, request: &ReplicaRequest) {
        self.asked.insert(token, (to, kept_of(request)));
    }

    /// It was acknowledged.
    pub fn given(&mut self, token: u64) {
        let (store, kept) = self.asked.remove(&token).unwrap_or_default();
        let given = kept.into_iter().map(|(kept, epoch)| (store, kept, epoch));
        self.given.extend(given);
    }

    /// The member has acknowledged all of this under some epoch.
    pub fn were_given(&self, to: StoreId, request: &ReplicaRequest) -> bool {
        let of = |kept: Kept| {
            let given = self.given.iter();
            given
                .filter(move |(store, what, _)| *store == to && *what == kept)
                .count()
                > 0
        };
        kept_of(request).into_iter().all(|(kept, _)| of(kept))
    }

    /// A commit names these acks.
    pub fn check(&self, commit: &Commit) -> Result<(), String> {
        let mark = commit.mark_acks.iter();
        let mut named: Vec<_> = mark.map(|s| (*s, None, commit.home_epoch)).collect();
        if let Change::Write { puts } | Change::Append { puts, .. } | Change::Replace { puts, .. } =
            &commit.change
        {
            for put in puts {
                let acks = put.acks.iter();
                named.extend(acks.map(|s| (*s, Some(put.object), put.epoch)));
            }
        }
        match named.iter().find(|ack| !self.given.contains(ack)) {
            None => Ok(()),
            Some((store, kept, epoch)) => Err(format!(
                "a commit of inode {} says that store {store} has acknowledged {} under epoch {epoch}",
                commit.ino,
                kept.map_or_else(|| "the mark".into(), |object| object.to_string())
            )),
        }
    }
}
