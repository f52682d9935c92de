//! How long to wait before another try: longer each time, and a random part of it, so that those who failed
//! together do not come back together.

use std::time::Duration;

/// Waits between `0` and `base · 2^tries`, and never more than `cap`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Backoff {
    pub(crate) base: Duration,
    pub(crate) cap: Duration,
}

impl Backoff {
    /// The wait after so many failures, from 1.
    pub(crate) fn after(&self, failures: u32) -> Duration {
        self.longest(failures).mul_f64(random())
    }

    fn longest(&self, failures: u32) -> Duration {
        let doublings = failures.saturating_sub(1).min(31);
        self.base.saturating_mul(1 << doublings).min(self.cap)
    }
}

/// Evenly between 0 and 1.
pub(crate) fn random() -> f64 {
    let mut bytes = [0; 4];
    // Without randomness, as long as it would be at the most.
    if getrandom::fill(&mut bytes).is_err() {
        return 1.0;
    }
    f64::from(u32::from_ne_bytes(bytes)) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKOFF: Backoff = Backoff {
        base: Duration::from_millis(100),
        cap: Duration::from_secs(30),
    };

    #[test]
    fn waits_double_up_to_the_cap() {
        let longest = |failures| BACKOFF.longest(failures).as_millis();
        assert_eq!([longest(1), longest(2), longest(5)], [100, 200, 1_600]);
        assert_eq!([longest(10), longest(u32::MAX)], [30_000, 30_000]);
    }

    #[test]
    fn waits_differ() {
        let waits: Vec<_> = (0..50).map(|_| BACKOFF.after(5)).collect();
        assert!(
            waits
                .iter()
                .all(|wait| *wait <= Duration::from_millis(1_600))
        );
        assert!(waits.iter().any(|wait| wait != &waits[0]));
    }
}
