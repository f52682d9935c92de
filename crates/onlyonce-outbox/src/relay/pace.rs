//! When to look for new events: often while there are some, seldom while there are none.

use std::time::Duration;

use tokio::time::Instant;

use super::backoff::random;

/// The shortest time between two looks when one was woken: commits that come thick share a look.
const WOKEN_AFTER: Duration = Duration::from_millis(2);

/// The adaptive interval: from `least`, doubled with each look in vain, to `most`; each with a random part, so
/// that relays do not look in step.
#[derive(Debug)]
pub(super) struct Pace {
    least: Duration,
    most: Duration,
    interval: Duration,
    last: Instant,
    next: Instant,
}

/// What a look found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// Nothing.
    Nothing,
    /// Something, and all of it.
    All,
    /// A full page: there may be more.
    More,
}

impl Pace {
    pub(super) fn new(least: Duration, most: Duration) -> Self {
        let now = Instant::now();
        Self {
            least,
            most,
            interval: least,
            last: now,
            next: now,
        }
    }

    /// When to look next.
    pub(super) fn next(&self) -> Instant {
        self.next
    }

    pub(super) fn looked(&mut self, found: Found) {
        self.last = Instant::now();
        self.interval = match found {
            Found::More => Duration::ZERO,
            Found::All => self.least,
            Found::Nothing => (self.interval * 2).clamp(self.least, self.most),
        };
        // Between three quarters of it and all of it.
        self.next = self.last + self.interval.mul_f64(0.75 + 0.25 * random());
    }

    /// Somebody committed something.
    pub(super) fn woken(&mut self) {
        self.interval = self.least;
        self.next = self.next.min(self.last + WOKEN_AFTER);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_become_rare_and_a_wake_makes_them_frequent() {
        let mut pace = Pace::new(Duration::from_millis(10), Duration::from_millis(250));
        for _ in 0..10 {
            pace.looked(Found::Nothing);
        }
        let wait = pace.next() - pace.last;
        assert!((187..=250).contains(&wait.as_millis()), "{wait:?}");
        pace.woken();
        assert!(pace.next() - pace.last <= WOKEN_AFTER);
        pace.looked(Found::All);
        assert!(pace.next() - pace.last <= Duration::from_millis(10));
        pace.looked(Found::More);
        assert_eq!(pace.next(), pace.last);
    }
}
