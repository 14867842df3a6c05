//! The scrub: what the master lists is compared with what the disk holds.
use super::*;
use crate::store::{Disk, KvRead};
use crate::wire::master::PgRow;
use crate::wire::scrub::ScrubStatus;

fn status(rig: &mut Rig, start: bool) -> ScrubStatus {
    let to = rig.request(ReplicaRequest::Scrub { start }, Bytes::new());
    match rig.reply(to) {
        Some(Ok(ReplicaResponse::Scrub(status))) => *status,
        other => panic!("{other:?}"),
    }
}

fn row(seqs: &[u64]) -> PgRow {
    PgRow {
        ino: INO,
        chunk: ChunkNo(0),
        objects: seqs.iter().map(|seq| (id(*seq), sum(*seq))).collect(),
        clean: None,
        is_wide: false,
    }
}

/// The scrub's call for a listing.
fn asked(rig: &mut Rig) -> Call {
    for _ in 0..100 {
        rig.run_scrubs();
        rig.settle();
        if let Some(call) = rig.call() {
            assert!(
                matches!(
                    call.request,
                    Request::Master(MasterRequest::PgListing { .. })
                ),
                "{call:?}"
            );
            return call;
        }
        rig.tick(Duration::from_millis(20));
    }
    panic!("no listing was asked for");
}

fn list(rig: &mut Rig, call: &Call, rows: Vec<PgRow>, log: u64) {
    let listing = MasterResponse::PgListing(rows, LogIndex(log), true);
    rig.call_done(call.token, Ok((Response::Master(listing), Bytes::new())));
}

/// Until the pass that was asked for is over.
fn finish(rig: &mut Rig) -> ScrubStatus {
    for _ in 0..200 {
        rig.tick(Duration::from_millis(20));
        rig.run_scrubs();
        rig.settle();
        let status = status(rig, false);
        if !status.is_asked {
            return status;
        }
    }
    panic!("the pass does not end");
}

/// A store that holds objects 1 and 2 as the master knows them.
fn holding() -> Rig {
    let mut rig = Rig::serving();
    for seq in [1, 2] {
        rig.prepare(seq);
        rig.settle();
        rig.hold(10 + seq, seq);
    }
    rig
}

#[test]
fn a_pass_reads_all_that_the_master_lists_and_says_so() {
    let mut rig = holding();
    assert!(status(&mut rig, true).is_running);
    let call = asked(&mut rig);
    list(&mut rig, &call, vec![row(&[1, 2])], 12);
    let done = finish(&mut rig);
    let bytes = (content(1).len() + content(2).len()) as u64;
    assert_eq!((done.passes, done.pass_checked), (1, (0, 0)));
    assert_eq!(done.checked, (2, bytes));
    assert_eq!((done.damaged, done.missing, done.waiting), (0, 0, 0));
    assert!(done.last_ended.is_some());
    rig.crash();
    assert_eq!(status(&mut rig, false).passes, 1, "counts are durable");
}

#[test]
fn an_object_that_is_listed_and_not_held_is_fetched_and_counted() {
    let mut rig = holding();
    status(&mut rig, true);
    let call = asked(&mut rig);
    list(&mut rig, &call, vec![row(&[1, 2, 3])], 12);
    let fetch = rig.call().expect("a fetch");
    assert!(matches!(fetch.request, Request::Replica(_)));
    rig.settle();
    rig.crash();
    rig.learn(map(13, info(1, &[1, 2, 3])));
    assert_eq!(status(&mut rig, false).missing, 1);
    let fetch = rig
        .call()
        .expect("what was found missing survives a restart");
    rig.give(&fetch, 3);
    rig.settle();
    assert!(rig.holds(3));
    let now = status(&mut rig, false);
    assert_eq!((now.missing, now.repaired, now.waiting), (1, 1, 0));
}

#[test]
fn what_notes_delete_while_a_listing_is_on_its_way_is_not_missing() {
    let mut rig = holding();
    status(&mut rig, true);
    let call = asked(&mut rig);
    // Listed at 13, when 3 was there; the store hears of its creation and its deletion after.
    list(&mut rig, &call, vec![row(&[1, 2, 3])], 13);
    assert!(rig.call().is_none(), "its notes have not come");
    rig.answer(|ok| {
        let objects = vec![(id(3), sum(3))];
        let hold = Note::Hold {
            ino: INO,
            chunk: ChunkNo(0),
            objects,
        };
        let delete = Note::Delete {
            objects: vec![id(3)],
        };
        ok.notes = vec![(LogIndex(13), PG, hold), (LogIndex(14), PG, delete)];
        ok.notes_upto = LogIndex(14);
    });
    rig.settle();
    assert_eq!(finish(&mut rig).missing, 0);
    // And a listing older than a deletion that was applied is asked for again.
    status(&mut rig, true);
    let call = asked(&mut rig);
    list(&mut rig, &call, vec![row(&[1, 2, 3])], 13);
    let call = asked(&mut rig);
    list(&mut rig, &call, vec![row(&[1, 2])], 14);
    let done = finish(&mut rig);
    assert_eq!((done.missing, done.damaged), (0, 0));
}

#[test]
fn a_copy_is_judged_by_the_masters_record_and_not_by_its_own_header() {
    let mut rig = holding();
    status(&mut rig, true);
    let call = asked(&mut rig);
    let mut rows = vec![row(&[1, 2])];
    // The store's copy of object 2 verifies in itself, but the master knows other bytes.
    rows[0].objects[1].1 = sum(9);
    list(&mut rig, &call, rows, 12);
    let fetch = rig.call().expect("a fetch");
    rig.give(&fetch, 9);
    rig.settle();
    let held = rig.store.read_object(id(2), 0, u32::MAX).unwrap();
    assert_eq!(held.bytes, content(9));
    assert_eq!(status(&mut rig, false).repaired, 1);
}

#[test]
fn a_flip_anywhere_in_an_object_file_is_found_and_repaired() {
    let mut rig = Rig::serving();
    let bytes = vec![5u8; 100_000];
    let sums = BlockSums::of(&bytes);
    let identity = sums.object_sum(bytes.len() as u32);
    let object = PrepareObject {
        id: id(1),
        chunk: ChunkNo(0),
        pg: PG,
        epoch: Epoch(1),
        len: bytes.len() as u32,
        sums: sums.clone(),
        has_bytes: true,
    };
    let prepare = ReplicaRequest::Prepare {
        op: op(1),
        ino: INO,
        mark: None,
        objects: vec![object],
        about: None,
    };
    rig.request(prepare, bytes.clone().into());
    rig.settle();
    let mut repaired = 0;
    // Magic, header, padding, first and last byte.
    for at in [0, 40, 4000, 4096, 4096 + 99_999] {
        let dirs = rig.disk.list("objects").unwrap();
        let files: Vec<_> = dirs
            .iter()
            .flat_map(|dir| {
                let names = rig.disk.list(&format!("objects/{dir}")).unwrap();
                names.into_iter().map(move |n| format!("objects/{dir}/{n}"))
            })
            .collect();
        assert_eq!(files.len(), 1, "{files:?}");
        assert!(rig.disk.flip_bit(&files[0], at));
        status(&mut rig, true);
        let call = asked(&mut rig);
        let mut rows = vec![row(&[1])];
        rows[0].objects[0].1 = identity;
        list(&mut rig, &call, rows, 12 + at);
        rig.tell(12 + at, Note::Forget { ino: Ino(99) });
        for _ in 0..3 {
            rig.tick(Duration::from_millis(20));
            rig.run_scrubs();
        }
        let fetch = rig.call().unwrap_or_else(|| panic!("byte {at}"));
        let response = ReplicaResponse::Fetched {
            sums: sums.clone(),
            about: None,
        };
        let answer = Ok((Response::Replica(response), Bytes::from(bytes.clone())));
        rig.call_done(fetch.token, answer);
        rig.settle();
        repaired += 1;
        let now = status(&mut rig, false);
        assert_eq!((now.damaged, now.repaired), (repaired, repaired));
        assert!(rig.store.scrub(id(1)).unwrap());
    }
}

#[test]
fn a_pass_goes_on_where_a_restart_interrupted_it() {
    let mut rig = holding();
    status(&mut rig, true);
    let call = asked(&mut rig);
    let rows = vec![row(&[1])];
    let listing = MasterResponse::PgListing(rows, LogIndex(12), false);
    rig.call_done(call.token, Ok((Response::Master(listing), Bytes::new())));
    for _ in 0..3 {
        rig.run_scrubs();
        rig.tick(Duration::from_secs(40));
        rig.answer(|_| {});
        rig.settle();
        if rig.calls.iter().any(is_listing) {
            break;
        }
    }
    // The next page is asked for behind the first; what was done becomes durable with a find.
    let next = rig.call().expect("the next page");
    let Request::Master(MasterRequest::PgListing { after, .. }) = next.request else {
        panic!("{next:?}");
    };
    assert_eq!(after, Some((INO, ChunkNo(0))));
    rig.event(ReplicaEvent::Damaged { object: id(2) });
    rig.settle();
    rig.crash();
    assert!(
        rig.store
            .get(&crate::replica::tables::keys::scrub())
            .unwrap()
            .is_some()
    );
    rig.learn(map(13, info(1, &[1, 2, 3])));
    rig.tick(Duration::from_secs(61));
    rig.tick(Duration::from_millis(20));
    let calls: Vec<_> = rig.calls.iter().filter(|c| is_listing(c)).collect();
    assert!(
        calls.iter().any(|c| matches!(
            c.request,
            Request::Master(MasterRequest::PgListing { after, .. }) if after == Some((INO, ChunkNo(0)))
        )),
        "{calls:?}"
    );
}

fn is_listing(call: &Call) -> bool {
    matches!(
        call.request,
        Request::Master(MasterRequest::PgListing { .. })
    )
}

#[test]
fn regression_a_disk_that_fails_before_the_machine_hears_of_it_fails_the_store_and_no_more() {
    let mut rig = holding();
    status(&mut rig, true);
    let call = asked(&mut rig);
    let put = rig.prepare(5);
    rig.disk.fail_next_sync();
    let (_, batches): (Vec<_>, Vec<_>) = rig.pending.drain(..).unzip();
    rig.writer.commit(&batches).unwrap_err();
    // Two objects are missing: each makes a batch.
    list(&mut rig, &call, vec![row(&[1, 2, 3, 4])], 12);
    assert!(rig.replica.failure().is_some());
    assert!(rig.reply(put).is_none(), "not told yet");
    let late = rig.prepare(6);
    assert_eq!(rig.refusal(late), ErrorCode::StoreFailed);
}
