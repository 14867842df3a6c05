//! Objects that nothing refers to.
use super::*;
use crate::wire::MasterRequest;
use crate::wire::audit::ObjectFate;
use crate::wire::master::MasterResponse;

/// Waits for the next question about objects and answers that all have this fate.
fn answer_fates(rig: &mut Rig, fate: ObjectFate, as_of: u64) -> usize {
    for _ in 0..3000 {
        rig.tick(Duration::from_millis(100));
        let Some(call) = rig.call() else { continue };
        let Request::Master(MasterRequest::ObjectFates { objects }) = call.request else {
            continue;
        };
        let count = objects.len();
        let fates = MasterResponse::ObjectFates(vec![fate; count], LogIndex(as_of));
        rig.call_done(call.token, Ok((Response::Master(fates), Bytes::new())));
        rig.settle();
        return count;
    }
    panic!("no question about objects");
}

#[test]
fn garbage_goes_only_after_a_second_answer_and_the_notes_before_the_first() {
    let mut rig = Rig::serving();
    rig.prepare(1);
    rig.prepare(2);
    rig.settle();
    assert_eq!(answer_fates(&mut rig, ObjectFate::Garbage, 20), 2);
    assert!(rig.holds(1) && rig.holds(2), "one answer is not enough");
    rig.tick(Duration::from_secs(60));
    assert!(rig.holds(1), "notes up to 20 are not applied here");
    rig.answer(|ok| ok.notes_upto = LogIndex(20));
    rig.settle();
    assert_eq!(answer_fates(&mut rig, ObjectFate::Garbage, 21), 2);
    assert!(!rig.holds(1) && !rig.holds(2));
}

#[test]
fn what_is_referred_to_or_undecided_or_waits_stays() {
    for fate in [
        ObjectFate::Referenced,
        ObjectFate::Undecided,
        ObjectFate::Waiting,
    ] {
        let mut rig = Rig::serving();
        rig.prepare(1);
        rig.settle();
        answer_fates(&mut rig, fate, 0);
        assert!(rig.holds(1));
        rig.tick(Duration::from_secs(600));
        assert!(rig.call().is_none(), "nothing is suspected");
    }
}

#[test]
fn an_object_that_the_second_answer_does_not_name_stays() {
    let mut rig = Rig::serving();
    rig.prepare(1);
    rig.settle();
    answer_fates(&mut rig, ObjectFate::Garbage, 0);
    answer_fates(&mut rig, ObjectFate::Referenced, 0);
    rig.tick(Duration::from_secs(60));
    assert!(rig.holds(1));
}
