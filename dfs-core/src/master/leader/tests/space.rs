//! What rests on the stores counts as room, once for its device.
use super::copies::status;
use super::*;

const TOTAL: u64 = 1 << 40;

fn free_bytes(bench: &mut Bench) -> Vec<(u64, bool)> {
    let stores = status(bench).stores;
    stores.iter().map(|s| (s.free_bytes, s.full)).collect()
}

#[test]
fn what_rests_is_free_once_for_all_stores_on_its_device() {
    let mut bench = Bench::new(3, 3);
    bench.run_until("groups exist", |b| b.members_complete());
    let (free, coming) = (TOTAL / 1000, TOTAL / 10);
    for (store, coming) in [(1, coming), (2, 0), (3, 0)] {
        bench.set_space(StoreId(store), 1, free, coming);
    }
    bench.run_for(3_000);
    let all = free + coming;
    assert_eq!(free_bytes(&mut bench), [(all, false); 3]);
    sessions(&mut bench);
    let query = MasterRequest::Query {
        client: Some(A),
        interest: false,
        body: Query::StatFs,
    };
    let answer = bench.call(CLIENT_A, query);
    let Ok(MasterResponse::Answer {
        body: QueryAnswer::StatFs(told),
        ..
    }) = answer
    else {
        panic!("{answer:?}");
    };
    assert_eq!(told.free_bytes, all / 3, "the stores share it");
    let freeing = |bench: &Bench, store| bench.advice(StoreId(store)).freeing;
    assert!(
        freeing(&bench, 2) && freeing(&bench, 3),
        "another one has it"
    );
    assert!(!freeing(&bench, 1), "it knows itself");

    assert_eq!(status(&mut bench).health, Health::Healthy);

    // On a device of its own it is nobody else's, and without it the others are full.
    bench.set_space(StoreId(1), 7, free, coming);
    bench.run_for(3_000);
    let bare = (free, true);
    assert_eq!(free_bytes(&mut bench), [(all, false), bare, bare]);
    assert_eq!(status(&mut bench).health, Health::Healthy);
    bench.set_space(StoreId(2), 1, 0, 0);
    bench.set_space(StoreId(3), 1, 0, 0);
    bench.run_for(3_000);
    let full = status(&mut bench);
    assert_eq!(full.health, Health::Degraded);
    assert!(full.reasons[0].contains("no room"), "{:?}", full.reasons);
    // No more than there is.
    bench.set_space(StoreId(1), 7, TOTAL - 5, coming);
    bench.run_for(3_000);
    assert_eq!(free_bytes(&mut bench)[0].0, TOTAL);
    // A store that has failed lets nothing go.
    bench.set_space(StoreId(1), 1, free, coming);
    bench.run_for(3_000);
    assert!(bench.advice(StoreId(2)).freeing);
    bench.set_failed(StoreId(1));
    bench.run_for(3_000);
    assert!(!bench.advice(StoreId(2)).freeing);
}

#[test]
fn regression_a_new_leader_refuses_no_writer_before_it_knows_the_room() {
    let mut bench = Bench::new(1, 3);
    bench.run_until("groups exist", |b| b.members_complete());
    bench.run_for(3_000);
    assert!(!bench.advice(StoreId(2)).freeing);
    bench.mute(StoreId(3));
    let leader = bench.leader_id();
    bench.stop(leader);
    bench.start(leader);
    bench.run_until("it is open", |b| b.advice(StoreId(2)).freeing);
    assert!(bench.has_leader());
    bench.run_until("it is known", |b| !b.advice(StoreId(2)).freeing);
}

#[test]
fn regression_impossible_space_of_stores_ends_nothing() {
    let mut bench = Bench::new(1, 3);
    bench.run_until("groups exist", |b| b.members_complete());
    for store in 1..=3 {
        bench.set_space(StoreId(store), 1, u64::MAX, u64::MAX);
    }
    bench.run_for(3_000);
    assert_eq!(free_bytes(&mut bench).len(), 3);
}
