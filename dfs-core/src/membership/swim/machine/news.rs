//! Telling news directly, round by round; the goodbye is news too.
use super::super::codec::{GOODBYE, SwimId};
use super::super::effects::Alarm;
use super::super::events::MemberAction;
use super::super::urgent::Audience;
use super::Membership;
use crate::membership::list::MemberState;
use crate::types::Time;
use foca::State;
use std::net::SocketAddr;

impl Membership {
    pub(super) fn tell(
        &mut self,
        now: Time,
        update: foca::Member<SwimId>,
        audience: Audience,
        out: &mut Vec<MemberAction>,
    ) {
        self.urgent.add(update, audience, self.cfg.eager_rounds);
        if let Some(token) = self.urgent_timer.take() {
            self.timers.armed.remove(&token);
        }
        self.urgent_round(now, out);
    }

    pub(super) fn urgent_round(&mut self, now: Time, out: &mut Vec<MemberAction>) {
        let mut everybody: Vec<SocketAddr> =
            self.swim.iter_members().map(|m| m.id().0.gossip).collect();
        everybody.sort_unstable();
        let skip = everybody.len().saturating_sub(self.cfg.eager_targets_max);
        if skip > 0 {
            let at = self.pick(everybody.len());
            everybody.rotate_left(at);
            everybody.truncate(self.cfg.eager_targets_max);
        }
        for (to, bytes) in self.urgent.round(&everybody) {
            out.push(MemberAction::Send { to, bytes });
        }
        if !self.urgent.is_empty() {
            let token = self.arm(now, self.cfg.eager_interval, Alarm::Urgent, out);
            self.urgent_timer = Some(token);
        } else if self.leaving {
            out.push(MemberAction::Departed);
        }
    }

    pub(super) fn on_leave(&mut self, now: Time, out: &mut Vec<MemberAction>) {
        if self.leaving {
            return;
        }
        self.leaving = true;
        self.list.set_self(now, &self.me, MemberState::Left);
        if self.peers_dirty {
            self.save_peers(now, out);
        }
        self.urgent.clear();
        let goodbye = foca::Member::new(SwimId(self.me.clone()), GOODBYE, State::Down);
        if self.swim.num_members() == 0 {
            out.push(MemberAction::Departed);
        } else {
            self.tell(now, goodbye, Audience::All, out);
        }
    }
}
