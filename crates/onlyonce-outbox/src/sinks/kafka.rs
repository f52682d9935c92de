//! Events as messages of Kafka, or whatever else speaks its protocol.

mod session;
mod settings;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::message::{Header, OwnedHeaders};
use tokio::sync::Mutex;
use tokio::time::timeout;

use self::session::{Failure, Message, Session};
use self::settings::Settings;
use crate::cloud_event;
use crate::envelope::Envelope;
use crate::error::Error;
use crate::sink::{Ack, Sink, SinkError};
use crate::sinks::none_taken;

/// The longest name of a topic, in bytes.
const TOPIC_MAX: usize = 249;

/// Publishes each event to a Kafka topic, by default the one that has the topic's name. The event's key is the
/// message's: events of one key go to one partition, as long as nobody changes how many there are.
///
/// | header | value |
/// |---|---|
/// | `ce_id`, `ce_type`, `ce_source`, `ce_subject`, `ce_time`, … | the event as a CloudEvent in binary mode; `ce_id` is what repetitions are known by |
/// | `content-type` | the payload's media type |
/// | `outbox-seq` | the event's number, which rises within a key |
/// | the event's own headers | as they are |
///
/// What counts as taken is the acknowledgement of all replicas in sync (`acks=all`): let a topic have three of them,
/// with `min.insync.replicas` of 2. Its message was then written once, and in order, by this producer
/// (`enable.idempotence`); a message that comes again after a failure or a crash is another one to Kafka, so consumers
/// need an [inbox](crate::inbox). Keys are spread over partitions as Java's producer does it. A message's own
/// timestamp is that of its publishing: by it a topic's retention counts.
///
/// The client behind it is librdkafka, built from its C sources. TLS and SCRAM need the feature `kafka-tls`; SASL
/// was not tried.
///
/// ```no_run
/// use onlyonce_outbox::sinks::Kafka;
///
/// let sink = Kafka::to("kafka://10.0.0.1:9092,10.0.0.2:9092", "/shop")?
///     .topic_prefix("shop.")
///     .setting("client.id", "shop-relay")?
///     .setting("compression.type", "lz4")?;
/// # Ok::<(), onlyonce_outbox::Error>(())
/// ```
pub struct Kafka {
    name: String,
    source: String,
    prefix: String,
    limit: Duration,
    settings: Settings,
    session: Mutex<Option<Arc<Session>>>,
}

impl Kafka {
    /// To the brokers at this URL, `kafka://host[:port][,host[:port]…]` (`kafkas://` with TLS): those that a client
    /// asks first, and that tell it of the others. `source` names the producer, as a URI reference: `/payments`.
    ///
    /// # Errors
    /// [`Error::Settings`] where the URL cannot be understood or has a user in it, or where there is no TLS in this
    /// build. Nothing is connected to yet.
    pub fn to(url: &str, source: impl Into<String>) -> Result<Self, Error> {
        Ok(Self {
            name: "kafka".to_owned(),
            source: source.into(),
            prefix: String::new(),
            limit: Duration::from_secs(4),
            settings: Settings::of(url)?,
            session: Mutex::default(),
        })
    }

    /// Under another name than `kafka`: two sinks of one database must differ.
    #[must_use]
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Puts this before the event's topic to get Kafka's: `shop.`.
    #[must_use]
    pub fn topic_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// A setting of librdkafka's, such as `client.id`, `compression.type`, `security.protocol`, `sasl.username`. Its
    /// value is not shown anywhere.
    ///
    /// # Errors
    /// [`Error::Settings`] where there is no such setting or it cannot have this value, and where the promises of this
    /// sink depend on it: what counts as taken, order, and how long a message may take.
    pub fn setting(
        mut self,
        name: impl Into<String>,
        value: impl Into<String>,
    ) -> Result<Self, Error> {
        self.settings.set(name.into(), value.into())?;
        Ok(self)
    }

    /// How long a batch may take; half of it a message, connecting included. 4 seconds by default, which is less than
    /// a relay waits for a sink ([`RelayOptions::publish_timeout`](crate::RelayOptions::publish_timeout)). The client
    /// looks once a second for what is over its time: less than 2 seconds is rounded by that.
    #[must_use]
    pub fn time_limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    async fn send(&self, batch: &[Envelope]) -> Result<Vec<Result<Ack, SinkError>>, String> {
        let session = self.session().await?;
        let messages = batch.iter().map(|event| self.message(event));
        let results = session.publish(messages).await;
        if session.is_over() {
            *self.session.lock().await = None;
        }
        let refused = |result: &Result<_, Failure>| matches!(result, Err(Failure::BatchTooLarge));
        let alone = if results.iter().any(refused) {
            let events = batch.iter().zip(&results);
            let events = events.filter(|(_, result)| refused(result));
            self.send_alone(events.map(|(event, _)| event)).await?
        } else {
            Vec::new()
        };
        let mut alone = alone.into_iter();
        let judged = |result| match result {
            Err(Failure::BatchTooLarge) => {
                let result = alone.next().unwrap_or(Err(Failure::BatchTooLarge));
                result.map_err(Failure::of_single)
            }
            other => other.map_err(Failure::of_single),
        };
        Ok(results.into_iter().map(judged).collect())
    }

    /// Each in a batch of its own. A broker refuses a batch that is too large as a whole, and only a batch of one says
    /// which message is.
    async fn send_alone(
        &self,
        events: impl Iterator<Item = &Envelope>,
    ) -> Result<Vec<Result<Ack, Failure>>, String> {
        let session = Session::open(&self.settings.one_by_one(), self.limit / 2)?;
        let messages = events.map(|event| self.message(event));
        Ok(session.publish(messages).await)
    }

    fn message<'a>(&self, envelope: &'a Envelope) -> Result<Message<'a>, String> {
        let topic = format!("{}{}", self.prefix, envelope.topic);
        if !is_topic(&topic) {
            return Err(format!("{topic:?} is no name of a topic"));
        }
        Ok(Message {
            topic,
            key: envelope.key.as_deref(),
            headers: self.headers(envelope),
            payload: &envelope.payload,
        })
    }

    fn headers(&self, envelope: &Envelope) -> OwnedHeaders {
        let ours = cloud_event::attributes(envelope, &self.source);
        let ours = ours
            .into_iter()
            .map(|(name, value)| (format!("ce_{name}"), value));
        let ours = ours.chain([
            ("content-type".to_owned(), envelope.content_type.clone()),
            ("outbox-seq".to_owned(), envelope.sequence.to_string()),
        ]);
        // Unlike elsewhere a second header of the same name would stand beside the first.
        let own = envelope.headers.iter();
        let own = own.filter(|(name, _)| !is_ours(name));
        let mut headers = OwnedHeaders::new_with_capacity(envelope.headers.len() + 10);
        let mut add = |key: &str, value: &str| {
            let value = Some(value);
            let all = std::mem::take(&mut headers);
            headers = all.insert(Header { key, value });
        };
        own.for_each(|(name, value)| add(name, value));
        ours.for_each(|(name, value)| add(&name, &value));
        headers
    }

    async fn session(&self) -> Result<Arc<Session>, String> {
        let mut kept = self.session.lock().await;
        if let Some(session) = &*kept {
            return Ok(Arc::clone(session));
        }
        let session = Session::open(&self.settings, self.limit / 2)?;
        Ok(Arc::clone(kept.insert(Arc::new(session))))
    }
}

/// Whether this sink says it in a header of its own.
fn is_ours(name: &str) -> bool {
    name.starts_with("ce_") || ["content-type", "outbox-seq"].contains(&name)
}

/// What Kafka allows.
fn is_topic(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let fits = (1..=TOPIC_MAX).contains(&name.len());
    fits && name.bytes().all(allowed) && ![".", ".."].contains(&name)
}

impl Sink for Kafka {
    fn name(&self) -> &str {
        &self.name
    }

    fn batch_max(&self) -> usize {
        500
    }

    async fn publish(&self, batch: &[Envelope]) -> Vec<Result<Ack, SinkError>> {
        if batch.is_empty() {
            return Vec::new();
        }
        let failed = match timeout(self.limit, self.send(batch)).await {
            Ok(Ok(results)) => return results,
            Ok(Err(failed)) => failed,
            Err(_) => {
                let session = self.session.lock().await.take();
                let words = session.and_then(|session| session.last_words());
                let words = words.map(|words| format!(": {words}"));
                let words = words.unwrap_or_default();
                format!("no acknowledgement within {:?}{words}", self.limit)
            }
        };
        none_taken(batch, &failed)
    }
}

impl fmt::Debug for Kafka {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kafka")
            .field("name", &self.name)
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::is_topic;

    #[test]
    fn topics_are_named_as_kafka_allows() {
        for good in ["a", "shop.payments", "A-1_2", "..."] {
            assert!(is_topic(good), "{good}");
        }
        let long = "x".repeat(250);
        for bad in ["", ".", "..", "a b", "größe", "a/b", "a:b", &long] {
            assert!(!is_topic(bad), "{bad}");
        }
    }
}
