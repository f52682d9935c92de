//! Random numbers that can be had again: a failing run prints its seed, `ONLYONCE_TEST_SEED` repeats it.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// SplitMix64.
#[derive(Debug, Clone)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn seeded() -> Self {
        let given = std::env::var("ONLYONCE_TEST_SEED").ok();
        let given = given.map(|seed| seed.parse().expect("ONLYONCE_TEST_SEED is a number"));
        let seed = given.unwrap_or_else(|| RandomState::new().hash_one("seed"));
        println!("ONLYONCE_TEST_SEED={seed}");
        Self(seed)
    }

    /// Others, for a task of its own.
    pub(crate) fn split(&mut self) -> Self {
        Self(self.next())
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 to `end`, which is not among them.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// So often of a hundred times.
    pub(crate) fn percent(&mut self, chance: u64) -> bool {
        self.below(100) < chance
    }

    /// Sometimes no pause at all, at most so many milliseconds.
    pub(crate) async fn pause(&mut self, most: u64) {
        let millis = self.below(most + 1);
        if millis > 0 {
            tokio::time::sleep(Duration::from_millis(millis)).await;
        }
    }
}
