//! What fails, for how long, and alone.

use std::error::Error as _;
use std::slice::from_ref;
use std::time::Duration;

use onlyonce_outbox::sinks::Kafka;
use onlyonce_outbox::{Event, Sink};
use onlyonce_test::event::within;
use rdkafka::types::RDKafkaRespErr::{
    RD_KAFKA_RESP_ERR_INVALID_RECORD, RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE,
    RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER, RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED,
    RD_KAFKA_RESP_ERR_TOPIC_EXCEPTION,
};

use crate::cluster::{Cluster, envelope, fates, headers, publish, topic};

fn events(topic: &str, count: usize) -> Vec<Event> {
    (0..count).map(|key| Event::new(topic, key)).collect()
}

#[tokio::test]
async fn one_message_of_a_batch_fails_alone() {
    let cluster = Cluster::named_or_own();
    let topic = topic(&cluster, "alone");
    let large = Event::new(&*topic, 1).bytes("text/plain", vec![b'x'; 2 << 20]);
    let batch = [
        Event::new(&*topic, 0),
        large,
        Event::unordered("no topic"),
        Event::new(&*topic, 2),
    ];
    let results = publish(&cluster.another(), &batch).await;
    assert_eq!(fates(&results), [None, Some(true), Some(true), None]);
    assert_eq!(cluster.messages(&topic).len(), 2);
}

/// The client puts messages together, and a broker may take less at a time than the client thinks.
#[tokio::test]
async fn a_batch_that_is_too_large_for_the_broker_is_sent_one_by_one() {
    let cluster = Cluster::start();
    let topic = topic(&cluster, "together");
    let sink = cluster.another();
    assert_eq!(fates(&publish(&sink, &events(&topic, 1)).await), [None]);
    cluster.fail(RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE, 1);
    assert_eq!(fates(&publish(&sink, &events(&topic, 5)).await), [None; 5]);
    // All the first ones, and one by one the first of those.
    let batch = [Event::new(&*topic, "x")];
    cluster.fail(RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE, 2);
    assert_eq!(fates(&publish(&sink, &batch).await), [Some(true)]);
    assert_eq!(cluster.messages(&topic).len(), 6);
}

#[tokio::test]
async fn what_may_be_put_right_is_tried_again() {
    let cluster = Cluster::start();
    let topic = topic(&cluster, "refused");
    for (error, dead) in [
        (RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED, false),
        (RD_KAFKA_RESP_ERR_TOPIC_EXCEPTION, true),
        (RD_KAFKA_RESP_ERR_INVALID_RECORD, true),
    ] {
        let sink = cluster.another();
        cluster.fail(error, 1);
        let results = publish(&sink, &events(&topic, 1)).await;
        assert_eq!(fates(&results), [Some(dead)], "{error:?}");
    }
}

/// An acknowledgement that does not come: the event may be there, and comes again under its id.
#[tokio::test]
async fn an_acknowledgement_that_is_late_is_none() {
    let cluster = Cluster::start();
    let topic = topic(&cluster, "late");
    let sink = cluster.another().time_limit(Duration::from_secs(2));
    let until_taken = async |event: &Event| {
        let taken = async { while fates(&publish(&sink, from_ref(event)).await) != [None] {} };
        within("the brokers", taken).await;
    };
    let delay = |delay| cluster.mock().broker_round_trip_time(-1, delay).unwrap();
    until_taken(&Event::new(&*topic, 1)).await;
    delay(Duration::from_secs(30));
    let late = Event::new(&*topic, 1);
    let results = publish(&sink, from_ref(&late)).await;
    assert_eq!(fates(&results), [Some(false)]);
    delay(Duration::ZERO);
    until_taken(&late).await;
    let id = ("ce_id".to_owned(), late.event_id().to_string());
    let messages = cluster.messages(&topic);
    let repeated = messages
        .iter()
        .filter(|message| headers(message).contains(&id));
    assert!(repeated.count() >= 2);
}

#[tokio::test]
async fn brokers_that_are_away_are_named() {
    let cluster = Cluster::start();
    let sink = cluster.another().time_limit(Duration::from_secs(2));
    cluster.mock().broker_down(-1).unwrap();
    let results = publish(&sink, &[Event::new("any", 1)]).await;
    let error = results[0].as_ref().unwrap_err();
    assert!(!error.is_dead());
    let cause = error.source().unwrap().to_string();
    assert!(cause.contains("127.0.0.1"), "{cause}");
}

/// The client says that it can do nothing more: another one can.
#[tokio::test]
async fn a_client_that_has_ended_is_replaced() {
    let cluster = Cluster::start();
    let topic = topic(&cluster, "fatal");
    let sink = cluster.another();
    cluster.fail(RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER, 1);
    let event = Event::new(&*topic, 1);
    assert_eq!(
        fates(&publish(&sink, from_ref(&event)).await),
        [Some(false)]
    );
    assert_eq!(fates(&publish(&sink, &[event]).await), [None]);
}

/// A relay's time is over: it goes on with others, and the client is told nothing more.
#[tokio::test]
async fn a_sink_is_dropped_while_its_client_waits() {
    let cluster = Cluster::start();
    let sink = cluster.another();
    cluster.mock().broker_down(-1).unwrap();
    let batch = [envelope(&Event::new("any", 1))];
    let publishing = tokio::time::timeout(Duration::from_millis(50), sink.publish(&batch));
    assert!(publishing.await.is_err());
    drop(sink);
}

#[test]
fn a_url_that_is_none_is_refused_without_being_shown() {
    let error = Kafka::to("kafka://u:s3cret@k", "/shop").unwrap_err();
    assert!(!format!("{error:?}").contains("s3cret"), "{error:?}");
}
