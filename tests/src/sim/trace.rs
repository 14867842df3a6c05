//! What happened, as a hash that two runs of one seed must share, and as text for people.
use dfs_core::types::Time;
use std::fmt;

/// See the [module docs](self).
#[derive(Debug)]
pub(super) struct Trace {
    hash: u64,
    prints: bool,
}

impl Trace {
    pub fn new(prints: bool) -> Self {
        Self {
            hash: 0xcbf2_9ce4_8422_2325,
            prints,
        }
    }

    /// Mixes a number in (FNV-1a by words, with a final avalanche by multiplication).
    pub fn mix(&mut self, number: u64) {
        self.hash = (self.hash ^ number)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .rotate_left(29);
    }

    pub fn mix_bytes(&mut self, bytes: &[u8]) {
        self.mix(u64::from(dfs_core::types::crc32c(bytes)));
    }

    pub fn hash(&self) -> u64 {
        self.hash
    }

    pub fn say(&self, now: Time, what: fmt::Arguments<'_>) {
        if self.prints {
            println!("{:>10.4} {what}", now.since(Time(0)).as_secs_f64());
        }
    }
}
