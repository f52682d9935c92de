//! What a shift makes of the sink's answers.

use std::error::Error as StdError;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::Shift;
use crate::error::Error;
use crate::relay::flights::Landed;
use crate::relay::lanes::{self, Item, Origin};
use crate::relay::lease::CENTURY;
use crate::relay::options::OnDead;
use crate::relay::park::{self, Failure, Outcomes, Rules};
use crate::sink::{Sink, SinkError};

/// No more of an error is kept.
const ERROR_MAX: usize = 1_000;
/// So often an event fails together with others before it is taken for its own failure all the same: two that
/// can never be delivered must not keep the breaker open for others.
const TOGETHER_MAX: u32 = 4;

impl<S: Sink> Shift<'_, S> {
    /// Takes notice of batches that came back. `false` where a shard was lost.
    pub(super) async fn settle(&mut self, batches: Vec<Landed>) -> Result<bool, Error> {
        let mut outcomes = Outcomes::default();
        for batch in batches {
            self.context.counters.publishing.add_time(batch.took);
            self.judge(batch, &mut outcomes);
        }
        let many = self.delivered.len() >= self.context.options.persist_events;
        if many || !outcomes.is_empty() {
            outcomes.delivered.append(&mut self.delivered);
        }
        self.write(outcomes).await
    }

    /// Tells of the parked events that were delivered. `false` where a shard was lost.
    pub(super) async fn tell_delivered(&mut self) -> Result<bool, Error> {
        let delivered = std::mem::take(&mut self.delivered);
        self.write(Outcomes {
            delivered,
            ..Outcomes::default()
        })
        .await
    }

    fn judge(&mut self, batch: Landed, outcomes: &mut Outcomes) {
        let counters = &self.context.counters;
        let failures = batch
            .results
            .iter()
            .filter_map(|(_, result)| result.as_ref().err());
        counters.failures.add(failures.clone().count());
        let nobody_answers =
            failures.clone().filter(|error| !error.is_dead()).count() == batch.results.len();
        let stays = if nobody_answers {
            let wait = failures.filter_map(SinkError::wait).max();
            let new = batch
                .results
                .iter()
                .filter(|(item, _)| item.origin != Origin::Parked);
            let new = u32::try_from(new.count()).unwrap_or(u32::MAX);
            let was_open = self.memory.breaker.is_open();
            let stays = self.memory.breaker.failed(new, wait, Instant::now());
            if self.memory.breaker.is_open() && !was_open {
                counters.breaker_opened.add(1);
                tracing::warn!(
                    sink = self.context.me.sink,
                    "the sink takes nothing; it is left alone for a while"
                );
            }
            stays
        } else {
            self.memory.breaker.answered();
            false
        };
        let mut back = Vec::new();
        for (mut item, result) in batch.results {
            match result {
                Ok(ack) => {
                    counters.delivered.add(1);
                    counters.duplicates.add(usize::from(ack.is_duplicate()));
                    self.delivered(item, outcomes);
                }
                Err(_)
                    if stays
                        && item.origin != Origin::Parked
                        && item.envelope.attempt < TOGETHER_MAX =>
                {
                    item.envelope.attempt += 1;
                    back.push(item);
                }
                Err(error) => self.failed(item, error, outcomes),
            }
        }
        self.lanes.put_back(back);
    }

    fn delivered(&mut self, mut item: Item, outcomes: &mut Outcomes) {
        self.lanes.finish(&item.envelope);
        if let Origin::Page(page) = item.origin {
            self.holdings.finish(item.lease, page);
            return;
        }
        self.flowing.extend(lanes::key(&item.envelope));
        if !self.lanes.has_more(&item.envelope) {
            outcomes.delivered.push(item);
            return;
        }
        // Those that follow are told of together with it: not each by itself.
        item.envelope.payload = Bytes::new();
        self.delivered.push(item);
        let options = &self.context.options;
        let at = Instant::now() + options.persist_every.min(options.renew_every());
        self.tell_delivered_at.get_or_insert(at);
    }

    fn failed(&mut self, item: Item, error: SinkError, outcomes: &mut Outcomes) {
        let options = &self.context.options;
        let attempts = item.envelope.attempt;
        let wait = options
            .retry
            .after(attempts)
            .max(error.wait().unwrap_or_default());
        let failure = Failure {
            dead: error.is_dead(),
            // A wait beyond any sense would not fit into the database's calendar.
            wait: wait.min(Duration::from_secs(365 * 24 * 3_600)),
            error: described(&error),
        };
        if failure.dead || attempts == 1 {
            tracing::warn!(
                sink = self.context.me.sink,
                event = %item.envelope.event_id,
                dead = failure.dead,
                error = failure.error,
                "an event was not delivered"
            );
        }
        let passed_over = failure.dead && options.on_dead == OnDead::Skip;
        if passed_over && item.origin != Origin::Parked {
            self.lanes.finish(&item.envelope);
        } else {
            let behind = self.lanes.close(&item.envelope);
            // What is parked already stays where it is.
            let (parked, new): (Vec<_>, Vec<_>) = behind
                .into_iter()
                .partition(|item| item.origin == Origin::Parked);
            outcomes.behind.extend(new);
            let unsent = parked.iter().map(|item| item.envelope.sequence);
            outcomes.unsent.extend(unsent);
            if let Some(key) = lanes::key(&item.envelope) {
                self.flowing.remove(&key);
            }
        }
        match item.origin {
            Origin::Page(_) => outcomes.failed.push((item, failure)),
            Origin::Parked => outcomes.failed_again.push((item, failure)),
        }
    }

    /// Writes down what became of events; what was in a page is done with. `false` where a shard was lost.
    pub(super) async fn write(&mut self, outcomes: Outcomes) -> Result<bool, Error> {
        if self.delivered.is_empty() {
            self.tell_delivered_at = None;
        }
        if outcomes.is_empty() {
            return Ok(true);
        }
        let options = &self.context.options;
        let rules = Rules {
            on_dead: options.on_dead,
            max_age: options.max_age.min(CENTURY),
            waiting_max: options.waiting_max,
        };
        let leases = self.holdings.leases();
        let me = &self.context.me;
        let written = park::write(&mut self.session, me, &leases, &outcomes, rules).await?;
        let Some(written) = written else {
            return Ok(false);
        };
        let counters = &self.context.counters;
        counters.dead.add(written.dead);
        counters.parked.add(outcomes.failed.len());
        if !outcomes.delivered.is_empty() {
            // The next of their keys are due now.
            self.retry_at = Instant::now();
        }
        for (item, _) in outcomes.failed {
            self.parked(&item);
        }
        for item in outcomes.behind {
            if written.no_room.contains(&item.envelope.sequence) {
                self.no_room.push(item);
            } else {
                self.context.counters.behind.add(1);
                self.parked(&item);
            }
        }
        Ok(true)
    }

    /// Tries again to park what had no room. `false` where a shard was lost.
    pub(super) async fn find_room(&mut self) -> Result<bool, Error> {
        let behind = std::mem::take(&mut self.no_room);
        self.write(Outcomes {
            behind,
            ..Outcomes::default()
        })
        .await
    }

    fn parked(&mut self, item: &Item) {
        if let Origin::Page(page) = item.origin {
            self.holdings.finish(item.lease, page);
        }
    }
}

/// An error and its causes, on one line.
fn described(error: &SinkError) -> String {
    let mut text = error.to_string();
    let mut cause = StdError::source(error);
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    let end = (0..=ERROR_MAX.min(text.len()))
        .rev()
        .find(|end| text.is_char_boundary(*end));
    text.truncate(end.unwrap_or_default());
    // Postgres keeps no NUL in text.
    text.replace('\0', "\u{fffd}")
}
