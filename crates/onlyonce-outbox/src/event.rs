//! [`Event`]: something that happened, to be told to others once its transaction has committed.
//!
//! ```
//! use onlyonce_outbox::Event;
//!
//! let event = Event::new("payments", 4711)
//!     .kind("charged")
//!     .json(&serde_json::json!({ "amount": 1200 }))?
//!     .header("tenant", "acme");
//! assert_eq!(event.key(), Some("4711"));
//! # Ok::<(), onlyonce_outbox::Error>(())
//! ```

use std::collections::BTreeMap;
use std::fmt::Display;

use bytes::Bytes;
use serde::Serialize;
use uuid::Uuid;

use crate::error::Error;

/// The longest topic, kind and content type, in bytes.
const WORD_MAX: usize = 255;
/// The longest key, in bytes.
const KEY_MAX: usize = 1_024;
/// The longest header value, in bytes.
const HEADER_MAX: usize = 8 << 10;
/// The most headers.
const HEADERS_MAX: usize = 64;
/// The longest payload, in bytes. Most brokers take less by default.
const PAYLOAD_MAX: usize = 16 << 20;

/// An event that is to be published with a transaction.
///
/// Events of the same topic and key are first delivered in the order in which their transactions committed;
/// within one transaction, in the order in which they were emitted. Nothing is promised across keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    pub(crate) id: Uuid,
    pub(crate) topic: String,
    pub(crate) key: Option<String>,
    pub(crate) kind: Option<String>,
    pub(crate) content_type: String,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) payload: Bytes,
}

impl Event {
    /// An event about one thing: an order, an account. `key` names it, and orders its events.
    pub fn new(topic: impl Into<String>, key: impl Display) -> Self {
        Self {
            key: Some(key.to_string()),
            ..Self::unordered(topic)
        }
    }

    /// An event that need not be in order with any other: none waits for it, and it waits for none.
    pub fn unordered(topic: impl Into<String>) -> Self {
        Self {
            id: Uuid::now_v7(),
            topic: topic.into(),
            key: None,
            kind: None,
            content_type: "application/octet-stream".to_owned(),
            headers: BTreeMap::new(),
            payload: Bytes::new(),
        }
    }

    /// What happened: `charged`. CloudEvents call it the type. Without one it is the topic.
    #[must_use]
    pub fn kind(mut self, kind: impl Into<String>) -> Self {
        self.kind = Some(kind.into());
        self
    }

    /// The payload, as JSON.
    ///
    /// # Errors
    /// [`Error::Json`] where the value cannot be written as JSON: a map whose keys are no text.
    pub fn json<T: Serialize + ?Sized>(self, payload: &T) -> Result<Self, Error> {
        let payload = serde_json::to_vec(payload).map_err(Error::Json)?;
        Ok(self.bytes("application/json", payload))
    }

    /// The payload, as bytes of a media type; 16 MiB at most.
    #[must_use]
    pub fn bytes(mut self, content_type: impl Into<String>, payload: impl Into<Bytes>) -> Self {
        self.content_type = content_type.into();
        self.payload = payload.into();
        self
    }

    /// A header that goes along, such as `traceparent`. The name is made lower-case; the last value for a name
    /// holds.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        let mut name = name.into();
        name.make_ascii_lowercase();
        self.headers.insert(name, value.into());
        self
    }

    /// The id by which receivers know a repetition, in place of the UUIDv7 that was made for it. The inbox
    /// keeps ids with a time in them (version 7) more cheaply than others.
    #[must_use]
    pub fn id(mut self, id: Uuid) -> Self {
        self.id = id;
        self
    }

    /// The id by which receivers know a repetition.
    pub fn event_id(&self) -> Uuid {
        self.id
    }

    /// Where it is published.
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// What it is about, and ordered by; `None` where it is unordered.
    pub fn key(&self) -> Option<&str> {
        self.key.as_deref()
    }

    /// What happened; the topic where that was not said.
    pub fn kind_or_topic(&self) -> &str {
        self.kind.as_deref().unwrap_or(&self.topic)
    }

    /// Whether every sink could deliver it. [`append`](crate::append) asks this; asking earlier finds a fault
    /// where it was made.
    ///
    /// # Errors
    /// [`Error::Invalid`], with what is wrong: an empty topic, control characters, too long a payload.
    pub fn validate(&self) -> Result<(), Error> {
        word("topic", &self.topic)?;
        word("kind", self.kind_or_topic())?;
        word("content type", &self.content_type)?;
        if let Some(key) = &self.key {
            text("key", key, KEY_MAX)?;
        }
        if self.headers.len() > HEADERS_MAX {
            return Err(Error::invalid("headers", "are more than 64"));
        }
        for (name, value) in &self.headers {
            header(name, value)?;
        }
        if self.payload.len() > PAYLOAD_MAX {
            return Err(Error::invalid("payload", "is longer than 16 MiB"));
        }
        Ok(())
    }
}

fn word(what: &str, value: &str) -> Result<(), Error> {
    if value.is_empty() {
        return Err(Error::invalid(what, "is empty"));
    }
    text(what, value, WORD_MAX)
}

/// Postgres keeps no NUL in text, and no broker a line break in a name.
fn text(what: &str, value: &str, max: usize) -> Result<(), Error> {
    if value.len() > max {
        return Err(Error::invalid(what, "is too long"));
    }
    if value.chars().any(char::is_control) {
        return Err(Error::invalid(what, "has a control character"));
    }
    Ok(())
}

fn header(name: &str, value: &str) -> Result<(), Error> {
    let token =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_.".contains(&byte);
    if name.is_empty() || name.len() > WORD_MAX || !name.bytes().all(token) {
        return Err(Error::invalid(
            format!("header {name:?}"),
            "has a name that is not made of letters, digits, `-`, `_` and `.`",
        ));
    }
    text(&format!("header {name:?}"), value, HEADER_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_sink_could_deliver_is_refused() {
        let good = Event::new("payments", 1);
        good.validate().unwrap();
        for (bad, what) in [
            (Event::new("", 1), "topic"),
            (Event::new("pay\nments", 1), "topic"),
            (Event::new("payments", "a\0b"), "key"),
            (good.clone().kind(""), "kind"),
            (good.clone().header("x y", "1"), "header"),
            (good.clone().header("x", "1\r\ny: 2"), "header"),
            (
                good.bytes("text/plain", vec![0; PAYLOAD_MAX + 1]),
                "payload",
            ),
        ] {
            let error = bad.validate().unwrap_err().to_string();
            assert!(error.contains(what), "{error}");
        }
    }

    #[test]
    fn ids_are_made_in_the_order_of_time() {
        let ids: Vec<_> = (0..100).map(|_| Event::unordered("t").event_id()).collect();
        assert!(ids.is_sorted());
        assert_eq!(ids[0].get_version_num(), 7);
    }

    #[test]
    fn header_names_are_lower_case() {
        let event = Event::new("t", 1)
            .header("TraceParent", "00")
            .header("traceparent", "01");
        assert_eq!(event.headers.get("traceparent").unwrap(), "01");
        assert_eq!(event.headers.len(), 1);
    }
}
