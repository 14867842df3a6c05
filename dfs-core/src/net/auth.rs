//! The cluster key: who may speak to this cluster at all.
//!
//! * Datagrams: `version (1) | sender (16) | payload | tag (16)`, tag = HMAC-SHA256(key, domain |
//!   cluster | version | sender | payload) truncated to 16 bytes (RFC 2104, section 5).
//! * Connections: both ends send a random nonce; the client proves first, then the server:
//!   HMAC-SHA256(key, domain | role | client nonce | server nonce | cluster). The role is part of
//!   the input, so that a proof cannot be reflected to its maker.
//!
//! Tags are compared in constant time. Bad input is an error value, never a panic. Not covered:
//! secrecy, and the replay of a captured datagram (membership updates are ordered by incarnation,
//! so a replay tells nothing new).
use crate::types::{ClusterId, NodeId};
use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

const DATAGRAM_DOMAIN: &[u8] = b"dfs datagram v1";
const CONNECTION_DOMAIN: &[u8] = b"dfs connection v1";
const CLUSTER_DOMAIN: &[u8] = b"dfs cluster id v1";
const VERSION: u8 = 0xd1;
const HEAD_LEN: usize = 17;
const TAG_LEN: usize = 16;

/// Bytes that [`DatagramSeal::seal`] adds to a payload.
pub const SEAL_OVERHEAD: usize = HEAD_LEN + TAG_LEN;

/// A nonce of the connection handshake: random, from the operating system, used once.
pub type Nonce = [u8; 32];

/// A proof of the connection handshake.
pub type Proof = [u8; 32];

/// What is wrong with a key file.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// Reading or writing failed.
    #[error("cluster key {path}: {cause}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The operating system's words.
        cause: std::io::Error,
    },
    /// Others may read it.
    #[error("cluster key {path}: mode {mode:04o} lets others read it; run: chmod 600 {path}")]
    TooOpen {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Not 64 hexadecimal digits.
    #[error("cluster key {path}: expected 64 hexadecimal digits (32 bytes) and nothing else")]
    Malformed {
        /// The file.
        path: PathBuf,
    },
    /// `generate` never overwrites a key.
    #[error("cluster key {path}: exists already; it is not overwritten")]
    Exists {
        /// The file.
        path: PathBuf,
    },
}

/// Why a datagram or proof was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// Shorter than the envelope.
    #[error("datagram of {len} bytes is too short to be ours")]
    TooShort {
        /// Its length.
        len: usize,
    },
    /// Another protocol version, or not ours at all.
    #[error("datagram version {version:#04x} is not {VERSION:#04x}")]
    Version {
        /// The first byte.
        version: u8,
    },
    /// Wrong key, wrong cluster, or changed on the way.
    #[error("authentication failed: wrong cluster key, wrong cluster, or damaged")]
    BadTag,
}

/// The shared secret of a cluster.
#[derive(Clone, PartialEq, Eq)]
pub struct ClusterKey([u8; 32]);

impl std::fmt::Debug for ClusterKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ClusterKey(..)")
    }
}

impl ClusterKey {
    /// From 32 secret bytes.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// A fresh key from the operating system's generator.
    #[must_use]
    pub fn random() -> Self {
        Self(rand::random())
    }

    /// Makes a fresh key and writes it to `path` (mode 0600, synced, parents must exist).
    ///
    /// # Errors
    /// [`KeyError::Exists`] if the file is there (unchanged); [`KeyError::Io`].
    pub fn generate(path: &Path) -> Result<Self, KeyError> {
        let key = Self::random();
        let io = |cause| KeyError::Io {
            path: path.to_owned(),
            cause,
        };
        let mut options = std::fs::OpenOptions::new();
        let mut file = match options.write(true).create_new(true).mode(0o600).open(path) {
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
                return Err(KeyError::Exists {
                    path: path.to_owned(),
                });
            }
            other => other.map_err(io)?,
        };
        writeln!(file, "{}", key.to_hex()).map_err(io)?;
        file.sync_all().map_err(io)?;
        if let Some(dir) = path.parent().filter(|d| !d.as_os_str().is_empty()) {
            std::fs::File::open(dir)
                .and_then(|d| d.sync_all())
                .map_err(io)?;
        }
        Ok(key)
    }

    /// Reads a key file: 64 hexadecimal digits, surrounding white space allowed.
    ///
    /// # Errors
    /// [`KeyError`]; one that group or others may read is refused.
    pub fn load(path: &Path) -> Result<Self, KeyError> {
        let io = |cause| KeyError::Io {
            path: path.to_owned(),
            cause,
        };
        let mode = std::fs::metadata(path).map_err(io)?.permissions().mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(KeyError::TooOpen {
                path: path.to_owned(),
                mode,
            });
        }
        let text = std::fs::read(path).map_err(io)?;
        std::str::from_utf8(&text)
            .ok()
            .and_then(|t| Self::from_hex(t.trim()))
            .ok_or_else(|| KeyError::Malformed {
                path: path.to_owned(),
            })
    }

    /// Parses exactly 64 hexadecimal digits.
    #[must_use]
    pub fn from_hex(hex: &str) -> Option<Self> {
        if hex.len() != 64 || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        let mut bytes = [0; 32];
        for (i, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).ok()?;
        }
        Some(Self(bytes))
    }

    /// The key as 64 hexadecimal digits. Secret.
    #[must_use]
    pub fn to_hex(&self) -> String {
        self.0.iter().map(|b| format!("{b:02x}")).collect()
    }

    /// The cluster id that goes with a key generated at bootstrap: a hash of it, so that a joining
    /// node knows the cluster from the key file alone.
    #[must_use]
    pub fn cluster_id(&self) -> ClusterId {
        let hash = Sha256::new()
            .chain_update(CLUSTER_DOMAIN)
            .chain_update(self.0)
            .finalize();
        let mut id = [0; 16];
        id.copy_from_slice(&hash[..16]);
        ClusterId(u128::from_be_bytes(id))
    }

    fn mac(&self) -> Hmac<Sha256> {
        Hmac::new_from_slice(&self.0).expect("HMAC takes a key of any length")
    }
}

/// Seals and opens the datagrams of one cluster.
#[derive(Debug, Clone)]
pub struct DatagramSeal {
    // Keyed and fed with domain and cluster once: a clone per datagram saves two hash blocks.
    base: Hmac<Sha256>,
}

impl DatagramSeal {
    /// For `cluster` with its `key`.
    #[must_use]
    pub fn new(key: &ClusterKey, cluster: ClusterId) -> Self {
        let mut base = key.mac();
        base.update(DATAGRAM_DOMAIN);
        base.update(&cluster.0.to_be_bytes());
        Self { base }
    }

    /// Writes the sealed datagram into `out` (cleared first).
    pub fn seal(&self, sender: NodeId, payload: &[u8], out: &mut Vec<u8>) {
        out.clear();
        out.reserve(payload.len() + SEAL_OVERHEAD);
        out.push(VERSION);
        out.extend_from_slice(&sender.0.to_be_bytes());
        out.extend_from_slice(payload);
        let mut mac = self.base.clone();
        mac.update(out);
        let tag = mac.finalize().into_bytes();
        out.extend_from_slice(&tag[..TAG_LEN]);
    }

    /// The sender and payload of a sealed datagram.
    ///
    /// # Errors
    /// [`AuthError`]; nothing of the datagram may be used then.
    pub fn open<'a>(&self, datagram: &'a [u8]) -> Result<(NodeId, &'a [u8]), AuthError> {
        if datagram.len() < SEAL_OVERHEAD {
            let len = datagram.len();
            return Err(AuthError::TooShort { len });
        }
        if datagram[0] != VERSION {
            let version = datagram[0];
            return Err(AuthError::Version { version });
        }
        let (body, tag) = datagram.split_at(datagram.len() - TAG_LEN);
        let mut mac = self.base.clone();
        mac.update(body);
        mac.verify_truncated_left(tag)
            .map_err(|_| AuthError::BadTag)?;
        let mut sender = [0; 16];
        sender.copy_from_slice(&body[1..HEAD_LEN]);
        Ok((NodeId(u128::from_be_bytes(sender)), &body[HEAD_LEN..]))
    }
}

/// Which end of a connection makes a proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The end that connected.
    Client,
    /// The end that accepted.
    Server,
}

/// A fresh nonce from the operating system's generator.
#[must_use]
pub fn new_nonce() -> Nonce {
    rand::random()
}

fn connection_mac(
    key: &ClusterKey,
    cluster: ClusterId,
    role: Role,
    client: &Nonce,
    server: &Nonce,
) -> Hmac<Sha256> {
    let mut mac = key.mac();
    mac.update(CONNECTION_DOMAIN);
    mac.update(match role {
        Role::Client => b"client",
        Role::Server => b"server",
    });
    mac.update(client);
    mac.update(server);
    mac.update(&cluster.0.to_be_bytes());
    mac
}

/// The proof that the end in `role` knows the key, for one pair of nonces.
#[must_use]
pub fn connection_proof(
    key: &ClusterKey,
    cluster: ClusterId,
    role: Role,
    client: &Nonce,
    server: &Nonce,
) -> Proof {
    connection_mac(key, cluster, role, client, server)
        .finalize()
        .into_bytes()
        .into()
}

/// Checks the other end's proof in constant time. `role` is the other end's role.
///
/// # Errors
/// [`AuthError::BadTag`]: close the connection.
pub fn verify_connection_proof(
    key: &ClusterKey,
    cluster: ClusterId,
    role: Role,
    client: &Nonce,
    server: &Nonce,
    proof: &[u8],
) -> Result<(), AuthError> {
    connection_mac(key, cluster, role, client, server)
        .verify_slice(proof)
        .map_err(|_| AuthError::BadTag)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLUSTER: ClusterId = ClusterId(77);

    fn key(byte: u8) -> ClusterKey {
        ClusterKey::from_bytes([byte; 32])
    }

    #[test]
    fn a_sealed_datagram_opens_with_the_same_key_and_cluster_only() {
        let mut sealed = Vec::new();
        DatagramSeal::new(&key(1), CLUSTER).seal(NodeId(9), b"hello", &mut sealed);
        assert_eq!(sealed.len(), 5 + SEAL_OVERHEAD);
        let opened = DatagramSeal::new(&key(1), CLUSTER).open(&sealed).unwrap();
        assert_eq!(opened, (NodeId(9), b"hello".as_slice()));
        for other in [
            DatagramSeal::new(&key(2), CLUSTER),
            DatagramSeal::new(&key(1), ClusterId(78)),
        ] {
            assert_eq!(other.open(&sealed), Err(AuthError::BadTag));
        }
    }

    #[test]
    fn every_flipped_bit_and_every_truncation_is_refused() {
        let seal = DatagramSeal::new(&key(1), CLUSTER);
        let mut sealed = Vec::new();
        seal.seal(NodeId(9), b"payload", &mut sealed);
        for i in 0..sealed.len() {
            let mut bad = sealed.clone();
            bad[i] ^= 1;
            assert!(seal.open(&bad).is_err(), "byte {i}");
            assert!(seal.open(&sealed[..i]).is_err(), "length {i}");
        }
    }

    #[test]
    fn a_proof_holds_for_its_role_nonces_and_cluster_only() {
        let (c, s) = ([1; 32], [2; 32]);
        let proof = connection_proof(&key(1), CLUSTER, Role::Client, &c, &s);
        let check = |k: &ClusterKey, cluster, role, c: &Nonce, s: &Nonce| {
            verify_connection_proof(k, cluster, role, c, s, &proof)
        };
        assert!(check(&key(1), CLUSTER, Role::Client, &c, &s).is_ok());
        assert!(check(&key(2), CLUSTER, Role::Client, &c, &s).is_err());
        assert!(check(&key(1), ClusterId(1), Role::Client, &c, &s).is_err());
        assert!(check(&key(1), CLUSTER, Role::Server, &c, &s).is_err());
        assert!(check(&key(1), CLUSTER, Role::Client, &s, &c).is_err());
        assert!(
            verify_connection_proof(&key(1), CLUSTER, Role::Client, &c, &s, &proof[..16]).is_err()
        );
    }

    #[test]
    fn a_generated_key_loads_again_and_is_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cluster.key");
        let made = ClusterKey::generate(&path).unwrap();
        assert_eq!(ClusterKey::load(&path).unwrap(), made);
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert!(matches!(
            ClusterKey::generate(&path),
            Err(KeyError::Exists { .. })
        ));
        assert_eq!(format!("{made:?}"), "ClusterKey(..)");
    }

    #[test]
    fn a_key_file_that_others_may_read_or_that_is_no_key_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cluster.key");
        assert!(matches!(ClusterKey::load(&path), Err(KeyError::Io { .. })));
        ClusterKey::generate(&path).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o640)).unwrap();
        let error = ClusterKey::load(&path).unwrap_err();
        assert!(error.to_string().contains("chmod 600"), "{error}");
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        std::fs::write(&path, "+1".repeat(32)).unwrap();
        assert!(matches!(
            ClusterKey::load(&path),
            Err(KeyError::Malformed { .. })
        ));
    }
}
