//! The sink for Redis streams, against a real server.

mod durability;
mod failover;
mod tls;

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use onlyonce_outbox::conformance::{Fixture, Received, suite};
use onlyonce_outbox::inbox::Carrier;
use onlyonce_outbox::sinks::RedisStreams;
use onlyonce_outbox::{Envelope, Event, Sink};
use onlyonce_test::event::within;
use onlyonce_test::redis::Server;
use redis::Client;

/// An entry's fields.
type Entry = BTreeMap<String, Vec<u8>>;
/// An entry as the server tells it: its id, and its fields in their order.
type Told = (String, Vec<(String, Vec<u8>)>);

struct Streams {
    sink: RedisStreams,
    server: Mutex<Server>,
}

impl Streams {
    fn start() -> Self {
        let server = Server::start().unwrap();
        Self {
            sink: RedisStreams::to(&server.url(), "/shop").unwrap(),
            server: Mutex::new(server),
        }
    }

    fn url(&self) -> String {
        self.server.lock().unwrap().url()
    }

    async fn entries(&self, stream: &str) -> Vec<Entry> {
        let client = Client::open(self.url()).unwrap();
        let mut connection = client.get_multiplexed_async_connection().await.unwrap();
        let mut range = redis::cmd("XRANGE");
        range.arg(stream).arg("-").arg("+");
        let entries: Vec<Told> = range.query_async(&mut connection).await.unwrap();
        let fields = entries.into_iter().map(|(_, fields)| fields);
        fields.map(Entry::from_iter).collect()
    }

    async fn run(&self, command: &[&str]) {
        let client = Client::open(self.url()).unwrap();
        let mut connection = client.get_multiplexed_async_connection().await.unwrap();
        let mut cmd = redis::cmd(command[0]);
        cmd.arg(&command[1..]);
        cmd.exec_async(&mut connection).await.unwrap();
    }
}

impl Fixture for Streams {
    type Sink = RedisStreams;

    fn sink(&self) -> &RedisStreams {
        &self.sink
    }

    async fn received(&self) -> Vec<Received> {
        self.entries("conformance")
            .await
            .iter()
            .map(received)
            .collect()
    }

    async fn stop(&self) {
        self.server.lock().unwrap().stop();
    }

    async fn start(&self) {
        self.server.lock().unwrap().launch().unwrap();
    }
}

fn received(entry: &Entry) -> Received {
    let text = |name: &str| {
        let value = entry.get(name)?.clone();
        Some(String::from_utf8(value).unwrap())
    };
    let headers = entry.keys().filter_map(|name| {
        let header = name.strip_prefix("header:")?;
        Some((header.to_owned(), text(name)?))
    });
    let id = Carrier::RedisStream.message_id(entry).unwrap().unwrap();
    Received {
        event_id: id.to_string().parse().unwrap(),
        topic: text("topic"),
        key: text("key"),
        kind: text("type"),
        content_type: text("content_type"),
        headers: Some(headers.collect()),
        payload: entry["payload"].clone().into(),
    }
}

fn envelope(event: &Event) -> Envelope {
    let made = SystemTime::UNIX_EPOCH + Duration::from_secs(1_764_000_000);
    Envelope::of(event, 42, made)
}

#[tokio::test]
async fn redis_streams_conform() {
    suite(&Streams::start()).await;
}

#[tokio::test]
async fn an_entry_says_all_that_is_known() {
    let mut streams = Streams::start();
    let url = streams.url();
    streams.sink = RedisStreams::to(&url, "/shop")
        .unwrap()
        .stream_prefix("shop:");
    let event = Event::new("payments", 1)
        .kind("charged")
        .header("tenant", "acme");
    let results = within("a batch", streams.sink.publish(&[envelope(&event)])).await;
    assert!(results[0].is_ok());
    let entries = streams.entries("shop:payments").await;
    let text = |value: &Vec<u8>| String::from_utf8(value.clone()).unwrap();
    let fields = entries[0].iter();
    let fields: BTreeMap<_, _> = fields.map(|(name, value)| (&**name, text(value))).collect();
    let expected = [
        ("event_id", event.event_id().to_string()),
        ("sequence", "42".into()),
        ("topic", "payments".into()),
        ("key", "1".into()),
        ("type", "charged".into()),
        ("content_type", "application/octet-stream".into()),
        ("source", "/shop".into()),
        ("time", "2025-11-24T16:00:00Z".into()),
        ("header:tenant", "acme".into()),
        ("payload", String::new()),
    ];
    assert_eq!(fields, BTreeMap::from(expected));
}

#[tokio::test]
async fn one_message_of_a_batch_fails_alone() {
    let streams = Streams::start();
    streams.run(&["SET", "taken", "no stream"]).await;
    let batch = ["good", "taken", "good"].map(|topic| envelope(&Event::unordered(topic)));
    let results = within("the batch", streams.sink.publish(&batch)).await;
    let taken: Vec<_> = results.iter().map(Result::is_ok).collect();
    assert_eq!(taken, [true, false, true]);
    // Somebody may put it right.
    assert!(!results[1].as_ref().unwrap_err().is_dead());
    assert_eq!(streams.entries("good").await.len(), 2);
}

#[tokio::test]
async fn a_stream_is_trimmed_where_that_is_asked_for() {
    let streams = Streams::start();
    let trimmed = RedisStreams::to(&streams.url(), "/shop")
        .unwrap()
        .length_max(100);
    for _ in 0..3 {
        let batch: Vec<_> = (0..1_000)
            .map(|_| envelope(&Event::unordered("many")))
            .collect();
        let results = within("a batch", trimmed.publish(&batch)).await;
        assert!(results.iter().all(Result::is_ok));
    }
    // About: whole nodes of the stream's tree go.
    assert!(streams.entries("many").await.len() < 300);
}

#[tokio::test]
async fn without_its_replicas_nothing_counts_as_taken() {
    let streams = Streams::start();
    let replicated = RedisStreams::to(&streams.url(), "/shop").unwrap();
    let replicated = replicated.replicas(1, Duration::from_millis(10));
    let batch = [1, 2].map(|key| envelope(&Event::new("payments", key)));
    for result in within("the batch", replicated.publish(&batch)).await {
        let error = result.unwrap_err();
        assert!(!error.is_dead());
        let cause = std::error::Error::source(&error).unwrap().to_string();
        assert!(cause.contains("0 replicas"), "{cause}");
    }
    let replica = Server::start().unwrap();
    let port = replica.addr().port().to_string();
    let primary = streams.server.lock().unwrap().addr().port().to_string();
    assert_ne!(port, primary);
    replica
        .run(&format!("REPLICAOF 127.0.0.1 {primary}"))
        .unwrap();
    let patient = RedisStreams::to(&streams.url(), "/shop").unwrap();
    let patient = patient
        .replicas(1, Duration::from_secs(1))
        .time_limit(Duration::from_secs(20));
    let taken = async { while patient.publish(&batch).await.iter().any(Result::is_err) {} };
    within("the replica", taken).await;
}

#[tokio::test]
async fn a_frozen_server_is_given_up_and_found_again() {
    let streams = Streams::start();
    let url = streams.url();
    let impatient = RedisStreams::to(&url, "/shop")
        .unwrap()
        .time_limit(Duration::from_millis(200));
    let batch = [envelope(&Event::new("payments", 1))];
    assert!(impatient.publish(&batch).await[0].is_ok());
    streams.server.lock().unwrap().freeze();
    let results = within("the time limit", impatient.publish(&batch)).await;
    assert!(!results[0].as_ref().unwrap_err().is_dead());
    streams.server.lock().unwrap().thaw();
    let taken = async { while impatient.publish(&batch).await[0].is_err() {} };
    within("the server", taken).await;
}

#[test]
fn a_url_that_is_none_is_refused_without_being_shown() {
    let error = RedisStreams::to("redis://:secret@[", "/shop").unwrap_err();
    assert!(!format!("{error:?}").contains("secret"), "{error:?}");
}
