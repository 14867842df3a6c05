use super::*;

const A: ClientId = ClientId(1);
const B: ClientId = ClientId(2);
const I: Ino = Ino(7);
const T: Term = Term(3);

fn ms(n: u64) -> Time {
    Time(1_000_000_000_000 + n * 1_000_000)
}

fn config() -> CoherenceConfig {
    CoherenceConfig {
        caches_valid: Duration::from_secs(2),
        caches_margin: Duration::from_millis(2200),
        recall_timeout: Duration::from_secs(2),
        recall_timeout_alive: Duration::from_secs(5),
        interests_max: 100,
    }
}

/// Two known sessions on connections 1 and 2, each granted at 0.
fn two() -> (Coherence, Vec<MasterAction>) {
    let mut c = Coherence::new(config(), T, ms(0), []);
    c.opened(A, ConnId(1));
    c.opened(B, ConnId(2));
    assert_eq!(c.grant(A, ms(0), ms(0)), Duration::from_secs(2));
    assert_eq!(c.grant(B, ms(0), ms(0)), Duration::from_secs(2));
    (c, Vec::new())
}

/// When `by` asks for a change, over the connection that it is bound to.
fn asked(c: &mut Coherence, by: ClientId, at: u64) -> Moment {
    let conn = c.seats.get(&by).and_then(|seat| seat.conn);
    let (stamp, at) = (c.next(), ms(at));
    let listens = AUTHOR_WAITS;
    Moment {
        stamp,
        at,
        conn,
        listens,
    }
}

fn touch(c: &mut Coherence, by: ClientId, at: u64, out: &mut Vec<MasterAction>) -> Option<WaitId> {
    let asked = asked(c, by, at);
    c.touch(
        Some((by, asked)),
        &[whole(I)],
        &Depends::Nothing,
        LogIndex(5),
        ms(at),
        out,
    )
}

fn pushed(out: &mut Vec<MasterAction>) -> Vec<(ConnId, u64)> {
    out.drain(..)
        .map(|a| match a {
            MasterAction::Push {
                conn,
                push: Push::Invalidate { seq, .. } | Push::Recall { seq, .. },
            } => (conn, seq),
            other => panic!("{other:?}"),
        })
        .collect()
}

#[test]
fn a_change_waits_for_the_ack_of_another_interested_session_only() {
    let (mut c, mut out) = two();
    c.register(A, I, &mut out, ms(1));
    assert_eq!(
        touch(&mut c, A, 2, &mut out),
        None,
        "its own interest does not matter"
    );
    let wait = touch(&mut c, B, 3, &mut out).unwrap();
    let [(conn, seq)] = pushed(&mut out)[..] else {
        panic!()
    };
    assert_eq!(conn, ConnId(1));
    assert!(c.take_settled().is_empty());
    c.ack(A, seq);
    assert_eq!(
        c.take_settled(),
        vec![Settled {
            wait,
            lapsed: vec![],
            barred: vec![],
        }]
    );
    assert_eq!(touch(&mut c, B, 4, &mut out), None, "the interest is over");
}

#[test]
fn a_second_change_waits_for_the_same_ack() {
    let (mut c, mut out) = two();
    c.register(A, I, &mut out, ms(1));
    let first = touch(&mut c, B, 2, &mut out).unwrap();
    let second = touch(&mut c, B, 3, &mut out).unwrap();
    let pushes = pushed(&mut out);
    assert_eq!(pushes.len(), 1, "asked once");
    c.ack(A, pushes[0].1);
    let settled: Vec<_> = c.take_settled().iter().map(|s| s.wait).collect();
    assert_eq!(settled, vec![first, second]);
}

#[test]
fn a_silent_session_is_waited_for_until_its_grant_has_run_out_by_any_clock() {
    let (mut c, mut out) = two();
    c.register(A, I, &mut out, ms(1));
    let wait = touch(&mut c, B, 1500, &mut out).unwrap();
    c.tick(ms(2199));
    assert!(c.take_settled().is_empty());
    c.tick(ms(2200));
    assert_eq!(
        c.take_settled(),
        vec![Settled {
            wait,
            lapsed: vec![],
            barred: vec![],
        }]
    );
}

#[test]
fn a_session_that_never_acks_gets_no_further_grant() {
    let (mut c, mut out) = two();
    c.register(A, I, &mut out, ms(1));
    touch(&mut c, B, 10, &mut out).unwrap();
    assert_eq!(c.grant(A, ms(500), ms(500)), Duration::from_secs(2));
    assert_eq!(c.grant(A, ms(1100), ms(1100)), Duration::ZERO);
    c.tick(ms(2699));
    assert!(c.take_settled().is_empty());
    c.tick(ms(2700));
    assert_eq!(c.take_settled().len(), 1);
    // The next change does not wait for it either, and its ack brings it back.
    assert_eq!(touch(&mut c, B, 2720, &mut out), None);
    let seq = pushed(&mut out)[0].1;
    assert_eq!(c.grant(A, ms(2750), ms(2750)), Duration::ZERO);
    c.ack(A, seq);
    assert_eq!(c.grant(A, ms(2800), ms(2800)), Duration::from_secs(2));
}

#[test]
fn an_unacknowledged_push_is_sent_again_on_another_connection() {
    let (mut c, mut out) = two();
    c.register(A, I, &mut out, ms(1));
    c.conn_closed(ConnId(1));
    touch(&mut c, B, 10, &mut out).unwrap();
    assert!(out.is_empty(), "nowhere to push to");
    c.keep_alive(A, ConnId(9), T, ms(20), &mut out);
    let [(conn, seq)] = pushed(&mut out)[..] else {
        panic!()
    };
    assert_eq!(conn, ConnId(9));
    c.ack(A, seq);
    assert_eq!(c.take_settled().len(), 1);
}

#[test]
fn the_end_of_a_session_frees_what_waits_for_it() {
    let (mut c, mut out) = two();
    c.register(A, I, &mut out, ms(1));
    touch(&mut c, B, 10, &mut out).unwrap();
    c.ended(A);
    assert_eq!(c.take_settled().len(), 1);
    assert_eq!(touch(&mut c, B, 11, &mut out), None);
}

#[test]
fn after_an_election_changes_wait_until_every_session_is_known() {
    let mut out = Vec::new();
    let mut c = Coherence::new(config(), T, ms(0), [A, B]);
    c.keep_alive(B, ConnId(2), T, ms(5), &mut out);
    let wait = touch(&mut c, B, 10, &mut out).unwrap();
    c.keep_alive(A, ConnId(1), Term(2), ms(20), &mut out);
    assert_eq!(
        c.grant(A, ms(20), ms(20)),
        Duration::ZERO,
        "its caches are not known"
    );
    assert!(c.take_settled().is_empty());
    c.keep_alive(A, ConnId(1), T, ms(30), &mut out);
    assert_eq!(
        c.take_settled(),
        vec![Settled {
            wait,
            lapsed: vec![],
            barred: vec![],
        }]
    );
}

#[test]
fn after_an_election_a_lost_session_is_waited_for_one_grant_and_a_tenth() {
    let mut out = Vec::new();
    let mut c = Coherence::new(config(), T, ms(0), [A]);
    c.opened(B, ConnId(2));
    touch(&mut c, B, 10, &mut out).unwrap();
    c.tick(ms(2199));
    assert!(c.take_settled().is_empty());
    c.tick(ms(2200));
    assert_eq!(c.take_settled().len(), 1);
    assert_eq!(touch(&mut c, B, 2300, &mut out), None);
}

#[test]
fn a_recall_that_is_not_answered_lapses() {
    let (mut c, mut out) = two();
    let wait = c.recall(I, &[A], ms(100), &mut out).unwrap();
    assert_eq!(pushed(&mut out).len(), 1);
    // Its grant has run out then.
    c.tick(ms(2199));
    assert!(c.take_settled().is_empty());
    c.tick(ms(2200));
    assert_eq!(
        c.take_settled(),
        vec![Settled {
            wait,
            lapsed: vec![A],
            barred: vec![],
        }]
    );
}

#[test]
fn regression_a_writer_that_lives_has_time_to_wait_for_a_third_cache() {
    let (mut c, mut out) = two();
    c.recall(I, &[A], ms(100), &mut out).unwrap();
    for at in (500..5000).step_by(500) {
        c.grant(A, ms(at), ms(at));
        c.tick(ms(at));
    }
    c.tick(ms(5099));
    assert!(c.take_settled().is_empty(), "it keeps its session alive");
    c.tick(ms(5100));
    assert_eq!(c.take_settled()[0].lapsed, vec![A]);
}

#[test]
fn the_oldest_interests_are_dropped_beyond_the_bound_and_stay_until_acked() {
    let (mut c, mut out) = two();
    for i in 0..101 {
        c.register(A, Ino(i), &mut out, ms(1));
    }
    let [(_, seq)] = pushed(&mut out)[..] else {
        panic!()
    };
    let old = whole(Ino(0));
    assert!(
        c.touch(
            Some((B, Moment::default())),
            &[old],
            &Depends::Nothing,
            LogIndex(1),
            ms(2),
            &mut out
        )
        .is_some()
    );
    c.ack(A, seq);
    assert!(
        c.touch(
            Some((B, Moment::default())),
            &[old],
            &Depends::Nothing,
            LogIndex(1),
            ms(2),
            &mut out
        )
        .is_none()
    );
}

#[test]
fn regression_an_author_that_was_kept_waiting_is_told_of_its_change() {
    for (late, told) in [(50, 0), (300, 1)] {
        let (mut c, mut out) = two();
        c.register(A, I, &mut out, ms(1));
        let asked = asked(&mut c, A, 10);
        // It has given up and reads what is not changed yet.
        c.register(A, I, &mut out, ms(10 + late - 1));
        let all = [whole(I)];
        let wait = c.touch(
            Some((A, asked)),
            &all,
            &Depends::Nothing,
            LogIndex(5),
            ms(10 + late),
            &mut out,
        );
        assert_eq!(
            (wait, pushed(&mut out).len()),
            (None, told),
            "after {late} ms"
        );
        // To others its change is not settled while it may answer from what it has read.
        let others = c.wait_settled(Some(B), &Depends::On(vec![I]), ms(10 + late));
        assert_eq!(others.is_some(), told == 1, "after {late} ms");
    }
}

#[test]
fn regression_a_change_that_comes_by_an_abandoned_connection_is_told_its_author() {
    for (conn, told) in [(ConnId(1), 0), (ConnId(9), 1)] {
        let (mut c, mut out) = two();
        c.register(A, I, &mut out, ms(1));
        let asked = c.asked(A, conn, ms(10));
        let all = [whole(I)];
        let wait = c.touch(
            Some((A, asked)),
            &all,
            &Depends::Nothing,
            LogIndex(5),
            ms(11),
            &mut out,
        );
        assert_eq!((wait, pushed(&mut out).len()), (None, told), "by {conn:?}");
    }
}

#[test]
fn regression_an_author_that_left_the_connection_of_its_change_is_told_of_it() {
    let (mut c, mut out) = two();
    c.register(A, I, &mut out, ms(1));
    let asked = asked(&mut c, A, 10);
    // It gave up, came back, and read what was not changed yet.
    c.keep_alive(A, ConnId(3), T, ms(20), &mut out);
    c.register(A, I, &mut out, ms(21));
    let all = [whole(I)];
    let wait = c.touch(
        Some((A, asked)),
        &all,
        &Depends::Nothing,
        LogIndex(5),
        ms(22),
        &mut out,
    );
    assert_eq!((wait, pushed(&mut out).len()), (None, 1));
}

#[test]
fn regression_an_open_that_is_repeated_waits_no_longer_for_a_writer() {
    let (mut c, mut out) = two();
    let first = c.recall(I, &[B], ms(0), &mut out).unwrap();
    let again = c.recall(I, &[B], ms(3000), &mut out).unwrap();
    let [(_, seq)] = pushed(&mut out)[..] else {
        panic!("it is asked once")
    };
    // It lives, and does not answer.
    c.keep_alive(B, ConnId(2), T, ms(4900), &mut out);
    c.grant(B, ms(4900), ms(4900));
    c.tick(ms(4900));
    assert_eq!(c.take_settled(), []);
    c.tick(ms(5000));
    let settled = c.take_settled();
    let waits: Vec<WaitId> = settled.iter().map(|s| s.wait).collect();
    assert_eq!(waits, [first, again]);
    assert!(settled.iter().all(|s| s.lapsed == [B]));
    assert!(c.recall(I, &[B], ms(5001), &mut out).is_some());
    let [(_, other)] = pushed(&mut out)[..] else {
        panic!("one that has lapsed is asked again")
    };
    assert_ne!(seq, other);
}

#[test]
fn regression_a_change_waits_for_what_it_builds_on_and_hands_that_on() {
    const OLD: Ino = Ino(8);
    const ABOVE: Ino = Ino(9);
    let (mut c, mut out) = two();
    c.register(A, I, &mut out, ms(1));
    // A rename from OLD to I; then OLD is empty and can be removed.
    let asked = asked(&mut c, B, 2);
    let rename = [whole(OLD), whole(I)];
    let moved = c.touch(
        Some((B, asked)),
        &rename,
        &Depends::Nothing,
        LogIndex(5),
        ms(2),
        &mut out,
    );
    assert!(moved.is_some());
    let removal = [whole(ABOVE), whole(OLD)];
    let removed = c.touch(
        Some((B, asked)),
        &removal,
        &Depends::Nothing,
        LogIndex(6),
        ms(3),
        &mut out,
    );
    assert!(removed.is_some(), "nobody caches what it touched");
    let shown = c.wait_settled(Some(B), &Depends::On(vec![ABOVE]), ms(3));
    assert!(shown.is_some(), "that it is gone");
    let [(_, seq)] = pushed(&mut out)[..] else {
        panic!()
    };
    c.ack(A, seq);
    assert_eq!(c.take_settled().len(), 3);
    for ino in [OLD, I, ABOVE] {
        let settled = c.wait_settled(Some(B), &Depends::On(vec![ino]), ms(4));
        assert_eq!(settled, None);
    }
}

#[test]
fn what_a_session_has_read_before_its_change_is_its_own_affair_however_late() {
    let (mut c, mut out) = two();
    c.register(A, I, &mut out, ms(1));
    let asked = asked(&mut c, A, 10);
    let all = [whole(I)];
    assert_eq!(
        c.touch(
            Some((A, asked)),
            &all,
            &Depends::Nothing,
            LogIndex(5),
            ms(900),
            &mut out
        ),
        None
    );
    assert!(out.is_empty());
}

#[test]
fn regression_the_author_of_queued_changes_is_not_told_of_them_while_it_listens() {
    let told = |listens: Duration| {
        let (mut c, mut out) = two();
        let asked = Moment {
            listens,
            ..asked(&mut c, A, 0)
        };
        // With the answer to an earlier change.
        c.register(A, Ino(5), &mut out, ms(1));
        let (touched, nothing) = ([whole(Ino(5))], Depends::Nothing);
        let now = ms(1_000);
        c.touch(
            Some((A, asked)),
            &touched,
            &nothing,
            LogIndex(3),
            now,
            &mut out,
        );
        !out.is_empty()
    };
    assert!(
        told(AUTHOR_WAITS),
        "it may have given up, and read the old state"
    );
    assert!(!told(Duration::from_secs(9)));
}
