#![allow(clippy::unwrap_used, clippy::disallowed_methods)] // A test.
use super::conn::deadline_in;
use super::*;
use crate::types::ClusterId;
use crate::wire::rpc::{ConnId, Reply, ReplyTo};
use crate::wire::{
    ErrorCode, NodeRequest, NodeResponse, Push, ReplicaRequest, ReplicaResponse, Request, Response,
};
use bytes::Bytes;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Echoes payloads; never answers `Leave`; pushes before it answers `Members`.
struct Echo {
    handle: ServerHandle,
    casts: Mutex<Vec<Request>>,
    closed: Mutex<Vec<ConnId>>,
}

impl Handler for Echo {
    fn request(&self, from: ReplyTo, request: Request, payload: Bytes) {
        match request {
            Request::Node(NodeRequest::Leave) => return,
            Request::Node(NodeRequest::Members) => {
                self.handle.push(from.conn, Push::Poke);
            }
            _ => {}
        }
        let body = if payload.is_empty() {
            Response::Node(NodeResponse::Done)
        } else {
            Response::Replica(ReplicaResponse::Dropped)
        };
        let half = payload.len() / 2;
        self.handle.reply_all([Reply {
            to: from,
            body: Ok(body),
            payload: vec![payload.slice(..half), payload.slice(half..)],
        }]);
    }
    fn cast(&self, _: ConnId, request: Request, _: Bytes) {
        self.casts.lock().unwrap().push(request);
    }
    fn conn_closed(&self, conn: ConnId) {
        self.closed.lock().unwrap().push(conn);
    }
}

fn credentials(byte: u8) -> Credentials {
    Credentials::new(ClusterKey::from_bytes([byte; 32]))
}

async fn echo(config: ServerConfig) -> (Server, Arc<Echo>) {
    let handle = ServerHandle::new(None);
    let handler = Arc::new(Echo {
        handle: handle.clone(),
        casts: Mutex::default(),
        closed: Mutex::default(),
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = Server::start(listener, &credentials(1), config, handle, handler.clone());
    (server.unwrap(), handler)
}

async fn connect(addr: SocketAddr) -> Conn {
    let deadline = deadline_in(Duration::from_secs(5));
    Conn::connect(addr, &credentials(1), deadline, ConnOptions::default())
        .await
        .unwrap()
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = deadline_in(Duration::from_secs(10));
    while !holds() {
        assert!(Instant::now() < deadline, "not reached: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

fn ping() -> Request {
    Request::Node(NodeRequest::Ping)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn payloads_of_every_size_come_back_whole() {
    let (server, _) = echo(ServerConfig::default()).await;
    let conn = connect(server.local_addr()).await;
    for len in [1usize, 100, 16_385, 65_536, 1 << 20, (4 << 20) + 77] {
        let bytes: Bytes = (0..len)
            .map(|i| ((i * 31) >> 3) as u8)
            .collect::<Vec<_>>()
            .into();
        let pieces = vec![bytes.slice(..len / 3), bytes.slice(len / 3..)];
        let request = Request::Replica(ReplicaRequest::Usage);
        let answer = conn.call(request, pieces, deadline_in(Duration::from_secs(20)));
        let (body, payload) = answer.await.unwrap();
        assert_eq!(body, Response::Replica(ReplicaResponse::Dropped));
        assert!(payload == bytes, "{len} bytes");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_calls_at_once_each_get_their_own_answer() {
    let (server, _) = echo(ServerConfig::default()).await;
    let conn = Arc::new(connect(server.local_addr()).await);
    let calls: Vec<_> = (0..3000u32)
        .map(|i| {
            let conn = Arc::clone(&conn);
            tokio::spawn(async move {
                let len = if i % 100 == 0 { 300_000 } else { 8 };
                let sent = Bytes::from(i.to_le_bytes().repeat(len / 4));
                let deadline = deadline_in(Duration::from_secs(30));
                let (_, got) = conn
                    .call(ping(), vec![sent.clone()], deadline)
                    .await
                    .unwrap();
                assert!(got == sent);
            })
        })
        .collect();
    for call in calls {
        call.await.unwrap();
    }
}

#[tokio::test]
async fn a_server_that_dies_in_a_call_leaves_its_outcome_unknown() {
    let (server, handler) = echo(ServerConfig::default()).await;
    let conn = connect(server.local_addr()).await;
    let deadline = deadline_in(Duration::from_secs(20));
    let call = conn.call(Request::Node(NodeRequest::Leave), vec![], deadline);
    let kill = async {
        until("connected", || server.handle().connections() == 1).await;
        // An answered call shows that the one before it has arrived.
        conn.call(ping(), vec![], deadline).await.unwrap();
        drop(server);
    };
    let (answer, ()) = tokio::join!(call, kill);
    assert_eq!(answer.unwrap_err().code, ErrorCode::UnknownOutcome);
    conn.closed().await;
    let later = conn.call(ping(), vec![], deadline).await.unwrap_err();
    assert_eq!(later.code, ErrorCode::Unavailable);
    until("handler told", || handler.closed.lock().unwrap().len() == 1).await;
}

#[tokio::test]
async fn a_silent_peer_costs_the_deadline_and_no_more() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let began = Instant::now();
    let deadline = deadline_in(Duration::from_millis(100));
    let error = Conn::connect(addr, &credentials(1), deadline, ConnOptions::default()).await;
    assert_eq!(error.unwrap_err().code, ErrorCode::Unavailable);
    let (server, _) = echo(ServerConfig::default()).await;
    let conn = connect(server.local_addr()).await;
    let deadline = deadline_in(Duration::from_millis(100));
    let answer = conn
        .call(Request::Node(NodeRequest::Leave), vec![], deadline)
        .await;
    assert_eq!(answer.unwrap_err().code, ErrorCode::UnknownOutcome);
    assert!(began.elapsed() < Duration::from_secs(3));
}

#[tokio::test]
async fn garbage_and_silence_are_refused_and_others_are_still_served() {
    let (server, _) = echo(ServerConfig {
        handshake_timeout: Duration::from_millis(200),
        ..ServerConfig::default()
    })
    .await;
    let mut silent = TcpStream::connect(server.local_addr()).await.unwrap();
    for garbage in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        &[0xff; 500],
        b"DFS\x01\x01\x00",
    ] {
        let mut stream = TcpStream::connect(server.local_addr()).await.unwrap();
        stream.write_all(garbage).await.unwrap();
        // Refused: the end, or a reset since not all of it was read.
        let mut sink = Vec::new();
        let _ = stream.read_to_end(&mut sink).await;
        assert!(sink.is_empty());
    }
    assert_eq!(silent.read(&mut [0; 8]).await.unwrap(), 0);
    let conn = connect(server.local_addr()).await;
    let deadline = deadline_in(Duration::from_secs(5));
    conn.call(ping(), vec![], deadline).await.unwrap();
}

#[tokio::test]
async fn garbage_after_the_handshake_closes_that_connection_only() {
    let (server, handler) = echo(ServerConfig::default()).await;
    let good = connect(server.local_addr()).await;
    let mut bad = TcpStream::connect(server.local_addr()).await.unwrap();
    handshake::connect(&mut bad, &credentials(1), handshake::Purpose::General)
        .await
        .unwrap();
    bad.write_all(&[0x5a; 4096]).await.unwrap();
    until("closed", || handler.closed.lock().unwrap().len() == 1).await;
    let deadline = deadline_in(Duration::from_secs(5));
    good.call(ping(), vec![], deadline).await.unwrap();
}

#[tokio::test]
async fn a_wrong_key_is_refused_at_both_ends() {
    let (server, _) = echo(ServerConfig::default()).await;
    let deadline = deadline_in(Duration::from_secs(5));
    let connect = |c: Credentials| async move {
        let addr = server.local_addr();
        (
            Conn::connect(addr, &c, deadline, ConnOptions::default()).await,
            server,
        )
    };
    let (refused, server) = connect(credentials(2)).await;
    assert_eq!(refused.unwrap_err().code, ErrorCode::Unauthorized);
    let mut other = credentials(1);
    other.cluster = Some(ClusterId(5));
    let addr = server.local_addr();
    let refused = Conn::connect(addr, &other, deadline, ConnOptions::default()).await;
    assert_eq!(refused.unwrap_err().code, ErrorCode::WrongCluster);

    // A server that does not know the key but says "ok" is refused by the client.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let impostor = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut hello = [0; 39];
        stream.read_exact(&mut hello).await.unwrap();
        let mut answer = hello[..6].to_vec();
        answer.resize(55, 0);
        stream.write_all(&answer).await.unwrap();
        stream.read_exact(&mut [0; 32]).await.unwrap();
        stream.write_all(&[0; 33]).await.unwrap();
    };
    let credentials = credentials(1);
    let victim = Conn::connect(addr, &credentials, deadline, ConnOptions::default());
    let (refused, ()) = tokio::join!(victim, impostor);
    assert_eq!(refused.unwrap_err().code, ErrorCode::Unauthorized);
}

#[tokio::test]
async fn the_connection_limit_is_told_to_the_peer() {
    let (server, _) = echo(ServerConfig {
        connections_max: 1,
        ..ServerConfig::default()
    })
    .await;
    let first = connect(server.local_addr()).await;
    let deadline = deadline_in(Duration::from_secs(5));
    let addr = server.local_addr();
    let second = Conn::connect(addr, &credentials(1), deadline, ConnOptions::default()).await;
    let error = second.unwrap_err();
    assert!(error.detail.contains("limit"), "{error}");
    first.call(ping(), vec![], deadline).await.unwrap();
}

#[derive(Default)]
struct Count(Mutex<usize>);
impl PushHandler for Count {
    fn push(&self, _: Push) {
        *self.0.lock().unwrap() += 1;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_push_is_handled_before_the_reply_that_follows_it() {
    let (server, _) = echo(ServerConfig::default()).await;
    let count = Arc::new(Count::default());
    let options = ConnOptions {
        pushes: Some(count.clone()),
        ..ConnOptions::default()
    };
    let deadline = deadline_in(Duration::from_secs(20));
    let addr = server.local_addr();
    let conn = Conn::connect(addr, &credentials(1), deadline, options)
        .await
        .unwrap();
    for i in 1..=200 {
        let members = Request::Node(NodeRequest::Members);
        conn.call(members, vec![], deadline).await.unwrap();
        assert_eq!(*count.0.lock().unwrap(), i);
    }
}

#[tokio::test]
async fn a_pool_reconnects_and_fails_fast_while_backed_off() {
    let (server, handler) = echo(ServerConfig::default()).await;
    let addr = server.local_addr();
    let pool = Pool::new(
        credentials(1),
        ConnOptions::default(),
        PoolConfig::default(),
    );
    let deadline = deadline_in(Duration::from_secs(20));
    pool.cast_all(addr, vec![ping()]);
    until("cast arrived", || handler.casts.lock().unwrap().len() == 1).await;
    pool.call(addr, ping(), vec![], deadline).await.unwrap();
    let conn = pool.get(addr, deadline).await.unwrap();
    drop(server);
    conn.closed().await;
    let refused = pool.call(addr, ping(), vec![], deadline).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::Unavailable);
    assert!(pool.is_backed_off(addr));

    let handle = ServerHandle::new(None);
    let handler = Arc::new(Echo {
        handle: handle.clone(),
        casts: Mutex::default(),
        closed: Mutex::default(),
    });
    let listener = TcpListener::bind(addr).await.unwrap();
    let config = ServerConfig::default();
    let _server = Server::start(listener, &credentials(1), config, handle, handler).unwrap();
    pool.retry_now(addr);
    pool.call(addr, ping(), vec![], deadline).await.unwrap();
}
