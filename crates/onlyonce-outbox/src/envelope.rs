//! [`Envelope`]: an event on its way to a sink, with all that the sink may tell its receivers.

use std::collections::BTreeMap;
use std::time::SystemTime;

use bytes::Bytes;
use uuid::Uuid;

use crate::event::Event;
use crate::shard::Place;

/// An event as a sink gets it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Envelope {
    /// The event's number. Within a key numbers rise in the order of the commits: a receiver can drop what is
    /// not above the last it has seen. Numbers have gaps, and say nothing across keys.
    pub sequence: i64,
    /// Which of the 64 shards the key belongs to: at any time one relay works on it.
    pub shard: u16,
    /// The id by which a repetition is known. The same at every delivery.
    pub event_id: Uuid,
    /// Where to.
    pub topic: String,
    /// What it is about, and ordered by; `None` where it is unordered.
    pub key: Option<String>,
    /// What happened: CloudEvents' `type`.
    pub kind: String,
    /// The payload's media type.
    pub content_type: String,
    /// Headers; the names are lower-case.
    pub headers: BTreeMap<String, String>,
    /// The payload, byte for byte.
    pub payload: Bytes,
    /// When it was appended, by the database's clock.
    pub created_at: SystemTime,
    /// Which try this is, from 1; counted before it is made. Deliveries that came before a relay crashed are
    /// not all counted.
    pub attempt: u32,
}

impl Envelope {
    /// The envelope that a relay would make of an event with this number: for the tests of sinks.
    pub fn of(event: &Event, sequence: i64, created_at: SystemTime) -> Self {
        let place = match &event.key {
            Some(key) => Place::of_key(&event.topic, key),
            None => Place::of_event(event.id),
        };
        Self {
            sequence,
            shard: place.shard.unsigned_abs(),
            event_id: event.id,
            topic: event.topic.clone(),
            key: event.key.clone(),
            kind: event.kind_or_topic().to_owned(),
            content_type: event.content_type.clone(),
            headers: event.headers.clone(),
            payload: event.payload.clone(),
            created_at,
            attempt: 1,
        }
    }
}
