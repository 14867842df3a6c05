//! Reading objects: stateless, so the waiting is done on reader threads beside the machine.
//!
//! Steps: [`plan`] on the machine's thread looks the objects up; [`Planned::run`] on any thread
//! reads, verifies and makes the reply. Bytes leave only after they matched their sums in this very
//! read. A damaged object is an error that names it and the place, and is handed to the machine for
//! repair.
use super::event::ReadJob;
use crate::store::{ObjectRead, ObjectStore, ReadPlan, StoreError};
use crate::types::ObjectId;
use crate::wire::replica::CheckState;
use crate::wire::rpc::{Reply, ReplyTo};
use crate::wire::{ErrorCode, ReplicaResponse, Response, Stamp, WireError};
use bytes::Bytes;

/// Objects of one `Check` at most.
pub const CHECK_MAX: usize = 4096;

type Plan = Result<ReadPlan, StoreError>;

/// A read that is ready to run on any thread.
#[derive(Debug)]
pub enum Planned {
    /// Answers a `Read`.
    Read {
        /// Whom to answer.
        to: ReplyTo,
        /// The object.
        object: ObjectId,
        /// How.
        plan: Plan,
        /// The stamp that goes along.
        stamp: Option<Result<Stamp, WireError>>,
    },
    /// Answers a `Fetch`.
    Fetch {
        /// Whom to answer.
        to: ReplyTo,
        /// The object.
        object: ObjectId,
        /// How.
        plan: Plan,
    },
    /// Answers a `Check`.
    Check {
        /// Whom to answer.
        to: ReplyTo,
        /// How.
        plans: Vec<(ObjectId, Plan)>,
    },
}

/// Looks the objects of a job up.
#[must_use]
pub fn plan(job: ReadJob, store: &ObjectStore) -> Planned {
    match job {
        ReadJob::Read {
            to,
            object,
            offset,
            len,
            stamp,
        } => Planned::Read {
            to,
            object,
            plan: store.plan_read(object, offset, len),
            stamp,
        },
        ReadJob::Fetch { to, object } => Planned::Fetch {
            to,
            object,
            plan: store.plan_read(object, 0, u32::MAX),
        },
        ReadJob::Check { to, objects } => {
            let plan = |id| (id, store.plan_read(id, 0, u32::MAX));
            Planned::Check {
                to,
                plans: objects.into_iter().map(plan).collect(),
            }
        }
    }
}

impl Planned {
    /// False if the bytes are in memory already (and few, unless they are just being written).
    #[must_use]
    pub fn waits_for_disk(&self) -> bool {
        match self {
            Self::Read { plan, .. } | Self::Fetch { plan, .. } => {
                plan.as_ref().is_ok_and(ReadPlan::waits_for_disk)
            }
            Self::Check { .. } => true,
        }
    }

    /// Reads. Returns the reply and the objects found damaged: feed them to the machine as
    /// [`Damaged`](super::ReplicaEvent::Damaged).
    #[must_use]
    pub fn run(self) -> (Reply, Vec<ObjectId>) {
        match self {
            Self::Read {
                to,
                object,
                plan,
                stamp,
            } => answered(to, object, plan.and_then(ReadPlan::run), |read| {
                let (offset, sum, sums) = (read.offset, read.sum, read.sums);
                let body = ReplicaResponse::Read {
                    offset,
                    sum,
                    sums,
                    stamp,
                };
                (body, read.bytes)
            }),
            Self::Fetch { to, object, plan } => {
                let about = plan.as_ref().ok().and_then(ReadPlan::about);
                answered(to, object, plan.and_then(ReadPlan::run), |read| {
                    let sums = read.sums;
                    (ReplicaResponse::Fetched { sums, about }, read.bytes)
                })
            }
            Self::Check { to, plans } => {
                let mut damaged = Vec::new();
                let states = plans
                    .into_iter()
                    .map(|(id, plan)| check(id, plan, &mut damaged));
                let body = ReplicaResponse::Checked(states.collect());
                let body = Ok(Response::Replica(body));
                (
                    Reply {
                        to,
                        body,
                        payload: Vec::new(),
                    },
                    damaged,
                )
            }
        }
    }
}

/// The reply to one read, and the object if it is damaged.
fn answered(
    to: ReplyTo,
    object: ObjectId,
    read: Result<ObjectRead, StoreError>,
    response: impl FnOnce(ObjectRead) -> (ReplicaResponse, Bytes),
) -> (Reply, Vec<ObjectId>) {
    match read {
        Ok(read) => {
            let (body, bytes) = response(read);
            let (body, payload) = (Ok(Response::Replica(body)), vec![bytes]);
            (Reply { to, body, payload }, Vec::new())
        }
        Err(error) => {
            let damaged = is_damage(&error).then_some(object);
            let (body, payload) = (Err(to_wire(&error)), Vec::new());
            (Reply { to, body, payload }, damaged.into_iter().collect())
        }
    }
}

fn check(id: ObjectId, plan: Plan, damaged: &mut Vec<ObjectId>) -> CheckState {
    match plan.and_then(ReadPlan::run) {
        Ok(read) => CheckState::Good(read.sum),
        Err(StoreError::NotFound { .. }) => CheckState::Missing,
        Err(_) => {
            damaged.push(id);
            CheckState::Damaged
        }
    }
}

fn is_damage(error: &StoreError) -> bool {
    !matches!(error, StoreError::NotFound { .. })
}

fn to_wire(error: &StoreError) -> WireError {
    let is_missing = matches!(error, StoreError::NotFound { .. });
    let code = if is_missing {
        ErrorCode::NotFound
    } else {
        ErrorCode::Corrupt
    };
    WireError::new(code, error.to_string())
}
