//! Batches that are under way to the sink, each in a task of its own and bounded in time.
//!
//! A process that was frozen wakes with its time long over, and with answers at hand that would let it send what
//! is left of a batch: the shards may be another's by then. So a batch whose time is over gets no turn any more,
//! whereas `timeout` alone asks its future once more before it looks at the clock.
//!
//! A sink that panics, answers late, or answers with another number of results than there were messages has
//! taken nothing.

use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{Instant, timeout_at};

use super::lanes::{Item, Origin};
use super::lease::Lease;
use crate::envelope::Envelope;
use crate::sink::{Ack, Sink, SinkError};

type Results = Vec<Result<Ack, SinkError>>;

/// Batches under way.
#[derive(Debug, Default)]
pub(super) struct Flights {
    tasks: JoinSet<Option<Results>>,
    under_way: HashMap<Id, Flight>,
}

#[derive(Debug)]
struct Flight {
    batch: Arc<Vec<Envelope>>,
    tickets: Vec<(Lease, Origin)>,
    begun: Instant,
}

/// A batch that came back.
#[derive(Debug)]
pub(super) struct Landed {
    pub(super) results: Vec<(Item, Result<Ack, SinkError>)>,
    pub(super) took: Duration,
}

impl Flights {
    /// Sends a batch.
    pub(super) fn send<S: Sink>(&mut self, sink: &Arc<S>, items: Vec<Item>, limit: Duration) {
        let (envelopes, tickets) = items
            .into_iter()
            .map(|item| (item.envelope, (item.lease, item.origin)))
            .unzip();
        let batch: Arc<Vec<Envelope>> = Arc::new(envelopes);
        let (sink, sent) = (Arc::clone(sink), Arc::clone(&batch));
        let publish = async move { in_time(limit, sink.publish(&sent)).await };
        let task = self.tasks.spawn(publish);
        let flight = Flight {
            batch,
            tickets,
            begun: Instant::now(),
        };
        self.under_way.insert(task.id(), flight);
    }

    /// Waits for the next batch to come back; `None` where there is none under way.
    pub(super) async fn next(&mut self) -> Option<Landed> {
        let joined = self.tasks.join_next_with_id().await?;
        Some(self.land(joined))
    }

    /// A batch that is back already.
    pub(super) fn try_next(&mut self) -> Option<Landed> {
        let joined = self.tasks.try_join_next_with_id()?;
        Some(self.land(joined))
    }

    /// Waits until nothing is under way, and forgets what came back.
    pub(super) async fn settle(&mut self) {
        while self.next().await.is_some() {}
    }

    pub(super) fn len(&self) -> usize {
        self.under_way.len()
    }

    fn land(&mut self, joined: Result<(Id, Option<Results>), JoinError>) -> Landed {
        let (id, outcome) = match joined {
            Ok((id, Some(results))) => (id, Ok(results)),
            Ok((id, None)) => (id, Err("no answer in time")),
            Err(error) => {
                tracing::error!(error = %error, "a sink panicked");
                (error.id(), Err("the sink panicked"))
            }
        };
        let Some(flight) = self.under_way.remove(&id) else {
            return Landed {
                results: Vec::new(),
                took: Duration::ZERO,
            };
        };
        let sent = flight.batch.len();
        let results = match outcome {
            Ok(results) if results.len() == sent => results,
            Ok(results) => {
                tracing::error!(sent, results = results.len(), "a sink breaks its contract");
                failed(sent, "the sink answered with another number of results")
            }
            Err(reason) => failed(sent, reason),
        };
        let batch = Arc::try_unwrap(flight.batch).unwrap_or_else(|shared| Vec::clone(&shared));
        let items = batch.into_iter().zip(flight.tickets);
        let items = items.map(|(envelope, (lease, origin))| Item {
            envelope,
            lease,
            origin,
        });
        Landed {
            results: items.zip(results).collect(),
            took: flight.begun.elapsed(),
        }
    }
}

/// Not polled once the time is over, nor is what comes of it then of use to anybody.
async fn in_time<F: Future>(limit: Duration, future: F) -> Option<F::Output> {
    let end = Instant::now() + limit;
    let mut future = pin!(future);
    let until_then = poll_fn(|context| {
        if Instant::now() >= end {
            // The timer ends it.
            return Poll::Pending;
        }
        future.as_mut().poll(context)
    });
    timeout_at(end, until_then).await.ok()
}

fn failed(count: usize, reason: &'static str) -> Results {
    let each = || Err(SinkError::retryable(reason));
    std::iter::repeat_with(each).take(count).collect()
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    /// As in a process that is frozen in between: the answer and the end of its time are there at once.
    #[tokio::test(start_paused = true)]
    async fn what_is_late_gets_no_turn_any_more() {
        for (frozen, outcome) in [(900, Some(())), (1_100, None)] {
            let (answer, answered) = oneshot::channel();
            let (sent, next) = oneshot::channel();
            let publish = async {
                answered.await.expect("an answer");
                sent.send(()).expect("the test waits");
            };
            let publish = in_time(Duration::from_secs(1), publish);
            let meanwhile = async {
                answer.send(()).expect("it is awaited");
                tokio::time::advance(Duration::from_millis(frozen)).await;
            };
            // In this order: it waits, and then both happen to it.
            let (published, ()) = tokio::join!(publish, meanwhile);
            assert_eq!(published, outcome);
            assert_eq!(next.await.ok(), outcome, "whether it sent the next one");
        }
    }
}
