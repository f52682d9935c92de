//! Events as messages of RabbitMQ, or whatever else speaks AMQP 0-9-1 and confirms.

use std::fmt;
use std::time::{Duration, SystemTime};

use futures_util::future::join_all;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::{AMQPValue, FieldTable, LongString, ShortString};
use lapin::uri::AMQPUri;
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, PublisherConfirm,
};
use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::cloud_event;
use crate::envelope::Envelope;
use crate::error::Error;
use crate::sink::{Ack, Sink, SinkError};
use crate::sinks::none_taken;

/// Written to disk, where the queue is durable.
const PERSISTENT: u8 = 2;

/// Publishes each event to an exchange, with the topic as its routing key, persistent and mandatory: what no queue
/// gets does not count as taken.
///
/// Without an [exchange](Self::exchange) it is the default one, which routes to the queue that has the topic's name.
///
/// | property or header | value |
/// |---|---|
/// | `message_id` | the event's id |
/// | `content_type`, `type`, `timestamp` | the event's |
/// | `cloudEvents:id`, `cloudEvents:type`, `cloudEvents:source`, `cloudEvents:subject`, … | the event as a CloudEvent |
/// | `outbox-seq` | the event's number, which rises within a key |
/// | the event's own headers | as they are, but for `message_id` and those of these names |
///
/// What counts as taken is the broker's confirmation. It says so once the message is on disk in a durable queue, or on
/// most nodes in a quorum queue, which is what to use. It knows no repetitions: consumers need an
/// [inbox](crate::inbox).
///
/// ```no_run
/// use onlyonce_outbox::sinks::Amqp;
///
/// let sink = Amqp::to("amqp://127.0.0.1:5672/%2f", "/shop")?.exchange("events");
/// # Ok::<(), onlyonce_outbox::Error>(())
/// ```
pub struct Amqp {
    name: String,
    source: String,
    exchange: String,
    limit: Duration,
    server: AMQPUri,
    link: Mutex<Option<Link>>,
}

/// A channel that confirms, and the connection that it is on.
struct Link {
    channel: Channel,
    connection: Connection,
}

impl Amqp {
    /// To the broker at this URL, `amqp://[user:password@]host[:port]/vhost` (`amqps` with TLS). `source` names the
    /// producer, as a URI reference: `/payments`.
    ///
    /// # Errors
    /// [`Error::Settings`] where the URL cannot be understood. Nothing is connected to yet.
    pub fn to(url: &str, source: impl Into<String>) -> Result<Self, Error> {
        // Not the client's words: they may hold the password.
        let refused = |_| Error::Settings("the URL of the broker cannot be understood".to_owned());
        Ok(Self {
            name: "amqp".to_owned(),
            source: source.into(),
            exchange: String::new(),
            limit: Duration::from_secs(4),
            server: url.parse().map_err(refused)?,
            link: Mutex::default(),
        })
    }

    /// Under another name than `amqp`: two sinks of one database must differ.
    #[must_use]
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Publishes to this exchange, which must exist.
    #[must_use]
    pub fn exchange(mut self, exchange: impl Into<String>) -> Self {
        self.exchange = exchange.into();
        self
    }

    /// How long a batch may take, connecting included. 4 seconds by default, which is less than a relay waits for a
    /// sink ([`RelayOptions::publish_timeout`](crate::RelayOptions::publish_timeout)).
    #[must_use]
    pub fn time_limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// All are sent before the first confirmation is waited for.
    async fn send(&self, batch: &[Envelope]) -> Result<Vec<Result<Ack, SinkError>>, String> {
        let channel = self.channel().await?;
        let mut sent = Vec::with_capacity(batch.len());
        for envelope in batch {
            sent.push(self.send_one(&channel, envelope).await);
        }
        let results = join_all(sent.into_iter().map(confirmed)).await;
        if !channel.status().connected() {
            self.forget().await;
        }
        Ok(results)
    }

    async fn send_one(
        &self,
        channel: &Channel,
        envelope: &Envelope,
    ) -> Result<PublisherConfirm, SinkError> {
        let options = BasicPublishOptions {
            mandatory: true,
            ..BasicPublishOptions::default()
        };
        let properties = self.properties(envelope).map_err(SinkError::dead)?;
        let routing_key = short(&envelope.topic).map_err(SinkError::dead)?;
        let exchange = short(&self.exchange).map_err(SinkError::dead)?;
        let sent = channel.basic_publish(
            exchange,
            routing_key,
            options,
            &envelope.payload,
            properties,
        );
        sent.await.map_err(SinkError::retryable)
    }

    fn properties(&self, envelope: &Envelope) -> Result<BasicProperties, String> {
        let mut headers = FieldTable::default();
        let mut set = |name: &str, value: &str| {
            let value = AMQPValue::LongString(LongString::from(value.as_bytes()));
            headers.insert(short(name)?, value);
            Ok::<_, String>(())
        };
        // A receiver that reads properties and headers alike would find two ids.
        let own = envelope.headers.iter();
        for (name, value) in own.filter(|(name, _)| *name != "message_id") {
            set(name, value)?;
        }
        for (name, value) in cloud_event::attributes(envelope, &self.source) {
            set(&format!("cloudEvents:{name}"), &value)?;
        }
        set("outbox-seq", &envelope.sequence.to_string())?;
        let made = envelope.created_at.duration_since(SystemTime::UNIX_EPOCH);
        Ok(BasicProperties::default()
            .with_delivery_mode(PERSISTENT)
            .with_message_id(short(&envelope.event_id.to_string())?)
            .with_content_type(short(&envelope.content_type)?)
            .with_type(short(&envelope.kind)?)
            .with_timestamp(made.map_or(0, |since| since.as_secs()))
            .with_headers(headers))
    }

    async fn channel(&self) -> Result<Channel, String> {
        let mut kept = self.link.lock().await;
        if let Some(link) = &*kept
            && link.channel.status().connected()
            && link.connection.status().connected()
        {
            return Ok(link.channel.clone());
        }
        *kept = None;
        let connected = self.connect().await;
        let link = connected.map_err(|error| error.to_string())?;
        Ok(kept.insert(link).channel.clone())
    }

    async fn connect(&self) -> lapin::Result<Link> {
        let properties = ConnectionProperties::default();
        let connection = Connection::connect_uri(self.server.clone(), properties).await?;
        let channel = connection.create_channel().await?;
        channel
            .confirm_select(ConfirmSelectOptions::default())
            .await?;
        Ok(Link {
            channel,
            connection,
        })
    }

    async fn forget(&self) {
        *self.link.lock().await = None;
    }
}

/// Waits for a message's confirmation.
async fn confirmed(sent: Result<PublisherConfirm, SinkError>) -> Result<Ack, SinkError> {
    let refused = |text: &'static str| Err(SinkError::retryable(text));
    match sent?.await.map_err(SinkError::retryable)? {
        Confirmation::Ack(None) => Ok(Ack::default()),
        Confirmation::Ack(Some(_)) => refused("no queue gets messages with this routing key"),
        Confirmation::Nack(_) => refused("the broker could not take it"),
        Confirmation::NotRequested => refused("the broker does not confirm"),
    }
}

fn short(text: &str) -> Result<ShortString, String> {
    ShortString::try_new(text).map_err(|error| format!("{text:?}: {error}"))
}

impl Sink for Amqp {
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
                self.forget().await;
                format!("no confirmation within {:?}", self.limit)
            }
        };
        none_taken(batch, &failed)
    }
}

impl fmt::Debug for Amqp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Amqp")
            .field("name", &self.name)
            .field("exchange", &self.exchange)
            .finish_non_exhaustive()
    }
}
