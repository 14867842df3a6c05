//! The rules of a get, one test each.
use super::*;
use crate::client::latency::Latencies;
use crate::types::{
    BLOCK_SIZE, BlockSums, ClientId, Epoch, Ino, LogIndex, ObjectId, OpId, PgId, PgInfo, PgMap,
    PgPhase, QuorumSizes, Revision, StoreId, Time,
};
use crate::wire::{ErrorCode, ReplicaRequest, Stamp, WireError};
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;

const fn op(client: u128, seq: u64) -> OpId {
    OpId {
        client: ClientId(client),
        seq,
    }
}
const X: OpId = op(9, 5);
const REV: Revision = Revision(4);

fn map(version: u64, members: &[u128]) -> Arc<PgMap> {
    let info = PgInfo {
        epoch: Epoch(1),
        members: members.iter().map(|&m| StoreId(m)).collect(),
        filling: vec![],
        prior: vec![],
        phase: PgPhase::Active,
    };
    let quorum = QuorumSizes::DEFAULT;
    Arc::new(PgMap {
        version: LogIndex(version),
        quorum,
        pgs: vec![info; 4],
    })
}

fn content(len: usize) -> Bytes {
    (0..len).map(|i| (i / 7) as u8).collect::<Vec<_>>().into()
}

fn piece(index: u32, bytes: &[u8]) -> Piece {
    let sums = BlockSums::of(bytes);
    Piece {
        object: ObjectId { op: X, index },
        pg: PgId(0),
        sum: sums.object_sum(bytes.len() as u32),
        first_block: 0,
        blocks: bytes.len().div_ceil(BLOCK_SIZE) as u32,
    }
}

fn clean(revision: u64, op: OpId) -> Stamp {
    Stamp::Known {
        clean: (Revision(revision), op),
        dirty: vec![],
    }
}

struct Rig {
    get: GetMachine,
    now: Time,
    out: Vec<GetAction>,
    bytes: Bytes,
}

type Asked = (u64, u128, ReplicaRequest);

impl Rig {
    fn new(stamps: bool) -> Self {
        let bytes = content(BLOCK_SIZE + 100);
        let spec = GetSpec {
            ino: Ino(77),
            revision: REV,
            op: X,
            stamps,
            pieces: vec![piece(0, &bytes)],
        };
        let mut out = Vec::new();
        let latencies = Arc::new(Latencies::default());
        let map = map(1, &[1, 2, 3]);
        let get = GetMachine::start(
            Time(1),
            GetConfig::default(),
            spec,
            map,
            latencies,
            &mut out,
        );
        Self {
            get,
            now: Time(1),
            out,
            bytes,
        }
    }
    fn event(&mut self, event: GetEvent) {
        self.get.handle(self.now, event, &mut self.out);
    }
    fn later(&mut self, ms: u64) {
        self.now = self.now + Duration::from_millis(ms);
        self.event(GetEvent::Tick);
    }
    fn take(&mut self, pick: impl Fn(&GetAction) -> Option<Asked>) -> Vec<Asked> {
        let taken = self.out.iter().filter_map(&pick).collect();
        self.out.retain(|a| pick(a).is_none());
        taken
    }
    fn reads(&mut self) -> Vec<Asked> {
        self.take(|a| match a {
            GetAction::Read { token, to, request } => Some((*token, to.0, request.clone())),
            _ => None,
        })
    }
    fn stamps(&mut self) -> Vec<Asked> {
        self.take(|a| match a {
            GetAction::Stamp { token, to, request } => Some((*token, to.0, request.clone())),
            _ => None,
        })
    }
    fn asked(&mut self, what: impl Fn(&GetAction) -> bool) -> bool {
        let before = self.out.len();
        self.out.retain(|a| !what(a));
        self.out.len() != before
    }
    fn resolves(&mut self) -> bool {
        self.asked(|a| matches!(a, GetAction::Resolve))
    }
    fn answer(&mut self, token: u64, stamp: Option<Result<Stamp, WireError>>) {
        let bytes = self.bytes.clone();
        self.answer_with(token, stamp, bytes);
    }
    fn answer_with(&mut self, token: u64, stamp: Option<Result<Stamp, WireError>>, got: Bytes) {
        let sums = BlockSums::of(&self.bytes);
        let answer = ReadAnswer {
            offset: 0,
            sums,
            stamp,
        };
        self.event(GetEvent::Read {
            token,
            result: Ok((answer, got)),
        });
    }
    fn fail(&mut self, token: u64, code: ErrorCode) {
        self.event(GetEvent::Read {
            token,
            result: Err(code.into()),
        });
    }
    fn stamp(&mut self, token: u64, stamp: Stamp) {
        self.event(GetEvent::Stamp {
            token,
            result: Ok(stamp),
        });
    }
    fn finished(&self) -> Option<Result<GetDone, GetError>> {
        self.out.iter().find_map(|a| match a {
            GetAction::Finish(r) => Some(r.clone()),
            _ => None,
        })
    }
    fn resolved(&mut self, revision: u64, pieces: Vec<Piece>) {
        let revision = Revision(revision);
        let resolved = Resolved {
            revision,
            op: op(8, 1),
            pieces,
        };
        self.event(GetEvent::Resolved(Ok(resolved)));
    }
}

#[test]
fn two_clean_stamps_and_one_copy_answer_without_the_master() {
    let mut rig = Rig::new(true);
    let (reads, stamps) = (rig.reads(), rig.stamps());
    assert_eq!(
        (reads.len(), stamps.len()),
        (1, 1),
        "R = 2, one of them with the data"
    );
    assert_ne!(reads[0].1, stamps[0].1);
    rig.answer(reads[0].0, Some(Ok(clean(4, X))));
    assert!(rig.finished().is_none(), "one stamp is no quorum");
    // The other is merely older: it missed the last put, the first did not.
    rig.stamp(stamps[0].0, clean(3, op(1, 1)));
    let done = rig.finished().expect("done").expect("bytes");
    assert_eq!(
        (&done.pieces[0].1, done.stamp_reads, done.resolved),
        (&rig.bytes, 2, false)
    );
}

#[test]
fn dirty_unknown_newer_and_other_op_ask_the_master() {
    let dirty = Stamp::Known {
        clean: (REV, X),
        dirty: vec![op(3, 9)],
    };
    for stamp in [
        dirty,
        Stamp::Unknown,
        clean(5, op(3, 9)),
        clean(4, op(3, 9)),
    ] {
        let mut rig = Rig::new(true);
        let reads = rig.reads();
        rig.answer(reads[0].0, Some(Ok(stamp.clone())));
        assert!(rig.resolves(), "{stamp:?}");
        assert!(rig.finished().is_none());
    }
}

#[test]
fn stamps_that_are_all_older_ask_the_master() {
    let mut rig = Rig::new(true);
    let (reads, stamps) = (rig.reads(), rig.stamps());
    rig.answer(reads[0].0, Some(Ok(clean(3, op(1, 1)))));
    rig.stamp(stamps[0].0, clean(3, op(1, 1)));
    assert!(rig.resolves() && rig.finished().is_none());
}

#[test]
fn marks_that_the_layout_proves_decided_do_not_count_as_dirty() {
    let mut rig = Rig::new(true);
    let (reads, stamps) = (rig.reads(), rig.stamps());
    let told = |dirty| Stamp::Known {
        clean: (Revision(2), op(1, 1)),
        dirty,
    };
    rig.answer(reads[0].0, Some(Ok(told(vec![op(9, 4), X]))));
    rig.stamp(stamps[0].0, told(vec![X]));
    assert!(matches!(rig.finished(), Some(Ok(done)) if !done.resolved));
    // A later mark of the same session is in flight.
    let mut rig = Rig::new(true);
    let reads = rig.reads();
    rig.answer(reads[0].0, Some(Ok(told(vec![X, op(9, 6)]))));
    assert!(rig.resolves());
}

#[test]
fn after_a_resolve_the_newer_revision_is_read_and_same_objects_are_kept() {
    let mut rig = Rig::new(true);
    let (reads, bare) = (rig.reads(), rig.stamps());
    rig.answer(reads[0].0, Some(Ok(Stamp::Unknown)));
    assert!(rig.resolves());
    rig.stamp(bare[0].0, clean(4, X));
    let more = content(40);
    let (first, second) = (piece(0, &rig.bytes), piece(1, &more));
    rig.resolved(7, vec![second, first]);
    let reads = rig.reads();
    assert_eq!(reads.len(), 1, "objects are immutable");
    assert!(
        matches!(&reads[0].2, ReplicaRequest::Read { object, stamp: None, .. } if object.index == 1)
    );
    let answer = ReadAnswer {
        offset: 0,
        sums: BlockSums::of(&more),
        stamp: None,
    };
    rig.event(GetEvent::Read {
        token: reads[0].0,
        result: Ok((answer, more.clone())),
    });
    let done = rig.finished().expect("done").expect("bytes");
    assert_eq!((done.revision, done.resolved), (Revision(7), true));
    assert_eq!(
        done.pieces.iter().map(|p| &p.1).collect::<Vec<_>>(),
        [&more, &rig.bytes]
    );
}

#[test]
fn a_slow_member_is_hedged_and_a_late_answer_changes_nothing() {
    let mut rig = Rig::new(false);
    let first = rig.reads();
    rig.later(19);
    assert!(rig.reads().is_empty());
    rig.later(80);
    let second = rig.reads();
    assert_eq!(second.len(), 1);
    assert_ne!(first[0].1, second[0].1);
    rig.answer(second[0].0, None);
    assert!(matches!(rig.finished(), Some(Ok(_))));
    rig.answer(first[0].0, None);
    assert_eq!(
        rig.out
            .iter()
            .filter(|a| matches!(a, GetAction::Finish(_)))
            .count(),
        1
    );
}

#[test]
fn a_late_stamp_is_hedged_and_then_the_master_is_asked() {
    let mut rig = Rig::new(true);
    let (reads, stamps) = (rig.reads(), rig.stamps());
    rig.answer(reads[0].0, Some(Ok(clean(4, X))));
    rig.later(20);
    let more = rig.stamps();
    assert_eq!(more.len(), 1);
    assert_ne!(more[0].1, stamps[0].1);
    rig.later(20);
    assert!(rig.resolves());
}

#[test]
fn bad_bytes_are_reported_and_the_next_member_is_asked() {
    let mut rig = Rig::new(false);
    for damage in 0..2 {
        let reads = rig.reads();
        let mut bad = rig.bytes.to_vec();
        bad[damage * BLOCK_SIZE] ^= 1;
        rig.answer_with(reads[0].0, None, bad.into());
        assert!(rig.finished().is_none());
        let from = reads[0].1;
        assert!(rig.asked(|a| matches!(a, GetAction::Report { store, .. } if store.0 == from)));
    }
    let reads = rig.reads();
    rig.answer(reads[0].0, None);
    assert!(matches!(rig.finished(), Some(Ok(_))));
}

#[test]
fn sums_that_fit_the_bytes_but_not_the_extent_are_refused() {
    let mut rig = Rig::new(false);
    let reads = rig.reads();
    let forged = content(rig.bytes.len())
        .iter()
        .map(|b| b ^ 1)
        .collect::<Vec<_>>();
    let answer = ReadAnswer {
        offset: 0,
        sums: BlockSums::of(&forged),
        stamp: None,
    };
    rig.event(GetEvent::Read {
        token: reads[0].0,
        result: Ok((answer, forged.into())),
    });
    assert!(rig.finished().is_none());
}

#[test]
fn short_payloads_and_odd_offsets_are_refused() {
    for (offset, cut) in [(0, 1), (BLOCK_SIZE as u32, 0), (7, 0)] {
        let mut rig = Rig::new(false);
        let reads = rig.reads();
        let answer = ReadAnswer {
            offset,
            sums: BlockSums::of(&rig.bytes),
            stamp: None,
        };
        let payload = rig.bytes.slice(..rig.bytes.len() - cut);
        rig.event(GetEvent::Read {
            token: reads[0].0,
            result: Ok((answer, payload)),
        });
        assert!(rig.finished().is_none());
    }
}

#[test]
fn without_a_valid_copy_it_is_an_error_and_never_zeros() {
    let mut rig = Rig::new(false);
    for _ in 0..2 {
        for _ in 0..3 {
            let reads = rig.reads();
            rig.fail(reads[0].0, ErrorCode::Corrupt);
        }
        rig.event(GetEvent::Map(map(1, &[1, 2, 3])));
        rig.later(100);
    }
    assert!(matches!(
        rig.finished(),
        Some(Err(GetError::Corrupt { damaged: 3, .. }))
    ));
}

#[test]
fn an_object_that_nobody_holds_is_resolved_at_most_three_times() {
    let mut rig = Rig::new(false);
    let wanted = piece(0, &rig.bytes);
    let mut resolves = 0;
    while rig.finished().is_none() {
        for read in rig.reads() {
            rig.fail(read.0, ErrorCode::NotFound);
        }
        if rig.resolves() {
            resolves += 1;
            rig.resolved(4 + resolves, vec![wanted]);
        }
        rig.event(GetEvent::Map(map(1, &[1, 2, 3])));
    }
    assert_eq!(resolves, 3);
    assert!(matches!(
        rig.finished(),
        Some(Err(GetError::Missing { .. }))
    ));
}

#[test]
fn members_that_are_away_are_asked_again_until_the_deadline_under_a_newer_map() {
    let mut rig = Rig::new(false);
    for _ in 0..3 {
        let reads = rig.reads();
        rig.fail(reads[0].0, ErrorCode::UnknownOutcome);
    }
    assert!(rig.asked(|a| matches!(a, GetAction::RefreshMap { .. })));
    rig.event(GetEvent::Map(map(2, &[4, 5, 6])));
    rig.later(100);
    let reads = rig.reads();
    assert!((4..=6).contains(&reads[0].1));
    rig.later(30_000);
    assert!(matches!(
        rig.finished(),
        Some(Err(GetError::Unavailable { .. }))
    ));
}

#[test]
fn a_wrong_epoch_asks_for_the_map_and_the_master() {
    let mut rig = Rig::new(true);
    let stamps = rig.stamps();
    let result = Err(ErrorCode::WrongEpoch.into());
    rig.event(GetEvent::Stamp {
        token: stamps[0].0,
        result,
    });
    assert!(rig.resolves() && rig.asked(|a| matches!(a, GetAction::RefreshMap { .. })));
}

#[test]
fn one_round_of_stamps_covers_a_whole_window() {
    let pieces: Vec<Piece> = (0..8).map(|i| piece(i, &content(500))).collect();
    let spec = GetSpec {
        ino: Ino(77),
        revision: REV,
        op: X,
        stamps: true,
        pieces,
    };
    let mut out = Vec::new();
    let (map, lat) = (map(1, &[1, 2, 3]), Arc::new(Latencies::default()));
    GetMachine::start(Time(1), GetConfig::default(), spec, map, lat, &mut out);
    let with = |a: &&GetAction| {
        let stamped = |r: &ReplicaRequest| matches!(r, ReplicaRequest::Read { stamp: Some(_), .. });
        matches!(a, GetAction::Stamp { .. })
            || matches!(a, GetAction::Read { request, .. } if stamped(request))
    };
    assert_eq!(out.iter().filter(with).count(), 2);
    assert_eq!(
        out.iter()
            .filter(|a| matches!(a, GetAction::Read { .. }))
            .count(),
        8
    );
}

#[test]
fn regression_a_layout_of_no_put_is_never_proved_by_stamps() {
    let spec = GetSpec {
        ino: Ino(77),
        revision: Revision(0),
        op: OpId::default(),
        stamps: true,
        pieces: vec![],
    };
    let latencies = Arc::new(Latencies::default());
    let mut out = Vec::new();
    let map = map(1, &[1, 2, 3]);
    GetMachine::start(
        Time(1),
        GetConfig::default(),
        spec,
        map,
        latencies,
        &mut out,
    );
    assert!(out.contains(&GetAction::Resolve), "{out:?}");
    assert!(!out.iter().any(|a| matches!(a, GetAction::Finish(_))));
}

#[test]
fn regression_with_fewer_than_r_members_left_a_get_fails_although_the_master_answers() {
    let mut rig = Rig::new(true);
    let bytes = rig.bytes.clone();
    let mut resolved = false;
    for _ in 0..400 {
        for (token, store, _) in rig.reads() {
            match store {
                1 => rig.answer(token, Some(Ok(clean(4, X)))),
                _ => rig.fail(token, ErrorCode::Unavailable),
            }
        }
        for (token, store, _) in rig.stamps() {
            match store {
                1 => rig.stamp(token, clean(4, X)),
                _ => rig.event(GetEvent::Stamp {
                    token,
                    result: Err(ErrorCode::Unavailable.into()),
                }),
            }
        }
        if rig.resolves() {
            resolved = true;
            rig.resolved(4, vec![piece(0, &bytes)]);
        }
        if let Some(done) = rig.finished() {
            let Err(GetError::Unavailable { last }) = done else {
                panic!("{done:?}");
            };
            assert!(resolved && last.contains("needs answers of R=2"), "{last}");
            return;
        }
        rig.later(100);
    }
    panic!("no end");
}
