//! The sink that the settings name, as one type.

use std::time::Duration;

use onlyonce_outbox::sinks::{RedisStreams, Stdout, Webhook};
use onlyonce_outbox::{Ack, Envelope, Sink, SinkError};
use tokio_util::sync::CancellationToken;

use super::RelayError;
use super::piped::Piped;
use crate::config::{self, HookUrl, Relay, SinkUrl};
use crate::forward::client_config;

/// One of the sinks there are.
#[derive(Debug)]
pub(super) enum ChosenSink {
    Stdout(Stdout<Piped>),
    Webhook(Webhook),
    Redis(RedisStreams),
}

impl ChosenSink {
    /// The sink, not connected yet. `closed` is cancelled when nobody reads standard output any more.
    pub(super) fn open(settings: &Relay, closed: CancellationToken) -> Result<Self, RelayError> {
        let name = settings.name.as_str();
        Ok(match &settings.sink {
            SinkUrl::Stdout => {
                let out = Piped::new(closed);
                Self::Stdout(Stdout::to(out, &settings.source).named(name))
            }
            SinkUrl::Webhook(url) => Self::Webhook(webhook(settings, url)?.named(name)),
            SinkUrl::Redis(url) => {
                let redis = RedisStreams::to(url.expose(), &settings.source);
                let redis = redis.map_err(RelayError::Sink)?.named(name);
                let limit = settings.timing.publish_timeout;
                Self::Redis(streams(&settings.streams, redis, limit))
            }
        })
    }
}

fn webhook(settings: &Relay, url: &HookUrl) -> Result<Webhook, RelayError> {
    let own = &settings.webhook;
    let in_flight = usize::try_from(own.in_flight_max).unwrap_or(usize::MAX);
    let mut hook = Webhook::to(url.expose(), &settings.source)
        .map_err(RelayError::Sink)?
        // The relay gives the whole batch up after that; one delivery has to end before.
        .time_limit(settings.timing.publish_timeout.mul_f64(0.8))
        .in_flight_max(in_flight);
    if let Some(path) = &own.ca_file {
        hook = hook.tls(client_config(Some(path))?);
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

/// Within the time that the relay gives a batch, replicas included.
fn streams(own: &config::Streams, mut redis: RedisStreams, limit: Duration) -> RedisStreams {
    redis = redis.stream_prefix(own.prefix.as_str());
    if let Some(entries) = own.length_max {
        redis = redis.length_max(entries.into());
    }
    match own.replicas {
        Some(replicas) => redis
            .time_limit(limit.mul_f64(0.4))
            .replicas(replicas, limit.mul_f64(0.4)),
        None => redis.time_limit(limit.mul_f64(0.8)),
    }
}

macro_rules! each {
    ($self:expr, $sink:ident => $call:expr) => {
        match $self {
            ChosenSink::Stdout($sink) => $call,
            ChosenSink::Webhook($sink) => $call,
            ChosenSink::Redis($sink) => $call,
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
