//! The circuit breaker of a sink as a whole: while nothing is taken, little is sent.
//!
//! A key that fails alone is parked, and others flow. When all fail, it is the sink: parking everything would
//! copy the whole backlog into another table. So the breaker opens, what failed together stays where it is, and
//! after a wait a few messages probe.

use std::time::Duration;

use tokio::time::Instant;

use super::backoff::Backoff;

/// So many failures in a row, without one success, open it.
const FAILURES: u32 = 20;
/// So many messages probe.
const PROBE: usize = 8;

/// What may be sent now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Allowance {
    /// Everything.
    All,
    /// One batch of so many messages at most, with nothing else under way.
    Probe(usize),
    /// Nothing before then.
    Nothing(Instant),
}

/// Counts failures without success.
#[derive(Debug)]
pub(super) struct Breaker {
    backoff: Backoff,
    failures: u32,
    /// How often in a row it has opened; 0 when closed.
    opened: u32,
    until: Option<Instant>,
}

impl Breaker {
    pub(super) fn new(backoff: Backoff) -> Self {
        Self {
            backoff,
            failures: 0,
            opened: 0,
            until: None,
        }
    }

    pub(super) fn allows(&self, now: Instant) -> Allowance {
        match self.until {
            None => Allowance::All,
            Some(until) if now < until => Allowance::Nothing(until),
            Some(_) => Allowance::Probe(PROBE),
        }
    }

    /// Some messages of a batch were taken, or refused for good: there is somebody who answers.
    pub(super) fn answered(&mut self) {
        self.failures = 0;
        self.opened = 0;
        self.until = None;
    }

    /// All messages of a batch failed, among them so many that had not been parked for failures of their own;
    /// `wait` is what the sink asked for. Whether that looks like the sink's failure rather than theirs: then
    /// they stay where they are.
    pub(super) fn failed(
        &mut self,
        new_messages: u32,
        wait: Option<Duration>,
        now: Instant,
    ) -> bool {
        self.failures = self.failures.saturating_add(new_messages);
        let together = new_messages > 1;
        if together || self.failures >= FAILURES || self.until.is_some() {
            self.opened = self.opened.saturating_add(1);
            let wait = self
                .backoff
                .after(self.opened)
                .max(wait.unwrap_or_default());
            let until = now + wait;
            // Batches that were under way at the same time tell the same.
            self.until = Some(self.until.map_or(until, |known| known.max(until)));
        }
        together
    }

    /// Whether it is open, or probing.
    pub(super) fn is_open(&self) -> bool {
        self.until.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn breaker() -> Breaker {
        Breaker::new(Backoff {
            base: Duration::from_secs(1),
            cap: Duration::from_secs(8),
        })
    }

    #[test]
    fn a_batch_that_fails_together_opens_it() {
        let mut breaker = breaker();
        let now = Instant::now();
        assert!(!breaker.failed(1, None, now));
        assert_eq!(breaker.allows(now), Allowance::All);
        assert!(breaker.failed(2, Some(Duration::from_secs(5)), now));
        let Allowance::Nothing(until) = breaker.allows(now) else {
            panic!("it is closed");
        };
        assert!(until >= now + Duration::from_secs(5));
        assert_eq!(breaker.allows(until), Allowance::Probe(PROBE));
        breaker.answered();
        assert_eq!(breaker.allows(now), Allowance::All);
    }

    #[test]
    fn what_was_parked_already_opens_nothing_and_keeps_it_open() {
        let mut breaker = breaker();
        let now = Instant::now();
        for _ in 0..3 * FAILURES {
            assert!(!breaker.failed(0, None, now));
        }
        assert!(!breaker.is_open());
        breaker.failed(2, None, now);
        breaker.failed(0, Some(Duration::from_secs(60)), now);
        assert!(
            matches!(breaker.allows(now), Allowance::Nothing(until) if until > now + Duration::from_secs(59))
        );
    }

    #[test]
    fn single_failures_open_it_when_nothing_succeeds_in_between() {
        let mut breaker = breaker();
        let now = Instant::now();
        for _ in 0..FAILURES - 1 {
            assert!(!breaker.failed(1, None, now));
        }
        assert!(!breaker.is_open());
        breaker.answered();
        assert!(!breaker.failed(1, None, now));
        assert!(!breaker.is_open());
        for _ in 0..FAILURES {
            breaker.failed(1, None, now);
        }
        assert!(breaker.is_open());
    }
}
