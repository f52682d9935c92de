//! How fast, how often and how long: the settings of [`RelayOptions`], and which key each contradiction is of.

use std::time::Duration;

use onlyonce_outbox::{OnDead, RelayOptions, Start};

use super::SinkUrl;
use crate::config::listen::in_memory;
use crate::config::section::Section;
use crate::config::value::choice;

/// Long enough to be in nobody's way.
const LONG: Duration = Duration::from_secs(u32::MAX as u64);
const SHORT: Duration = Duration::from_millis(1);

/// A relay's times and sizes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timing {
    /// For how long a shard belongs to a relay that gives no sign of life.
    pub lease: Duration,
    /// How long the sink may take for a batch.
    pub publish_timeout: Duration,
    /// How many batches are under way at the same time.
    pub concurrency: u32,
    /// How many events are read at a time.
    pub page: u32,
    /// How many events are in memory at the most, but for the last page.
    pub in_memory_max: u32,
    /// How many events may wait behind one of their key that fails.
    pub waiting_max: u32,
    /// How long after something came the database is looked at again.
    pub poll_base: Duration,
    /// How long at the most while nothing comes.
    pub poll_max: Duration,
    /// After so many deliveries the database is told how far the sink is.
    pub persist_events: u32,
    /// After so long at the latest.
    pub persist_every: Duration,
    /// How long nothing is sent after the sink failed as a whole.
    pub breaker_base: Duration,
    /// How long at the most, when it fails again and again.
    pub breaker_max: Duration,
    /// The wait after a first failure; by the kind of sink where unset.
    pub retry_base: Option<Duration>,
    /// The longest wait between two tries; by the kind of sink where unset.
    pub retry_max: Option<Duration>,
    /// An event that has failed for so long is dead.
    pub max_age: Duration,
    /// What becomes of a key whose event died.
    pub on_dead: OnDead,
    /// Where a sink starts that the database does not know yet.
    pub start: Start,
    /// How long events are kept after every sink has passed them; for ever where zero.
    pub retention: Duration,
    /// For how long receivers know repetitions; for ever where zero.
    pub dedupe_window: Duration,
}

choice!(OnDead { "block" => OnDead::Block, "skip" => OnDead::Skip });
choice!(Start { "earliest" => Start::Earliest, "latest" => Start::Latest });

impl Timing {
    pub(super) fn read(section: Section<'_>) -> Self {
        Self {
            lease: section.above_zero("lease", Duration::from_secs(15)),
            publish_timeout: section.above_zero("publish-timeout", Duration::from_secs(5)),
            concurrency: section.above_zero("concurrency", 8),
            page: section.above_zero("page", 1_000),
            in_memory_max: section.above_zero("in-memory-max", 10_000),
            waiting_max: section.above_zero("waiting-max", 10_000),
            poll_base: section.above_zero("poll-base", Duration::from_millis(10)),
            poll_max: section.above_zero("poll-max", Duration::from_millis(250)),
            persist_events: section.above_zero("persist-events", 1_000),
            persist_every: section.above_zero("persist-every", Duration::from_secs(1)),
            breaker_base: section.above_zero("breaker-base", Duration::from_millis(100)),
            breaker_max: section.above_zero("breaker-max", Duration::from_secs(30)),
            retry_base: section.optional("retry-base"),
            retry_max: section.optional("retry-max"),
            max_age: section.above_zero("max-age", Duration::from_secs(24 * 3_600)),
            on_dead: section.get("on-dead", OnDead::Block),
            start: section.get("start", Start::Earliest),
            retention: section.get("retention", Duration::from_secs(7 * 24 * 3_600)),
            dedupe_window: section.get("dedupe-window", Duration::from_secs(7 * 24 * 3_600)),
        }
    }

    /// The settings as the relay takes them.
    pub fn options(&self, sink: &SinkUrl) -> RelayOptions {
        let (base, max) = self.retry(Some(sink));
        RelayOptions::default()
            .lease(self.lease)
            .publish_timeout(self.publish_timeout)
            .concurrency(in_memory(self.concurrency))
            .page(self.page)
            .window(in_memory(self.in_memory_max))
            .waiting_max(self.waiting_max)
            .poll(self.poll_base, self.poll_max)
            .persist(in_memory(self.persist_events), self.persist_every)
            .breaker(self.breaker_base, self.breaker_max)
            .retry(base, max)
            .max_age(self.max_age)
            .on_dead(self.on_dead)
            .start(self.start)
            .retention(self.kept())
            .receivers_remember(self.remembered())
    }

    /// An endpoint is left alone for longer than a broker: it is somebody else's, and comes back by hand.
    fn retry(&self, sink: Option<&SinkUrl>) -> (Duration, Duration) {
        let (base, max) = match sink {
            Some(SinkUrl::Webhook(_)) => (Duration::from_secs(1), Duration::from_secs(3_600)),
            _ => (Duration::from_millis(100), Duration::from_secs(30)),
        };
        (
            self.retry_base.unwrap_or(base),
            self.retry_max.unwrap_or(max),
        )
    }

    fn kept(&self) -> Option<Duration> {
        Some(self.retention).filter(|retention| !retention.is_zero())
    }

    fn remembered(&self) -> Option<Duration> {
        Some(self.dedupe_window).filter(|window| !window.is_zero())
    }

    /// What cannot all hold, by the relay's own rules: each is asked about alone, to name its key.
    pub(super) fn contradictions(&self, sink: Option<&SinkUrl>) -> Vec<(&'static str, String)> {
        let (base, max) = self.retry(sink);
        let alone = || {
            RelayOptions::default()
                .max_age(LONG)
                .publish_timeout(SHORT)
                .lease(LONG)
                .receivers_remember(None)
        };
        let questions = [
            (
                "relay.publish-timeout",
                alone()
                    .lease(self.lease)
                    .publish_timeout(self.publish_timeout),
            ),
            (
                "relay.poll-max",
                alone().poll(self.poll_base, self.poll_max),
            ),
            (
                "relay.persist-every",
                alone().persist(1, self.persist_every),
            ),
            (
                "relay.breaker-max",
                alone().breaker(self.breaker_base, self.breaker_max),
            ),
            ("relay.retry-max", alone().retry(base, max)),
            (
                "relay.max-age",
                alone().max_age(self.max_age).retry(SHORT, max.max(SHORT)),
            ),
            ("relay.retention", alone().retention(self.kept())),
            (
                "relay.dedupe-window",
                alone()
                    .max_age(self.max_age)
                    .lease(self.lease)
                    .retry(SHORT, SHORT)
                    .receivers_remember(self.remembered()),
            ),
        ];
        let asked = questions.into_iter();
        // The rules have the names of the library.
        let found = asked.filter_map(|(key, options)| {
            let error = options.validate().err()?;
            Some((key, error.to_string().replace('_', "-")))
        });
        found.collect()
    }
}
