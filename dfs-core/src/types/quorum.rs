//! Copies and quorums of a cluster.
use serde::{Deserialize, Serialize};

/// N copies, W durable acks before a commit, R stamp reads before an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuorumSizes {
    /// Copies of each file.
    pub n: u8,
    /// Durable acknowledgements a put needs.
    pub w: u8,
    /// Stamps a get needs.
    pub r: u8,
}

/// Sizes that would lose or hide writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum QuorumError {
    /// A size is zero or above N.
    #[error("N={n} W={w} R={r}: W and R must be between 1 and N")]
    OutOfRange {
        /// N.
        n: u8,
        /// W.
        w: u8,
        /// R.
        r: u8,
    },
    /// `W + R <= N`: a read could miss the latest write.
    #[error("W={w} + R={r} must exceed N={n}, or a read could miss the latest write")]
    ReadMisses {
        /// N.
        n: u8,
        /// W.
        w: u8,
        /// R.
        r: u8,
    },
    /// `2W <= N`: two writes could be acknowledged by disjoint sets.
    #[error("2 x W={w} must exceed N={n}, or two writes could miss each other")]
    WritesMiss {
        /// N.
        n: u8,
        /// W.
        w: u8,
    },
}

impl QuorumSizes {
    /// N=3, W=2, R=2.
    pub const DEFAULT: Self = Self { n: 3, w: 2, r: 2 };

    /// Checks `W + R > N` and `2W > N`.
    ///
    /// # Errors
    /// [`QuorumError`] naming the broken rule.
    pub fn validate(self) -> Result<Self, QuorumError> {
        let Self { n, w, r } = self;
        if w == 0 || r == 0 || w > n || r > n {
            return Err(QuorumError::OutOfRange { n, w, r });
        }
        if u16::from(w) + u16::from(r) <= u16::from(n) {
            return Err(QuorumError::ReadMisses { n, w, r });
        }
        if 2 * u16::from(w) <= u16::from(n) {
            return Err(QuorumError::WritesMiss { n, w });
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_sizes_that_lose_or_hide_writes() {
        let q = |n, w, r| QuorumSizes { n, w, r }.validate();
        assert!(q(3, 2, 2).is_ok() && q(1, 1, 1).is_ok() && q(5, 3, 3).is_ok());
        assert!(matches!(q(3, 2, 1), Err(QuorumError::ReadMisses { .. })));
        assert!(matches!(q(3, 1, 3), Err(QuorumError::WritesMiss { .. })));
        assert!(matches!(q(3, 4, 2), Err(QuorumError::OutOfRange { .. })));
        assert!(matches!(q(3, 0, 3), Err(QuorumError::OutOfRange { .. })));
    }
}
