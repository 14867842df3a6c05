//! Looking at a member besides foca's probes, whose turn for it may be a second away in a large cluster:
//! at once when somebody's connection to it broke (a doubt); and, among [`RING_MIN`] members or more,
//! every second probe period at the next on the ring of node ids, so that a dead member has one prober
//! for certain and not only by luck.
//!
//! ```text
//!  Doubt, Ring ── ping, again every probe_rtt ──> no answer to TRIES pings ──> suspected ──> down
//!                     │ any answer                     (accused and others are told)   suspect_for
//!                     └──> over
//! ```
//! By luck alone the time until a first probe has no bound: among n nodes about one probe per period is for the
//! dead one, so that in one of a hundred deaths none is for 4.6 periods.
//!
//! A broken connection alone accuses nobody: what follows from silence here is what follows from a
//! failed probe, with the same time to object. The pings are of this machine, since foca probes in
//! its own order only.
use super::super::codec::{KIND_LOOK, KIND_SEEN, SwimId};
use super::super::effects::Alarm;
use super::super::events::MemberAction;
use super::super::urgent::Audience;
use super::Membership;
use crate::membership::list::MemberState;
use crate::types::{NodeId, Time};
use foca::State;
use rand_chacha::rand_core::RngCore;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

/// Pings without an answer that make a suspicion.
const TRIES: u8 = 3;
/// The same on the ring, where nothing was amiss before: there are many more looks.
const RING_TRIES: u8 = 4;
/// Members from which on there is a ring. Fewer are probed often enough in foca's order.
const RING_MIN: usize = 4;
/// A member is not looked at again for a doubt sooner, however many connections to it break.
const AGAIN: Duration = Duration::from_secs(1);
/// Members looked at, or looked at recently, at a time.
const LOOKS_MAX: usize = 64;

/// A look at one member.
#[derive(Debug)]
struct Look {
    began: Time,
    nonce: u64,
    /// Pings sent; 0 when it is over.
    tries: u8,
    /// Pings that are sent if none is answered.
    tries_max: u8,
}

impl Look {
    fn new(now: Time, nonce: u64, tries_max: u8) -> Self {
        Self {
            began: now,
            nonce,
            tries: 0,
            tries_max,
        }
    }

    /// It stands in the way of another one for a doubt.
    fn suffices(&self, now: Time) -> bool {
        self.tries > 0 || (self.tries_max == TRIES && now.since(self.began) < AGAIN)
    }
}

/// Looks under way and those of the last second.
#[derive(Debug, Default)]
pub(super) struct Looks {
    by_node: BTreeMap<NodeId, Look>,
}

impl Membership {
    /// A connection to the member at this address broke, or was refused.
    pub(super) fn on_doubt(&mut self, now: Time, tcp: SocketAddr, out: &mut Vec<MemberAction>) {
        let is_meant = |m: &&crate::membership::list::Member| {
            m.tcp == tcp && m.id != self.me.id && m.state == MemberState::Alive
        };
        let Some(node) = self.list.iter().find(is_meant).map(|m| m.id) else {
            return; // nobody, or accused already
        };
        let looks = &mut self.looks.by_node;
        looks.retain(|_, look| look.suffices(now));
        if self.leaving || looks.contains_key(&node) || looks.len() >= LOOKS_MAX {
            return;
        }
        looks.insert(node, Look::new(now, self.rng.next_u64(), TRIES));
        self.stats.looks += 1;
        self.ping(now, node, out);
    }

    /// Arms the next look at the ring.
    pub(super) fn arm_ring(&mut self, now: Time, out: &mut Vec<MemberAction>) {
        self.arm(now, self.cfg.probe_period * 2, Alarm::Ring, out);
    }

    /// It is time to look at the next on the ring.
    pub(super) fn on_ring(&mut self, now: Time, out: &mut Vec<MemberAction>) {
        self.arm_ring(now, out);
        let alive = || {
            let active = self.list.iter().filter(|m| m.state == MemberState::Alive);
            active.map(|m| m.id)
        };
        if alive().count() < RING_MIN {
            return;
        }
        let others = || alive().filter(|id| *id != self.me.id);
        let after = others().filter(|id| *id > self.me.id).min();
        let Some(next) = after.or_else(|| others().min()) else {
            return;
        };
        let looks = &mut self.looks.by_node;
        looks.retain(|_, look| look.suffices(now));
        if looks.get(&next).is_none_or(|look| look.tries == 0) {
            looks.insert(next, Look::new(now, self.rng.next_u64(), RING_TRIES));
            self.ping(now, next, out);
        }
    }

    fn ping(&mut self, now: Time, node: NodeId, out: &mut Vec<MemberAction>) {
        let Some(to) = self.list.get(node).map(|m| m.gossip) else {
            self.looks.by_node.remove(&node);
            return;
        };
        let Some(look) = self.looks.by_node.get_mut(&node) else {
            return;
        };
        look.tries += 1;
        let mut bytes = vec![KIND_LOOK];
        bytes.extend_from_slice(&look.nonce.to_be_bytes());
        bytes.extend_from_slice(&self.me.id.0.to_be_bytes());
        out.push(MemberAction::Send { to, bytes });
        self.arm(now, self.cfg.probe_rtt, Alarm::Look(node), out);
    }

    /// Somebody looks at this node.
    pub(super) fn on_look(&mut self, from: SocketAddr, body: &[u8], out: &mut Vec<MemberAction>) {
        let Some((nonce, asker)) = body.split_first_chunk::<8>() else {
            self.stats.rejected += 1;
            return;
        };
        let Ok(asker) = asker.try_into() else {
            self.stats.rejected += 1;
            return;
        };
        let asker = NodeId(u128::from_be_bytes(asker));
        let to = self.list.get(asker).map_or(from, |m| m.gossip);
        let mut bytes = vec![KIND_SEEN];
        bytes.extend_from_slice(nonce);
        out.push(MemberAction::Send { to, bytes });
    }

    /// An answer, maybe a late one.
    pub(super) fn on_seen(&mut self, body: &[u8]) {
        let Ok(nonce) = body.try_into().map(u64::from_be_bytes) else {
            self.stats.rejected += 1;
            return;
        };
        let mut looks = self.looks.by_node.values_mut();
        if let Some(look) = looks.find(|look| look.nonce == nonce) {
            look.tries = 0;
        }
    }

    pub(super) fn on_look_timer(&mut self, now: Time, node: NodeId, out: &mut Vec<MemberAction>) {
        let look = self.looks.by_node.get(&node);
        match look.map(|look| (look.tries, look.tries_max)) {
            None | Some((0, _)) => {}
            Some((tries, max)) if tries < max => self.ping(now, node, out),
            Some(_) => {
                self.looks.by_node.remove(&node);
                self.suspect(now, node, out);
            }
        }
    }

    fn suspect(&mut self, now: Time, node: NodeId, out: &mut Vec<MemberAction>) {
        let alive = self
            .swim
            .iter_membership_state()
            .find(|m| m.id().0.id == node && m.state() == State::Alive)
            .map(|m| (m.id().clone(), m.incarnation()));
        let Some((id, number)) = alive else {
            return;
        };
        let suspect = foca::Member::new(id.clone(), number, State::Suspect);
        self.call(now, true, out, |swim, fx| {
            swim.apply_many(std::iter::once(suspect), true, fx)
        });
        let alarm = Alarm::LookedFor(Box::new(id), number);
        self.arm(now, self.cfg.suspect_for, alarm, out);
    }

    /// Foca has forgotten its timers, and what it had yet to tell of suspicions may be lost with its former
    /// identity: whoever is suspected is told once more, and has the time to object once more.
    pub(super) fn accuse_again(&mut self, now: Time, out: &mut Vec<MemberAction>) {
        let members = self.swim.iter_membership_state();
        let suspects = members.filter(|m| m.state() == State::Suspect).cloned();
        for suspect in suspects.collect::<Vec<_>>() {
            let (id, number) = (suspect.id().clone(), suspect.incarnation());
            let to = Audience::One(id.0.gossip);
            self.urgent.add(suspect, to, self.cfg.eager_rounds);
            let alarm = Alarm::LookedFor(Box::new(id), number);
            self.arm(now, self.cfg.suspect_for, alarm, out);
        }
        // A round is under way, or due: each of them would be one more at once.
        if self.urgent_timer.is_none() && !self.urgent.is_empty() {
            self.urgent_round(now, out);
        }
    }

    /// The time to object is over.
    pub(super) fn on_looked_for(
        &mut self,
        now: Time,
        id: SwimId,
        number: u16,
        out: &mut Vec<MemberAction>,
    ) {
        if self.is_suspected(&id, number) {
            let down = foca::Member::new(id, number, State::Down);
            self.call(now, true, out, |swim, fx| {
                swim.apply_many(std::iter::once(down), true, fx)
            });
        }
    }
}
