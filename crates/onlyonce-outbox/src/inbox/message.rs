//! [`Message`]: what the inbox has to know of a message before it is applied.

use std::time::SystemTime;

use super::message_id::{Kind, MessageId, milliseconds};

/// In milliseconds since 1970. Later times cannot be said to the database.
const YEAR_10000: i64 = 253_402_300_800_000;

/// A message that has arrived: its id, and optionally when it was made and what it is in order with. The
/// payload is the application's own affair.
///
/// ```
/// use onlyonce_outbox::inbox::{Message, MessageId};
///
/// let id: MessageId = "0190163d-8694-739b-aea5-966c26f8ad91".parse()?;
/// let message = Message::new(id).ordered_by("account-4711", 17);
/// # Ok::<(), onlyonce_outbox::inbox::InvalidId>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub(super) id: MessageId,
    made_at: Option<SystemTime>,
    pub(super) order: Option<(String, i64)>,
}

impl Message {
    /// One that is known by this id.
    pub fn new(id: impl Into<MessageId>) -> Self {
        Self {
            id: id.into(),
            made_at: None,
            order: None,
        }
    }

    /// When it was made: CloudEvents' `time`. With it the inbox refuses a message whose id says nothing of its
    /// age once it may have been forgotten; without it, such a message would be applied again.
    ///
    /// It must be the same at every delivery. A time that is renewed with each try, as `webhook-timestamp` is,
    /// says nothing. Ids with a time of their own go by that.
    #[must_use]
    pub fn made_at(mut self, time: SystemTime) -> Self {
        self.made_at = Some(time);
        self
    }

    /// Applies it only while nothing later of its key was applied: what comes after a later one is
    /// [`Overtaken`](super::Outcome::Overtaken). `sequence` rises within the key, as the outbox's numbers do
    /// ([`Envelope::sequence`](crate::Envelope::sequence)). Messages of one key wait for each other.
    ///
    /// For messages that say how something is now. Where each tells of a step (an amount to add), none may be
    /// left out: do not use this.
    ///
    /// A key is forgotten, by a sweep, a day after its last message has passed the dedupe window. The next one of
    /// it is applied then, whatever its number. That does not let one through that was overtaken: it was made before
    /// what overtook it, and is refused as too old. Only where neither its id nor
    /// [`made_at`](Self::made_at) says when it was made, nobody can tell.
    ///
    /// A producer whose database was restored from a backup draws numbers anew that it had drawn before, and
    /// its messages are taken for overtaken: delete the consumer's rows of `onlyonce_inbox_order` then.
    #[must_use]
    pub fn ordered_by(mut self, key: impl Into<String>, sequence: i64) -> Self {
        self.order = Some((key.into(), sequence));
        self
    }

    /// The id.
    pub fn id(&self) -> &MessageId {
        &self.id
    }

    /// In milliseconds since 1970; `None` where nobody knows.
    pub(super) fn made_ms(&self) -> Option<i64> {
        let millis = match (&self.id.0, self.made_at) {
            (Kind::Timed(id), _) => u128::from(milliseconds(*id)),
            // Before 1970 is old enough, whenever it was.
            (Kind::Foreign(_), Some(time)) => time
                .duration_since(SystemTime::UNIX_EPOCH)
                .map_or(0, |since| since.as_millis()),
            (Kind::Foreign(_), None) => return None,
        };
        Some(i64::try_from(millis).unwrap_or(YEAR_10000).min(YEAR_10000))
    }
}

impl From<MessageId> for Message {
    fn from(id: MessageId) -> Self {
        Self::new(id)
    }
}
