//! CRC-32C of blocks and objects: what makes bytes verifiable end to end.
//!
//! An object is cut into blocks of [`BLOCK_SIZE`]; [`BlockSums`] has one CRC per block, so that a
//! part can be verified without the rest. The master keeps the [`ObjectSum`]: length and CRC of
//! the list of block CRCs. A reader checks the list against the sum and the blocks against the
//! list, so no replica has to be trusted.
use serde::{Deserialize, Serialize};

/// Bytes that one CRC covers (the last block of an object may be shorter).
pub const BLOCK_SIZE: usize = 64 * 1024;

/// CRC-32C (Castagnoli) of `bytes`.
#[must_use]
pub fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::crc32_iscsi(bytes)
}

/// One CRC per block of an object.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct BlockSums(pub Vec<u32>);

/// Length of an object and CRC of its list of block CRCs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct ObjectSum {
    /// Bytes of the object.
    pub len: u32,
    /// CRC-32C over the block CRCs, each little-endian.
    pub crc: u32,
}

impl BlockSums {
    /// Sums of an object's bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(bytes.chunks(BLOCK_SIZE).map(crc32c).collect())
    }

    /// The sum that identifies an object of `len` bytes with these blocks.
    #[must_use]
    pub fn object_sum(&self, len: u32) -> ObjectSum {
        let list: Vec<u8> = self.0.iter().flat_map(|c| c.to_le_bytes()).collect();
        ObjectSum {
            len,
            crc: crc32c(&list),
        }
    }

    /// True iff `bytes`, which begin at block `first_block`, match these sums.
    /// `bytes` must end at a block boundary or at the end of the object.
    #[must_use]
    pub fn verify_blocks(&self, first_block: usize, bytes: &[u8]) -> bool {
        bytes
            .chunks(BLOCK_SIZE)
            .enumerate()
            .all(|(i, block)| self.0.get(first_block + i) == Some(&crc32c(block)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc32c_matches_the_published_check_value() {
        // RFC 3720 appendix B.4: "123456789" -> e3069283.
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn a_flipped_bit_is_seen_in_its_block() {
        let mut bytes = vec![7u8; BLOCK_SIZE * 2 + 5];
        let sums = BlockSums::of(&bytes);
        assert!(sums.verify_blocks(0, &bytes) && sums.verify_blocks(2, &bytes[BLOCK_SIZE * 2..]));
        bytes[BLOCK_SIZE + 1] ^= 1;
        assert!(!sums.verify_blocks(0, &bytes));
        assert!(sums.verify_blocks(0, &bytes[..BLOCK_SIZE]));
    }
}
