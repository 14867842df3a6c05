//! Invariant: a write lease is of no use after its end. A put under a sequence is not committed if a
//! newer sequence of the inode was handed out before its commit was sent.
use dfs_core::types::{Ino, LeaseSeq};
use std::collections::BTreeMap;

/// The newest sequence of each inode that anybody was told.
#[derive(Debug, Default)]
pub(super) struct Leases(BTreeMap<Ino, LeaseSeq>);

impl Leases {
    /// A client is told.
    pub fn told(&mut self, ino: Ino, lease: LeaseSeq) {
        let newest = self.0.entry(ino).or_insert(lease);
        *newest = lease.max(*newest);
    }

    /// What was told so far.
    pub fn newest(&self, ino: Ino) -> LeaseSeq {
        self.0.get(&ino).copied().unwrap_or(LeaseSeq(0))
    }

    /// A put was committed under `lease`; `newest` had been told when its commit was sent first.
    pub fn check(ino: Ino, lease: LeaseSeq, newest: LeaseSeq) -> Result<(), String> {
        if lease >= newest {
            return Ok(());
        }
        Err(format!(
            "a put of inode {ino} was committed under lease {lease}, and {newest} had been handed out"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_used_until_a_newer_one_is_handed_out() {
        let mut leases = Leases::default();
        let ino = Ino(7);
        leases.told(ino, LeaseSeq(3));
        assert!(Leases::check(ino, LeaseSeq(3), leases.newest(ino)).is_ok());
        leases.told(ino, LeaseSeq(4));
        leases.told(ino, LeaseSeq(3));
        assert!(Leases::check(ino, LeaseSeq(3), leases.newest(ino)).is_err());
        assert!(Leases::check(ino, LeaseSeq(1), leases.newest(Ino(8))).is_ok());
    }
}
