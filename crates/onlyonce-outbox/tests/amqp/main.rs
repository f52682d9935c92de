//! The sink for AMQP 0-9-1, against a real RabbitMQ.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicGetOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Connection, ConnectionProperties};
use onlyonce_outbox::conformance::{Fixture, Received, suite};
use onlyonce_outbox::inbox::Carrier;
use onlyonce_outbox::sinks::Amqp;
use onlyonce_outbox::{Envelope, Event, Sink};
use onlyonce_test::event::within;
use onlyonce_test::rabbitmq::Server;

struct Broker {
    sink: Amqp,
    server: Mutex<Server>,
    received: Mutex<Vec<Received>>,
}

impl Broker {
    /// With a queue of this name.
    async fn start(queue: &str) -> Self {
        let server = Server::start().unwrap();
        let broker = Self {
            sink: Amqp::to(&server.url(), "/shop").unwrap(),
            server: Mutex::new(server),
            received: Mutex::default(),
        };
        let (connection, channel) = broker.channel().await;
        let (durable, none) = (QueueDeclareOptions::durable(), FieldTable::default());
        let declared = channel.queue_declare(queue.into(), durable, none).await;
        declared.unwrap();
        drop(connection);
        broker
    }

    fn url(&self) -> String {
        self.server.lock().unwrap().url()
    }

    async fn channel(&self) -> (Connection, Channel) {
        let properties = ConnectionProperties::default();
        let connection = Connection::connect(&self.url(), properties).await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        (connection, channel)
    }

    /// Takes what is in the queue out of it.
    async fn drain(&self, queue: &str) -> Vec<Delivery> {
        let (_connection, channel) = self.channel().await;
        let mut drained = Vec::new();
        loop {
            let got = channel.basic_get(queue.into(), BasicGetOptions::default());
            let Some(message) = got.await.unwrap() else {
                return drained;
            };
            let acked = message.delivery.ack(BasicAckOptions::default()).await;
            acked.unwrap();
            drained.push(message.delivery);
        }
    }
}

impl Fixture for Broker {
    type Sink = Amqp;

    fn sink(&self) -> &Amqp {
        &self.sink
    }

    async fn received(&self) -> Vec<Received> {
        let drained = self.drain("conformance").await;
        let mut all = self.received.lock().unwrap();
        all.extend(drained.iter().map(received));
        all.clone()
    }

    async fn stop(&self) {
        // What is still in the queue is there afterwards.
        self.server.lock().unwrap().stop();
    }

    async fn start(&self) {
        self.server.lock().unwrap().launch().unwrap();
    }
}

fn headers(delivery: &Delivery) -> BTreeMap<String, String> {
    let table = delivery.properties.headers().as_ref().unwrap();
    let text = |value: &AMQPValue| match value {
        AMQPValue::LongString(text) => String::from_utf8(text.as_bytes().to_vec()).unwrap(),
        other => panic!("no text: {other:?}"),
    };
    let each = table.inner().iter();
    each.map(|(name, value)| (name.to_string(), text(value)))
        .collect()
}

fn received(delivery: &Delivery) -> Received {
    let headers = headers(delivery);
    let properties = &delivery.properties;
    let message_id = properties.message_id().as_ref().unwrap().to_string();
    let id = Carrier::Amqp.message_id([("message_id", &message_id)]);
    Received {
        event_id: id.unwrap().unwrap().to_string().parse().unwrap(),
        topic: Some(delivery.routing_key.to_string()),
        key: headers.get("cloudEvents:subject").cloned(),
        kind: properties.kind().as_ref().map(ToString::to_string),
        content_type: properties.content_type().as_ref().map(ToString::to_string),
        headers: Some(headers),
        payload: delivery.data.clone().into(),
    }
}

fn envelope(event: &Event) -> Envelope {
    let made = SystemTime::UNIX_EPOCH + Duration::from_secs(1_764_000_000);
    Envelope::of(event, 42, made)
}

#[tokio::test]
async fn amqp_conforms() {
    suite(&Broker::start("conformance").await).await;
}

#[tokio::test]
async fn what_no_queue_gets_does_not_count_as_taken() {
    let broker = Broker::start("payments").await;
    let batch = ["payments", "nowhere", "payments"]
        .map(|topic| envelope(&Event::new(topic, "clé").kind("charged")));
    let results = within("the batch", broker.sink.publish(&batch)).await;
    let taken: Vec<_> = results.iter().map(Result::is_ok).collect();
    assert_eq!(taken, [true, false, true]);
    let error = results[1].as_ref().unwrap_err();
    // Somebody may bind a queue.
    assert!(!error.is_dead());
    let cause = std::error::Error::source(error).unwrap().to_string();
    assert!(cause.contains("no queue"), "{cause}");
    let drained = broker.drain("payments").await;
    assert_eq!(drained.len(), 2);
    let properties = &drained[0].properties;
    assert_eq!(*properties.delivery_mode(), Some(2));
    assert_eq!(*properties.timestamp(), Some(1_764_000_000));
    let headers = headers(&drained[0]);
    for (name, value) in [
        ("cloudEvents:specversion", "1.0"),
        ("cloudEvents:source", "/shop"),
        ("cloudEvents:subject", "clé"),
        ("cloudEvents:type", "charged"),
        ("outbox-seq", "42"),
    ] {
        assert_eq!(headers.get(name).map(String::as_str), Some(value), "{name}");
    }
}

/// The broker closes the channel; the next publish opens another.
#[tokio::test]
async fn an_exchange_that_is_missing_is_no_end() {
    let broker = Broker::start("payments").await;
    let lost = Amqp::to(&broker.url(), "/shop")
        .unwrap()
        .exchange("missing");
    let batch = [envelope(&Event::unordered("payments"))];
    for _ in 0..2 {
        let results = within("the batch", lost.publish(&batch)).await;
        assert!(!results[0].as_ref().unwrap_err().is_dead());
    }
    let (connection, channel) = broker.channel().await;
    let declared = channel.exchange_declare(
        "missing".into(),
        lapin::ExchangeKind::Fanout,
        lapin::options::ExchangeDeclareOptions::default(),
        FieldTable::default(),
    );
    declared.await.unwrap();
    let bound = channel.queue_bind(
        "payments".into(),
        "missing".into(),
        "".into(),
        lapin::options::QueueBindOptions::default(),
        FieldTable::default(),
    );
    bound.await.unwrap();
    drop(connection);
    let results = within("the batch", lost.publish(&batch)).await;
    assert!(results[0].is_ok(), "{results:?}");
}

#[test]
fn a_url_that_is_none_is_refused_without_being_shown() {
    let error = Amqp::to("amqp://u:secret@[", "/shop").unwrap_err();
    assert!(!format!("{error:?}").contains("secret"), "{error:?}");
}
