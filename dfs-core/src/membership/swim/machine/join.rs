//! Finding the others: at the start, while alone, and after a partition; and remembering them.
use super::super::codec::SwimId;
use super::super::effects::Alarm;
use super::super::events::MemberAction;
use super::Membership;
use crate::membership::identity::NodeIdentity;
use crate::membership::peers::Peer;
use crate::types::Time;
use rand_chacha::rand_core::RngCore;
use std::net::SocketAddr;
use std::time::Duration;

/// Most announcements of one attempt while alone.
const ANNOUNCE_ALONE: usize = 8;
/// Contacts to absent peers at a time while not alone.
const ANNOUNCE_ABSENT: usize = 2;
/// Least distance between writes of the known peers.
const PEERS_WRITE_EVERY: Duration = Duration::from_secs(1);

impl Membership {
    pub(super) fn join_soon(&mut self, now: Time, out: &mut Vec<MemberAction>) {
        if let Some(token) = self.join_timer.take() {
            self.timers.armed.remove(&token);
        }
        self.join_delay = self.cfg.rejoin_min;
        self.on_join(now, out);
    }

    pub(super) fn on_join(&mut self, now: Time, out: &mut Vec<MemberAction>) {
        if self.leaving {
            return;
        }
        let alone = !self.connected || self.swim.num_members() == 0;
        let (targets, at_once) = if alone {
            (self.everyone_known(), ANNOUNCE_ALONE)
        } else {
            (self.everyone_absent(), ANNOUNCE_ABSENT)
        };
        for i in 0..at_once.min(targets.len()) {
            let to = targets[(self.join_cursor + i) % targets.len()];
            self.call_quietly(out, |swim, fx| swim.announce(SwimId::anyone_at(to), fx));
        }
        self.join_cursor = self.join_cursor.wrapping_add(at_once);
        let base = if alone {
            let delay = self.join_delay;
            self.join_delay = (delay * 2).min(self.cfg.rejoin_max);
            delay
        } else {
            self.join_delay = self.cfg.rejoin_min;
            self.cfg.rejoin_max
        };
        let jitter = base / 256 * u32::from(self.rng.next_u32() as u8) / 4;
        let token = self.arm(now, base + jitter, Alarm::Join, out);
        self.join_timer = Some(token);
    }

    /// Addresses of everybody that was ever known, but this node.
    fn everyone_known(&self) -> Vec<SocketAddr> {
        let mut all = self.contacts.clone();
        all.extend(self.peers.iter().map(|p| p.gossip));
        all.extend(self.swim.iter_members().map(|m| m.id().0.gossip));
        all.remove(&self.me.gossip);
        all.into_iter().collect()
    }

    /// Addresses of known peers that are not active members.
    fn everyone_absent(&self) -> Vec<SocketAddr> {
        let mut absent = self.contacts.clone();
        absent.extend(self.peers.iter().map(|p| p.gossip));
        for m in self.swim.iter_members() {
            absent.remove(&m.id().0.gossip);
        }
        absent.remove(&self.me.gossip);
        absent.into_iter().collect()
    }

    pub(super) fn remember(&mut self, now: Time, id: &NodeIdentity, out: &mut Vec<MemberAction>) {
        let peer = Peer {
            id: id.id,
            gossip: id.gossip,
            tcp: id.tcp,
        };
        if !self.peers.saw(peer) {
            return;
        }
        self.peers_dirty = true;
        if self.peers_timer.is_none() {
            let earliest = self.peers_written.map(|t| t + PEERS_WRITE_EVERY);
            let after = earliest.map_or(Duration::ZERO, |t| t.since(now));
            let token = self.arm(now, after, Alarm::Peers, out);
            self.peers_timer = Some(token);
        }
    }

    pub(super) fn save_peers(&mut self, now: Time, out: &mut Vec<MemberAction>) {
        self.peers_dirty = false;
        self.peers_written = Some(now);
        out.push(MemberAction::PersistPeers(self.peers.list()));
    }
}
