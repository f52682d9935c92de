//! Events as lines on standard output, each a CloudEvent in JSON: to look at, or to pipe into something.

use std::io;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::ser::{SerializeMap, Serializer};
use serde_json::value::RawValue;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::Mutex;

use crate::cloud_event;
use crate::envelope::Envelope;
use crate::sink::{Ack, Sink, SinkError};
use crate::sinks::none_taken;

/// Writes each event as one line of JSON, in CloudEvents' own format. What was written and flushed counts as
/// taken.
///
/// JSON payloads are in `data`, as they were but for line breaks; all others in `data_base64`. Headers are
/// extension attributes, whose names have letters and digits only: `schema-version` is `schemaversion`.
#[derive(Debug)]
pub struct Stdout<W = tokio::io::Stdout> {
    name: String,
    source: String,
    out: Mutex<W>,
}

impl Stdout {
    /// To this process's standard output. `source` names the producer, as a URI reference: `/payments`.
    pub fn new(source: impl Into<String>) -> Self {
        Self::to(tokio::io::stdout(), source)
    }
}

impl<W> Stdout<W> {
    /// To a file, or whatever else can be written to.
    pub fn to(out: W, source: impl Into<String>) -> Self {
        Self {
            name: "stdout".to_owned(),
            source: source.into(),
            out: Mutex::new(out),
        }
    }

    /// Under another name than `stdout`: two sinks of one database must differ.
    #[must_use]
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }
}

impl<W: AsyncWrite + Unpin + Send + 'static> Stdout<W> {
    async fn write(&self, batch: &[Envelope]) -> io::Result<()> {
        let mut lines = Vec::new();
        for envelope in batch {
            line(envelope, &self.source, &mut lines)?;
        }
        let mut out = self.out.lock().await;
        out.write_all(&lines).await?;
        out.flush().await
    }
}

impl<W: AsyncWrite + Unpin + Send + 'static> Sink for Stdout<W> {
    fn name(&self) -> &str {
        &self.name
    }

    async fn publish(&self, batch: &[Envelope]) -> Vec<Result<Ack, SinkError>> {
        // All or none: how much of it was written, nobody knows.
        match self.write(batch).await {
            Ok(()) => batch.iter().map(|_| Ok(Ack::default())).collect(),
            Err(error) => none_taken(batch, &error.to_string()),
        }
    }
}

fn line(envelope: &Envelope, source: &str, lines: &mut Vec<u8>) -> Result<(), serde_json::Error> {
    let mut serializer = serde_json::Serializer::new(&mut *lines);
    let mut event = serializer.serialize_map(None)?;
    for (name, value) in cloud_event::attributes(envelope, source) {
        event.serialize_entry(name, &value)?;
    }
    for (name, value) in cloud_event::extensions(envelope) {
        event.serialize_entry(&name, value)?;
    }
    event.serialize_entry("datacontenttype", &envelope.content_type)?;
    match json(envelope) {
        Some(data) => event.serialize_entry("data", &data)?,
        None => event.serialize_entry("data_base64", &BASE64_STANDARD.encode(&envelope.payload))?,
    }
    SerializeMap::end(event)?;
    lines.push(b'\n');
    Ok(())
}

/// The payload where it is JSON, on one line: in JSON, a line break is never anything but space.
fn json(envelope: &Envelope) -> Option<Box<RawValue>> {
    let kind = envelope.content_type.split(';').next()?.trim();
    if kind != "application/json" && !kind.ends_with("+json") {
        return None;
    }
    let text = std::str::from_utf8(&envelope.payload).ok()?;
    RawValue::from_string(text.replace(['\n', '\r'], " ")).ok()
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::event::Event;

    #[test]
    fn an_event_is_one_line_whatever_it_holds() {
        let json = Event::new("payments", "a\"b").bytes("application/json", "{\n \"n\": 1e400\n}");
        let broken = Event::unordered("t").bytes("application/json", "{");
        let binary = Event::unordered("t").bytes("image/png", vec![0, 10, 255]);
        let headers = Event::unordered("t")
            .header("schema-version", "2")
            .header("id", "no");
        let mut lines = Vec::new();
        for event in [json, broken, binary, headers] {
            let envelope = Envelope::of(&event, 1, SystemTime::UNIX_EPOCH);
            line(&envelope, "/shop", &mut lines).unwrap();
        }
        let text = String::from_utf8(lines).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 4);
        assert!(
            lines[0].contains(r#""data":{  "n": 1e400 }"#),
            "{}",
            lines[0]
        );
        assert!(lines[1].contains(r#""data_base64":"ew==""#), "{}", lines[1]);
        assert!(lines[2].contains(r#""data_base64":"AAr/""#), "{}", lines[2]);
        assert!(lines[3].contains(r#""schemaversion":"2""#), "{}", lines[3]);
        assert!(!lines[3].contains("no"), "{}", lines[3]);
    }
}
