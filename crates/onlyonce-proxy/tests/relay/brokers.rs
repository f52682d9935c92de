//! Brokers as sinks: what the settings say of them arrives where it should.

#[cfg(feature = "kafka")]
use std::time::Duration;

#[cfg(feature = "nats")]
use onlyonce_test::nats;
#[cfg(feature = "amqp")]
use onlyonce_test::rabbitmq;
use onlyonce_test::redis;

use crate::fixture::{Shop, payment};

/// Two events of a key, to a broker; the relay says nothing but that they are delivered.
async fn deliver(sink: &str, setting: (&str, &str)) {
    let mut shop = Shop::new().await;
    let mut relay = shop.relay(sink).env(setting.0, setting.1).spawn();
    shop.commit(&[payment("a", 1), payment("a", 2)]).await;
    shop.status_is("all to be delivered", |sink| {
        sink["relays"] == 1 && sink["undelivered"] == 0 && sink["retrying"] == 0
    })
    .await;
    assert!(relay.terminate().await.success());
}

#[tokio::test]
async fn events_are_entries_of_redis_streams() {
    let server = redis::Server::start().expect("a Redis of our own");
    deliver(&server.url(), ("ONLYONCE__RELAY__TOPIC_PREFIX", "shop:")).await;
    let client = ::redis::Client::open(server.url()).expect("a URL");
    let connection = client.get_multiplexed_async_connection().await;
    let mut connection = connection.expect("connected");
    let mut length = ::redis::cmd("XLEN");
    let length = length.arg("shop:payments").query_async(&mut connection);
    let length: u32 = length.await.expect("answered");
    assert_eq!(length, 2);
}

/// By the authority that the settings name.
#[tokio::test]
async fn a_redis_is_spoken_to_by_tls() {
    let issued = rcgen::generate_simple_self_signed(["localhost".to_owned()]);
    let issued = issued.expect("a certificate");
    let (certificate, key) = (issued.cert.pem(), issued.signing_key.serialize_pem());
    let server = redis::Server::start_with_tls(&certificate, &key).expect("a Redis of our own");
    let authority = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(authority.path(), certificate).expect("written");
    let path = authority.path().display().to_string();
    let port = server.tls_port().expect("it speaks TLS");
    let sink = format!("rediss://localhost:{port}");
    deliver(&sink, ("ONLYONCE__RELAY__CA_FILE", &path)).await;
    let length = server.run("XLEN payments").expect("answered");
    assert!(length.starts_with(":2"), "{length}");
}

#[cfg(feature = "nats")]
#[tokio::test]
async fn events_are_messages_of_a_jetstream() {
    let server = nats::Server::start().expect("a NATS of our own");
    let client = async_nats::connect(server.url()).await.expect("connected");
    let config = async_nats::jetstream::stream::Config {
        name: "EVENTS".to_owned(),
        subjects: vec!["shop.payments".to_owned()],
        ..async_nats::jetstream::stream::Config::default()
    };
    let stream = async_nats::jetstream::new(client)
        .create_stream(config)
        .await;
    let mut stream = stream.expect("a stream");
    deliver(&server.url(), ("ONLYONCE__RELAY__TOPIC_PREFIX", "shop.")).await;
    let info = stream.info().await.expect("answered");
    assert_eq!(info.state.messages, 2);
}

#[cfg(feature = "amqp")]
#[tokio::test]
async fn events_are_messages_in_the_queue_of_their_topic() {
    use lapin::options::{BasicGetOptions, QueueDeclareOptions};
    use lapin::types::FieldTable;
    use lapin::{Connection, ConnectionProperties};

    let server = rabbitmq::Server::start().expect("a RabbitMQ of our own");
    let properties = ConnectionProperties::default();
    let connection = Connection::connect(&server.url(), properties).await;
    let connection = connection.expect("connected");
    let channel = connection.create_channel().await.expect("a channel");
    let (durable, none) = (QueueDeclareOptions::durable(), FieldTable::default());
    let queue = channel
        .queue_declare("payments".into(), durable, none)
        .await;
    queue.expect("a queue");
    deliver(&server.url(), ("ONLYONCE__RELAY__EXCHANGE", "")).await;
    for number in [&b"1"[..], b"2"] {
        let got = channel.basic_get("payments".into(), BasicGetOptions::default());
        let message = got.await.expect("answered").expect("a message");
        assert_eq!(message.delivery.data, number);
    }
}

/// The brokers are those that come with the client, for tests.
#[cfg(feature = "kafka")]
#[tokio::test]
async fn events_are_messages_of_a_kafka_topic() {
    use rdkafka::consumer::{BaseConsumer, Consumer};
    use rdkafka::mocking::MockCluster;
    use rdkafka::{ClientConfig, Message, Offset, TopicPartitionList};

    let brokers = MockCluster::new(1).expect("brokers of our own");
    let servers = brokers.bootstrap_servers();
    let made = brokers.create_topic("shop.payments", 1, 1);
    made.expect("a topic");
    let sink = format!("kafka://{servers}");
    deliver(&sink, ("ONLYONCE__RELAY__TOPIC_PREFIX", "shop.")).await;
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", servers)
        .set("group.id", "tests")
        .create()
        .expect("a consumer");
    let mut all = TopicPartitionList::new();
    let from = all.add_partition_offset("shop.payments", 0, Offset::Beginning);
    from.and_then(|()| consumer.assign(&all)).expect("assigned");
    for number in [&b"1"[..], b"2"] {
        let message = consumer.poll(Duration::from_secs(10)).expect("in time");
        let message = message.expect("a message");
        assert_eq!(message.payload(), Some(number));
    }
}
