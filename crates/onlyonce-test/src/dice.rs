//! [`Dice`]: random moments that can be had again, and [`duration`]: for how long.
//!
//! A test that breaks things at random prints its seed, and `ONLYONCE_TEST_SEED` repeats it. What the machine
//! does in between is not repeated, so a seed brings the same decisions and not the same run.
//!
//! ```
//! use onlyonce_test::dice::Dice;
//!
//! let mut dice = Dice::seeded(); // says which
//! assert!(dice.below(6) < 6);
//! assert!(dice.percent(100));
//! ```

use std::env;
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// SplitMix64: good enough to choose moments, and four lines.
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// With the seed of `ONLYONCE_TEST_SEED`, or any; it is printed.
    ///
    /// # Panics
    /// Where the variable is no number.
    pub fn seeded() -> Self {
        let given = env::var("ONLYONCE_TEST_SEED").ok();
        let given = given.map(|seed| seed.parse().expect("ONLYONCE_TEST_SEED is a number"));
        let seed = given.unwrap_or_else(|| RandomState::new().hash_one("seed"));
        println!("ONLYONCE_TEST_SEED={seed}");
        Self(seed)
    }

    /// Others, for a task of its own.
    #[must_use]
    pub fn split(&mut self) -> Self {
        Self(self.next())
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// From 0 to `end`, which is not among them.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// So often of a hundred times.
    pub fn percent(&mut self, chance: u64) -> bool {
        self.below(100) < chance
    }

    /// Sometimes no pause at all, at most so many milliseconds.
    pub async fn pause(&mut self, most: u64) {
        let millis = self.below(most + 1);
        if millis > 0 {
            tokio::time::sleep(Duration::from_millis(millis)).await;
        }
    }

    /// Another order, each as likely as any.
    pub fn shuffle<T>(&mut self, list: &mut [T]) {
        let mut left = 0_u64;
        for last in 0..list.len() {
            left += 1;
            let other = usize::try_from(self.below(left)).expect("it is below the length");
            list.swap(last, other);
        }
    }
}

/// How long a test with random moments goes on: `ONLYONCE_TEST_SECONDS`, for longer runs at night, or so many
/// `seconds`. (nextest ends a test after 150 s: more than a minute wants `cargo test`.)
///
/// # Panics
/// Where the variable is no number.
pub fn duration(seconds: u64) -> Duration {
    let given = env::var("ONLYONCE_TEST_SECONDS").ok();
    let seconds = given.map_or(seconds, |given| {
        given.parse().expect("ONLYONCE_TEST_SECONDS is a number")
    });
    Duration::from_secs(seconds)
}

#[cfg(test)]
mod tests {
    use super::Dice;

    #[test]
    fn a_seed_repeats_itself_and_nothing_is_lost_in_a_shuffle() {
        let (mut one, mut same) = (Dice(7), Dice(7));
        let mut list: Vec<_> = (0..100).collect();
        one.shuffle(&mut list);
        assert!(!list.is_sorted());
        let mut again: Vec<_> = (0..100).collect();
        same.shuffle(&mut again);
        assert_eq!(list, again);
        list.sort_unstable();
        assert!(list.into_iter().eq(0..100));
    }
}
