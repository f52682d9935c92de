//! [`Carrier`]: where each protocol carries a message's id.

use super::message_id::{InvalidId, MessageId};

/// What a message came with. Needs no client of any broker: headers are names and values.
///
/// ```
/// use onlyonce_outbox::inbox::Carrier;
///
/// let headers = [("Content-Type", "application/json"), ("Nats-Msg-Id", "evt-1")];
/// let id = Carrier::Nats.message_id(headers)?;
/// assert_eq!(id.unwrap().to_string(), "evt-1");
///
/// let headers = [("idempotency-key", "\"evt-1\"")];
/// let id = Carrier::Http.message_id(headers)?;
/// assert_eq!(id.unwrap().to_string(), "evt-1");
/// # Ok::<(), onlyonce_outbox::inbox::InvalidId>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Carrier {
    /// HTTP headers: `webhook-id` (which a webhook's signature covers), else `Idempotency-Key`, else `ce-id`.
    Http,
    /// NATS headers: `Nats-Msg-Id`, else `ce-id`.
    Nats,
    /// AMQP 0-9-1: the property `message_id`, given as a header of this name; else `cloudEvents:id`, or
    /// `cloudEvents_id`.
    Amqp,
    /// Kafka headers: `ce_id`, else `event-id`.
    Kafka,
    /// The fields of an entry of a Redis stream: `event_id`.
    RedisStream,
}

impl Carrier {
    /// The message's id, as the sender said it; `None` where it said none. Names are compared without regard to
    /// case.
    ///
    /// # Errors
    /// [`InvalidId`]: the id cannot be one, or is said twice. Such a message cannot be told from its
    /// duplicates.
    pub fn message_id<N, V>(
        self,
        headers: impl IntoIterator<Item = (N, V)>,
    ) -> Result<Option<MessageId>, InvalidId>
    where
        N: AsRef<str>,
        V: AsRef<[u8]>,
    {
        let headers: Vec<_> = headers.into_iter().collect();
        for known in self.names() {
            let mut values = headers
                .iter()
                .filter(|(name, _)| known.eq_ignore_ascii_case(name.as_ref()));
            let Some((_, value)) = values.next() else {
                continue;
            };
            if values.next().is_some() {
                return Err(InvalidId::Several);
            }
            let text = std::str::from_utf8(value.as_ref()).map_err(|_| InvalidId::NotText)?;
            let id = match *known {
                IDEMPOTENCY_KEY => unquoted(text)?.parse()?,
                _ => text.parse()?,
            };
            return Ok(Some(id));
        }
        Ok(None)
    }

    /// The best first.
    fn names(self) -> &'static [&'static str] {
        match self {
            Self::Http => &["webhook-id", IDEMPOTENCY_KEY, "ce-id"],
            Self::Nats => &["nats-msg-id", "ce-id"],
            Self::Amqp => &["message_id", "cloudevents:id", "cloudevents_id"],
            Self::Kafka => &["ce_id", "event-id"],
            Self::RedisStream => &["event_id"],
        }
    }
}

const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// A structured field's string (RFC 9651, section 3.3.3), or, as most send it, the bare value.
fn unquoted(text: &str) -> Result<String, InvalidId> {
    let text = text.trim_matches([' ', '\t']);
    let Some(quoted) = text.strip_prefix('"') else {
        return Ok(text.to_owned());
    };
    let inner = quoted.strip_suffix('"').ok_or(InvalidId::Quotes)?;
    let (mut plain, mut rest) = (String::with_capacity(inner.len()), inner.chars());
    while let Some(char) = rest.next() {
        plain.push(match char {
            '"' => return Err(InvalidId::Quotes),
            '\\' => match rest.next() {
                Some(escaped @ ('"' | '\\')) => escaped,
                _ => return Err(InvalidId::Quotes),
            },
            other => other,
        });
    }
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(carrier: Carrier, headers: &[(&str, &str)]) -> Result<Option<String>, InvalidId> {
        let id = carrier.message_id(headers.iter().copied())?;
        Ok(id.map(|id| id.to_string()))
    }

    #[test]
    fn each_protocol_has_its_place_for_the_id() {
        for (carrier, name) in [
            (Carrier::Http, "Webhook-Id"),
            (Carrier::Http, "Idempotency-Key"),
            (Carrier::Http, "ce-id"),
            (Carrier::Nats, "Nats-Msg-Id"),
            (Carrier::Amqp, "message_id"),
            (Carrier::Amqp, "cloudEvents:id"),
            (Carrier::Kafka, "ce_id"),
            (Carrier::RedisStream, "event_id"),
        ] {
            let headers = [("other", "x"), (name, "evt-1")];
            assert_eq!(id(carrier, &headers), Ok(Some("evt-1".to_owned())));
            assert_eq!(id(carrier, &headers[..1]), Ok(None));
            let twice = [headers[1], headers[0], headers[1]];
            assert_eq!(id(carrier, &twice), Err(InvalidId::Several), "{name}");
        }
    }

    /// The signature covers `webhook-id` and no other.
    #[test]
    fn what_is_signed_comes_first() {
        let mut headers = [
            ("ce-id", "c"),
            ("ce-id", "c"),
            ("idempotency-key", "b"),
            ("webhook-id", "a"),
        ];
        assert_eq!(id(Carrier::Http, &headers), Ok(Some("a".to_owned())));
        headers.reverse();
        assert_eq!(id(Carrier::Http, &headers), Ok(Some("a".to_owned())));
    }

    #[test]
    fn an_idempotency_key_is_the_same_quoted_or_not() {
        for value in ["a b", "\"a b\"", " \"a b\" "] {
            let headers = [("Idempotency-Key", value)];
            assert_eq!(id(Carrier::Http, &headers), Ok(Some("a b".to_owned())));
        }
        let escaped = [("Idempotency-Key", "\"a\\\"\\\\\"")];
        assert_eq!(id(Carrier::Http, &escaped), Ok(Some("a\"\\".to_owned())));
        for bad in ["\"", "\"a", "\"a\"b\"", "\"a\\\"", "\"\\n\"", "\"a\";p=1"] {
            let headers = [("Idempotency-Key", bad)];
            assert_eq!(id(Carrier::Http, &headers), Err(InvalidId::Quotes), "{bad}");
        }
        // Quotes mean nothing elsewhere.
        let headers = [("webhook-id", "\"a\"")];
        assert_eq!(id(Carrier::Http, &headers), Ok(Some("\"a\"".to_owned())));
    }

    #[test]
    fn bytes_that_are_no_text_are_no_id() {
        let headers = [("webhook-id", [0xff])];
        let error = Carrier::Http.message_id(headers).unwrap_err();
        assert_eq!(error, InvalidId::NotText);
    }
}
