//! What a put makes of the master's answers: committed, refused, unknown, disowned.
use super::{PutMachine, RENEWALS_MAX, State};
use crate::client::put::types::{PutAction, PutDone, PutError};
use crate::client::put::unit::Unit;
use crate::types::{LeaseSeq, Time};
use crate::wire::{ErrorClass, ErrorCode, MutationOk, ReplicaRequest, WireError};

impl PutMachine {
    pub(super) fn on_committed(
        &mut self,
        now: Time,
        result: Result<MutationOk, WireError>,
        out: &mut Vec<PutAction>,
    ) {
        match (self.state.clone(), result) {
            (
                State::Committing | State::Settling(..),
                Ok(MutationOk::Committed {
                    attr,
                    revision,
                    offset,
                    crowded,
                }),
            ) => {
                self.finish(
                    Ok(PutDone {
                        attr,
                        revision,
                        offset,
                        crowded,
                    }),
                    out,
                );
            }
            (State::Committing, Ok(_)) => {
                let e = WireError::new(
                    ErrorCode::Internal,
                    "a commit was answered with something else",
                );
                self.commit_unknown = true;
                self.abandon(PutError::Refused(e), out);
            }
            (State::Committing, Err(e)) => self.on_commit_error(now, e, out),
            (State::Settling(why, _), Ok(_)) => self.give_up(why, out),
            (State::Settling(why, _), Err(e)) => match (e.code, e.code.class()) {
                (ErrorCode::SessionExpired, _) => {
                    self.finish(Err(PutError::SessionLost { unknown: true }), out);
                }
                // Refused in any way, after it was disowned: it never was and never will be.
                (_, ErrorClass::Permanent) | (ErrorCode::WrongEpoch | ErrorCode::StaleLease, _) => {
                    self.give_up(why, out);
                }
                _ => {
                    let at = now + self.pause();
                    self.state = State::Settling(why, Some(at));
                }
            },
            // No commit is under way: an answer that the driver repeated.
            _ => {}
        }
    }

    fn on_commit_error(&mut self, now: Time, e: WireError, out: &mut Vec<PutAction>) {
        match e.code {
            ErrorCode::WrongEpoch => {
                self.state = State::Preparing;
                let moved = self.is_behind_map();
                self.adopt_map(now);
                if !moved {
                    self.refused_at = Some(self.map.version);
                    self.refresh_at = Some(now);
                }
            }
            ErrorCode::StaleLease if self.spec.renews && self.renewals < RENEWALS_MAX => {
                self.renewals += 1;
                self.state = State::Renewing;
                out.push(PutAction::RenewLease);
            }
            ErrorCode::StaleLease => self.abandon(PutError::StaleLease, out),
            ErrorCode::SessionExpired => {
                let unknown = self.commit_unknown;
                self.finish(Err(PutError::SessionLost { unknown }), out);
            }
            ErrorCode::OpAborted | ErrorCode::OpTooOld => {
                self.give_up(PutError::Aborted(e), out);
            }
            code => match code.class() {
                ErrorClass::Permanent => self.abandon(PutError::Refused(e), out),
                ErrorClass::Retry | ErrorClass::Redirect | ErrorClass::Unknown => {
                    self.commit_unknown |= code.class() == ErrorClass::Unknown;
                    if now >= self.expires_at {
                        self.last_error = e.to_string();
                        self.abandon(self.not_reached(), out);
                    } else {
                        self.state = State::CommitAgain(now + self.pause());
                    }
                }
            },
        }
    }

    pub(super) fn on_renewed(&mut self, lease: Option<LeaseSeq>, out: &mut Vec<PutAction>) {
        if self.state != State::Renewing {
            return;
        }
        match (lease, self.commit.as_mut()) {
            (Some(lease), Some(commit)) => {
                self.spec.lease = lease;
                commit.lease = lease;
                out.push(PutAction::Commit(commit.clone()));
                self.state = State::Committing;
            }
            _ => self.abandon(PutError::StaleLease, out),
        }
    }

    /// The map moved on while a commit was under way: some acks are of an epoch that is over.
    fn is_behind_map(&self) -> bool {
        let info = |u: &Unit| self.map.pgs.get(usize::from(u.pg.0));
        self.units
            .iter()
            .any(|u| info(u).is_some_and(|i| i.epoch != u.epoch))
    }

    pub(super) fn on_abandoned(
        &mut self,
        now: Time,
        result: Result<MutationOk, WireError>,
        out: &mut Vec<PutAction>,
    ) {
        let State::Abandoning(why, None) = &self.state else {
            return;
        };
        let why = why.clone();
        match result {
            Ok(MutationOk::Committed {
                attr,
                revision,
                offset,
                crowded,
            }) => {
                self.finish(
                    Ok(PutDone {
                        attr,
                        revision,
                        offset,
                        crowded,
                    }),
                    out,
                );
            }
            Ok(_) => self.settle(why, out),
            Err(e) if e.code == ErrorCode::SessionExpired => {
                let unknown = self.commit_unknown;
                self.finish(Err(PutError::SessionLost { unknown }), out);
            }
            // Decided already, one way or the other.
            Err(e) if e.code.class() == ErrorClass::Permanent => self.settle(why, out),
            Err(_) => {
                let at = now + self.pause();
                self.state = State::Abandoning(why, Some(at));
            }
        }
    }

    /// X is disowned. If a commit was left unanswered, its answer now is X's fate.
    pub(super) fn settle(&mut self, why: PutError, out: &mut Vec<PutAction>) {
        match (&self.commit, self.commit_unknown) {
            (Some(commit), true) => {
                out.push(PutAction::Commit(commit.clone()));
                self.state = State::Settling(why, None);
            }
            _ => self.give_up(why, out),
        }
    }

    /// X is decided never to be applied.
    pub(super) fn give_up(&mut self, why: PutError, out: &mut Vec<PutAction>) {
        for &to in &self.contacted {
            let request = ReplicaRequest::Drop {
                ops: vec![self.spec.op],
                ino: self.spec.ino,
            };
            out.push(PutAction::Drop { to, request });
        }
        self.finish(Err(why), out);
    }

    pub(super) fn abandon(&mut self, why: PutError, out: &mut Vec<PutAction>) {
        self.tries = 0;
        self.state = State::Abandoning(why, None);
        out.push(PutAction::Abandon);
    }

    pub(super) fn finish(&mut self, result: Result<PutDone, PutError>, out: &mut Vec<PutAction>) {
        self.state = State::Done;
        out.push(PutAction::Finish(result));
    }
}
