//! What concerns brokers only: how streams, subjects and exchanges are named, and what counts as taken.

use crate::config::section::Section;

/// A broker, but for its URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broker {
    /// Redis and NATS: what comes before a topic to make the name of its stream or subject.
    pub topic_prefix: String,
    /// RabbitMQ: where events are published, by their topic as the routing key; its default exchange where empty.
    pub exchange: String,
    /// Redis: to about how many entries streams are trimmed, read or not.
    pub stream_length_max: Option<u32>,
    /// Redis: how many replicas must have an event for it to count as taken.
    pub replicas: Option<u32>,
}

impl Broker {
    pub(super) fn read(section: Section<'_>) -> Self {
        Self {
            topic_prefix: section.get("topic-prefix", String::new()),
            exchange: section.get("exchange", String::new()),
            stream_length_max: section.optional("stream-length-max"),
            replicas: section.optional("replicas"),
        }
    }
}
