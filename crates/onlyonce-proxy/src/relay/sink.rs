//! The sink that the settings name, as one type.

use std::time::Duration;

use onlyonce_outbox::sinks::{RedisStreams, Stdout, Webhook};
use onlyonce_outbox::{Ack, Envelope, Sink, SinkError};
use tokio_util::sync::CancellationToken;

use super::RelayError;
use super::piped::Piped;
use crate::config::{Broker, HookUrl, Relay, SinkUrl};
use crate::forward::client_config;

/// One of the sinks there are.
#[derive(Debug)]
pub(super) enum ChosenSink {
    Stdout(Stdout<Piped>),
    Webhook(Webhook),
    Redis(RedisStreams),
    #[cfg(feature = "nats")]
    Nats(onlyonce_outbox::sinks::JetStream),
    #[cfg(feature = "amqp")]
    Amqp(Box<onlyonce_outbox::sinks::Amqp>),
    #[cfg(feature = "kafka")]
    Kafka(onlyonce_outbox::sinks::Kafka),
}

impl ChosenSink {
    /// The sink, not connected yet. `closed` is cancelled when nobody reads standard output any more.
    pub(super) fn open(settings: &Relay, closed: CancellationToken) -> Result<Self, RelayError> {
        let name = settings.name.as_str();
        // The relay gives a whole batch up after its timeout; what the sink does has to end before.
        let limit = settings.timing.publish_timeout.mul_f64(0.8);
        Ok(match &settings.sink {
            SinkUrl::Stdout => {
                let out = Piped::new(closed);
                Self::Stdout(Stdout::to(out, &settings.source).named(name))
            }
            SinkUrl::Webhook(url) => Self::Webhook(webhook(settings, url, limit)?.named(name)),
            SinkUrl::Redis(url) => {
                let redis = RedisStreams::to(url.expose(), &settings.source);
                let mut redis = redis.map_err(RelayError::Sink)?.named(name);
                if url.is_rediss() {
                    let mut config = client_config(settings.webhook.ca_file.as_deref())?;
                    // It is not HTTP that is spoken.
                    config.alpn_protocols.clear();
                    redis = redis.tls(config);
                }
                Self::Redis(streams(&settings.broker, redis, limit))
            }
            #[cfg(feature = "nats")]
            SinkUrl::Nats(url) => {
                let nats = onlyonce_outbox::sinks::JetStream::to(url.expose(), &settings.source);
                let nats = nats.map_err(RelayError::Sink)?.named(name);
                let prefix = settings.broker.topic_prefix.as_str();
                Self::Nats(nats.subject_prefix(prefix).time_limit(limit))
            }
            #[cfg(feature = "amqp")]
            SinkUrl::Amqp(url) => {
                let amqp = onlyonce_outbox::sinks::Amqp::to(url.expose(), &settings.source);
                let amqp = amqp.map_err(RelayError::Sink)?.named(name);
                let exchange = settings.broker.exchange.as_str();
                Self::Amqp(Box::new(amqp.exchange(exchange).time_limit(limit)))
            }
            #[cfg(feature = "kafka")]
            SinkUrl::Kafka(url) => {
                let kafka = onlyonce_outbox::sinks::Kafka::to(url.expose(), &settings.source);
                let prefix = settings.broker.topic_prefix.as_str();
                let kafka = kafka.map_err(RelayError::Sink)?.named(name);
                let kafka = kafka.topic_prefix(prefix).time_limit(limit);
                let mut further = settings.broker.kafka_settings.iter();
                let kafka = further.try_fold(kafka, |kafka, further| {
                    kafka.setting(&*further.name, &*further.value)
                });
                Self::Kafka(kafka.map_err(RelayError::Sink)?)
            }
        })
    }
}

fn webhook(settings: &Relay, url: &HookUrl, limit: Duration) -> Result<Webhook, RelayError> {
    let own = &settings.webhook;
    let in_flight = usize::try_from(own.in_flight_max).unwrap_or(usize::MAX);
    let mut hook = Webhook::to(url.expose(), &settings.source)
        .map_err(RelayError::Sink)?
        .time_limit(limit)
        .in_flight_max(in_flight);
    if url.is_https() {
        // Found out now, not at the first delivery: a file that cannot be read, a system without authorities.
        hook = hook.tls(client_config(own.ca_file.as_deref())?);
    }
    for secret in own.all_secrets().map_err(RelayError::Settings)? {
        hook = hook.secret(secret);
    }
    for header in &own.headers {
        let value = header.value.to_str().unwrap_or_default();
        hook = hook
            .header(header.name.as_str(), value)
            .map_err(RelayError::Sink)?;
    }
    Ok(hook)
}

/// The time is shared with replicas and disks.
fn streams(own: &Broker, mut redis: RedisStreams, limit: Duration) -> RedisStreams {
    redis = redis.stream_prefix(own.topic_prefix.as_str());
    if let Some(entries) = own.stream_length_max {
        redis = redis.length_max(entries.into());
    }
    let (limit, patience) = match own.replicas {
        None if !own.on_disk => return redis.time_limit(limit),
        _ => (limit / 2, limit / 2),
    };
    let replicas = own.replicas.unwrap_or(0);
    redis = redis.time_limit(limit);
    if own.on_disk {
        redis.on_disk(replicas, patience)
    } else {
        redis.replicas(replicas, patience)
    }
}

macro_rules! each {
    ($self:expr, $sink:ident => $call:expr) => {
        match $self {
            ChosenSink::Stdout($sink) => $call,
            ChosenSink::Webhook($sink) => $call,
            ChosenSink::Redis($sink) => $call,
            #[cfg(feature = "nats")]
            ChosenSink::Nats($sink) => $call,
            #[cfg(feature = "amqp")]
            ChosenSink::Amqp($sink) => $call,
            #[cfg(feature = "kafka")]
            ChosenSink::Kafka($sink) => $call,
        }
    };
}

impl Sink for ChosenSink {
    fn name(&self) -> &str {
        each!(self, sink => sink.name())
    }

    fn batch_max(&self) -> usize {
        each!(self, sink => sink.batch_max())
    }

    async fn publish(&self, batch: &[Envelope]) -> Vec<Result<Ack, SinkError>> {
        each!(self, sink => sink.publish(batch).await)
    }
}
