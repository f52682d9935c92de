//! One key, one partition, one order.

use onlyonce_outbox::Event;
use rdkafka::message::Message;
use rdkafka::types::RDKafkaRespErr::{
    RD_KAFKA_RESP_ERR__TRANSPORT, RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS,
    RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS_AFTER_APPEND, RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION,
    RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT,
};

use crate::cluster::{Cluster, fates, headers, publish, topic};

/// The hashes are from the tests of Kafka's own.
#[tokio::test]
async fn keys_are_spread_as_javas_producer_does_it() {
    let cluster = Cluster::named_or_own();
    let topic = topic(&cluster, "spread");
    let hashes: [(&str, i32); 5] = [
        ("21", -973_932_308),
        ("foobar", -790_332_482),
        ("a-little-bit-long-string", -985_981_536),
        ("a-little-bit-longer-string", -1_486_304_829),
        ("abc", 479_470_107),
    ];
    for sink in [cluster.another(), cluster.another()] {
        let events = hashes.map(|(key, _)| Event::new(&*topic, key));
        assert_eq!(fates(&publish(&sink, &events).await), [None; 5]);
    }
    let messages = cluster.messages(&topic);
    assert_eq!(messages.len(), 10);
    let partitions = cluster.partitions(&topic);
    for message in messages {
        let key = std::str::from_utf8(message.key().unwrap()).unwrap();
        let (_, hash) = hashes.iter().find(|(known, _)| *known == key).unwrap();
        assert_eq!(message.partition(), (hash & i32::MAX) % partitions, "{key}");
    }
}

/// Whatever the brokers say meanwhile, each is there once, before the next. One request at a time: these brokers do not
/// compare the sequence numbers by which real ones refuse what overtakes.
#[tokio::test]
async fn a_key_keeps_its_order_through_failures() {
    let cluster = Cluster::start();
    let topic = topic(&cluster, "ordered");
    let sink = cluster.another();
    let errors = [
        RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION,
        RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT,
        RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS,
        RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS_AFTER_APPEND,
        RD_KAFKA_RESP_ERR__TRANSPORT,
    ];
    let mut sent = Vec::new();
    for number in 0..20 {
        cluster.fail(errors[number % errors.len()], 1);
        let event = Event::new(&*topic, "one").header("number", number.to_string());
        assert_eq!(fates(&publish(&sink, &[event]).await), [None]);
        sent.push(("number".to_owned(), number.to_string()));
    }
    let messages = cluster.messages(&topic);
    let numbers: Vec<_> = messages
        .iter()
        .map(|message| headers(message)[0].clone())
        .collect();
    assert_eq!(numbers, sent);
}
