//! When a server that failed is left alone, and when it is tried again.
//!
//! Five failures in a row open the breaker, a connection that cannot be made opens it at once. It stays open
//! for 100 ms, then twice as long each time, up to 5 s; after that one connection is tried. A connection alone proves
//! little, so until a request has been answered the next failure opens it again.
//!
//! Pure bookkeeping: the caller tells the time.

use std::time::Duration;

use tokio::time::Instant;

const FAILURES_MAX: u32 = 5;
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(crate) struct Breaker {
    failures: u32,
    pause: Duration,
    /// Open until then, at least.
    open_until: Option<Instant>,
    /// Whether somebody was told that the server is away.
    told: bool,
}

/// What is worth a line in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// Nothing new.
    None,
    /// It is left alone from now on.
    Away,
    /// It answers again.
    Back,
}

impl Default for Breaker {
    fn default() -> Self {
        Self {
            failures: 0,
            pause: PAUSE_MIN,
            open_until: None,
            told: false,
        }
    }
}

impl Breaker {
    /// Whether a connection may be made now.
    pub(crate) fn allows(&self, now: Instant) -> bool {
        self.open_until.is_none_or(|until| until <= now)
    }

    pub(crate) const fn is_open(&self) -> bool {
        self.open_until.is_some()
    }

    /// A connection was made.
    pub(crate) fn connected(&mut self) {
        if self.open_until.take().is_some() {
            self.failures = FAILURES_MAX - 1;
        }
    }

    /// A request was answered.
    pub(crate) fn succeeded(&mut self) -> Change {
        let told = std::mem::take(self).told;
        if told { Change::Back } else { Change::None }
    }

    /// A request failed.
    pub(crate) fn failed(&mut self, now: Instant) -> Change {
        self.failures = self.failures.saturating_add(1);
        if self.failures < FAILURES_MAX {
            return Change::None;
        }
        self.open(now)
    }

    /// Leaves the server alone for a while.
    pub(crate) fn open(&mut self, now: Instant) -> Change {
        self.open_until = Some(now + self.pause);
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        if std::mem::replace(&mut self.told, true) {
            Change::None
        } else {
            Change::Away
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLISECOND: Duration = Duration::from_millis(1);

    #[tokio::test(start_paused = true)]
    async fn five_failures_in_a_row_open_it_and_one_answer_between_them_does_not() {
        let now = Instant::now();
        let mut breaker = Breaker::default();
        for _ in 0..3 {
            for _ in 0..4 {
                assert_eq!(breaker.failed(now), Change::None);
            }
            assert_eq!(breaker.succeeded(), Change::None);
        }
        for _ in 0..4 {
            assert_eq!(breaker.failed(now), Change::None);
            assert!(breaker.allows(now));
        }
        assert_eq!(breaker.failed(now), Change::Away);
        assert!(!breaker.allows(now + MILLISECOND * 99));
        assert!(breaker.allows(now + MILLISECOND * 100));
    }

    #[tokio::test(start_paused = true)]
    async fn pauses_double_up_to_five_seconds_until_a_request_is_answered() {
        let mut now = Instant::now();
        let mut breaker = Breaker::default();
        assert_eq!(breaker.open(now), Change::Away);
        for pause in [100, 200, 400, 800, 1600, 3200, 5000, 5000] {
            assert!(!breaker.allows(now + MILLISECOND * (pause - 1)), "{pause}");
            now += MILLISECOND * pause;
            assert!(breaker.allows(now), "{pause}");
            // It can be connected to, and then does not answer: one failure is enough.
            breaker.connected();
            assert!(!breaker.is_open());
            assert_eq!(breaker.failed(now), Change::None);
            assert!(breaker.is_open());
        }
        breaker.connected();
        assert_eq!(breaker.succeeded(), Change::Back);
        assert_eq!(breaker.open(now), Change::Away);
        assert!(breaker.allows(now + MILLISECOND * 100));
    }
}
