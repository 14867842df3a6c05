//! The membership machine.
//!
//! It decides who is listed as what. It does not decide what follows from that.
//!
//! Steps:
//! 1. *Join*: announce to given addresses and remembered peers, with backoff while alone; later
//!    now and then to peers that are not listed as active, which heals partitions and restarts.
//! 2. *Probe*: one member per period, directly, then through others (SWIM, section 3); besides, at
//!    once, a member to which a connection broke, and among many members the next on a ring (`look`).
//! 3. *Suspect*: no answer makes a suspicion, which is gossiped and told to the accused directly.
//!    It objects by a higher number of foca's, told to everybody directly.
//! 4. *Down*: nobody objected in time. The accuser tells everybody directly, gossip does the rest.
//! 5. *Renew*: a node that hears of its own death takes the next incarnation and joins again. Whom it
//!    suspects it accuses anew, for foca forgets with its identity what was to come of that.
//! 6. *Leave*: the goodbye is told to everybody directly, in rounds; then the machine is silent.
//!
//! Invariants:
//! 1. An incarnation is durable before any datagram carries it: the first one by the identity
//!    file, later ones by [`MemberAction::PersistIncarnation`], which precedes the sends.
//! 2. A stall of this process accuses nobody: the driver hands over all waiting datagrams before
//!    it fires timers, and a timer that fires late moves all accusing timers by the lateness.
//! 3. The same seed and events give the same actions.
//!
//! Assumed failures: crashes, pauses, lost, late, repeated and reordered datagrams, partitions,
//! clock steps. Not lies: datagrams come from holders of the cluster key.
//!
//! Source: Das, Gupta, Motivala, "SWIM" (DSN 2002); Dadgar, Phillips, Currey, "Lifeguard" (2017).
use super::codec::{
    GOODBYE, KIND_LOOK, KIND_SEEN, KIND_SWIM, KIND_URGENT, SwimCodec, SwimId, decode_urgent,
};
use super::effects::{Alarm, Effects, SwimRng, Timers};
use super::events::{MemberAction, MemberEvent, MembershipStats, TimerToken};
use super::urgent::{Audience, Urgent};
mod join;
mod look;
mod news;

use crate::membership::config::{ConfigError, MembershipConfig};
use crate::membership::identity::NodeIdentity;
use crate::membership::list::{MemberChange, MemberList, MemberNotice, MemberState};
use crate::membership::peers::PeerBook;
use crate::types::{Incarnation, Time};
use foca::{Foca, NoCustomBroadcast, PeriodicParams, State, Timer};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::num::{NonZeroU8, NonZeroUsize};
use std::time::Duration;

/// Most addresses to join that are kept.
const CONTACTS_MAX: usize = 64;
/// How often a stall may move one timer; then it fires after all.
const DEFERRALS_MAX: u8 = 3;

type Swim = Foca<SwimId, SwimCodec, SwimRng, NoCustomBroadcast>;

/// The membership machine; the module docs of `machine` have its steps and invariants.
pub struct Membership {
    cfg: MembershipConfig,
    me: NodeIdentity,
    swim: Swim,
    timers: Timers,
    list: MemberList,
    peers: PeerBook,
    contacts: BTreeSet<SocketAddr>,
    rng: ChaCha8Rng,
    urgent: Urgent,
    urgent_timer: Option<u64>,
    join_timer: Option<u64>,
    join_delay: Duration,
    join_cursor: usize,
    peers_timer: Option<u64>,
    peers_dirty: bool,
    peers_written: Option<Time>,
    connected: bool,
    own_number: u16,
    leaving: bool,
    looks: look::Looks,
    stats: MembershipStats,
}

impl std::fmt::Debug for Membership {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut d = f.debug_struct("Membership");
        d.field("me", &self.me).field("list", &self.list).finish()
    }
}

impl Membership {
    /// A machine for `me`, whose incarnation is durable already. `peers` is what an earlier run
    /// remembered; `seed` decides every random choice.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn new(
        cfg: MembershipConfig,
        me: NodeIdentity,
        peers: PeerBook,
        seed: u64,
        now: Time,
    ) -> Result<Self, ConfigError> {
        cfg.validate()?;
        let rng = |stream| {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            rng.set_stream(stream);
            rng
        };
        let codec = SwimCodec { me: me.id };
        let swim = Foca::new(
            SwimId(me.clone()),
            swim_config(&cfg),
            SwimRng(rng(1)),
            codec,
        );
        let mut list = MemberList::new(cfg.log_max, cfg.keep_down_max);
        list.set_self(now, &me, MemberState::Alive);
        Ok(Self {
            swim,
            timers: Timers::default(),
            list,
            peers,
            contacts: BTreeSet::new(),
            rng: rng(2),
            urgent: Urgent::default(),
            urgent_timer: None,
            join_timer: None,
            join_delay: cfg.rejoin_min,
            join_cursor: 0,
            peers_timer: None,
            peers_dirty: false,
            peers_written: None,
            connected: false,
            own_number: 0,
            leaving: false,
            looks: look::Looks::default(),
            stats: MembershipStats::default(),
            me,
            cfg,
        })
    }

    /// This node, in its current incarnation.
    #[must_use]
    pub fn identity(&self) -> &NodeIdentity {
        &self.me
    }

    /// The member list, this node included, and its log.
    #[must_use]
    pub fn list(&self) -> &MemberList {
        &self.list
    }

    /// Counters.
    #[must_use]
    pub fn stats(&self) -> MembershipStats {
        self.stats
    }

    /// Handles one event; appends what the driver does, in order.
    pub fn handle(&mut self, now: Time, event: MemberEvent, out: &mut Vec<MemberAction>) {
        match event {
            MemberEvent::Start => {
                self.join_soon(now, out);
                self.arm_ring(now, out);
            }
            MemberEvent::Datagram { from, bytes } => self.on_datagram(now, (from, &bytes), out),
            MemberEvent::Doubt { tcp } => self.on_doubt(now, tcp, out),
            MemberEvent::Timer(token) => self.on_timer(now, token, out),
            MemberEvent::Join { addrs } => {
                let room = CONTACTS_MAX.saturating_sub(self.contacts.len());
                self.contacts.extend(addrs.into_iter().take(room));
                self.join_soon(now, out);
            }
            MemberEvent::Leave => self.on_leave(now, out),
        }
        assert!(
            self.swim.identity().0.incarnation == self.me.incarnation,
            "every renewal was seen and persisted"
        );
    }

    fn on_datagram(
        &mut self,
        now: Time,
        (from, payload): (SocketAddr, &[u8]),
        out: &mut Vec<MemberAction>,
    ) {
        if self.leaving {
            return;
        }
        match payload.split_first() {
            Some((&KIND_SWIM, packet)) => {
                self.call(now, false, out, |swim, fx| swim.handle_data(packet, fx));
            }
            Some((&KIND_URGENT, body)) => match decode_urgent(body) {
                Ok(updates) => self.on_urgent(now, updates, out),
                Err(_) => self.stats.rejected += 1,
            },
            Some((&KIND_LOOK, body)) => self.on_look(from, body, out),
            Some((&KIND_SEEN, body)) => self.on_seen(body),
            _ => self.stats.rejected += 1,
        }
    }

    fn on_urgent(
        &mut self,
        now: Time,
        updates: Vec<foca::Member<SwimId>>,
        out: &mut Vec<MemberAction>,
    ) {
        let goodbyes: Vec<NodeIdentity> = updates
            .iter()
            .filter(|u| u.incarnation() == GOODBYE && u.id().0.id != self.me.id)
            .map(|u| u.id().0.clone())
            .collect();
        self.call(now, false, out, |swim, fx| {
            swim.apply_many(updates.into_iter(), true, fx)
        });
        // To foca a dead run is dead; that it had said goodbye may be heard later than its death.
        for id in goodbyes {
            if self.list.get(id.id).is_some_and(|m| !m.state.is_active()) {
                let notice = self.list.set(now, &id, MemberState::Left);
                out.extend(notice.map(MemberAction::Notify));
            }
        }
    }

    fn on_timer(&mut self, now: Time, TimerToken(token): TimerToken, out: &mut Vec<MemberAction>) {
        let Some(due) = self.timers.armed.get(&token).map(|t| t.due) else {
            return;
        };
        let late = now.since(due);
        if late > self.cfg.probe_rtt {
            self.stats.stalls += 1;
            self.timers
                .defer(late + self.cfg.probe_rtt * 2, DEFERRALS_MAX);
        }
        let Some(timer) = self.timers.armed.get(&token) else {
            return;
        };
        if now < timer.due {
            let after = timer.due.since(now);
            out.push(MemberAction::SetTimer {
                token: TimerToken(token),
                after,
            });
            return;
        }
        let Some(timer) = self.timers.armed.remove(&token) else {
            return;
        };
        match timer.alarm {
            Alarm::Urgent => {
                self.urgent_timer = None;
                self.urgent_round(now, out);
            }
            _ if self.leaving => {}
            Alarm::Swim(event) => self.on_swim_timer(now, event, out),
            Alarm::Ring => self.on_ring(now, out),
            Alarm::Look(node) => self.on_look_timer(now, node, out),
            Alarm::LookedFor(id, number) => self.on_looked_for(now, *id, number, out),
            Alarm::Join => {
                self.join_timer = None;
                self.on_join(now, out);
            }
            Alarm::Peers => {
                self.peers_timer = None;
                self.save_peers(now, out);
            }
        }
    }

    fn on_swim_timer(&mut self, now: Time, event: Timer<SwimId>, out: &mut Vec<MemberAction>) {
        let accuses = matches!(
            event,
            Timer::ProbeRandomMember(_) | Timer::ChangeSuspectToDown { .. }
        );
        let forgotten = match &event {
            Timer::RemoveDown(id) => Some(id.0.id),
            // Foca tells the member of its death even if it has objected meanwhile, which would
            // cost it a needless renewal.
            Timer::ChangeSuspectToDown {
                member_id,
                incarnation,
                ..
            } if !self.is_suspected(member_id, *incarnation) => return,
            _ => None,
        };
        self.call(now, accuses, out, |swim, fx| swim.handle_timer(event, fx));
        if let Some(id) = forgotten
            && !self.swim.iter_membership_state().any(|m| m.id().0.id == id)
            && id != self.me.id
        {
            self.list.forget(id);
        }
    }

    fn is_suspected(&self, id: &SwimId, number: u16) -> bool {
        let mut states = self.swim.iter_membership_state();
        states.any(|m| m.id() == id && m.incarnation() == number && m.state() == State::Suspect)
    }

    /// One call of foca, and everything that follows from it. `accuses`: what becomes suspected or
    /// down in it does so by this node's own judgement, so that it is the one to tell.
    fn call(
        &mut self,
        now: Time,
        accuses: bool,
        out: &mut Vec<MemberAction>,
        call: impl FnOnce(&mut Swim, &mut Effects) -> Result<(), foca::Error>,
    ) {
        let mut fx = Effects::default();
        if call(&mut self.swim, &mut fx).is_err() {
            self.stats.rejected += 1;
        }
        if let Some(connected) = fx.connected {
            self.connected = connected;
        }
        let renewed = fx.rejoined.is_some();
        if let Some(incarnation) = fx.rejoined {
            self.on_renewed(now, incarnation, out);
        }
        for (to, bytes) in fx.sends {
            out.push(MemberAction::Send { to, bytes });
        }
        for (event, after) in fx.timers {
            self.arm(now, after, Alarm::Swim(event), out);
        }
        let objected = fx.own_incarnation.is_some_and(|n| n > self.own_number);
        if let Some(number) = fx.own_incarnation {
            self.own_number = number;
        }
        if renewed || objected {
            let alive = foca::Member::new(SwimId(self.me.clone()), self.own_number, State::Alive);
            self.tell(now, alive, Audience::All, out);
        }
        self.sync(now, accuses, out);
        if renewed || fx.connected == Some(false) {
            self.accuse_again(now, out);
            self.join_soon(now, out);
        }
    }

    fn on_renewed(&mut self, now: Time, incarnation: Incarnation, out: &mut Vec<MemberAction>) {
        let previous = self.me.incarnation;
        self.me.incarnation = incarnation;
        self.own_number = 0;
        self.stats.renewals += 1;
        out.push(MemberAction::PersistIncarnation(incarnation));
        self.list.set_self(now, &self.me, MemberState::Alive);
        let notice = MemberNotice {
            at: now,
            node: self.me.id,
            incarnation,
            what: MemberChange::Renewed { previous },
        };
        self.list.record(notice);
        out.push(MemberAction::Notify(notice));
    }

    /// Takes over what foca believes into the list, and acts on what changed.
    fn sync(&mut self, now: Time, accuses: bool, out: &mut Vec<MemberAction>) {
        let mut changes = Vec::new();
        for m in self.swim.iter_membership_state() {
            let id = &m.id().0;
            let state = match m.state() {
                State::Alive => MemberState::Alive,
                State::Suspect => MemberState::Suspect,
                State::Down if m.incarnation() == GOODBYE => MemberState::Left,
                State::Down => MemberState::Down,
            };
            // Older runs of this node are no members.
            if id.id != self.me.id
                && let Some(notice) = self.list.set(now, id, state)
            {
                changes.push((notice, m.clone()));
            }
        }
        let mut spread = false;
        for (notice, update) in changes {
            out.push(MemberAction::Notify(notice));
            self.urgent.cancel(notice.node);
            match notice.what {
                MemberChange::Joined | MemberChange::Restarted { .. } => {
                    self.remember(now, &update.id().0, out);
                }
                MemberChange::Suspected if accuses => {
                    let to = Audience::One(update.id().0.gossip);
                    self.tell(now, update, to, out);
                }
                MemberChange::Failed if accuses => self.tell(now, update, Audience::All, out),
                MemberChange::Failed | MemberChange::Left => spread = true,
                MemberChange::Suspected
                | MemberChange::Recovered
                | MemberChange::Renewed { .. } => {}
            }
        }
        while let Some(row) = self.list.take_excess() {
            let id = SwimId::bare(row.id, row.incarnation, row.gossip);
            self.call(now, false, out, |swim, fx| {
                swim.handle_timer(Timer::RemoveDown(id), fx)
            });
        }
        if spread {
            self.call(now, false, out, |swim, fx| swim.gossip(fx));
        }
    }

    /// A call of foca that only sends.
    fn call_quietly(
        &mut self,
        out: &mut Vec<MemberAction>,
        call: impl FnOnce(&mut Swim, &mut Effects) -> Result<(), foca::Error>,
    ) {
        let mut fx = Effects::default();
        if call(&mut self.swim, &mut fx).is_err() {
            self.stats.rejected += 1;
        }
        for (to, bytes) in fx.sends {
            out.push(MemberAction::Send { to, bytes });
        }
    }

    fn arm(
        &mut self,
        now: Time,
        after: Duration,
        alarm: Alarm,
        out: &mut Vec<MemberAction>,
    ) -> u64 {
        let token = self.timers.arm(now + after, alarm);
        out.push(MemberAction::SetTimer {
            token: TimerToken(token),
            after,
        });
        token
    }

    fn pick(&mut self, below: usize) -> usize {
        usize::try_from(self.rng.next_u32()).unwrap_or(0) % below.max(1)
    }
}

fn swim_config(cfg: &MembershipConfig) -> foca::Config {
    let fanout = NonZeroUsize::new(cfg.fanout).unwrap_or(NonZeroUsize::MIN);
    foca::Config {
        probe_period: cfg.probe_period,
        probe_rtt: cfg.probe_rtt,
        num_indirect_probes: fanout,
        max_transmissions: NonZeroU8::new(cfg.transmissions).unwrap_or(NonZeroU8::MIN),
        suspect_to_down_after: cfg.suspect_for,
        remove_down_after: Some(cfg.keep_down),
        max_packet_size: NonZeroUsize::new(cfg.packet_max).unwrap_or(NonZeroUsize::MIN),
        notify_down_members: true,
        periodic_announce: Some(PeriodicParams {
            frequency: Duration::from_secs(5),
            num_members: NonZeroUsize::MIN,
        }),
        // The machine contacts every absent peer itself.
        periodic_announce_to_down_members: None,
        periodic_gossip: Some(PeriodicParams {
            frequency: cfg.probe_period,
            num_members: fanout,
        }),
    }
}
