//! Which session has which inode open: soft state, rebuilt from keep-alives after a failover.
use crate::types::{ClientId, Ino};
use crate::wire::master::OpenInode;
use std::collections::{BTreeMap, BTreeSet};

/// Open inodes of all sessions.
#[derive(Debug, Default)]
pub(super) struct Opens {
    /// Per inode: session, and whether it may write.
    by_ino: BTreeMap<Ino, BTreeMap<ClientId, bool>>,
    by_client: BTreeMap<ClientId, BTreeSet<Ino>>,
    /// Inodes that nobody was known to write when they were opened, while a session had not said what it
    /// has open; true once its lease, if it has one, is worth nothing any more. Where another is known to
    /// write, a session that wrote before has handed over what it had: nothing is in doubt.
    in_doubt: BTreeMap<Ino, bool>,
}

impl Opens {
    /// `client` opened `ino`.
    pub fn open(&mut self, client: ClientId, ino: Ino, write: bool) {
        self.by_client.entry(client).or_default().insert(ino);
        let of_ino = self.by_ino.entry(ino).or_default();
        *of_ino.entry(client).or_default() |= write;
    }

    /// `client` opens `ino`, and a session that has not said what it has open may write it.
    pub fn doubt(&mut self, ino: Ino) {
        if self.writers(ino).next().is_none() {
            self.in_doubt.entry(ino).or_default();
        }
    }

    /// The lease of `ino` was raised while it was in doubt.
    pub fn is_raised(&self, ino: Ino) -> bool {
        self.in_doubt.get(&ino) == Some(&true)
    }

    /// An open of `client` is answered, unless it was released meanwhile: it may write again if it
    /// asked to.
    pub fn confirm(&mut self, client: ClientId, ino: Ino, write: bool) {
        let of_ino = self.by_ino.get_mut(&ino);
        if let Some(may_write) = of_ino.and_then(|of_ino| of_ino.get_mut(&client)) {
            *may_write |= write;
        }
    }

    /// A silent session may write `ino` under the lease that is in force.
    pub fn is_in_doubt(&self, ino: Ino) -> bool {
        self.in_doubt.get(&ino) == Some(&false)
    }

    /// The lease of `ino` was raised: who had one before may read on.
    pub fn raised(&mut self, ino: Ino, clients: &[ClientId]) {
        self.in_doubt.insert(ino, true);
        let of_ino = self.by_ino.get_mut(&ino).into_iter().flatten();
        for (_, write) in of_ino.filter(|(c, _)| clients.contains(c)) {
            *write = false;
        }
    }

    /// Every session has said what it has open.
    pub fn all_known(&mut self) {
        self.in_doubt.clear();
    }

    /// `client` has no handle on `ino` any more.
    pub fn release(&mut self, client: ClientId, ino: Ino) {
        if let Some(of_client) = self.by_client.get_mut(&client) {
            of_client.remove(&ino);
            if of_client.is_empty() {
                self.by_client.remove(&client);
            }
        }
        if let Some(of_ino) = self.by_ino.get_mut(&ino) {
            of_ino.remove(&client);
            if of_ino.is_empty() {
                self.by_ino.remove(&ino);
            }
        }
    }

    /// What `client` says it has open, in full.
    pub fn replace(&mut self, client: ClientId, opens: &[OpenInode]) {
        for open in opens {
            self.open(client, open.ino, open.write);
            if open.write && self.is_in_doubt(open.ino) {
                self.in_doubt.remove(&open.ino);
            }
        }
    }

    /// `client` ended. Returns the inodes it had open for writing and nobody else has.
    pub fn end(&mut self, client: ClientId) -> Vec<Ino> {
        let inos = self.by_client.remove(&client).unwrap_or_default();
        let mut unsealed = Vec::new();
        for ino in inos {
            let wrote = self.by_ino.get(&ino).and_then(|of| of.get(&client)) == Some(&true);
            self.release(client, ino);
            if wrote && self.writers(ino).next().is_none() {
                unsealed.push(ino);
            }
        }
        unsealed
    }

    fn writers(&self, ino: Ino) -> impl Iterator<Item = ClientId> {
        let of_ino = self.by_ino.get(&ino).into_iter().flatten();
        of_ino
            .filter(|(_, write)| **write)
            .map(|(client, _)| *client)
    }

    /// Sessions other than `client` that may write `ino`.
    pub fn other_writers(&self, ino: Ino, client: ClientId) -> Vec<ClientId> {
        self.writers(ino).filter(|c| *c != client).collect()
    }

    /// True if one of these may write `ino`.
    pub fn is_written_by(&self, ino: Ino, clients: &[ClientId]) -> bool {
        self.writers(ino).any(|client| clients.contains(&client))
    }

    /// True if another session has `ino` open and anybody may write it.
    pub fn shared(&self, ino: Ino, client: ClientId) -> bool {
        let Some(of_ino) = self.by_ino.get(&ino) else {
            return false;
        };
        of_ino.keys().any(|c| *c != client) && of_ino.values().any(|write| *write)
    }

    /// True if any session has `ino` open.
    pub fn is_open(&self, ino: Ino) -> bool {
        self.by_ino.contains_key(&ino)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: ClientId = ClientId(1);
    const B: ClientId = ClientId(2);
    const I: Ino = Ino(9);

    #[test]
    fn an_inode_is_shared_when_two_have_it_and_one_writes() {
        let mut opens = Opens::default();
        opens.open(A, I, false);
        opens.open(B, I, false);
        assert!(!opens.shared(I, A));
        opens.open(B, I, true);
        assert!(opens.shared(I, A) && opens.shared(I, B));
        assert_eq!(opens.other_writers(I, A), vec![B]);
        assert_eq!(opens.other_writers(I, B), vec![]);
        opens.release(A, I);
        assert!(!opens.shared(I, B) && opens.is_open(I));
    }

    #[test]
    fn a_reader_does_not_lose_its_write_handle_by_opening_again() {
        let mut opens = Opens::default();
        opens.open(A, I, true);
        opens.open(A, I, false);
        assert_eq!(opens.other_writers(I, B), vec![A]);
    }

    #[test]
    fn the_end_of_the_last_writer_leaves_an_unsealed_inode() {
        let mut opens = Opens::default();
        opens.open(A, I, true);
        opens.open(B, I, true);
        assert_eq!(opens.end(A), vec![]);
        assert_eq!(opens.end(B), vec![I]);
        assert!(!opens.is_open(I));
    }
}
