//! Brokers, and what a consumer finds there.

use std::collections::BTreeMap;
use std::env;
use std::process::Command;
use std::time::{Duration, SystemTime};

use onlyonce_outbox::conformance::{Fixture, Received};
use onlyonce_outbox::inbox::Carrier;
use onlyonce_outbox::sinks::Kafka;
use onlyonce_outbox::{Ack, Envelope, Event, Sink, SinkError};
use onlyonce_test::event::within;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{Headers, Message, OwnedMessage};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use rdkafka::{Offset, TopicPartitionList};

/// As many as there are where a topic is made by its first message.
const PARTITIONS: i32 = 4;
const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) struct Cluster {
    sink: Kafka,
    brokers: Brokers,
}

enum Brokers {
    Own(MockCluster<'static, DefaultProducerContext>),
    /// The process `ONLYONCE_TEST_KAFKA_PID` is frozen where they are to be away.
    Named(String),
}

impl Cluster {
    pub(crate) fn start() -> Self {
        Self::of(Brokers::Own(MockCluster::new(3).unwrap()))
    }

    /// The brokers that the environment names, or else some of our own.
    pub(crate) fn named_or_own() -> Self {
        match env::var("ONLYONCE_TEST_KAFKA") {
            Ok(named) => Self::of(Brokers::Named(named)),
            Err(_) => Self::start(),
        }
    }

    fn of(brokers: Brokers) -> Self {
        let sink = sink(&brokers.servers());
        Self { sink, brokers }
    }

    pub(crate) fn mock(&self) -> &MockCluster<'static, DefaultProducerContext> {
        match &self.brokers {
            Brokers::Own(mock) => mock,
            Brokers::Named(_) => panic!("brokers of our own only"),
        }
    }

    /// Answers so many requests to produce with an error.
    pub(crate) fn fail(&self, error: RDKafkaRespErr, times: usize) {
        let errors = vec![error; times];
        self.mock().request_errors(RDKafkaApiKey::Produce, &errors);
    }

    /// Another sink to these brokers.
    pub(crate) fn another(&self) -> Kafka {
        sink(&self.brokers.servers())
    }

    /// How many a topic has.
    pub(crate) fn partitions(&self, topic: &str) -> i32 {
        partitions(&self.brokers.consumer(), topic)
    }

    /// All of a topic, partition by partition.
    pub(crate) fn messages(&self, topic: &str) -> Vec<OwnedMessage> {
        let consumer = self.brokers.consumer();
        let partitions = partitions(&consumer, topic);
        let mut all = TopicPartitionList::new();
        for partition in 0..partitions {
            let from = Offset::Beginning;
            all.add_partition_offset(topic, partition, from).unwrap();
        }
        consumer.assign(&all).unwrap();
        let (mut messages, mut ended) = (BTreeMap::new(), 0);
        while ended < partitions {
            match consumer.poll(PATIENCE).expect("an answer in time") {
                Ok(message) => {
                    let place = (message.partition(), message.offset());
                    messages.insert(place, message.detach());
                }
                Err(KafkaError::PartitionEOF(_)) => ended += 1,
                Err(error) => panic!("{error}"),
            }
        }
        messages.into_values().collect()
    }

    fn signal(&self, frozen: bool) {
        let process = env::var("ONLYONCE_TEST_KAFKA_PID").expect("the brokers' process");
        let signal = if frozen { "-STOP" } else { "-CONT" };
        let status = Command::new("kill").args([signal, &process]).status();
        assert!(status.unwrap().success());
    }
}

impl Fixture for Cluster {
    type Sink = Kafka;

    fn sink(&self) -> &Kafka {
        &self.sink
    }

    async fn received(&self) -> Vec<Received> {
        self.messages("conformance").iter().map(received).collect()
    }

    async fn stop(&self) {
        match &self.brokers {
            Brokers::Own(mock) => mock.broker_down(-1).unwrap(),
            Brokers::Named(_) => self.signal(true),
        }
    }

    async fn start(&self) {
        match &self.brokers {
            Brokers::Own(mock) => mock.broker_up(-1).unwrap(),
            Brokers::Named(_) => self.signal(false),
        }
    }
}

impl Brokers {
    fn servers(&self) -> String {
        match self {
            Self::Own(mock) => mock.bootstrap_servers(),
            Self::Named(named) => named.clone(),
        }
    }

    fn consumer(&self) -> BaseConsumer {
        ClientConfig::new()
            .set("bootstrap.servers", self.servers())
            .set("group.id", "tests")
            .set("enable.auto.commit", "false")
            .set("enable.partition.eof", "true")
            // How long a broker waits at the end of a partition.
            .set("fetch.wait.max.ms", "10")
            .create()
            .unwrap()
    }
}

fn partitions(consumer: &BaseConsumer, topic: &str) -> i32 {
    let metadata = consumer.fetch_metadata(Some(topic), PATIENCE).unwrap();
    i32::try_from(metadata.topics()[0].partitions().len()).unwrap()
}

fn sink(servers: &str) -> Kafka {
    let sink = Kafka::to(&format!("kafka://{servers}"), "/shop").unwrap();
    // The machine may be busy: a first message needs several answers.
    sink.time_limit(Duration::from_secs(10))
}

pub(crate) fn headers(message: &OwnedMessage) -> Vec<(String, String)> {
    let headers = message.headers().expect("headers").iter();
    let text = |value: &[u8]| String::from_utf8(value.to_vec()).unwrap();
    headers
        .map(|header| (header.key.to_owned(), text(header.value.expect("a value"))))
        .collect()
}

fn received(message: &OwnedMessage) -> Received {
    let headers = headers(message);
    let value = |name: &str| {
        let found = headers.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.clone())
    };
    let id = Carrier::Kafka.message_id(headers.iter().map(|(name, value)| (name, value)));
    let key = message
        .key()
        .map(|key| String::from_utf8(key.to_vec()).unwrap());
    assert_eq!(key, value("ce_subject"));
    Received {
        event_id: id.unwrap().unwrap().to_string().parse().unwrap(),
        topic: Some(message.topic().to_owned()),
        key,
        kind: value("ce_type"),
        content_type: value("content-type"),
        payload: message.payload().expect("no tombstone").to_vec().into(),
        headers: Some(headers.into_iter().collect()),
    }
}

pub(crate) fn envelope(event: &Event) -> Envelope {
    let made = SystemTime::UNIX_EPOCH + Duration::from_secs(1_764_000_000);
    Envelope::of(event, 42, made)
}

pub(crate) async fn publish(sink: &Kafka, events: &[Event]) -> Vec<Result<Ack, SinkError>> {
    let batch: Vec<_> = events.iter().map(envelope).collect();
    let results = within("the batch", sink.publish(&batch)).await;
    assert_eq!(results.len(), events.len());
    results
}

/// Of each message: taken (`None`), to be tried again (`false`), dead (`true`).
pub(crate) fn fates(results: &[Result<Ack, SinkError>]) -> Vec<Option<bool>> {
    let fate = |result: &Result<Ack, SinkError>| result.as_ref().err().map(SinkError::is_dead);
    results.iter().map(fate).collect()
}

/// A topic of our own, also where the brokers are not.
pub(crate) fn topic(cluster: &Cluster, name: &str) -> String {
    match &cluster.brokers {
        Brokers::Own(mock) => {
            mock.create_topic(name, PARTITIONS, 1).unwrap();
            name.to_owned()
        }
        Brokers::Named(_) => {
            let id = *Event::unordered("any").event_id().as_bytes();
            format!("{name}-{}", u128::from_be_bytes(id))
        }
    }
}
