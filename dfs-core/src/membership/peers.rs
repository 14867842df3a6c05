//! Peers remembered on disk, so that a restarted node can contact any of them and the node that
//! introduced it is no single point of failure.
//!
//! At most [`PEERS_MAX`] are kept: those that are in the cluster first, then the most recently seen.
use super::durable::{self, DurableError};
use crate::store::Disk;
use crate::types::NodeId;
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// Most peers kept.
pub const PEERS_MAX: usize = 128;

/// One node that was a member at some time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// Its id.
    pub id: NodeId,
    /// Where it took datagrams when last seen.
    pub gossip: SocketAddr,
    /// Where it took connections when last seen.
    pub tcp: SocketAddr,
}

/// The remembered peers. Iterates in the order of ids.
#[derive(Debug, Clone, Default)]
pub struct PeerBook {
    // The number orders peers by when they were last seen.
    peers: BTreeMap<NodeId, (Peer, u64)>,
    seen: u64,
}

impl PeerBook {
    /// The usual path.
    pub const PATH: &'static str = "node/peers";

    /// From the most to the least recently seen.
    #[must_use]
    pub fn from_list(list: impl IntoIterator<Item = Peer>) -> Self {
        let mut book = Self::default();
        let list: Vec<Peer> = list.into_iter().take(PEERS_MAX).collect();
        for peer in list.into_iter().rev() {
            book.saw(peer);
        }
        book
    }

    /// Reads the file; an absent one is an empty book.
    ///
    /// # Errors
    /// [`DurableError`]. The file only saves time: a caller may go on with an empty book.
    pub fn load(disk: &dyn Disk, path: &str) -> Result<Self, DurableError> {
        let Some(body) = durable::read(disk, path)? else {
            return Ok(Self::default());
        };
        let mut lines = body.lines();
        let list: Option<Vec<Peer>> = match lines.next() {
            Some("dfs-peers 1") => lines.map(parse_line).collect(),
            _ => None,
        };
        list.map(Self::from_list)
            .ok_or_else(|| DurableError::Damaged {
                path: path.to_owned(),
                what: "syntax",
            })
    }

    /// Writes `list` (as [`PeerBook::list`] gives it) durably.
    ///
    /// # Errors
    /// [`DurableError::Disk`]; the old file remains.
    pub fn store(disk: &dyn Disk, path: &str, list: &[Peer]) -> Result<(), DurableError> {
        let mut body = "dfs-peers 1\n".to_owned();
        for p in list {
            body.push_str(&format!("peer {} {} {}\n", p.id, p.gossip, p.tcp));
        }
        durable::write(disk, path, &body)
    }

    /// From the most to the least recently seen.
    #[must_use]
    pub fn list(&self) -> Vec<Peer> {
        let mut all: Vec<&(Peer, u64)> = self.peers.values().collect();
        all.sort_by_key(|(_, seen)| std::cmp::Reverse(*seen));
        all.into_iter().map(|(peer, _)| *peer).collect()
    }

    /// Remembers `peer`, replacing what was known of it. True if something new was learned.
    pub fn saw(&mut self, peer: Peer) -> bool {
        self.seen += 1;
        let old = self.peers.insert(peer.id, (peer, self.seen));
        if self.peers.len() > PEERS_MAX {
            let oldest = self.peers.values().min_by_key(|(_, seen)| *seen);
            if let Some(id) = oldest.map(|(p, _)| p.id) {
                self.peers.remove(&id);
            }
        }
        old.is_none_or(|(p, _)| p != peer)
    }

    /// Peers in the order of ids.
    pub fn iter(&self) -> impl Iterator<Item = &Peer> {
        self.peers.values().map(|(peer, _)| peer)
    }
}

fn parse_line(line: &str) -> Option<Peer> {
    let mut words = line.split(' ');
    if words.next()? != "peer" {
        return None;
    }
    let peer = Peer {
        id: words.next()?.parse().ok()?,
        gossip: words.next()?.parse().ok()?,
        tcp: words.next()?.parse().ok()?,
    };
    words.next().is_none().then_some(peer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::SimDisk;

    fn peer(id: u16) -> Peer {
        Peer {
            id: NodeId(u128::from(id)),
            gossip: ([127, 0, 0, 1], 1000 + id).into(),
            tcp: ([127, 0, 0, 1], 5000 + id).into(),
        }
    }

    #[test]
    fn peers_come_back_in_the_order_they_were_seen() {
        let disk = SimDisk::new();
        let mut book = PeerBook::default();
        assert!(book.saw(peer(1)) && book.saw(peer(2)) && !book.saw(peer(1)));
        PeerBook::store(&disk, PeerBook::PATH, &book.list()).unwrap();
        let back = PeerBook::load(&disk, PeerBook::PATH).unwrap();
        assert_eq!(back.list(), [peer(1), peer(2)]);
        assert!(PeerBook::load(&disk, "absent").unwrap().list().is_empty());
        disk.flip_bit(PeerBook::PATH, 3);
        assert!(PeerBook::load(&disk, PeerBook::PATH).is_err());
    }

    #[test]
    fn the_book_is_bounded_and_keeps_the_latest() {
        let mut book = PeerBook::default();
        for id in 0..300 {
            book.saw(peer(id));
        }
        let list = book.list();
        assert_eq!((list.len(), list[0]), (PEERS_MAX, peer(299)));
    }
}
