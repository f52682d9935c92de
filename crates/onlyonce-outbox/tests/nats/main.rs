//! The sink for NATS JetStream, against a real server.

use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use async_nats::HeaderMap;
use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::stream::Config;
use onlyonce_outbox::conformance::{Fixture, Received, suite};
use onlyonce_outbox::inbox::Carrier;
use onlyonce_outbox::sinks::JetStream;
use onlyonce_outbox::{Ack, Envelope, Event, Sink, SinkError};
use onlyonce_test::event::within;
use onlyonce_test::nats::Server;
use percent_encoding::percent_decode_str;

struct Nats {
    sink: JetStream,
    server: Mutex<Server>,
}

impl Nats {
    /// With a stream that listens to these subjects.
    async fn start(subjects: &[&str]) -> Self {
        let server = Server::start().unwrap();
        let nats = Self {
            sink: JetStream::to(&server.url(), "/shop").unwrap(),
            server: Mutex::new(server),
        };
        let config = Config {
            name: "EVENTS".to_owned(),
            subjects: subjects.iter().map(|&subject| subject.to_owned()).collect(),
            ..Config::default()
        };
        nats.jetstream().await.create_stream(config).await.unwrap();
        nats
    }

    async fn jetstream(&self) -> async_nats::jetstream::Context {
        let url = self.server.lock().unwrap().url();
        async_nats::jetstream::new(async_nats::connect(url).await.unwrap())
    }

    async fn messages(&self) -> Vec<StreamMessage> {
        let mut stream = self.jetstream().await.get_stream("EVENTS").await.unwrap();
        let state = stream.info().await.unwrap().state.clone();
        let mut messages = Vec::new();
        for sequence in 1..=state.last_sequence {
            messages.push(stream.get_raw_message(sequence).await.unwrap());
        }
        messages
    }
}

impl Fixture for Nats {
    type Sink = JetStream;

    fn sink(&self) -> &JetStream {
        &self.sink
    }

    async fn received(&self) -> Vec<Received> {
        self.messages().await.iter().map(received).collect()
    }

    async fn stop(&self) {
        self.server.lock().unwrap().stop();
    }

    async fn start(&self) {
        self.server.lock().unwrap().launch().unwrap();
    }
}

fn headers(headers: &HeaderMap) -> Vec<(String, String)> {
    let each = headers.iter().flat_map(|(name, values)| {
        let name = name.to_string();
        values
            .iter()
            .map(move |value| (name.clone(), value.to_string()))
    });
    each.collect()
}

fn received(message: &StreamMessage) -> Received {
    let headers = headers(&message.headers);
    let value = |name: &str| {
        let found = headers.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.clone())
    };
    let attribute = |name: &str| {
        let value = value(name)?;
        Some(
            percent_decode_str(&value)
                .decode_utf8()
                .unwrap()
                .into_owned(),
        )
    };
    let id = Carrier::Nats.message_id(headers.iter().map(|(name, value)| (name, value)));
    Received {
        event_id: id.unwrap().unwrap().to_string().parse().unwrap(),
        topic: Some(message.subject.to_string()),
        key: attribute("ce-subject"),
        kind: attribute("ce-type"),
        content_type: value("content-type"),
        payload: message.payload.clone(),
        headers: Some(headers.into_iter().collect()),
    }
}

fn envelope(event: &Event) -> Envelope {
    let made = SystemTime::UNIX_EPOCH + Duration::from_secs(1_764_000_000);
    Envelope::of(event, 42, made)
}

async fn publish(sink: &JetStream, event: &Event) -> Result<Ack, SinkError> {
    let batch = [envelope(event)];
    let mut results = within("a message", sink.publish(&batch)).await;
    assert_eq!(results.len(), 1);
    results.remove(0)
}

#[tokio::test]
async fn jetstream_conforms() {
    suite(&Nats::start(&["conformance"]).await).await;
}

/// Once for the stream, and the relay is told.
#[tokio::test]
async fn a_repetition_is_known_by_the_stream() {
    let nats = Nats::start(&["shop.>"]).await;
    let url = nats.server.lock().unwrap().url();
    let sink = JetStream::to(&url, "/shop")
        .unwrap()
        .subject_prefix("shop.");
    let event = Event::new("payments", "clé")
        .kind("charged")
        .bytes("text/plain; charset=\"utf-8\"", "x")
        .header("tenant", "acme")
        .header("nats-msg-id", "not this")
        .header("outbox-seq", "nor this");
    for repeated in [false, true] {
        let ack = publish(&sink, &event).await.unwrap();
        assert_eq!(ack.is_duplicate(), repeated);
    }
    let messages = nats.messages().await;
    assert_eq!(messages.len(), 1);
    assert_eq!(messages[0].subject.as_str(), "shop.payments");
    let headers = headers(&messages[0].headers);
    for (name, value) in [
        ("Nats-Msg-Id", event.event_id().to_string().as_str()),
        ("Outbox-Seq", "42"),
        ("ce-specversion", "1.0"),
        ("ce-source", "/shop"),
        ("ce-subject", "cl%C3%A9"),
        ("ce-datacontenttype", "text/plain;%20charset=%22utf-8%22"),
        ("content-type", "text/plain; charset=\"utf-8\""),
        ("tenant", "acme"),
    ] {
        let header = (name.to_owned(), value.to_owned());
        assert!(headers.contains(&header), "{header:?} in {headers:?}");
    }
    let not_ours = headers.iter().filter(|(_, value)| value.ends_with("this"));
    assert_eq!(not_ours.count(), 0, "{headers:?}");
}

#[tokio::test]
async fn one_message_of_a_batch_fails_alone() {
    let nats = Nats::start(&["heard"]).await;
    let large = Event::unordered("heard").bytes("text/plain", vec![b'x'; 2 << 20]);
    let batch = [
        Event::unordered("heard"),
        Event::unordered("unheard"),
        Event::unordered("no subject"),
        large,
        Event::unordered("heard"),
    ]
    .map(|event| envelope(&event));
    let results = within("the batch", nats.sink.publish(&batch)).await;
    let dead = |result: &Result<Ack, SinkError>| result.as_ref().err().map(SinkError::is_dead);
    let dead: Vec<_> = results.iter().map(dead).collect();
    // Somebody may make a stream for the second.
    assert_eq!(dead, [None, Some(false), Some(true), Some(true), None]);
    assert_eq!(nats.messages().await.len(), 2);
}

#[tokio::test]
async fn a_frozen_server_is_given_up_and_found_again() {
    let nats = Nats::start(&["payments"]).await;
    let url = nats.server.lock().unwrap().url();
    let impatient = JetStream::to(&url, "/shop").unwrap();
    let impatient = impatient.time_limit(Duration::from_millis(500));
    let event = Event::new("payments", 1);
    publish(&impatient, &event).await.unwrap();
    nats.server.lock().unwrap().freeze();
    let error = publish(&impatient, &Event::new("payments", 2))
        .await
        .unwrap_err();
    assert!(!error.is_dead());
    nats.server.lock().unwrap().thaw();
    let taken = async { while publish(&impatient, &event).await.is_err() {} };
    within("the server", taken).await;
}

#[test]
fn a_url_that_is_none_is_refused_without_being_shown() {
    let error = JetStream::to("nats://u:secret@[", "/shop").unwrap_err();
    assert!(!format!("{error:?}").contains("secret"), "{error:?}");
}
