//! News that does not wait for its turn in gossip: sent directly, several rounds, then dropped.
//!
//! * A suspicion goes to the accused, so that it can object in time.
//! * An objection, a death and a goodbye go to everybody.
//!
//! Rounds make up for lost datagrams; gossip carries the same news in any case.
use super::codec::{SwimId, URGENT_MAX, encode_urgent};
use crate::types::NodeId;
use foca::Member;
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// Who is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Audience {
    /// Every active member.
    All,
    /// One address.
    One(SocketAddr),
}

#[derive(Debug)]
struct Item {
    update: Member<SwimId>,
    audience: Audience,
    rounds_left: u8,
}

/// The news under way.
#[derive(Debug, Default)]
pub(super) struct Urgent {
    items: BTreeMap<NodeId, Item>,
}

impl Urgent {
    /// Adds news, replacing older news of the same node. The next round sends it.
    pub(super) fn add(&mut self, update: Member<SwimId>, audience: Audience, rounds: u8) {
        let item = Item {
            update,
            audience,
            rounds_left: rounds,
        };
        self.items.insert(item.update.id().0.id, item);
    }

    /// Drops what is no longer true of a node.
    pub(super) fn cancel(&mut self, node: NodeId) {
        self.items.remove(&node);
    }

    /// Drops everything.
    pub(super) fn clear(&mut self) {
        self.items.clear();
    }

    pub(super) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The datagrams of one round, one or more per target; `everybody` is who `All` means now.
    pub(super) fn round(&mut self, everybody: &[SocketAddr]) -> Vec<(SocketAddr, Vec<u8>)> {
        let mut letters: BTreeMap<SocketAddr, Vec<Member<SwimId>>> = BTreeMap::new();
        for item in self.items.values_mut() {
            item.rounds_left = item.rounds_left.saturating_sub(1);
            let one;
            let targets = match item.audience {
                Audience::All => everybody,
                Audience::One(to) => {
                    one = [to];
                    &one
                }
            };
            for &to in targets {
                letters.entry(to).or_default().push(item.update.clone());
            }
        }
        self.items.retain(|_, item| item.rounds_left > 0);
        let pages = |(to, updates): (SocketAddr, Vec<Member<SwimId>>)| {
            let encode = |page: &[Member<SwimId>]| (to, encode_urgent(page));
            // Half of what is accepted: sixteen of the longest members would not fit a datagram.
            updates
                .chunks(URGENT_MAX / 2)
                .map(encode)
                .collect::<Vec<_>>()
        };
        letters.into_iter().flat_map(pages).collect()
    }
}
