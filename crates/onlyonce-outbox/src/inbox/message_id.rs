//! [`MessageId`]: by what a message is known when it comes again.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use uuid::{Uuid, Variant};

/// The longest id, in bytes.
const LENGTH_MAX: usize = 255;
/// A UUID in its usual form.
const HYPHENATED: usize = 36;

/// A message's id, the same at every delivery.
///
/// Ids that are UUIDs of version 7 say when they were made, which every event of the outbox does. The inbox
/// keeps those by the day, and drops whole days. All others are *foreign*: text that is compared byte for byte
/// and deleted row by row.
///
/// ```
/// use onlyonce_outbox::inbox::MessageId;
///
/// let timed: MessageId = "0190163D-8694-739B-AEA5-966C26F8AD91".parse()?;
/// assert!(timed.made_at().is_some());
/// assert_eq!(timed.to_string(), "0190163d-8694-739b-aea5-966c26f8ad91");
///
/// let foreign: MessageId = "evt_1Q2w3e".parse()?;
/// assert!(foreign.made_at().is_none());
/// # Ok::<(), onlyonce_outbox::inbox::InvalidId>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MessageId(pub(super) Kind);

#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Kind {
    Timed(Uuid),
    Foreign(String),
}

/// Why something is no message id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidId {
    /// Nothing there.
    #[error("the message id is empty")]
    Empty,
    /// More than 255 bytes.
    #[error("the message id is longer than 255 bytes")]
    TooLong,
    /// A control character, or bytes that are no UTF-8.
    #[error("the message id is not plain text")]
    NotText,
    /// The quotes of a structured field do not match, or something comes after them.
    #[error("the message id is not quoted as it should be")]
    Quotes,
    /// The same header twice.
    #[error("the message has several ids")]
    Several,
}

impl MessageId {
    /// As [`str::parse`], but never takes the text for a UUID. For senders whose ids look like UUIDs of
    /// version 7 and have no time in them: those would be taken for very old, and refused.
    ///
    /// A consumer must take the same ids in the same way always: the two kinds do not know of each other.
    ///
    /// # Errors
    /// [`InvalidId`].
    pub fn foreign(text: &str) -> Result<Self, InvalidId> {
        if text.is_empty() {
            return Err(InvalidId::Empty);
        }
        if text.len() > LENGTH_MAX {
            return Err(InvalidId::TooLong);
        }
        if text.chars().any(char::is_control) {
            return Err(InvalidId::NotText);
        }
        Ok(Self(Kind::Foreign(text.to_owned())))
    }

    /// When the id was made, to the millisecond, where it says so.
    pub fn made_at(&self) -> Option<SystemTime> {
        let Kind::Timed(id) = &self.0 else {
            return None;
        };
        Some(SystemTime::UNIX_EPOCH + Duration::from_millis(milliseconds(*id)))
    }
}

/// Since 1970: the first 48 bits.
pub(super) fn milliseconds(id: Uuid) -> u64 {
    let [a, b, c, d, e, f, ..] = *id.as_bytes();
    u64::from_be_bytes([0, 0, a, b, c, d, e, f])
}

impl FromStr for MessageId {
    type Err = InvalidId;

    /// Only the usual form of a UUID, with hyphens, counts as one: 32 hexadecimal digits are as likely a hash.
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        match text.parse::<Uuid>() {
            Ok(id) if text.len() == HYPHENATED => Ok(Self::from(id)),
            _ => Self::foreign(text),
        }
    }
}

impl From<Uuid> for MessageId {
    fn from(id: Uuid) -> Self {
        if id.get_version_num() == 7 && id.get_variant() == Variant::RFC4122 {
            Self(Kind::Timed(id))
        } else {
            Self(Kind::Foreign(id.to_string()))
        }
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Timed(id) => id.fmt(f),
            Kind::Foreign(text) => text.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_uuids_of_version_7_are_timed() {
        let timed = |text: &str| text.parse::<MessageId>().unwrap().made_at().is_some();
        assert!(timed("0190163d-8694-739b-aea5-966c26f8ad91"));
        assert!(!timed("550e8400-e29b-41d4-a716-446655440000"));
        // A hash, whose thirteenth digit happens to be a 7.
        assert!(!timed("0190163d8694739baea5966c26f8ad91"));
        assert!(!timed("{0190163d-8694-739b-aea5-966c26f8ad91}"));
        assert!(!timed("urn:uuid:0190163d-8694-739b-aea5-966c26f8ad91"));
        // Version 7, and of no known variant.
        assert!(!timed("0190163d-8694-739b-eea5-966c26f8ad91"));
        assert!(!timed("evt_1"));
    }

    #[test]
    fn the_time_is_the_one_in_the_id() {
        let id: MessageId = "017f22e2-79b0-7cc3-98c4-dc0c0c07398f".parse().unwrap();
        let millis = Duration::from_millis(1_645_557_742_000);
        assert_eq!(id.made_at(), Some(SystemTime::UNIX_EPOCH + millis));
    }

    #[test]
    fn uuids_are_the_same_in_either_case_and_other_text_is_not() {
        let parse = |text: &str| text.parse::<MessageId>().unwrap();
        for uuid in [
            "0190163d-8694-739b-aea5-966c26f8ad91",
            "550e8400-e29b-41d4-a716-446655440000",
        ] {
            assert_eq!(parse(uuid), parse(&uuid.to_uppercase()));
        }
        assert_ne!(parse("evt_a"), parse("EVT_A"));
    }

    #[test]
    fn what_is_no_id_is_refused() {
        let parse = |text: &str| text.parse::<MessageId>().unwrap_err();
        assert_eq!(parse(""), InvalidId::Empty);
        assert_eq!(parse(&"x".repeat(256)), InvalidId::TooLong);
        assert_eq!(parse("a\0b"), InvalidId::NotText);
    }
}
