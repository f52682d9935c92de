//! Events as entries of Redis streams.

mod durability;
mod server;

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use redis::{Pipeline, RedisResult, Value, pipe};
use tokio::sync::Mutex;
use tokio::time::timeout;
use tokio_rustls::rustls::ClientConfig;

use self::durability::Durability;
use self::server::{Connection, Server};
use crate::cloud_event;
use crate::envelope::Envelope;
use crate::error::Error;
use crate::sink::{Ack, Sink, SinkError};
use crate::sinks::none_taken;

type BoxError = Box<dyn StdError + Send + Sync>;

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
/// machine fails (`appendfsync everysec`). Where that matters, set `appendfsync always` or ask for
/// [`on_disk`](Self::on_disk), and after a loss let a relay replay.
///
/// A stream knows no repetitions (`IDMP` of Redis 8.6 is not asked for): consumers need an [inbox](crate::inbox).
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
    durability: Durability,
    limit: Duration,
    server: Server,
    connection: Mutex<Option<Arc<Connection>>>,
}

impl RedisStreams {
    /// To the server at this URL, `redis://[user:password@]host[:port][/database]` (`rediss` with TLS). `source`
    /// names the producer, as a URI reference: `/payments`.
    ///
    /// # Errors
    /// [`Error::Settings`] where the URL cannot be understood. Nothing is connected to yet.
    pub fn to(url: &str, source: impl Into<String>) -> Result<Self, Error> {
        Ok(Self {
            name: "redis".to_owned(),
            source: source.into(),
            prefix: String::new(),
            length_max: None,
            durability: Durability::default(),
            limit: Duration::from_secs(4),
            server: Server::at(url)?,
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
    /// within `patience` make the whole batch come again. Instead of [`on_disk`](Self::on_disk).
    #[must_use]
    pub fn replicas(mut self, count: u32, patience: Duration) -> Self {
        self.durability = Durability::Replicas(count, patience);
        self
    }

    /// Takes a batch for taken only when the server has it on its disk, and so many replicas on theirs (`WAITAOF`);
    /// where that is not so within `patience`, the whole batch comes again. Instead of [`replicas`](Self::replicas).
    ///
    /// It takes Redis 7.2 with `appendonly yes`: from another server nothing is taken, and nothing is appended there.
    /// With `appendfsync everysec` each batch waits for up to a second, and `patience` has to be longer.
    #[must_use]
    pub fn on_disk(mut self, replicas: u32, patience: Duration) -> Self {
        self.durability = Durability::Disks(replicas, patience);
        self
    }

    /// Checks the server's certificate in this way, instead of by the system's authorities, which are read when the
    /// first connection needs them. For `rediss` URLs.
    #[must_use]
    pub fn tls(mut self, config: ClientConfig) -> Self {
        self.server.trust(config);
        self
    }

    /// How long a batch may take, connecting included, besides the patience with replicas and disks. 4 seconds by default,
    /// which is less than a relay waits for a sink
    /// ([`RelayOptions::publish_timeout`](crate::RelayOptions::publish_timeout)).
    #[must_use]
    pub fn time_limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    async fn append(&self, batch: &[Envelope]) -> Result<Vec<Result<Ack, SinkError>>, BoxError> {
        let connection = self.connection().await?;
        let mut commands = connection.commands.clone();
        let replies = self.commands(batch).query_async(&mut commands).await;
        if replies.is_err() {
            // The next publish makes another one. Whoever else uses this one finds out by itself.
            *self.connection.lock().await = None;
        }
        let mut replies: Vec<RedisResult<Value>> = replies?;
        if replies.iter().any(is_read_only) {
            *self.connection.lock().await = None;
        }
        let unmet = self.durability.unmet(&mut replies);
        let result = |reply: RedisResult<Value>| match (reply, &unmet) {
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
        if let Some(wait) = self.durability.command() {
            pipeline.add_command(wait);
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

    async fn connection(&self) -> Result<Arc<Connection>, BoxError> {
        let mut kept = self.connection.lock().await;
        if let Some(connection) = &*kept {
            return Ok(Arc::clone(connection));
        }
        let answer_max = self.limit + self.durability.patience();
        let connecting = self.server.connect(self.limit, answer_max, self.durability);
        Ok(Arc::clone(kept.insert(Arc::new(connecting.await?))))
    }
}

/// Whether the server has become a replica. It keeps its connections, and another one has its name by now.
fn is_read_only(reply: &RedisResult<Value>) -> bool {
    let error = reply.as_ref().err();
    error.is_some_and(|error| error.code() == Some("READONLY"))
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
        let limit = self.limit + self.durability.patience();
        let failed = match timeout(limit, self.append(batch)).await {
            Ok(Ok(results)) => return results,
            Ok(Err(error)) => error.to_string(),
            Err(_) => {
                *self.connection.lock().await = None;
                format!("no answer within {limit:?}")
            }
        };
        none_taken(batch, &failed)
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
