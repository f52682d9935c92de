//! What a consumer gets.

use std::collections::BTreeMap;
use std::slice::from_ref;

use onlyonce_outbox::Event;
use onlyonce_outbox::conformance::suite;
use rdkafka::message::Message;

use crate::cluster::{Cluster, fates, headers, publish, topic};

#[tokio::test]
async fn kafka_conforms() {
    suite(&Cluster::named_or_own()).await;
}

/// Each header once, as the binding of CloudEvents for Kafka has it in binary mode.
#[tokio::test]
async fn a_message_says_all_that_is_known() {
    let cluster = Cluster::named_or_own();
    let prefixed = format!("shop.{}", topic(&cluster, "payments"));
    if prefixed == "shop.payments" {
        topic(&cluster, &prefixed);
    }
    let sink = cluster.another().topic_prefix("shop.");
    let event = Event::new(prefixed.trim_start_matches("shop."), "clé %")
        .kind("charged")
        .header("tenant", "acmé")
        .header("ce_id", "not this")
        .header("content-type", "not/this")
        .bytes("application/json", "{}");
    assert_eq!(fates(&publish(&sink, from_ref(&event)).await), [None]);
    let messages = cluster.messages(&prefixed);
    let message = &messages[0];
    assert_eq!(message.key(), Some("clé %".as_bytes()));
    assert_eq!(message.payload(), Some(&b"{}"[..]));
    let headers = headers(message);
    let id = event.event_id().to_string();
    let expected = BTreeMap::from([
        ("tenant", "acmé"),
        ("ce_specversion", "1.0"),
        ("ce_id", &id),
        ("ce_source", "/shop"),
        ("ce_type", "charged"),
        ("ce_sequence", "00000000000000000042"),
        ("ce_time", "2025-11-24T16:00:00Z"),
        ("ce_subject", "clé %"),
        ("ce_partitionkey", "clé %"),
        ("content-type", "application/json"),
        ("outbox-seq", "42"),
    ]);
    assert_eq!(headers.len(), expected.len(), "{headers:?}");
    let headers: BTreeMap<_, _> = headers
        .iter()
        .map(|(name, value)| (&**name, &**value))
        .collect();
    assert_eq!(headers, expected);
}

/// Where no key is, none is sent, and nothing that says so.
#[tokio::test]
async fn an_empty_key_is_one_and_no_key_is_none() {
    let cluster = Cluster::named_or_own();
    let topic = topic(&cluster, "keys");
    let events = [Event::new(&*topic, ""), Event::unordered(&*topic)];
    assert_eq!(
        fates(&publish(&cluster.another(), &events).await),
        [None, None]
    );
    let messages = cluster.messages(&topic);
    let mut keys: Vec<_> = messages.iter().map(Message::key).collect();
    keys.sort();
    assert_eq!(keys, [None, Some(&b""[..])]);
    // Not a tombstone.
    assert!(
        messages
            .iter()
            .all(|message| message.payload() == Some(b""))
    );
}
