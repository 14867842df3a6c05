//! Round trips: how many requests a client has sent, by what they are for.
//!
//! A request counts when it is sent, an attempt that repeats it once more. Those to the master that no program
//! waits for (keep-alives, releases, seals, access times, commits of compactions) count apart: they come in
//! groups and at moments of their own, and the other counts are what operations cost. Acknowledgements of
//! pushes are no requests.
use crate::wire::{Change, MasterRequest, Mutation, ReplicaRequest};
use std::sync::atomic::{AtomicU64, Ordering};

/// Requests that a client has sent since it was made. See [`Client::trips`](super::Client::trips).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Trips {
    /// To the master: changes of names, attributes and content, and locks. One that waits for its lock asks
    /// every second.
    pub changes: u64,
    /// To the master: what changes nothing.
    pub questions: u64,
    /// To the master: opens. A file that is made is opened by the change.
    pub opens: u64,
    /// To the master: what no program waits for.
    pub background: u64,
    /// To stores: bytes and marks to be made durable, one for each store of each put.
    pub prepares: u64,
    /// To stores: bytes wanted, most with a stamp.
    pub reads: u64,
    /// To stores: a stamp alone.
    pub stamps: u64,
    /// To stores: all else.
    pub others: u64,
}

/// Where they are counted.
#[derive(Debug, Default)]
pub(super) struct TripCounts {
    changes: AtomicU64,
    questions: AtomicU64,
    opens: AtomicU64,
    background: AtomicU64,
    prepares: AtomicU64,
    reads: AtomicU64,
    stamps: AtomicU64,
    others: AtomicU64,
}

impl TripCounts {
    /// A request to the master is sent.
    pub(super) fn to_master(&self, request: &MasterRequest) {
        use MasterRequest as R;
        let count = match request {
            R::Mutate { body, .. } if is_background(body) => &self.background,
            R::Mutate { .. } | R::MutateAfter { .. } | R::Lock { .. } => &self.changes,
            R::Open { .. } => &self.opens,
            R::OpenSession { .. }
            | R::KeepAlive { .. }
            | R::CloseSession { .. }
            | R::PushAck { .. }
            | R::Release { .. } => &self.background,
            // A query, or a question or an order of a tool.
            _ => &self.questions,
        };
        count.fetch_add(1, Ordering::Relaxed);
    }

    /// A request to a store is sent.
    pub(super) fn to_store(&self, request: &ReplicaRequest) {
        let count = match request {
            ReplicaRequest::Prepare { .. } => &self.prepares,
            ReplicaRequest::Read { .. } => &self.reads,
            ReplicaRequest::Stamp(_) => &self.stamps,
            _ => &self.others,
        };
        count.fetch_add(1, Ordering::Relaxed);
    }

    /// The counts now; not of one moment while requests are being sent.
    pub(super) fn now(&self) -> Trips {
        let get = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Trips {
            changes: get(&self.changes),
            questions: get(&self.questions),
            opens: get(&self.opens),
            background: get(&self.background),
            prepares: get(&self.prepares),
            reads: get(&self.reads),
            stamps: get(&self.stamps),
            others: get(&self.others),
        }
    }
}

/// No program waits for this change.
fn is_background(body: &Mutation) -> bool {
    match body {
        Mutation::Seal { .. } | Mutation::Accessed { .. } | Mutation::Reserve { .. } => true,
        Mutation::Commit(commit) => matches!(commit.change, Change::Compact { .. }),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{ClientId, Ino, OpId};
    use crate::wire::replica::StampRequest;
    use crate::wire::{Query, WriteToken};

    fn mutate(body: Mutation) -> MasterRequest {
        MasterRequest::Mutate {
            op: OpId::default(),
            low: 0,
            body,
            open: None,
        }
    }

    #[test]
    fn what_no_program_waits_for_counts_apart() {
        let (client, ino) = (ClientId(1), Ino(2));
        let token = WriteToken { client, seq: 1 };
        let counts = TripCounts::default();
        counts.to_master(&mutate(Mutation::Seal { ino, token }));
        counts.to_master(&mutate(Mutation::Accessed { times: Vec::new() }));
        counts.to_master(&MasterRequest::Release {
            client,
            inos: vec![ino],
        });
        let background = Trips {
            background: 3,
            ..Trips::default()
        };
        assert_eq!(counts.now(), background);
        let op = OpId::default();
        counts.to_master(&mutate(Mutation::Abandon { op }));
        counts.to_master(&MasterRequest::Open {
            client,
            ino,
            write: true,
            interest: true,
        });
        for _ in 0..2 {
            counts.to_master(&MasterRequest::Query {
                client: None,
                interest: false,
                body: Query::GetAttr { ino },
            });
        }
        let with_foreground = Trips {
            changes: 1,
            questions: 2,
            opens: 1,
            ..background
        };
        assert_eq!(counts.now(), with_foreground);
    }

    #[test]
    fn requests_to_stores_count_by_kind() {
        let (op, ino) = (OpId::default(), Ino(2));
        let counts = TripCounts::default();
        counts.to_store(&ReplicaRequest::Prepare {
            op,
            ino,
            mark: None,
            objects: Vec::new(),
            about: None,
        });
        counts.to_store(&ReplicaRequest::Stamp(StampRequest {
            ino,
            pg: crate::types::PgId(0),
            epoch: crate::types::Epoch::default(),
        }));
        counts.to_store(&ReplicaRequest::Usage);
        let expected = Trips {
            prepares: 1,
            stamps: 1,
            others: 1,
            ..Trips::default()
        };
        assert_eq!(counts.now(), expected);
    }
}
