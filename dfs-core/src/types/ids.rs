//! Identities. Each is a newtype, so that a store cannot be taken for a node.
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        pub struct $name(pub u128);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:032x}", self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:08x})"), self.0 >> 96)
            }
        }
        impl FromStr for $name {
            type Err = std::num::ParseIntError;
            /// Parses 32 hexadecimal digits (dashes allowed).
            fn from_str(s: &str) -> Result<Self, Self::Err> {
                u128::from_str_radix(&s.replace('-', ""), 16).map(Self)
            }
        }
    };
}

uuid_id!(
    /// A running daemon, stable over restarts; with its incarnation it is one run of it.
    NodeId
);
uuid_id!(
    /// One data directory. A wiped directory is a new store.
    StoreId
);
uuid_id!(
    /// One client session (a mount or one tool run); never reused.
    ClientId
);
uuid_id!(
    /// One cluster, chosen at bootstrap.
    ClusterId
);

/// An inode number, never reused. 1 is the root directory.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct Ino(pub u64);

impl Ino {
    /// The root directory.
    pub const ROOT: Self = Self(1);
    /// No inode: among what sessions cache, it stands for being the only one.
    pub const SOLE: Self = Self(0);
}

impl fmt::Display for Ino {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// One placement group, `0..pgs`.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct PgId(pub u16);

/// A member of the Raft group. A wiped voter comes back under a new one; never 0.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct RaftId(pub u64);

impl RaftId {
    /// Bits that hold the log index of the entry that assigned the id.
    const INDEX_BITS: u32 = 40;
    /// Groups that ids tell apart; [`Self::first`] takes a number below this.
    pub const GROUPS: u32 = 1 << 21;

    /// The first voter of a group. `group` is drawn by chance below [`Self::GROUPS`], so that no
    /// voter of one group is taken for one of another.
    #[must_use]
    pub const fn first(group: u32) -> Self {
        Self(((group % Self::GROUPS) as u64 + 1) << Self::INDEX_BITS | 1)
    }

    /// The id that the entry after `last` in the log of this member's group may assign: above every
    /// id that an entry up to `last` assigned, those of voters that are gone included.
    #[must_use]
    pub const fn assigned_after(self, last: u64) -> Self {
        let group = self.0 >> Self::INDEX_BITS << Self::INDEX_BITS;
        Self(group | (last + 1))
    }

    /// Number of the group that the id is of.
    #[must_use]
    pub const fn group(self) -> u64 {
        self.0 >> Self::INDEX_BITS
    }
}

/// Names one mutation for ever: a retry has the same op-id and gets the same answer.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct OpId {
    /// The session that issued it.
    pub client: ClientId,
    /// Counts from 1 within the session.
    pub seq: u64,
}

impl fmt::Display for OpId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}.{}", self.client.0 >> 96, self.seq)
    }
}

/// One immutable run of bytes that one put wrote: `(op-id, index)`.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct ObjectId {
    /// The put that wrote it.
    pub op: OpId,
    /// Counts from 0 within the put.
    pub index: u32,
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.op, self.index)
    }
}
