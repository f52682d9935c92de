//! The attributes of CloudEvents 1.0 for an envelope. What sinks with headers put on the wire, each with the
//! prefix of its protocol's binding: `ce-` in HTTP and NATS, `ce_` in Kafka, `cloudEvents:` in AMQP.

use jiff::Timestamp;

use crate::envelope::Envelope;

/// The attributes, their names without any prefix. `datacontenttype` is not among them: all bindings but that of NATS
/// have a field of their own for it ([`Envelope::content_type`]).
///
/// `source` is a URI reference that names the producer: `/payments`. Source and id together are unique.
///
/// ```
/// use std::time::SystemTime;
/// use onlyonce_outbox::{Envelope, Event, cloud_event};
///
/// let envelope = Envelope::of(&Event::new("payments", 42).kind("charged"), 7, SystemTime::UNIX_EPOCH);
/// let attributes = cloud_event::attributes(&envelope, "/shop");
/// assert!(attributes.contains(&("type", "charged".into())));
/// assert!(attributes.contains(&("subject", "42".into())));
/// assert!(attributes.contains(&("time", "1970-01-01T00:00:00Z".into())));
/// assert!(attributes.contains(&("sequence", "00000000000000000007".into())));
/// ```
pub fn attributes(envelope: &Envelope, source: &str) -> Vec<(&'static str, String)> {
    let mut attributes = vec![
        ("specversion", "1.0".to_owned()),
        ("id", envelope.event_id.to_string()),
        ("source", source.to_owned()),
        ("type", envelope.kind.clone()),
        // The extension "sequence" is compared as text.
        ("sequence", format!("{:020}", envelope.sequence)),
    ];
    // A time beyond the year 9999 cannot be written.
    if let Ok(time) = Timestamp::try_from(envelope.created_at) {
        attributes.push(("time", time.to_string()));
    }
    // An empty one would be no attribute.
    if let Some(key) = envelope.key.as_ref().filter(|key| !key.is_empty()) {
        attributes.push(("subject", key.clone()));
        attributes.push(("partitionkey", key.clone()));
    }
    attributes
}

/// A value as it stands in a header of HTTP or NATS: what the CloudEvents bindings encode there (HTTP's section
/// 3.1.3.2), and all that is not ASCII.
#[cfg(any(feature = "nats", feature = "webhook"))]
pub(crate) fn encoded(value: &str) -> String {
    use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

    const ENCODED: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'%');
    utf8_percent_encode(value, ENCODED).to_string()
}

/// The envelope's headers as extension attributes, for formats that have no other room for them. Names of
/// attributes have lower-case letters and digits only: other characters are left out. Headers whose names are
/// attributes' already are not among them.
pub fn extensions(envelope: &Envelope) -> impl Iterator<Item = (String, &str)> {
    const TAKEN: [&str; 13] = [
        "specversion",
        "id",
        "source",
        "type",
        "sequence",
        "time",
        "subject",
        "partitionkey",
        "datacontenttype",
        "dataschema",
        "data",
        "data_base64",
        "database64",
    ];
    envelope.headers.iter().filter_map(|(name, value)| {
        let name: String = name.chars().filter(char::is_ascii_alphanumeric).collect();
        let free = !name.is_empty() && !TAKEN.contains(&name.as_str());
        free.then_some((name, value.as_str()))
    })
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::event::Event;

    #[test]
    fn what_is_empty_is_no_attribute() {
        let named = |key: Option<&str>| {
            let event = match key {
                Some(key) => Event::new("payments", key),
                None => Event::unordered("payments"),
            };
            let envelope = Envelope::of(&event, 1, SystemTime::UNIX_EPOCH);
            let attributes = attributes(&envelope, "/shop");
            assert!(attributes.iter().all(|(_, value)| !value.is_empty()));
            let names = ["subject", "partitionkey"];
            names.map(|name| attributes.iter().any(|(known, _)| *known == name))
        };
        assert_eq!(named(Some("1")), [true, true]);
        assert_eq!(named(Some("")), [false, false]);
        assert_eq!(named(None), [false, false]);
    }
}
