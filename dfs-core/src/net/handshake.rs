//! Who may speak: the first bytes of every connection, before any frame is parsed.
//!
//! ```text
//! client -> magic "DFS\x01" | protocol u16 | purpose u8 | nonce 32
//! server -> magic "DFS\x01" | protocol u16 | status u8  | cluster 16 | nonce 32
//! client -> proof 32                       (the client proves first)
//! server -> status u8 | proof 32
//! ```
//!
//! All lengths are fixed, so that nothing is allocated for a stranger. A refusal is a status byte,
//! so that a person with the wrong key is told so. Integers are little-endian. The caller sets the
//! deadline.
use super::auth::{ClusterKey, Nonce, Role, connection_proof, new_nonce, verify_connection_proof};
use crate::types::ClusterId;
use crate::wire::{ErrorCode, PROTOCOL_VERSION, WireError};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

const MAGIC: [u8; 4] = *b"DFS\x01";

/// What an end needs to be let in.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// The cluster's secret.
    pub key: ClusterKey,
    /// The cluster expected. A client with `None` takes the cluster that the (authenticated) server
    /// names; a server with `None` uses the key's own.
    pub cluster: Option<ClusterId>,
}

impl Credentials {
    /// The key alone.
    #[must_use]
    pub fn new(key: ClusterKey) -> Self {
        Self { key, cluster: None }
    }
}

/// What a connection is for; the server counts its bytes accordingly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Purpose {
    /// Clients and metadata.
    #[default]
    General,
    /// Copies between stores.
    Repair,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Status {
    Ok = 0,
    Unauthorized = 1,
    Version = 2,
    Busy = 3,
}

/// Why a handshake failed.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The connection broke.
    #[error("connection lost during the handshake: {0}")]
    Io(#[from] std::io::Error),
    /// The first bytes are not ours.
    #[error("the peer does not speak the DFS protocol")]
    NotDfs,
    /// Another protocol version.
    #[error(
        "the peer speaks protocol {theirs}, this program {PROTOCOL_VERSION}: use the same release on both"
    )]
    Version {
        /// The peer's.
        theirs: u16,
    },
    /// Another cluster.
    #[error("the server belongs to cluster {theirs}, expected {expected}")]
    Cluster {
        /// The server's.
        theirs: ClusterId,
        /// Ours.
        expected: ClusterId,
    },
    /// Keys differ.
    #[error("the cluster keys differ: use the cluster.key file of this cluster")]
    Unauthorized,
    /// The server has as many connections as it takes.
    #[error("the server is at its connection limit: try again later")]
    Busy,
}

impl HandshakeError {
    /// As an error on the wire; nothing was sent.
    #[must_use]
    pub fn to_wire(&self) -> WireError {
        let code = match self {
            Self::Io(_) | Self::Busy => ErrorCode::Unavailable,
            Self::NotDfs | Self::Version { .. } => ErrorCode::BadRequest,
            Self::Cluster { .. } => ErrorCode::WrongCluster,
            Self::Unauthorized => ErrorCode::Unauthorized,
        };
        WireError::new(code, self.to_string())
    }
}

/// The client's half. Returns the server's cluster.
///
/// # Errors
/// [`HandshakeError`]; the connection must be dropped.
pub async fn connect<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    credentials: &Credentials,
    purpose: Purpose,
) -> Result<ClusterId, HandshakeError> {
    let nonce = new_nonce();
    let mut hello = Vec::with_capacity(39);
    hello.extend_from_slice(&MAGIC);
    hello.extend_from_slice(&PROTOCOL_VERSION.to_le_bytes());
    hello.push(purpose as u8);
    hello.extend_from_slice(&nonce);
    stream.write_all(&hello).await?;

    let mut answer = [0u8; 55];
    stream.read_exact(&mut answer[..7]).await?;
    check_magic(&answer)?;
    check_status(answer[6])?;
    stream.read_exact(&mut answer[7..]).await?;
    let theirs = ClusterId(u128::from_le_bytes(fixed(&answer[7..23])));
    if let Some(expected) = credentials.cluster.filter(|&c| c != theirs) {
        return Err(HandshakeError::Cluster { theirs, expected });
    }
    let server_nonce: Nonce = fixed(&answer[23..55]);
    let key = &credentials.key;
    let proof = connection_proof(key, theirs, Role::Client, &nonce, &server_nonce);
    stream.write_all(&proof).await?;

    let mut verdict = [0u8; 33];
    stream.read_exact(&mut verdict[..1]).await?;
    check_status(verdict[0])?;
    stream.read_exact(&mut verdict[1..]).await?;
    verify_connection_proof(
        key,
        theirs,
        Role::Server,
        &nonce,
        &server_nonce,
        &verdict[1..],
    )
    .map_err(|_| HandshakeError::Unauthorized)?;
    Ok(theirs)
}

/// The server's half. Returns what the connection is for.
///
/// # Errors
/// [`HandshakeError`]; the client was told, the connection must be dropped.
pub async fn accept<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    key: &ClusterKey,
    cluster: ClusterId,
    busy: bool,
) -> Result<Purpose, HandshakeError> {
    let mut hello = [0u8; 39];
    stream.read_exact(&mut hello[..4]).await?;
    if hello[..4] != MAGIC {
        return Err(HandshakeError::NotDfs);
    }
    stream.read_exact(&mut hello[4..]).await?;
    let checked = check_magic(&hello);
    let status = match (&checked, busy) {
        (Err(_), _) => Status::Version,
        (Ok(()), true) => Status::Busy,
        (Ok(()), false) => Status::Ok,
    };
    let nonce = new_nonce();
    let mut answer = Vec::with_capacity(55);
    answer.extend_from_slice(&MAGIC);
    answer.extend_from_slice(&PROTOCOL_VERSION.to_le_bytes());
    answer.push(status as u8);
    answer.extend_from_slice(&cluster.0.to_le_bytes());
    answer.extend_from_slice(&nonce);
    stream.write_all(&answer).await?;
    checked?;
    if busy {
        return Err(HandshakeError::Busy);
    }

    let client_nonce: Nonce = fixed(&hello[7..39]);
    let mut proof = [0u8; 32];
    stream.read_exact(&mut proof).await?;
    let verdict =
        verify_connection_proof(key, cluster, Role::Client, &client_nonce, &nonce, &proof);
    if verdict.is_err() {
        stream.write_all(&[Status::Unauthorized as u8]).await?;
        return Err(HandshakeError::Unauthorized);
    }
    let mut last = [0u8; 33];
    last[1..].copy_from_slice(&connection_proof(
        key,
        cluster,
        Role::Server,
        &client_nonce,
        &nonce,
    ));
    stream.write_all(&last).await?;
    Ok(if hello[6] == Purpose::Repair as u8 {
        Purpose::Repair
    } else {
        Purpose::General
    })
}

fn check_magic(hello: &[u8]) -> Result<(), HandshakeError> {
    if hello[..4] != MAGIC {
        return Err(HandshakeError::NotDfs);
    }
    let theirs = u16::from_le_bytes(fixed(&hello[4..6]));
    if theirs != PROTOCOL_VERSION {
        return Err(HandshakeError::Version { theirs });
    }
    Ok(())
}

fn check_status(status: u8) -> Result<(), HandshakeError> {
    match status {
        s if s == Status::Ok as u8 => Ok(()),
        s if s == Status::Busy as u8 => Err(HandshakeError::Busy),
        s if s == Status::Unauthorized as u8 => Err(HandshakeError::Unauthorized),
        _ => Err(HandshakeError::NotDfs),
    }
}

fn fixed<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[..N]);
    out
}
