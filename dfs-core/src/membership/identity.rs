//! Who a node is, and the file that keeps it from ever being older than itself.
//!
//! A node is its [`NodeId`] (for ever), its [`Incarnation`] (one run of it) and its addresses.
//! `Incarnation = max(persisted + 1, now in ms)` is written durably before the first packet, so:
//! 1. two runs never share an incarnation, even if the clock was set back in between;
//! 2. a run after the loss of the file (a new id) or on a copied directory (the same id) is told
//!    from the earlier one by the clock.
use super::durable::{self, DurableError};
use crate::store::Disk;
use crate::types::{Incarnation, NodeId, StoreId};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

/// Longest zone label, in bytes.
pub const ZONE_MAX: usize = 32;

/// A failure domain label: at most 32 bytes of printable ASCII without spaces; may be empty.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Zone(String);

/// Text that is no zone label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a zone label has at most 32 printable ASCII characters without spaces")]
pub struct ZoneError;

impl Zone {
    /// Checks `label`.
    ///
    /// # Errors
    /// [`ZoneError`].
    pub fn new(label: impl Into<String>) -> Result<Self, ZoneError> {
        let label = label.into();
        if label.len() > ZONE_MAX || !label.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(ZoneError);
        }
        Ok(Self(label))
    }

    /// The label.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Zone {
    type Error = ZoneError;
    fn try_from(label: String) -> Result<Self, ZoneError> {
        Self::new(label)
    }
}

impl From<Zone> for String {
    fn from(zone: Zone) -> Self {
        zone.0
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

/// One run of a node, as it introduces itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeIdentity {
    /// Stable id.
    pub id: NodeId,
    /// This run.
    pub incarnation: Incarnation,
    /// Where it takes membership datagrams (never an unspecified address).
    pub gossip: SocketAddr,
    /// Where it takes connections.
    pub tcp: SocketAddr,
    /// Its data directory.
    pub store: StoreId,
    /// Its failure domain.
    pub zone: Zone,
}

/// The durable part of an identity: `node/identity` on a [`Disk`].
#[derive(Debug)]
pub struct NodeIdentityFile {
    disk: Arc<dyn Disk>,
    path: String,
    id: NodeId,
    incarnation: Incarnation,
}

impl NodeIdentityFile {
    /// The usual path.
    pub const PATH: &'static str = "node/identity";

    /// Loads the file or creates it with `fresh` as the id, and starts a new run: when this
    /// returns, the incarnation `max(persisted + 1, now_ms)` is on stable storage.
    ///
    /// # Errors
    /// [`DurableError::Damaged`] if the file does not match its checksum (the id must not be
    /// guessed: restore the file, or remove it to come back as a new node);
    /// [`DurableError::Disk`]. Nothing may be sent then.
    pub fn open(
        disk: Arc<dyn Disk>,
        path: &str,
        fresh: NodeId,
        now_ms: u64,
    ) -> Result<Self, DurableError> {
        let (id, persisted) = match durable::read(&*disk, path)? {
            Some(body) => parse(&body).ok_or_else(|| DurableError::Damaged {
                path: path.to_owned(),
                what: "syntax",
            })?,
            None => (fresh, Incarnation(0)),
        };
        let mut file = Self {
            disk,
            path: path.to_owned(),
            id,
            incarnation: persisted,
        };
        file.advance(Incarnation(now_ms.max(persisted.0.saturating_add(1))))?;
        Ok(file)
    }

    /// The stable id.
    #[must_use]
    pub fn id(&self) -> NodeId {
        self.id
    }

    /// The incarnation that is on stable storage.
    #[must_use]
    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// Makes a higher incarnation durable (after the cluster declared this one down).
    /// A lower or equal one is already covered and changes nothing.
    ///
    /// # Errors
    /// [`DurableError::Disk`]; the incarnation must not be used then.
    pub fn advance(&mut self, to: Incarnation) -> Result<(), DurableError> {
        if to > self.incarnation {
            let body = format!("dfs-node 1\nnode {}\nincarnation {to}\n", self.id);
            durable::write(&*self.disk, &self.path, &body)?;
            self.incarnation = to;
        }
        Ok(())
    }
}

fn parse(body: &str) -> Option<(NodeId, Incarnation)> {
    let mut lines = body.lines();
    if lines.next()? != "dfs-node 1" {
        return None;
    }
    let id = lines.next()?.strip_prefix("node ")?.parse().ok()?;
    let incarnation = lines.next()?.strip_prefix("incarnation ")?.parse().ok()?;
    Some((id, Incarnation(incarnation)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::SimDisk;
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::SeedableRng;

    fn open(disk: &SimDisk, fresh: u128, now_ms: u64) -> Result<NodeIdentityFile, DurableError> {
        let disk = Arc::new(disk.clone());
        NodeIdentityFile::open(disk, NodeIdentityFile::PATH, NodeId(fresh), now_ms)
    }

    #[test]
    fn a_clock_set_back_does_not_make_a_node_older_than_itself() {
        let disk = SimDisk::new();
        let first = open(&disk, 7, 1_000_000).unwrap();
        assert_eq!(
            (first.id(), first.incarnation()),
            (NodeId(7), Incarnation(1_000_000))
        );
        let second = open(&disk, 8, 500).unwrap();
        assert_eq!(
            (second.id(), second.incarnation()),
            (NodeId(7), Incarnation(1_000_001))
        );
        let third = open(&disk, 9, 2_000_000).unwrap();
        assert_eq!(third.incarnation(), Incarnation(2_000_000));
    }

    #[test]
    fn what_was_returned_survives_any_crash() {
        for seed in 0..50 {
            let disk = SimDisk::new();
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let mut file = open(&disk, 7, 10).unwrap();
            file.advance(Incarnation(50)).unwrap();
            file.advance(Incarnation(40)).unwrap();
            drop(file);
            disk.crash(&mut rng);
            let again = open(&disk, 8, 0).unwrap();
            assert_eq!(
                (again.id(), again.incarnation()),
                (NodeId(7), Incarnation(51))
            );
        }
    }

    #[test]
    fn a_failed_sync_is_an_error_and_nothing_is_returned() {
        for syncs in 0..2 {
            let disk = SimDisk::new();
            disk.fail_syncs_after(syncs);
            assert!(matches!(open(&disk, 7, 10), Err(DurableError::Disk(_))));
        }
    }

    #[test]
    fn a_damaged_file_is_refused_instead_of_guessed() {
        let disk = SimDisk::new();
        open(&disk, 7, 10).unwrap();
        assert!(disk.flip_bit(NodeIdentityFile::PATH, 20));
        assert!(matches!(
            open(&disk, 8, 10),
            Err(DurableError::Damaged { .. })
        ));
    }

    #[test]
    fn zone_labels_are_short_and_printable() {
        assert!(Zone::new("rack-1").is_ok() && Zone::new("").is_ok());
        assert!(Zone::new("a b").is_err() && Zone::new("z".repeat(33)).is_err());
    }
}
