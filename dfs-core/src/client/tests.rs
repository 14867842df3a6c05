#![allow(clippy::unwrap_used, clippy::disallowed_methods)] // A test.
use super::testing::{Node, attr, config, connect, until};
use super::*;
use crate::types::{FileKind, Ino, Lock, LockRequest, LockSpace, Name, Term};
use crate::wire::master::Touched;
use crate::wire::{ErrorCode, MasterResponse, MutationOk, Push};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

fn name(s: &str) -> Name {
    Name::new(s).unwrap()
}

fn invalidate(seq: u64, ino: u64) -> Push {
    Push::Invalidate {
        seq,
        as_of: crate::types::LogIndex(9),
        touched: vec![Touched {
            ino: Ino(ino),
            attrs: true,
            content: true,
            entries: true,
        }],
    }
}

#[derive(Default)]
struct Listener {
    invalidated: Mutex<Vec<Ino>>,
    held: Mutex<Vec<Ack>>,
    hold: bool,
    all: AtomicUsize,
    lost: AtomicUsize,
}

impl CacheListener for Listener {
    fn invalidated(&self, touched: &[Touched], ack: Ack) {
        let mut all = self.invalidated.lock().unwrap();
        all.extend(touched.iter().map(|t| t.ino));
        if self.hold {
            self.held.lock().unwrap().push(ack);
        }
    }
    fn all_invalidated(&self) {
        self.all.fetch_add(1, SeqCst);
    }
    fn session_lost(&self) {
        self.lost.fetch_add(1, SeqCst);
    }
}

#[tokio::test]
async fn the_leader_is_found_through_any_node() {
    let (leader, other) = (Node::start().await, Node::start().await);
    other.script().leader = Some(leader.addr);
    let client = connect(&[&other]).await;
    assert_eq!(client.leader_addr().await.unwrap(), leader.addr);
    assert_eq!(client.getattr(Ino(5)).await.unwrap(), attr(5));
    client.shutdown().await;
    let error = client.getattr(Ino(6)).await.unwrap_err();
    assert!(matches!(error, ClientError::Unusable(_)));
}

#[tokio::test]
async fn connecting_to_nothing_says_what_was_tried() {
    let mut gone = Node::start().await;
    gone.die();
    let settings = ClientConfig {
        deadline_meta: Duration::from_millis(400),
        ..config(&[&gone])
    };
    let error = Client::connect(settings).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::TimedOut);
    assert!(
        error.to_string().contains(&gone.addr.to_string()),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_leader_costs_less_than_two_seconds() {
    let (mut old, new) = (Node::start().await, Node::start().await);
    new.script().leader = Some(old.addr);
    let client = connect(&[&old, &new]).await;
    client.open_rpc(Ino(3), true).await.unwrap();
    old.die();
    {
        let mut script = new.script();
        script.leader = Some(new.addr);
        script.term = 2;
    }
    let began = Instant::now();
    client.mkdir_for_test().await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(2));
    let script = new.script();
    let (_, _, term, opens) = script.keep_alives[1].clone();
    assert_eq!((script.keep_alives[0].2, term), (Term(1), Term(2)));
    assert_eq!(opens.len(), 1, "the new leader is told what is open");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_leader_costs_less_than_two_seconds() {
    let (old, new) = (Node::start().await, Node::start().await);
    new.script().leader = Some(old.addr);
    let settings = ClientConfig {
        attempt_timeout: Duration::from_secs(1),
        keep_alive_every: Duration::from_millis(500),
        ..config(&[&old, &new])
    };
    let client = Client::connect(settings).await.unwrap();
    {
        // Accepts, but never says a word again.
        let mut script = old.script();
        (script.alive, script.answering, script.swallow) = (false, false, usize::MAX);
    }
    {
        let mut script = new.script();
        (script.leader, script.term) = (Some(new.addr), 2);
    }
    let began = Instant::now();
    client.mkdir_for_test().await.unwrap();
    assert!(
        began.elapsed() < Duration::from_secs(2),
        "{:?}",
        began.elapsed()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deposed_leader_that_still_talks_is_left_for_the_one_of_a_newer_term() {
    let (old, new) = (Node::start().await, Node::start().await);
    new.script().leader = Some(old.addr);
    let client = connect(&[&old, &new]).await;
    old.script().swallow = usize::MAX;
    {
        let mut script = new.script();
        (script.leader, script.term) = (Some(new.addr), 2);
    }
    client.mkdir_for_test().await.unwrap();
    assert_eq!(client.leader_addr().await.unwrap(), new.addr);
}

#[tokio::test]
async fn an_unanswered_mutation_is_repeated_under_the_same_op_id() {
    let node = Node::start().await;
    let client = connect(&[&node]).await;
    node.script().swallow = 2;
    client.mkdir_for_test().await.unwrap();
    let script = node.script();
    assert_eq!(script.asked.len(), 3);
    assert_eq!(script.applied.len(), 1, "asked thrice, done once");
}

#[tokio::test]
async fn at_the_deadline_the_outcome_is_unknown_and_the_op_is_over() {
    let node = Node::start().await;
    let settings = ClientConfig {
        deadline_meta: Duration::from_millis(700),
        ..config(&[&node])
    };
    let client = Client::connect(settings).await.unwrap();
    node.script().swallow = usize::MAX;
    let error = client.mkdir_for_test().await.unwrap_err();
    assert!(matches!(error, ClientError::Unknown { .. }), "{error}");
    assert_eq!(error.code(), ErrorCode::UnknownOutcome);
    until("low moved past it", || {
        node.script().keep_alives.last().is_some_and(|k| k.1 == 2)
    })
    .await;
}

#[tokio::test]
async fn a_refusal_is_told_at_once() {
    let node = Node::start().await;
    let client = connect(&[&node]).await;
    let error = client.lookup(Ino(1), &name("none")).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::NotFound);
    assert_eq!(client.cached_lookup(Ino(1), &name("none")), Some(None));
}

#[tokio::test]
async fn cached_metadata_is_used_until_it_is_invalidated() {
    let node = Node::start().await;
    let client = connect(&[&node]).await;
    let listener = Arc::new(Listener::default());
    client.set_listener(listener.clone());
    assert_eq!(client.cached_attr(Ino(5)), None);
    for _ in 0..3 {
        client.lookup(Ino(1), &name("5")).await.unwrap();
        client.getattr(Ino(5)).await.unwrap();
    }
    assert_eq!(node.script().queries, 1);
    node.push(invalidate(41, 5));
    until("acknowledged", || node.script().acks == [41]).await;
    assert_eq!(client.cached_attr(Ino(5)), None);
    assert_eq!(*listener.invalidated.lock().unwrap(), [Ino(5)]);
    client.getattr(Ino(5)).await.unwrap();
    assert_eq!(node.script().queries, 2);
}

#[tokio::test]
async fn an_answer_on_its_way_during_an_invalidation_is_not_cached() {
    let node = Node::start().await;
    let client = connect(&[&node]).await;
    node.script().answering = false;
    let asking = tokio::spawn({
        let client = Arc::clone(&client);
        async move { client.getattr(Ino(5)).await }
    });
    until("asked", || node.script().held.len() == 1).await;
    let token = client.cache_token();
    node.push(invalidate(1, 5));
    node.release();
    assert_eq!(asking.await.unwrap().unwrap(), attr(5));
    assert_eq!(client.cached_attr(Ino(5)), None);
    assert!(!client.is_current(token, Ino(5)) && client.is_current(token, Ino(6)));
}

#[tokio::test]
async fn the_acknowledgement_waits_for_the_listener() {
    let node = Node::start().await;
    let client = connect(&[&node]).await;
    let listener = Arc::new(Listener {
        hold: true,
        ..Listener::default()
    });
    client.set_listener(listener.clone());
    node.push(invalidate(7, 5));
    until("told", || listener.held.lock().unwrap().len() == 1).await;
    client.getattr(Ino(6)).await.unwrap();
    assert!(node.script().acks.is_empty());
    listener.held.lock().unwrap().clear();
    until("acknowledged", || node.script().acks == [7]).await;
}

#[tokio::test]
async fn caches_are_empty_when_keep_alives_lapse() {
    let node = Node::start().await;
    node.script().caches_valid = Duration::from_millis(200);
    let client = connect(&[&node]).await;
    let listener = Arc::new(Listener::default());
    client.set_listener(listener.clone());
    client.getattr(Ino(5)).await.unwrap();
    assert!(client.cached_attr(Ino(5)).is_some());
    node.script().alive = false;
    until("lapsed", || client.cached_attr(Ino(5)).is_none()).await;
    assert_eq!(client.cache_window(), Duration::ZERO);
    until("listener told", || listener.all.load(SeqCst) >= 1).await;
    node.script().alive = true;
    until("open again", || client.cache_window() > Duration::ZERO).await;
    assert_eq!(client.cached_attr(Ino(5)), None);
}

#[tokio::test]
async fn an_expired_session_is_replaced_and_the_change_done_under_the_new_one() {
    let node = Node::start().await;
    let client = connect(&[&node]).await;
    let listener = Arc::new(Listener::default());
    client.set_listener(listener.clone());
    let old = client.client_id();
    node.script().expired.push(old);
    client.mkdir_for_test().await.unwrap();
    assert_ne!(client.client_id(), old);
    assert_eq!(listener.lost.load(SeqCst), 1);
    let script = node.script();
    assert!(
        script
            .asked
            .iter()
            .all(|(op, _)| op.client == client.client_id())
    );
}

#[tokio::test]
async fn an_op_of_an_expired_session_that_was_sent_before_stays_unknown() {
    let node = Node::start().await;
    let client = connect(&[&node]).await;
    node.script().swallow = usize::MAX;
    let changing = tokio::spawn({
        let client = Arc::clone(&client);
        async move { client.mkdir_for_test().await }
    });
    until("sent", || node.script().asked.len() == 1).await;
    let old = client.client_id();
    node.script().expired.push(old);
    let error = changing.await.unwrap().unwrap_err();
    assert!(matches!(error, ClientError::Unknown { .. }), "{error}");
}

#[tokio::test]
async fn regression_the_end_of_a_session_that_was_lost_before_does_not_end_the_next() {
    let node = Node::start().await;
    let client = connect(&[&node]).await;
    let listener = Arc::new(Listener::default());
    client.set_listener(listener.clone());
    let (first, late) = (client.client_id(), client.begin_op());
    node.script().expired.push(first);
    client.mkdir_for_test().await.unwrap();
    let second = client.client_id();
    assert_ne!(second, first);
    // Begun in the first session, sent when the second has begun.
    let body = crate::wire::Mutation::Seal {
        ino: Ino(5),
        token: crate::wire::WriteToken::default(),
    };
    let within = Duration::from_secs(5);
    let error = client.mutate_as(late.op(), body, within).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::SessionExpired);
    assert_eq!(client.client_id(), second);
    assert_eq!(listener.lost.load(SeqCst), 1);
}

#[tokio::test]
async fn regression_a_lock_whose_answer_and_end_nobody_heard_may_be_held() {
    let mut node = Node::start().await;
    let settings = ClientConfig {
        deadline_meta: Duration::from_millis(700),
        ..config(&[&node])
    };
    let client = Client::connect(settings).await.unwrap();
    node.script().swallow = usize::MAX;
    let asking = tokio::spawn({
        let client = Arc::clone(&client);
        async move { client.try_lock(client.client_id(), lock_for_test()).await }
    });
    until("sent", || node.script().locks == 1).await;
    // Nobody is left to be told that it is not wanted any more.
    node.die();
    let error = asking.await.unwrap().unwrap_err();
    assert!(matches!(error, ClientError::Unknown { .. }), "{error}");
}

#[tokio::test]
async fn regression_who_waits_for_a_lock_goes_on_when_it_hears_late_that_it_disowned_an_op() {
    let node = Node::start().await;
    let client = connect(&[&node]).await;
    node.script().lock_answers = [
        Err(ErrorCode::OpAborted.into()),
        Ok(MasterResponse::Locked {
            attr: attr(5),
            as_of: crate::types::LogIndex(9),
            layout: None,
        }),
    ]
    .into();
    let never = Box::pin(std::future::pending());
    let session = client.client_id();
    let granted = client.wait_lock(session, lock_for_test(), never).await;
    assert_eq!(granted.unwrap().unwrap().attr, attr(5));
    assert_eq!(node.script().locks, 2);
}

fn lock_for_test() -> LockRequest {
    LockRequest {
        ino: Ino(5),
        space: LockSpace::Flock,
        owner: 1,
        lock: Lock {
            first: 0,
            last: Lock::LAST_MAX,
            exclusive: true,
            pid: 1,
        },
    }
}

struct Bigger;
impl AttrOverlay for Bigger {
    fn overlay(&self, attr: &mut crate::types::Attr) {
        attr.size += 100;
    }
}

#[tokio::test]
async fn local_dirty_state_shows_in_attributes_but_not_in_the_cache() {
    let node = Node::start().await;
    let client = connect(&[&node]).await;
    client.set_overlay(Arc::new(Bigger));
    assert_eq!(client.getattr(Ino(5)).await.unwrap().size, 100);
    assert_eq!(client.cached_attr(Ino(5)).unwrap().size, 100);
    assert_eq!(client.cached_committed_attr(Ino(5)).unwrap().size, 0);
}

impl Client {
    /// Some mutation.
    async fn mkdir_for_test(&self) -> Result<MutationOk> {
        self.mutate(crate::wire::Mutation::Create {
            parent: Ino::ROOT,
            name: name("d"),
            node: new_node(FileKind::Dir, 0o755, 0, 0),
            exclusive: true,
        })
        .await
    }
}

/// The name was found in the cache, an invalidation came, and what had been found was cached again under
/// the new name, for good.
#[tokio::test]
async fn regression_a_rename_caches_what_the_master_has_moved() {
    let node = Node::start().await;
    let client = connect(&[&node]).await;
    let (old, new) = (name("5"), name("6"));
    let (five, six, seven) = (Ino(5), Some(Ino(6)), Ino(7));
    for (moved, met, cached) in [
        (five, six, Some(five)),
        (seven, six, None),
        (five, Some(seven), None),
    ] {
        (node.script().moved, node.script().met) = (moved, met);
        for (dir, name) in [(Ino(2), &old), (Ino(3), &new)] {
            client.lookup(dir, name).await.unwrap();
        }
        let mode = crate::wire::mutation::RenameMode::Replace;
        let done = client.rename(Ino(2), &old, Ino(3), &new, mode).await;
        assert_eq!(done.unwrap(), None);
        let found = client.cache.name(Ino(3), &new).flatten();
        assert_eq!(found, cached, "it moved {moved} over {met:?}");
        let is_gone = client.cache.name(Ino(2), &old) == Some(None);
        assert_eq!(is_gone, cached.is_some(), "it moved {moved} over {met:?}");
        client.cache.drop_all();
    }
    // Two names of one file both stay.
    (node.script().moved, node.script().met) = (five, Some(five));
    for dir in [Ino(2), Ino(3)] {
        client.lookup(dir, &old).await.unwrap();
    }
    let mode = crate::wire::mutation::RenameMode::Replace;
    let done = client.rename(Ino(2), &old, Ino(3), &old, mode).await;
    assert_eq!(done.unwrap(), None);
    assert_ne!(client.cache.name(Ino(2), &old), Some(None));
    client.shutdown().await;
}

/// What the kernel was told may still be in use when another session begins: it begins later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_lent_has_run_out_before_the_session_gives_up_being_the_only_one() {
    let node = Node::start().await;
    node.script().sole = true;
    let client = connect(&[&node]).await;
    let lent = client.lend();
    let at = Instant::now();
    assert!(!lent.is_zero() && lent <= client.cache_window());
    let conn = node.script().bound.unwrap();
    node.script().sole = false;
    node.handle.push(conn, invalidate(7, Ino::SOLE.0));
    until("nothing is lent", || client.lend().is_zero()).await;
    until("acknowledged", || node.script().acks == [7]).await;
    assert!(at.elapsed() >= lent, "{:?}", at.elapsed());
    // Nothing was lent since, so nothing is waited for.
    node.handle.push(conn, invalidate(8, Ino::SOLE.0));
    until("acknowledged", || node.script().acks == [7, 8]).await;
    client.shutdown().await;
}

#[tokio::test]
async fn an_answer_that_came_before_another_session_began_makes_none_the_only_one() {
    let node = Node::start().await;
    let client = connect(&[&node]).await;
    let asked = client.cache_token();
    client.lend_if(true, crate::types::LogIndex(1), asked);
    assert!(!client.lend().is_zero());
    let conn = node.script().bound.unwrap();
    node.handle.push(conn, invalidate(7, Ino::SOLE.0));
    until("acknowledged", || node.script().acks == [7]).await;
    client.lend_if(true, crate::types::LogIndex(1), asked);
    assert!(client.lend().is_zero());
    client.shutdown().await;
}

/// A recall that came before the file was known here has found nothing.
#[tokio::test]
async fn a_recall_that_came_with_the_answer_to_an_open_is_not_missed() {
    let node = Node::start().await;
    let client = connect(&[&node]).await;
    let asked = client.moment();
    assert!(!client.has_met(asked, Ino(5)));
    let conn = node.script().bound.unwrap();
    let (ino, shared) = (Ino(5), true);
    node.handle.push(
        conn,
        Push::Recall {
            seq: 7,
            ino,
            shared,
        },
    );
    until("acknowledged", || node.script().acks == [7]).await;
    assert!(client.has_met(asked, Ino(5)));
    let asked = client.moment();
    node.handle.push(conn, invalidate(8, 5));
    until("acknowledged", || node.script().acks == [7, 8]).await;
    assert!(client.has_met(asked, Ino(5)) && !client.has_met(asked, Ino(6)));
    client.shutdown().await;
}
