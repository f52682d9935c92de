//! How a relay works. Each value has a default that fits a broker; settings that contradict each other are
//! refused before anything starts.

use std::time::Duration;

use super::backoff::Backoff;
use crate::error::Error;
use crate::wake::Wake;

/// Clocks and the database's calendar end somewhere. Nobody means so long a time.
const LONGEST: Duration = Duration::from_secs(1_000 * 365 * 24 * 3_600);

/// What becomes of a key whose event died.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OnDead {
    /// Its later events wait until somebody redrives or discards the dead one: order is kept.
    #[default]
    Block,
    /// Its later events go on: the dead one is missing in between.
    Skip,
}

/// Where a sink starts that the database does not know yet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Start {
    /// With the oldest event that is still there.
    #[default]
    Earliest,
    /// With what is committed from now on.
    Latest,
}

/// Settings of a [`Relay`](crate::Relay).
///
/// ```
/// use std::time::Duration;
/// use onlyonce_outbox::RelayOptions;
///
/// let options = RelayOptions::default().publish_timeout(Duration::from_secs(20));
/// // A lease must outlast a publish, or two relays could publish one key at the same time.
/// assert!(options.clone().validate().is_err());
/// options.lease(Duration::from_secs(60)).validate()?;
/// # Ok::<(), onlyonce_outbox::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct RelayOptions {
    pub(super) lease: Duration,
    pub(super) publish_timeout: Duration,
    pub(super) call_timeout: Duration,
    pub(super) concurrency: usize,
    pub(super) page: u32,
    pub(super) window: usize,
    pub(super) poll_least: Duration,
    pub(super) poll_most: Duration,
    pub(super) persist_every: Duration,
    pub(super) persist_events: usize,
    pub(super) retry: Backoff,
    pub(super) breaker: Backoff,
    pub(super) max_age: Duration,
    pub(super) dedupe_window: Option<Duration>,
    pub(super) waiting_max: u32,
    pub(super) on_dead: OnDead,
    pub(super) start: Start,
    pub(super) retention: Option<Duration>,
    pub(super) wake: Wake,
}

impl Default for RelayOptions {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(15),
            publish_timeout: Duration::from_secs(5),
            call_timeout: Duration::from_secs(10),
            concurrency: 8,
            page: 1_000,
            window: 10_000,
            poll_least: Duration::from_millis(10),
            poll_most: Duration::from_millis(250),
            persist_every: Duration::from_secs(1),
            persist_events: 1_000,
            retry: Backoff {
                base: Duration::from_millis(100),
                cap: Duration::from_secs(30),
            },
            breaker: Backoff {
                base: Duration::from_millis(100),
                cap: Duration::from_secs(30),
            },
            max_age: Duration::from_secs(24 * 3_600),
            dedupe_window: Some(Duration::from_secs(7 * 24 * 3_600)),
            waiting_max: 10_000,
            on_dead: OnDead::Block,
            start: Start::Earliest,
            retention: Some(Duration::from_secs(7 * 24 * 3_600)),
            wake: Wake::default(),
        }
    }
}

impl RelayOptions {
    /// For how long a shard is this relay's, by the database's clock, without a sign of life; 15 s. So long it
    /// takes at the most until another relay goes on after a crash.
    #[must_use]
    pub fn lease(mut self, lease: Duration) -> Self {
        self.lease = lease;
        self
    }

    /// How long the sink may take for a batch; 5 s. After that its messages count as failed.
    #[must_use]
    pub fn publish_timeout(mut self, timeout: Duration) -> Self {
        self.publish_timeout = timeout;
        self
    }

    /// How long the database may take for one statement; 10 s. After that the relay connects anew.
    #[must_use]
    pub fn call_timeout(mut self, timeout: Duration) -> Self {
        self.call_timeout = timeout;
        self
    }

    /// How many batches are under way at the same time; 8.
    #[must_use]
    pub fn concurrency(mut self, batches: usize) -> Self {
        self.concurrency = batches;
        self
    }

    /// How many events are read from the database at a time; 1 000.
    #[must_use]
    pub fn page(mut self, events: u32) -> Self {
        self.page = events;
        self
    }

    /// How many events are in memory at the most, but for the last page; 10 000.
    #[must_use]
    pub fn window(mut self, events: usize) -> Self {
        self.window = events;
        self
    }

    /// How often the database is looked at while there is nothing new: from 10 ms after something came to
    /// 250 ms.
    #[must_use]
    pub fn poll(mut self, least: Duration, most: Duration) -> Self {
        (self.poll_least, self.poll_most) = (least, most);
        self
    }

    /// How much is delivered before the database is told: 1 000 events or 1 s. It is what comes twice after
    /// a crash.
    #[must_use]
    pub fn persist(mut self, events: usize, every: Duration) -> Self {
        (self.persist_events, self.persist_every) = (events, every);
        self
    }

    /// How long a failed event waits for its next try: a random part of `base`, doubled with each failure up
    /// to `cap`; 100 ms and 30 s. For webhooks rather 1 s and 1 h. What the sink asks for counts if it is longer.
    #[must_use]
    pub fn retry(mut self, base: Duration, cap: Duration) -> Self {
        self.retry = Backoff { base, cap };
        self
    }

    /// How long nothing is sent after the sink failed as a whole; 100 ms to 30 s.
    #[must_use]
    pub fn breaker(mut self, base: Duration, cap: Duration) -> Self {
        self.breaker = Backoff { base, cap };
        self
    }

    /// An event that has failed for so long becomes a dead letter; 24 h. It counts from the event's first failure:
    /// while an event waits (no relay runs, the sink is down as a whole, an earlier one of its key fails) it does
    /// not get any nearer to it. `Duration::MAX`: never, where receivers know repetitions for ever.
    #[must_use]
    pub fn max_age(mut self, age: Duration) -> Self {
        self.max_age = age;
        self
    }

    /// For how long receivers know repetitions: 7 days, as the inbox by default; `None` for ever. Settings are
    /// refused by which an event could be tried for longer than that: [`max_age`](Self::max_age) and a lease must
    /// fit in.
    ///
    /// It does not bound how old an event is when it is delivered **first**: after an outage, behind a dead letter
    /// or at a replay it can be any age. An inbox that counts its window from the making of the event refuses such
    /// a one ([`Outcome::TooOld`](crate::inbox::Outcome::TooOld)), and never applies it. So a relay warns when the
    /// oldest event that waits is older than half of the window ([`RelayStats::late`](crate::RelayStats::late)):
    /// time to open the inbox with a larger [one](crate::inbox::Options::dedupe_window), before the events are older
    /// than the present one, since what it has forgotten stays forgotten.
    #[must_use]
    pub fn receivers_remember(mut self, window: Option<Duration>) -> Self {
        self.dedupe_window = window;
        self
    }

    /// How many events of one key may wait behind one that fails; 10 000. Beyond, its shard is not read on. What
    /// had been read by then is parked all the same.
    #[must_use]
    pub fn waiting_max(mut self, events: u32) -> Self {
        self.waiting_max = events;
        self
    }

    /// What becomes of a key whose event died: by default, it is blocked.
    #[must_use]
    pub fn on_dead(mut self, on_dead: OnDead) -> Self {
        self.on_dead = on_dead;
        self
    }

    /// Where a sink starts that the database does not know yet: by default, with the oldest event.
    #[must_use]
    pub fn start(mut self, start: Start) -> Self {
        self.start = start;
        self
    }

    /// How long events are kept after every sink has passed them, for replays: 7 days; `None` for ever. What
    /// goes is whole days.
    #[must_use]
    pub fn retention(mut self, keep: Option<Duration>) -> Self {
        self.retention = keep;
        self
    }

    /// Tells the relay of commits in the same process.
    #[must_use]
    pub fn wake(mut self, wake: Wake) -> Self {
        self.wake = wake;
        self
    }

    /// How often leases are renewed.
    pub(super) fn renew_every(&self) -> Duration {
        self.lease / 5
    }

    /// What is taken off a lease for all that differs between two clocks.
    pub(super) fn margin(&self) -> Duration {
        self.lease / 10
    }

    /// Whether the settings can all hold at once. [`Relay::new`](crate::Relay::new) asks it.
    ///
    /// # Errors
    /// [`Error::Settings`], with all that is wrong.
    pub fn validate(&self) -> Result<(), Error> {
        let rules = self.sizes().into_iter().chain(self.times());
        let wrong: Vec<_> = rules.filter(|(wrong, _)| *wrong).collect();
        if wrong.is_empty() {
            return Ok(());
        }
        let texts: Vec<_> = wrong.into_iter().map(|(_, text)| text).collect();
        Err(Error::Settings(texts.join("; ")))
    }

    /// Whether something is wrong, and what.
    fn sizes(&self) -> [(bool, String); 11] {
        let is_zero = |name: &str, zero: bool| (zero, format!("{name} must not be zero"));
        let is_no_range = |name: &str, from: Duration, to: Duration| {
            let wrong = from > to || from.is_zero();
            (wrong, format!("{name}: {from:?} to {to:?} is no range"))
        };
        [
            is_zero("publish_timeout", self.publish_timeout.is_zero()),
            is_zero("call_timeout", self.call_timeout.is_zero()),
            is_zero("concurrency", self.concurrency == 0),
            is_zero("page", self.page == 0),
            is_zero("window", self.window == 0),
            is_zero("waiting_max", self.waiting_max == 0),
            is_zero("persist: events", self.persist_events == 0),
            is_zero("persist: every", self.persist_every.is_zero()),
            is_no_range("poll", self.poll_least, self.poll_most),
            is_no_range("retry", self.retry.base, self.retry.cap),
            is_no_range("breaker", self.breaker.base, self.breaker.cap),
        ]
    }

    fn times(&self) -> [(bool, String); 5] {
        let needed = self.publish_timeout.saturating_add(self.renew_every());
        let needed = needed.saturating_add(self.margin());
        let retention_least = Duration::from_secs(3_600);
        [
            (
                needed >= self.lease,
                format!(
                    "a lease of {:?} does not outlast a publish: publish_timeout ({:?}) must be less than \
                     seven tenths of it",
                    self.lease, self.publish_timeout
                ),
            ),
            (
                self.retry.cap >= self.max_age,
                format!(
                    "an event that dies after {:?} would not be tried again after a wait of {:?}",
                    self.max_age, self.retry.cap
                ),
            ),
            (
                self.dedupe_window
                    .is_some_and(|window| self.max_age.saturating_add(self.lease) >= window),
                format!(
                    "tries go on for {:?} and receivers know repetitions for {:?} only",
                    self.max_age,
                    self.dedupe_window.unwrap_or_default()
                ),
            ),
            (
                self.retention.is_some_and(|keep| keep < retention_least),
                "retention must be an hour at least".to_owned(),
            ),
            (
                self.longest() > LONGEST,
                format!("{:?} is longer than a thousand years", self.longest()),
            ),
        ]
    }

    /// The longest of the times that a clock or the database's calendar counts with.
    fn longest(&self) -> Duration {
        let waits = [self.poll_most, self.retry.cap, self.breaker.cap];
        let calls = [self.publish_timeout, self.call_timeout];
        let others = [self.lease, self.persist_every];
        let all = waits.into_iter().chain(calls).chain(others);
        all.chain(self.retention).max().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_defaults_do_not_contradict_each_other() {
        RelayOptions::default().validate().unwrap();
    }

    #[test]
    fn each_contradiction_is_refused() {
        let options = RelayOptions::default;
        for (contradictory, said) in [
            (options().publish_timeout(11 * SECOND), "outlast"),
            (options().publish_timeout(Duration::ZERO), "publish_timeout"),
            (options().call_timeout(Duration::ZERO), "call_timeout"),
            (options().concurrency(0), "concurrency"),
            (options().page(0), "page"),
            (options().window(0), "window"),
            (options().waiting_max(0), "waiting_max"),
            (options().persist(0, SECOND), "events"),
            (options().persist(1, Duration::ZERO), "every"),
            (options().poll(SECOND, SECOND / 2), "poll"),
            (options().poll(Duration::ZERO, SECOND), "poll"),
            (options().retry(2 * SECOND, SECOND), "retry"),
            (options().retry(Duration::ZERO, SECOND), "retry"),
            (options().breaker(2 * SECOND, SECOND), "breaker"),
            (options().max_age(30 * SECOND), "dies after"),
            (
                options().receivers_remember(Some(24 * 3_600 * SECOND)),
                "repetitions",
            ),
            (options().retention(Some(SECOND)), "retention"),
            (options().lease(Duration::MAX), "thousand years"),
            (options().publish_timeout(Duration::MAX), "thousand years"),
            (options().poll(SECOND, Duration::MAX), "thousand years"),
            (options().persist(1, Duration::MAX), "thousand years"),
            (options().retention(Some(Duration::MAX)), "thousand years"),
        ] {
            let error = contradictory.validate().unwrap_err().to_string();
            assert!(error.contains(said), "{said}: {error}");
        }
        let several = options()
            .page(0)
            .window(0)
            .validate()
            .unwrap_err()
            .to_string();
        assert!(
            several.contains("page") && several.contains("window"),
            "{several}"
        );
    }
}
