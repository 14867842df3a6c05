//! Faults and changes of membership.
use super::world::{Event, MS, World};
use crate::consensus::{ConfChange, ConfState, ConfStep, RaftEvent};
use crate::types::RaftId;
use rand::Rng;

impl World {
    /// One fault or change; schedules the next.
    pub(super) fn strike(&mut self) -> Result<(), String> {
        let count = self.members.len();
        let at = self.rng.random_range(0..count);
        match self.rng.random_range(0..14) {
            12 => self.stop_leader()?,
            13 => self.deafen_leader()?,
            0 if self.running() > count / 2 => {
                self.crash(at)?;
                if self.rng.random_bool(0.4) {
                    self.boot(at)?;
                }
            }
            1 if self.running() > count / 2 => self.doomed = Some(at),
            0..=2 => self.boot_all()?,
            3 => {
                let pause = self.rng.random_range(50..2000) * MS;
                self.members[at].paused_until = self.now + pause;
            }
            4 => self.isolate(at),
            5 => {
                let to = self.rng.random_range(0..count);
                self.cut.insert((self.members[at].id, self.members[to].id));
            }
            6 | 7 => self.cut.clear(),
            8 if self.rng.random_bool(0.2) => {
                for at in 0..count {
                    self.crash(at)?;
                }
                self.boot_all()?;
            }
            8 => self.transfer()?,
            _ => self.change_members()?,
        }
        let next = self.now + self.rng.random_range(20..500) * MS;
        self.schedule(next, Event::Strike);
        Ok(())
    }

    /// Stops a process and its disk at any moment of a write.
    pub(super) fn crash(&mut self, at: usize) -> Result<(), String> {
        let member = &mut self.members[at];
        let Some(mut process) = member.process.take() else {
            return Ok(());
        };
        if !process.syncing.is_empty() && self.rng.random_bool(0.6) {
            member.disk.stop(true);
            let writes: Vec<_> = process.syncing.drain(..).map(|(_, write)| write).collect();
            if process.log.append(&writes).is_ok() {
                return Err("a stopped disk synced".into());
            }
            member.disk.stop(false);
            self.stats.torn += 1;
        }
        member.disk.inner.crash(&mut self.rng);
        member.run += 1;
        self.stats.crashes += 1;
        Ok(())
    }

    pub(super) fn boot_all(&mut self) -> Result<(), String> {
        for at in 0..self.members.len() {
            if self.members[at].process.is_none() {
                self.boot(at)?;
            }
        }
        Ok(())
    }

    fn running(&self) -> usize {
        let running = self.members.iter().filter(|m| m.process.is_some());
        running.count()
    }

    fn isolate(&mut self, at: usize) {
        let lonely = self.members[at].id;
        let others: Vec<RaftId> = self.members.iter().map(|m| m.id).collect();
        let both_ways = self.rng.random_bool(0.7);
        for other in others.into_iter().filter(|id| *id != lonely) {
            self.cut.insert((lonely, other));
            if both_ways {
                self.cut.insert((other, lonely));
            }
        }
    }

    /// The leader stands still, and believes what it believed when it goes on; the others may start anew
    /// meanwhile.
    fn stop_leader(&mut self) -> Result<(), String> {
        let Some((leader, _)) = self.leader() else {
            return Ok(());
        };
        let pause = self.rng.random_range(300..2000) * MS;
        self.members[leader].paused_until = self.now + pause;
        if self.rng.random_bool(0.5) {
            for at in (0..self.members.len()).filter(|at| *at != leader) {
                self.crash(at)?;
                self.boot(at)?;
            }
        }
        Ok(())
    }

    /// The leader hears nothing any more, but is heard when it hands the lead over.
    fn deafen_leader(&mut self) -> Result<(), String> {
        let Some((leader, _)) = self.leader() else {
            return Ok(());
        };
        let deaf = self.members[leader].id;
        let others: Vec<RaftId> = self.members.iter().map(|m| m.id).collect();
        for other in others.into_iter().filter(|id| *id != deaf) {
            self.cut.insert((other, deaf));
        }
        self.transfer()
    }

    fn transfer(&mut self) -> Result<(), String> {
        let Some((at, conf)) = self.leader() else {
            return Ok(());
        };
        let to = conf.voters[self.rng.random_range(0..conf.voters.len())];
        self.feed(at, [RaftEvent::TransferLeader { to }])
    }

    /// The member that leads the newest term, and the members it knows.
    pub(super) fn leader(&self) -> Option<(usize, ConfState)> {
        let leads = |at: &usize| {
            let process = self.members[*at].process.as_ref();
            process.is_some_and(|p| p.raft.is_leader())
        };
        let at = (0..self.members.len()).filter(leads).max_by_key(|at| {
            let process = self.members[*at].process.as_ref();
            process.map(|p| p.raft.term())
        })?;
        let process = self.members[at].process.as_ref()?;
        Some((at, process.raft.conf().clone()))
    }

    fn change_members(&mut self) -> Result<(), String> {
        let Some((at, conf)) = self.leader() else {
            return Ok(());
        };
        let change = if conf.is_joint() {
            ConfChange::LeaveJoint
        } else {
            self.choose_change(&conf)
        };
        let token = self.next_token();
        self.conf_tokens.insert(token);
        self.feed(at, [RaftEvent::ProposeConf { token, change }])
    }

    fn choose_change(&mut self, conf: &ConfState) -> ConfChange {
        let ids: Vec<RaftId> = self.members.iter().map(|m| m.id).collect();
        let voter = conf.voters[self.rng.random_range(0..conf.voters.len())];
        let outsider = ids.iter().find(|id| !conf.contains(**id)).copied();
        match (conf.learners.first().copied(), outsider) {
            (Some(learner), _) => match self.rng.random_range(0..3) {
                0 => ConfChange::One(ConfStep::Promote(learner)),
                1 => ConfChange::One(ConfStep::Remove(learner)),
                _ => ConfChange::Joint(vec![ConfStep::Remove(voter), ConfStep::Promote(learner)]),
            },
            (None, Some(outsider)) if conf.voters.len() <= 3 || self.rng.random_bool(0.5) => {
                ConfChange::One(ConfStep::AddLearner(outsider))
            }
            _ => ConfChange::One(ConfStep::Remove(voter)),
        }
    }
}
