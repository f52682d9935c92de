//! The suite that every [`Sink`] must pass: call [`suite`] from a test of the sink, against the
//! real thing.
//!
//! It panics with what went wrong. A [`Fixture`] says how to read what the receiver got, and how to take the
//! receiver away and bring it back.
//!
//! ```
//! use std::time::SystemTime;
//! use bytes::Bytes;
//! use onlyonce_outbox::conformance::{Fixture, Received, suite};
//! use onlyonce_outbox::{Ack, Envelope, Sink, SinkError};
//! use tokio::sync::watch;
//!
//! /// A receiver in memory, which can be away.
//! struct Shelf {
//!     there: watch::Sender<bool>,
//!     taken: watch::Sender<Vec<Received>>,
//! }
//!
//! impl Sink for Shelf {
//!     fn name(&self) -> &str {
//!         "shelf"
//!     }
//!
//!     async fn publish(&self, batch: &[Envelope]) -> Vec<Result<Ack, SinkError>> {
//!         let take = |envelope: &Envelope| {
//!             if !*self.there.borrow() {
//!                 return Err(SinkError::retryable("the shelf is away"));
//!             }
//!             self.taken.send_modify(|taken| taken.push(received(envelope)));
//!             Ok(Ack::default())
//!         };
//!         batch.iter().map(take).collect()
//!     }
//! }
//!
//! impl Fixture for Shelf {
//!     type Sink = Self;
//!
//!     fn sink(&self) -> &Self {
//!         self
//!     }
//!
//!     async fn received(&self) -> Vec<Received> {
//!         self.taken.borrow().clone()
//!     }
//!
//!     async fn stop(&self) {
//!         self.there.send_replace(false);
//!     }
//!
//!     async fn start(&self) {
//!         self.there.send_replace(true);
//!     }
//! }
//!
//! # fn received(envelope: &Envelope) -> Received {
//! #     Received {
//! #         event_id: envelope.event_id,
//! #         topic: Some(envelope.topic.clone()),
//! #         key: envelope.key.clone(),
//! #         kind: Some(envelope.kind.clone()),
//! #         content_type: Some(envelope.content_type.clone()),
//! #         headers: Some(envelope.headers.clone()),
//! #         payload: envelope.payload.clone(),
//! #     }
//! # }
//! # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
//! suite(&Shelf { there: watch::Sender::new(true), taken: watch::Sender::default() }).await;
//! # });
//! ```

use std::collections::BTreeMap;
use std::future::Future;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use uuid::Uuid;

use crate::envelope::Envelope;
use crate::event::Event;
use crate::sink::{Ack, Sink, SinkError};

/// How long a sink may take to answer, whatever happened to its receiver.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// A message as its receiver got it. What the protocol has no room for is left out (`None`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    /// By which it knows repetitions.
    pub event_id: Uuid,
    /// The topic, or what the sink makes of it, turned back.
    pub topic: Option<String>,
    /// The key.
    pub key: Option<String>,
    /// The kind.
    pub kind: Option<String>,
    /// The media type.
    pub content_type: Option<String>,
    /// The event's own headers, and whatever others there are.
    pub headers: Option<BTreeMap<String, String>>,
    /// The payload.
    pub payload: Bytes,
}

/// A sink with its receiver.
pub trait Fixture {
    /// The sink.
    type Sink: Sink;

    /// The sink, which publishes to the receiver.
    fn sink(&self) -> &Self::Sink;

    /// All that the receiver got so far, in order.
    fn received(&self) -> impl Future<Output = Vec<Received>>;

    /// Takes the receiver away: it cannot be reached. What it got stays.
    fn stop(&self) -> impl Future<Output = ()>;

    /// Brings it back, at the same address.
    fn start(&self) -> impl Future<Output = ()>;
}

/// Runs the whole suite.
///
/// # Panics
/// With what the sink does wrong.
pub async fn suite(fixture: &impl Fixture) {
    a_name_is_stable(fixture);
    an_empty_batch_has_no_results(fixture).await;
    everything_arrives_as_it_was(fixture).await;
    a_full_batch_arrives_with_a_result_for_each(fixture).await;
    batches_keep_their_order(fixture).await;
    a_repetition_is_known_by_its_id(fixture).await;
    a_publish_that_is_dropped_does_no_harm(fixture).await;
    nothing_is_taken_while_the_receiver_is_away(fixture).await;
}

fn a_name_is_stable(fixture: &impl Fixture) {
    let sink = fixture.sink();
    assert!(!sink.name().is_empty(), "a sink has a name");
    assert_eq!(sink.name(), sink.name());
    assert!(
        sink.batch_max() >= 1,
        "a sink takes at least one message at a time"
    );
}

async fn an_empty_batch_has_no_results(fixture: &impl Fixture) {
    assert!(publish(fixture, &[]).await.is_empty());
}

async fn everything_arrives_as_it_was(fixture: &impl Fixture) {
    let every_byte: Vec<u8> = (0..=255).collect();
    let events = [
        Event::new("conformance", "plain")
            .kind("made")
            .bytes("application/json", "{\"n\":1}"),
        Event::new("conformance", "bytes")
            .kind("made")
            .bytes("application/octet-stream", every_byte),
        Event::new("conformance", "empty")
            .kind("made")
            .bytes("text/plain", Bytes::new()),
        Event::new("conformance", "clé/ключ 鍵 \"quoted\" %41")
            .kind("a.b-c")
            .bytes("text/plain", "x"),
        Event::new("conformance", "headers")
            .header("traceparent", "00-ab-cd-01")
            .header("tenant", "acme, inc."),
        Event::unordered("conformance")
            .kind("made")
            .bytes("text/plain", "no key"),
        Event::new("conformance", "large")
            .kind("made")
            .bytes("text/plain", vec![b'x'; 100_000]),
    ];
    let batch = envelopes(&events, 1);
    all_taken(&publish(fixture, &batch).await, batch.len());
    for envelope in &batch {
        let received = sent_as(fixture, envelope).await;
        let got = received
            .first()
            .unwrap_or_else(|| panic!("{envelope:?} did not arrive"));
        assert_eq!(
            got.payload, envelope.payload,
            "the payload of {:?}",
            envelope.key
        );
        let same = |got: &Option<String>, sent: &str, what: &str| {
            if let Some(got) = got {
                assert_eq!(got, sent, "the {what} of {:?}", envelope.key);
            }
        };
        same(&got.topic, &envelope.topic, "topic");
        same(&got.kind, &envelope.kind, "kind");
        same(&got.content_type, &envelope.content_type, "content type");
        if got.key.is_some() {
            assert_eq!(got.key, envelope.key, "the key");
        }
        for (name, value) in &envelope.headers {
            if let Some(headers) = &got.headers {
                assert_eq!(headers.get(name), Some(value), "the header {name}");
            }
        }
    }
}

async fn a_full_batch_arrives_with_a_result_for_each(fixture: &impl Fixture) {
    let count = fixture.sink().batch_max().min(1_000);
    let events: Vec<_> = (0..count).map(|n| sample(&format!("full-{n}"))).collect();
    let batch = envelopes(&events, 100);
    all_taken(&publish(fixture, &batch).await, count);
    let received = fixture.received().await;
    for envelope in &batch {
        let arrived = received.iter().any(|got| got.event_id == envelope.event_id);
        assert!(
            arrived,
            "a message of a full batch did not arrive: {:?}",
            envelope.key
        );
    }
}

/// A batch that was confirmed is before one that was begun later.
async fn batches_keep_their_order(fixture: &impl Fixture) {
    let events: Vec<_> = (0..5).map(|_| sample("in-order")).collect();
    let batch = envelopes(&events, 10_000);
    for envelope in &batch {
        all_taken(&publish(fixture, std::slice::from_ref(envelope)).await, 1);
    }
    let received = fixture.received().await;
    let place = |envelope: &Envelope| {
        received
            .iter()
            .position(|got| got.event_id == envelope.event_id)
    };
    let places: Vec<_> = batch.iter().map(place).collect();
    assert!(
        places.iter().all(Option::is_some),
        "not all arrived: {places:?}"
    );
    assert!(places.is_sorted(), "later batches came first: {places:?}");
}

async fn a_repetition_is_known_by_its_id(fixture: &impl Fixture) {
    let mut batch = envelopes(&[sample("repeated")], 20_000);
    all_taken(&publish(fixture, &batch).await, 1);
    batch[0].attempt += 1;
    all_taken(&publish(fixture, &batch).await, 1);
    let received = sent_as(fixture, &batch[0]).await;
    assert!(!received.is_empty(), "a repeated message did not arrive");
    assert!(received.iter().all(|got| got.payload == batch[0].payload));
}

async fn a_publish_that_is_dropped_does_no_harm(fixture: &impl Fixture) {
    for polls in 1..6 {
        let events: Vec<_> = (0..3)
            .map(|n| sample(&format!("dropped-{polls}-{n}")))
            .collect();
        let batch = envelopes(&events, 30_000);
        {
            let mut publishing = std::pin::pin!(fixture.sink().publish(&batch));
            for _ in 0..polls {
                let ready = std::future::poll_fn(|context| {
                    std::task::Poll::Ready(publishing.as_mut().poll(context).is_ready())
                });
                if ready.await {
                    break;
                }
                tokio::task::yield_now().await;
            }
        }
        let after = envelopes(&[sample("after-a-dropped-one")], 30_010);
        all_taken(&publish(fixture, &after).await, 1);
        let received = sent_as(fixture, &after[0]).await;
        assert_eq!(
            received.len(),
            1,
            "a message after a dropped publish did not arrive once"
        );
        assert_eq!(received[0].payload, after[0].payload);
    }
}

async fn nothing_is_taken_while_the_receiver_is_away(fixture: &impl Fixture) {
    let events: Vec<_> = (0..3).map(|n| sample(&format!("away-{n}"))).collect();
    let batch = envelopes(&events, 40_000);
    fixture.stop().await;
    let results = publish(fixture, &batch).await;
    assert_eq!(
        results.len(),
        batch.len(),
        "a result for each message, also without a receiver"
    );
    for result in results {
        match result {
            Ok(_) => panic!("a message was said to be taken by a receiver that is away"),
            Err(error) => assert!(
                !error.is_dead(),
                "a receiver that is away may come back: {error:?}"
            ),
        }
    }
    fixture.start().await;
    // A connection that broke may be noticed by the first publish after it.
    let mut tries = 0;
    while publish(fixture, &batch).await.iter().any(Result::is_err) {
        tries += 1;
        assert!(tries < 50, "the receiver is back, and messages still fail");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    for envelope in &batch {
        assert!(
            !sent_as(fixture, envelope).await.is_empty(),
            "{:?} did not arrive",
            envelope.key
        );
    }
}

async fn publish(fixture: &impl Fixture, batch: &[Envelope]) -> Vec<Result<Ack, SinkError>> {
    let publishing = fixture.sink().publish(batch);
    match tokio::time::timeout(ANSWER_MAX, publishing).await {
        Ok(results) => results,
        Err(_) => panic!("the sink did not answer within {} s", ANSWER_MAX.as_secs()),
    }
}

async fn sent_as(fixture: &impl Fixture, envelope: &Envelope) -> Vec<Received> {
    let received = fixture.received().await.into_iter();
    received
        .filter(|got| got.event_id == envelope.event_id)
        .collect()
}

fn all_taken(results: &[Result<Ack, SinkError>], count: usize) {
    assert_eq!(results.len(), count, "a result for each message");
    for result in results {
        if let Err(error) = result {
            let cause = std::error::Error::source(error).map(ToString::to_string);
            panic!("not taken: {error}: {cause:?}");
        }
    }
}

fn sample(key: &str) -> Event {
    Event::new("conformance", key)
        .kind("made")
        .bytes("text/plain", format!("payload of {key}"))
}

fn envelopes(events: &[Event], first: i64) -> Vec<Envelope> {
    let made_at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    let numbered = (first..).zip(events);
    numbered
        .map(|(number, event)| Envelope::of(event, number, made_at))
        .collect()
}
