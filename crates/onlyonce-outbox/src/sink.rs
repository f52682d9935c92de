//! [`Sink`]: where a relay publishes to. One is a queue, a stream, a webhook: whatever can confirm that it
//! has taken a message.

use std::error::Error as StdError;
use std::fmt;
use std::future::Future;
use std::time::Duration;

use crate::envelope::Envelope;

type BoxError = Box<dyn StdError + Send + Sync>;

/// Takes messages and confirms each.
///
/// The relay never puts two events of one key into the same batch, nor two that are under way at once: a sink
/// may send a batch in any order and all at the same time. Every event may come again, after a failure or a
/// crash, under the same [`event_id`](Envelope::event_id).
///
/// ```
/// use onlyonce_outbox::{Ack, Envelope, Sink, SinkError};
///
/// struct Log;
///
/// impl Sink for Log {
///     fn name(&self) -> &str {
///         "log"
///     }
///
///     async fn publish(&self, batch: &[Envelope]) -> Vec<Result<Ack, SinkError>> {
///         let print = |envelope: &Envelope| {
///             println!("{} {}", envelope.topic, envelope.event_id);
///             Ok(Ack::default())
///         };
///         batch.iter().map(print).collect()
///     }
/// }
/// ```
pub trait Sink: Send + Sync + 'static {
    /// Under which name the database remembers how far this sink is. All relays to the same place use the
    /// same name; a new name starts from the beginning.
    fn name(&self) -> &str;

    /// How many messages it wants at a time, at the most. At least 1.
    fn batch_max(&self) -> usize {
        100
    }

    /// Publishes, and says for each message, in the same order, whether it was taken for good: written where a
    /// crash of the receiver does not lose it, not just sent.
    ///
    /// A result for each message. Where there are fewer or more, none counts as taken. The relay gives up
    /// after [`publish_timeout`](crate::RelayOptions::publish_timeout) and drops the future, at any await.
    fn publish(
        &self,
        batch: &[Envelope],
    ) -> impl Future<Output = Vec<Result<Ack, SinkError>>> + Send;
}

/// The sink has taken a message.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ack {
    duplicate: bool,
}

impl Ack {
    /// The sink had it already, and said so. It counts as taken.
    pub fn duplicate() -> Self {
        Self { duplicate: true }
    }

    /// Whether the sink said that it had it already.
    pub fn is_duplicate(&self) -> bool {
        self.duplicate
    }
}

/// The sink has not taken a message, or nobody knows.
#[derive(Debug)]
pub struct SinkError {
    dead: bool,
    after: Option<Duration>,
    source: BoxError,
}

impl SinkError {
    /// May be taken at another time: not reachable, too busy, no answer.
    pub fn retryable(source: impl Into<BoxError>) -> Self {
        Self {
            dead: false,
            after: None,
            source: source.into(),
        }
    }

    /// Will never be taken: malformed, too large, refused. It becomes a dead letter at once.
    pub fn dead(source: impl Into<BoxError>) -> Self {
        Self {
            dead: true,
            ..Self::retryable(source)
        }
    }

    /// Not to be tried again before so long: what a `Retry-After` asks for.
    #[must_use]
    pub fn after(mut self, wait: Duration) -> Self {
        self.after = Some(wait);
        self
    }

    /// Whether it will never be taken.
    pub fn is_dead(&self) -> bool {
        self.dead
    }

    /// How long the receiver wants to be left alone.
    pub fn wait(&self) -> Option<Duration> {
        self.after
    }
}

impl fmt::Display for SinkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.dead {
            "the sink refuses the message"
        } else {
            "the sink did not take the message"
        })
    }
}

impl StdError for SinkError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&*self.source)
    }
}
