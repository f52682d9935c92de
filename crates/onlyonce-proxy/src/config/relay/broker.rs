//! What concerns brokers only: how streams, subjects and exchanges are named, and what counts as taken.

use std::fmt;

#[cfg(feature = "kafka")]
use super::sink_url::SinkUrl;
use crate::config::section::Section;
use crate::config::value::Setting;

/// A broker, but for its URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broker {
    /// Redis, NATS and Kafka: what comes before a topic to make the name of its stream, subject or topic.
    pub topic_prefix: String,
    /// RabbitMQ: where events are published, by their topic as the routing key; its default exchange where empty.
    pub exchange: String,
    /// Redis: to about how many entries streams are trimmed, read or not.
    pub stream_length_max: Option<u32>,
    /// Redis: how many replicas must have an event for it to count as taken.
    pub replicas: Option<u32>,
    /// Redis 7.2: whether it must be on their disks, and on the server's.
    pub on_disk: bool,
    /// Kafka: what its client is to be told besides.
    pub kafka_settings: Vec<KafkaSetting>,
}

/// A setting of Kafka's client. Its value is not shown: it may be a password.
#[derive(Clone, PartialEq, Eq)]
pub struct KafkaSetting {
    /// Its name, such as `sasl.username`.
    pub name: String,
    /// Its value.
    pub value: String,
}

impl Broker {
    pub(super) fn read(section: Section<'_>) -> Self {
        Self {
            topic_prefix: section.get("topic-prefix", String::new()),
            exchange: section.get("exchange", String::new()),
            stream_length_max: section.optional("stream-length-max"),
            replicas: section.optional("replicas"),
            on_disk: section.get("on-disk", false),
            kafka_settings: section.get("kafka-settings", Vec::new()),
        }
    }

    /// Whether anything is written here that only Redis uses.
    pub(super) fn is_for_redis(&self) -> bool {
        self.stream_length_max.is_some() || self.replicas.is_some() || self.on_disk
    }

    /// What speaks against Kafka's settings together with the URL: each alone was asked about when it was read.
    #[cfg(feature = "kafka")]
    pub(super) fn contradiction(&self, sink: Option<&SinkUrl>) -> Option<String> {
        let Some(SinkUrl::Kafka(url)) = sink else {
            return None;
        };
        let kafka = onlyonce_outbox::sinks::Kafka::to(url.expose(), "/").ok()?;
        let mut settings = self.kafka_settings.iter();
        let refused = settings.try_fold(kafka, |kafka, further| {
            kafka.setting(&*further.name, &*further.value)
        });
        refused.err().map(|error| error.to_string())
    }
}

impl Setting for KafkaSetting {
    fn expected() -> String {
        "`name=value`, a setting of librdkafka's that the relay does not make itself".to_owned()
    }

    fn parse(text: &str) -> Option<Self> {
        let (name, value) = text.split_once('=')?;
        let (name, value) = (name.trim().to_owned(), value.trim().to_owned());
        // The sink's own rules; it takes the setting again when the relay starts.
        #[cfg(feature = "kafka")]
        onlyonce_outbox::sinks::Kafka::to("kafka://localhost", "/")
            .and_then(|sink| sink.setting(&*name, &*value))
            .ok()?;
        Some(Self { name, value })
    }

    fn show(&self) -> String {
        format!("{}=***", self.name)
    }
}

impl fmt::Debug for KafkaSetting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.show())
    }
}
