//! `[relay]`: what `onlyonce relay` publishes, from where, to where, and how.
//!
//! A file may be a relay's alone, or the proxy's too. The proxy checks this section and does nothing with it;
//! the relay reads this one, `[store]` for the database where none is named here, and `[log]`.

mod broker;
mod outbox;
mod sink_url;
mod timing;
mod webhook;

use std::net::SocketAddr;
use std::time::Duration;

pub use self::broker::{Broker, KafkaSetting};
pub use self::outbox::{Outbox, OutboxUrl};
pub use self::sink_url::{BrokerUrl, HookUrl, SinkName, SinkUrl};
pub use self::timing::Timing;
pub use self::webhook::{SentHeader, Webhook};

use super::fault::Faults;
use super::log::Log;
use super::section::{Effective, Reader, Section};
use super::sources::Sources;
use super::store::Store;

/// The sections that only the proxy reads.
const OF_THE_PROXY: [&str; 6] = ["listen", "admin", "upstream", "cache", "policy", "limits"];

/// The relay.
#[derive(Debug, Clone, PartialEq)]
pub struct Relay {
    /// Where the events are.
    pub outbox: Outbox,
    /// Where they go.
    pub sink: SinkUrl,
    /// Under which name the database remembers how far the sink is. A new name starts from the beginning, so
    /// this is nothing to be derived from a URL that may change.
    pub name: SinkName,
    /// The producer, as a URI reference: CloudEvents' `source`.
    pub source: String,
    /// The listener for `/livez`, `/readyz` and `/metrics`. Not `[admin]`'s, which the proxy has.
    pub admin: Option<SocketAddr>,
    /// How long it may take at shutdown to finish what is under way.
    pub drain: Duration,
    /// What concerns webhooks only.
    pub webhook: Webhook,
    /// What concerns brokers only.
    pub broker: Broker,
    /// How fast, how often, how long.
    pub timing: Timing,
}

/// Everything `relay` needs.
#[derive(Debug, Clone, PartialEq)]
pub struct RelayConfig {
    /// `[relay]`.
    pub relay: Relay,
    /// `[log]`.
    pub log: Log,
    /// Every setting in force, in the order of the sections.
    pub effective: Vec<Effective>,
}

/// The section as it is written, before it is known which of it is needed.
#[derive(Debug)]
pub(super) struct Keys {
    database: Option<OutboxUrl>,
    pooler: Option<bool>,
    sink: Option<SinkUrl>,
    name: Option<SinkName>,
    source: String,
    admin: Option<SocketAddr>,
    drain: Duration,
    webhook: Webhook,
    broker: Broker,
    timing: Timing,
}

impl RelayConfig {
    /// Understands what was written. Sections that only the proxy reads are not looked at.
    ///
    /// # Errors
    /// Everything that is wrong, at once.
    pub fn load(mut sources: Sources) -> Result<Self, Faults> {
        sources.leave_sections(&OF_THE_PROXY);
        let reader = Reader::new(sources);
        let keys = Keys::read(reader.section("relay"));
        let store = Store::read(reader.section("store"));
        let log = Log::read(reader.section("log"));
        let of_store = keys.database.is_none();
        let relay = keys.relay(&reader, &store);
        let (mut effective, Some(relay)) = (reader.finish()?, relay) else {
            unreachable!("a relay that lacks something is a fault")
        };
        effective.retain(|setting| match setting.key.as_str() {
            "store.url" | "store.pooler" => of_store,
            key => !key.starts_with("store."),
        });
        Ok(Self {
            relay,
            log,
            effective,
        })
    }
}

impl Outbox {
    /// Understands only what the operators' commands need. The rest of the section is checked all the same: a
    /// mistyped `database` must not send them to another one.
    ///
    /// # Errors
    /// Everything that is wrong, at once.
    pub fn load(mut sources: Sources) -> Result<Self, Faults> {
        sources.leave_sections(&OF_THE_PROXY);
        sources.leave_sections(&["log"]);
        let reader = Reader::new(sources);
        let keys = Keys::read(reader.section("relay"));
        let store = Store::read(reader.section("store"));
        let outbox = keys.outbox(&reader, &store);
        let (_, Some(outbox)) = (reader.finish()?, outbox) else {
            unreachable!("a database that is not named is a fault")
        };
        Ok(outbox)
    }
}

impl Keys {
    pub(super) fn read(section: Section<'_>) -> Self {
        Self {
            database: section.optional("database"),
            pooler: section.optional("pooler"),
            sink: section.optional("sink"),
            name: section.optional("name"),
            source: section.above_zero("source", "/outbox".to_owned()),
            admin: section.optional("admin"),
            drain: section.get("drain", Duration::from_secs(30)),
            webhook: Webhook::read(section),
            broker: Broker::read(section),
            timing: Timing::read(section),
        }
    }

    /// `None` where something is missing, which is a fault that is reported here.
    fn outbox(&self, reader: &Reader, store: &Store) -> Option<Outbox> {
        let (url, pooler) = match &self.database {
            Some(url) => (url.clone(), self.pooler.unwrap_or(false)),
            None => match OutboxUrl::of_store(&store.url) {
                Ok(url) => (url, self.pooler.unwrap_or(store.pooler)),
                Err(why) => {
                    reader.missing("relay.database", why);
                    return None;
                }
            },
        };
        Some(Outbox {
            url,
            pooler,
            sink: self.name.clone(),
        })
    }

    /// `None` where something is missing, which is a fault that is reported here.
    pub(super) fn relay(self, reader: &Reader, store: &Store) -> Option<Relay> {
        let outbox = self.outbox(reader, store);
        reader.missing(
            "relay.sink",
            "not set; say where events go, with --sink URL or in the file: stdout:, https://…, redis://…",
        );
        reader.missing(
            "relay.name",
            "not set; name the sink, with --name NAME or in the file: under this name the database remembers \
             how far it is",
        );
        for (key, message) in self.timing.contradictions(self.sink.as_ref()) {
            reader.fault(key, message);
        }
        #[cfg(feature = "kafka")]
        if let Some(why) = self.broker.contradiction(self.sink.as_ref()) {
            reader.fault("relay.kafka-settings", why);
        }
        Some(Relay {
            outbox: outbox?,
            sink: self.sink?,
            name: self.name?,
            source: self.source,
            admin: self.admin,
            drain: self.drain,
            webhook: self.webhook,
            broker: self.broker,
            timing: self.timing,
        })
    }
}

impl Relay {
    /// What is worth a second look, in a sentence each.
    pub fn warnings(&self) -> Vec<&'static str> {
        let broker = &self.broker;
        let hook = matches!(self.sink, SinkUrl::Webhook(_));
        let redis = matches!(self.sink, SinkUrl::Redis(_));
        let kafka = self.sink.is_kafka();
        let conditions = [
            (
                !hook && self.webhook.is_set(),
                "relay.secrets, secrets-file, headers and in-flight-max are used for webhooks only, and \
                 relay.sink is none",
            ),
            (
                !self.sink.is_checked() && self.webhook.ca_file.is_some(),
                "relay.ca-file is used for https:// and rediss:// only, and relay.sink is neither",
            ),
            (
                !redis && broker.is_for_redis(),
                "relay.stream-length-max, replicas and on-disk are used for Redis only, and relay.sink is none",
            ),
            (
                !redis && !kafka && !self.sink.is_nats() && !broker.topic_prefix.is_empty(),
                "relay.topic-prefix is used for Redis, NATS and Kafka only, and relay.sink is none of them",
            ),
            (
                !self.sink.is_amqp() && !broker.exchange.is_empty(),
                "relay.exchange is used for RabbitMQ only, and relay.sink is none",
            ),
            (
                !kafka && !broker.kafka_settings.is_empty(),
                "relay.kafka-settings is used for Kafka only, and relay.sink is none",
            ),
            (
                hook && !self.webhook.is_signed(),
                "relay.secrets: there are none, so nobody can tell this webhook's messages from anybody else's",
            ),
            (
                redis && broker.stream_length_max.is_none(),
                "relay.stream-length-max: streams grow for ever unless somebody trims them",
            ),
        ];
        let met = conditions.into_iter().filter(|(met, _)| *met);
        met.map(|(_, warning)| warning).collect()
    }
}

#[cfg(test)]
mod tests;
