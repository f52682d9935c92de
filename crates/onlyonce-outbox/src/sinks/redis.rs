//! Events as entries of Redis streams.

use std::fmt;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, IntoConnectionInfo, Pipeline, RedisResult, Value, pipe,
};
use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::cloud_event;
use crate::envelope::Envelope;
use crate::error::Error;
use crate::sink::{Ack, Sink, SinkError};

/// The fields that are not the event's own headers.
const HEADER_PREFIX: &str = "header:";

/// Appends each event to a stream (`XADD`): by default the one that has the topic's name.
///
/// | field | value |
/// |---|---|
/// | `event_id` | the event's id, by which repetitions are known |
/// | `sequence` | its number, which rises within a key |
/// | `topic`, `key`, `type`, `content_type` | the event's; `key` is missing where it has none |
/// | `source`, `time` | as in CloudEvents |
/// | `header:<name>` | each of its own headers |
/// | `payload` | the payload, byte for byte |
///
/// A batch is one round trip. What counts as taken is `XADD`'s reply, and with [`replicas`](Self::replicas) that
/// of so many replicas. Redis alone can lose what it replied to: by default up to a second of it, when the
/// machine fails (`appendfsync everysec`). Where that matters, set `appendfsync always`, and after a loss let a
/// relay replay.
///
/// ```no_run
/// use onlyonce_outbox::sinks::RedisStreams;
///
/// let sink = RedisStreams::to("redis://127.0.0.1/", "/shop")?.length_max(1_000_000);
/// # Ok::<(), onlyonce_outbox::Error>(())
/// ```
pub struct RedisStreams {
    name: String,
    source: String,
    prefix: String,
    length_max: Option<u64>,
    replicas: Option<(u32, Duration)>,
    limit: Duration,
    client: Client,
    connection: Mutex<Option<MultiplexedConnection>>,
}

impl RedisStreams {
    /// To the server at this URL, `redis://[user:password@]host[:port][/database]`. `source` names the producer,
    /// as a URI reference: `/payments`.
    ///
    /// # Errors
    /// [`Error::Settings`] where the URL cannot be understood. Nothing is connected to yet.
    pub fn to(url: &str, source: impl Into<String>) -> Result<Self, Error> {
        // Not the client's words: they may hold the password.
        let refused = |_| Error::Settings("the URL of Redis cannot be understood".to_owned());
        let server = url.into_connection_info().map_err(refused)?;
        Ok(Self {
            name: "redis".to_owned(),
            source: source.into(),
            prefix: String::new(),
            length_max: None,
            replicas: None,
            limit: Duration::from_secs(4),
            client: Client::open(server).map_err(refused)?,
            connection: Mutex::default(),
        })
    }

    /// Under another name than `redis`: two sinks of one database must differ.
    #[must_use]
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Puts this before the topic to get the stream's name: `shop:`.
    #[must_use]
    pub fn stream_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// Trims each stream to about so many entries (`MAXLEN ~`), read or not. Without it streams grow for ever.
    #[must_use]
    pub fn length_max(mut self, entries: u64) -> Self {
        self.length_max = Some(entries);
        self
    }

    /// Takes a batch for taken only when so many replicas have it in memory too (`WAIT`); those that do not say so
    /// within `patience` make the whole batch come again.
    #[must_use]
    pub fn replicas(mut self, count: u32, patience: Duration) -> Self {
        self.replicas = Some((count, patience));
        self
    }

    /// How long a batch may take, connecting included, besides the patience with replicas. 4 seconds by default,
    /// which is less than a relay waits for a sink
    /// ([`RelayOptions::publish_timeout`](crate::RelayOptions::publish_timeout)).
    #[must_use]
    pub fn time_limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    async fn append(&self, batch: &[Envelope]) -> RedisResult<Vec<Result<Ack, SinkError>>> {
        let mut connection = self.connection().await?;
        let replies = self.commands(batch).query_async(&mut connection).await;
        if replies.is_err() {
            // The next publish makes another one. Whoever else uses this one finds out by itself.
            *self.connection.lock().await = None;
        }
        let mut replies: Vec<RedisResult<Value>> = replies?;
        let unconfirmed = match self.replicas {
            Some((wanted, _)) => unconfirmed(wanted, replies.pop()),
            None => None,
        };
        let result = |reply: RedisResult<Value>| match (reply, &unconfirmed) {
            (Err(error), _) => Err(SinkError::retryable(error)),
            (Ok(_), Some(why)) => Err(SinkError::retryable(why.clone())),
            (Ok(_), None) => Ok(Ack::default()),
        };
        Ok(replies.into_iter().map(result).collect())
    }

    fn commands(&self, batch: &[Envelope]) -> Pipeline {
        let mut pipeline = pipe();
        pipeline.ignore_errors();
        for envelope in batch {
            self.xadd(&mut pipeline, envelope);
        }
        if let Some((count, patience)) = self.replicas {
            let millis = patience.as_millis().max(1).to_string();
            pipeline.cmd("WAIT").arg(count).arg(millis);
        }
        pipeline
    }

    fn xadd(&self, pipeline: &mut Pipeline, envelope: &Envelope) {
        let command = pipeline
            .cmd("XADD")
            .arg(format!("{}{}", self.prefix, envelope.topic));
        if let Some(entries) = self.length_max {
            command.arg("MAXLEN").arg("~").arg(entries);
        }
        command.arg("*");
        let mut field = |name: &str, value: &[u8]| {
            command.arg(name).arg(value);
        };
        field("event_id", envelope.event_id.to_string().as_bytes());
        field("sequence", envelope.sequence.to_string().as_bytes());
        field("topic", envelope.topic.as_bytes());
        if let Some(key) = &envelope.key {
            field("key", key.as_bytes());
        }
        field("type", envelope.kind.as_bytes());
        field("content_type", envelope.content_type.as_bytes());
        for (name, value) in cloud_event::attributes(envelope, &self.source) {
            if ["source", "time"].contains(&name) {
                field(name, value.as_bytes());
            }
        }
        for (name, value) in &envelope.headers {
            field(&format!("{HEADER_PREFIX}{name}"), value.as_bytes());
        }
        field("payload", &envelope.payload);
    }

    fn patience(&self) -> Duration {
        self.replicas
            .map_or(Duration::ZERO, |(_, patience)| patience)
    }

    async fn connection(&self) -> RedisResult<MultiplexedConnection> {
        let mut kept = self.connection.lock().await;
        if let Some(connection) = &*kept {
            return Ok(connection.clone());
        }
        let patience = self
            .replicas
            .map_or(Duration::ZERO, |(_, patience)| patience);
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.limit))
            .set_response_timeout(Some(self.limit + patience));
        let connection = self
            .client
            .get_multiplexed_async_connection_with_config(&config)
            .await?;
        Ok(kept.insert(connection).clone())
    }
}

/// Why what was appended does not count as taken.
fn unconfirmed(wanted: u32, reply: Option<RedisResult<Value>>) -> Option<String> {
    match reply {
        Some(Ok(Value::Int(replicas))) if replicas >= i64::from(wanted) => None,
        Some(Ok(Value::Int(replicas))) => Some(format!(
            "{replicas} replicas have it in time, and {wanted} are wanted"
        )),
        Some(Err(error)) => Some(error.to_string()),
        _ => Some("the server did not say how many replicas have it".to_owned()),
    }
}

impl Sink for RedisStreams {
    fn name(&self) -> &str {
        &self.name
    }

    fn batch_max(&self) -> usize {
        1_000
    }

    async fn publish(&self, batch: &[Envelope]) -> Vec<Result<Ack, SinkError>> {
        if batch.is_empty() {
            return Vec::new();
        }
        let limit = self.limit + self.patience();
        let failed = match timeout(limit, self.append(batch)).await {
            Ok(Ok(results)) => return results,
            Ok(Err(error)) => error.to_string(),
            Err(_) => {
                *self.connection.lock().await = None;
                format!("no answer within {limit:?}")
            }
        };
        let failure = |_: &Envelope| Err(SinkError::retryable(failed.clone()));
        batch.iter().map(failure).collect()
    }
}

impl fmt::Debug for RedisStreams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisStreams")
            .field("name", &self.name)
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}
