//! Changes that nobody waits for, against a scripted master.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)] // A test.
use crate::client::testing::{Node, attr, config, until};
use crate::client::{Ack, CacheListener, Client, ClientConfig, new_node};
use crate::types::{Attr, FileKind, Ino, LogIndex, Name};
use crate::wire::master::Touched;
use crate::wire::{ErrorCode, Mutation, Push};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const DIR: Ino = Ino(5);

#[derive(Default)]
struct Listener(Mutex<Vec<String>>);

impl CacheListener for Listener {
    fn invalidated(&self, _: &[Touched], _: Ack) {}
    fn all_invalidated(&self) {}
    fn session_lost(&self) {}
    fn change_lost(&self, what: &str) {
        self.0.lock().unwrap().push(what.to_owned());
    }
}

fn name(text: impl std::fmt::Display) -> Name {
    Name::new(text.to_string()).unwrap()
}

/// A client that is alone and may queue, and the directory's names that it knows to be absent.
async fn alone(node: &Node, settings: ClientConfig, absent: &[&str]) -> Arc<Client> {
    node.script().sole = true;
    let dir = Attr {
        kind: FileKind::Dir,
        nlink: 2,
        ..attr(DIR.0)
    };
    node.script().attrs.insert(DIR, dir);
    let settings = ClientConfig {
        behind: true,
        ..settings
    };
    let client = Client::connect(settings).await.unwrap();
    until("inode numbers", || {
        client.behind.kick.notify_one();
        client.behind.state().left() > 0
    })
    .await;
    client.getattr(DIR).await.unwrap();
    for name in absent {
        let error = client.lookup(DIR, &self::name(name)).await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::NotFound);
    }
    client
}

fn file() -> crate::wire::mutation::NewNode {
    new_node(FileKind::File, 0o644, 1, 2)
}

/// What was made, in the order in which the master applied it.
fn made(node: &Node) -> Vec<Name> {
    let mut names = Vec::new();
    for (_, body) in &node.script().asked {
        if let Mutation::CreateAs { name, .. } = body {
            names.push(name.clone());
        }
    }
    names
}

async fn make(client: &Client, names: &[&str]) {
    for name in names {
        let made = client.create(DIR, &self::name(name), file(), true).await;
        assert!(made.unwrap().1);
    }
}

#[tokio::test]
async fn changes_are_shown_at_once_and_applied_in_order_though_answers_are_lost() {
    let node = Node::start().await;
    let names = ["a", "b", "c", "d", "e"];
    let client = alone(&node, config(&[&node]), &names).await;
    node.script().deaf = true;
    make(&client, &names).await;
    let shown = client.lookup(DIR, &name("b")).await.unwrap();
    assert_eq!((shown.uid, shown.gid, shown.nlink), (1, 2, 1));
    assert!(
        client
            .unlink(DIR, &name("b"), false)
            .await
            .unwrap()
            .is_some()
    );
    let gone = client.lookup(DIR, &name("b")).await.unwrap_err();
    assert_eq!(gone.code(), ErrorCode::NotFound);
    assert_eq!(client.queued_changes(), 6);
    assert!(made(&node).is_empty());
    {
        let mut script = node.script();
        (script.deaf, script.swallow) = (false, 3);
    }
    client.settle(DIR).await.unwrap();
    assert_eq!(made(&node), names.map(name));
    let is_reserve = |body: &Mutation| matches!(body, Mutation::Reserve { .. });
    let asked = std::mem::take(&mut node.script().asked);
    let last = asked.into_iter().rfind(|(_, body)| !is_reserve(body));
    assert!(
        matches!(last, Some((_, Mutation::Unlink { .. }))),
        "{last:?}"
    );
    assert_eq!(client.queued_changes(), 0);
}

#[tokio::test]
async fn a_refusal_is_told_once_to_whoever_syncs_and_nothing_foreseen_is_left_of_it() {
    let node = Node::start().await;
    let client = alone(&node, config(&[&node]), &["a", "full"]).await;
    let listener = Arc::new(Listener::default());
    client.set_listener(listener.clone());
    node.script()
        .refused
        .insert(name("full"), ErrorCode::NoSpace);
    make(&client, &["a", "full"]).await;
    let error = client.settle(DIR).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::NoSpace);
    client.settle(DIR).await.unwrap();
    assert_eq!(listener.0.lock().unwrap().len(), 1);
    let gone = client.lookup(DIR, &name("full")).await.unwrap_err();
    assert_eq!(gone.code(), ErrorCode::NotFound, "asked again");
}

#[tokio::test]
async fn another_session_waits_until_everything_queued_is_decided() {
    let node = Node::start().await;
    let client = alone(&node, config(&[&node]), &["a", "b"]).await;
    node.script().deaf = true;
    make(&client, &["a"]).await;
    let conn = node.script().bound.unwrap();
    node.script().sole = false;
    let touched = vec![Touched {
        ino: Ino::SOLE,
        attrs: true,
        content: true,
        entries: true,
    }];
    let as_of = LogIndex(9);
    node.handle.push(
        conn,
        Push::Invalidate {
            seq: 7,
            as_of,
            touched,
        },
    );
    until("no more is queued", || !client.lends()).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(node.script().acks.is_empty(), "something is queued");
    node.script().deaf = false;
    until("the acknowledgement", || node.script().acks == [7]).await;
    assert_eq!(made(&node), [name("a")]);
    // From here on a program waits.
    let waiting = client.create(DIR, &name("b"), file(), true).await;
    assert!(waiting.is_err(), "the script answers it with nothing made");
    assert_eq!(client.queued_changes(), 0);
}

#[tokio::test]
async fn what_nobody_answers_is_given_up_at_the_deadline_and_later_changes_go_on() {
    let node = Node::start().await;
    let settings = ClientConfig {
        deadline_meta: Duration::from_secs(1),
        ..config(&[&node])
    };
    let client = alone(&node, settings, &["a", "b", "c"]).await;
    let listener = Arc::new(Listener::default());
    client.set_listener(listener.clone());
    node.script().deaf = true;
    make(&client, &["a", "b"]).await;
    until("given up", || client.queued_changes() == 0).await;
    assert_eq!(
        client.settle(DIR).await.unwrap_err().code(),
        ErrorCode::UnknownOutcome
    );
    assert!(!listener.0.lock().unwrap().is_empty());
    node.script().deaf = false;
    until("alone again", || client.lends()).await;
    client.getattr(DIR).await.unwrap();
    client.lookup(DIR, &name("c")).await.unwrap_err();
    make(&client, &["c"]).await;
    until("the next change", || made(&node) == [name("c")]).await;
}

#[tokio::test]
async fn an_open_waits_for_what_concerns_its_file_and_for_nothing_else() {
    let node = Node::start().await;
    let client = alone(&node, config(&[&node]), &["a", "b"]).await;
    node.script().deaf = true;
    let (queued, _) = client.create(DIR, &name("a"), file(), true).await.unwrap();
    let (other, _) = client.create(DIR, &name("b"), file(), true).await.unwrap();
    client.open_rpc(Ino(77), false).await.unwrap();
    assert_eq!(client.queued_changes(), 2, "nothing was answered meanwhile");
    let mut waiting = Box::pin(client.open_rpc(queued.ino, false));
    let early = tokio::time::timeout(Duration::from_millis(100), waiting.as_mut());
    assert!(early.await.is_err(), "the masters do not know the file yet");
    node.script().deaf = false;
    waiting.await.unwrap();
    assert_eq!(made(&node).first(), Some(&name("a")));
    assert_ne!(queued.ino, other.ino);
}
