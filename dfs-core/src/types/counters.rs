//! Counters, one newtype each: an `Epoch` cannot be compared with a `Term`.
use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! counter {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(
            Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
        )]
        pub struct $name(pub u64);
        impl $name {
            /// The following value. The last one, which only comes from outside, has none: it stays.
            #[must_use]
            pub fn next(self) -> Self {
                Self(self.0.saturating_add(1))
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
    };
}

counter!(
    /// Configuration number of one placement group; raised by each change, fences old writers.
    Epoch
);
counter!(
    /// One run of a node: `max(persisted + 1, now in ms)`, on disk before the first packet.
    Incarnation
);
counter!(
    /// Number of one committed put of an inode; 0 before the first.
    Revision
);
counter!(
    /// A history entry of a name, the number shown in `.versions`; counts from 1.
    VersionNo
);
counter!(
    /// Position in the Raft log; counts from 1.
    LogIndex
);
counter!(
    /// Raft term.
    Term
);
counter!(
    /// Write-lease sequence of an inode; raised to fence a former holder.
    LeaseSeq
);

impl LeaseSeq {
    /// Of a new inode.
    pub const FIRST: Self = Self(1);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regression_a_number_from_outside_that_is_the_last_one_has_no_next() {
        assert_eq!(LogIndex(7).next(), LogIndex(8));
        assert_eq!(Epoch(u64::MAX).next(), Epoch(u64::MAX));
    }
}
