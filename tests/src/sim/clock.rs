//! A machine's own clocks: a boot clock with an offset and a rate, and a wall clock that may step.
use dfs_core::types::Time;
use rand::Rng;
use rand_chacha::ChaCha8Rng;

/// Unix time at the start of a run.
const EPOCH: u64 = 1_700_000_000_000_000_000;

/// See the [module docs](self).
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    offset: u64,
    /// Parts per million it runs fast.
    ppm: i64,
    wall_off: i64,
}

impl Clock {
    pub fn draw(rng: &mut ChaCha8Rng) -> Self {
        Self {
            offset: rng.random_range(0..100_000_000_000),
            ppm: rng.random_range(-10_000..10_000),
            wall_off: rng.random_range(-50_000_000..50_000_000),
        }
    }

    /// CLOCK_BOOTTIME here.
    pub fn local(&self, now: Time) -> Time {
        let drift = i128::from(now.0) * i128::from(self.ppm) / 1_000_000;
        let local = i128::from(self.offset) + i128::from(now.0) + drift;
        Time(u64::try_from(local).expect("clocks start late enough"))
    }

    /// When this clock shows `local` or a little more.
    pub fn global(&self, local: Time) -> Time {
        let run = i128::from(local.0) - i128::from(self.offset);
        let global = run * 1_000_000 / (1_000_000 + i128::from(self.ppm)) + 2;
        Time(u64::try_from(global.max(0)).unwrap_or(u64::MAX))
    }

    /// The Unix clock here.
    pub fn wall(&self, now: Time) -> Time {
        let wall = i128::from(EPOCH) + i128::from(now.0) + i128::from(self.wall_off);
        Time(u64::try_from(wall).expect("after 1970"))
    }

    pub fn step_wall(&mut self, by: i64) {
        self.wall_off = self.wall_off.saturating_add(by);
    }
}
