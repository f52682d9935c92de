//! What goes over the wire, and what comes of the answers.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::Response;
use http_body_util::Full;
use onlyonce_outbox::sinks::Webhook;
use onlyonce_outbox::standard_webhooks::Secret;
use onlyonce_outbox::{Ack, Envelope, Event, Sink, SinkError};
use onlyonce_test::event::{Gate, within};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig};

use crate::receiver::{Receiver, answer};

fn envelope(event: &Event) -> Envelope {
    let made = SystemTime::UNIX_EPOCH + Duration::from_secs(1_764_000_000);
    Envelope::of(event, 42, made)
}

fn charged() -> Event {
    Event::new("payments", "clé 1").kind("charged")
}

fn hook(receiver: &Receiver) -> Webhook {
    let hook = Webhook::to(&receiver.url(), "/shop").unwrap();
    hook.secret(receiver.secret.clone())
}

async fn deliver(hook: &Webhook, event: &Event) -> Result<Ack, SinkError> {
    let batch = [envelope(event)];
    let mut results = within("a delivery", hook.publish(&batch)).await;
    assert_eq!(results.len(), 1);
    results.remove(0)
}

fn cause(error: &SinkError) -> String {
    std::error::Error::source(error).unwrap().to_string()
}

#[tokio::test]
async fn an_event_is_a_signed_request_with_all_that_is_known_of_it() {
    let receiver = Receiver::start().await;
    let hook = hook(&receiver)
        .secret(Secret::generate().unwrap())
        .header("Authorization", "Bearer abc")
        .unwrap();
    let event = charged()
        .bytes("application/json", "{\"amount\":12}")
        .header("traceparent", "00-ab-cd-01")
        .header("tenant", "größe")
        // Of no concern to the request, whatever they say.
        .header("authorization", "Bearer stolen")
        .header("content-length", "1")
        .header("transfer-encoding", "chunked")
        .header("host", "elsewhere")
        .header("webhook-id", "another");
    deliver(&hook, &event).await.unwrap();
    let [delivery] = &receiver.deliveries()[..] else {
        panic!("one delivery: {:?}", receiver.deliveries());
    };
    assert_eq!(delivery.line, "POST /hooks?tenant=7 HTTP/1.1");
    assert_eq!(delivery.body, "{\"amount\":12}");
    let id = event.event_id().to_string();
    for (name, value) in [
        ("host", receiver.addr.to_string().as_str()),
        ("content-type", "application/json"),
        ("content-length", "13"),
        ("idempotency-key", &format!("\"{id}\"")),
        ("webhook-id", &id),
        ("outbox-seq", "42"),
        ("authorization", "Bearer abc"),
        ("ce-specversion", "1.0"),
        ("ce-id", &id),
        ("ce-source", "/shop"),
        ("ce-type", "charged"),
        ("ce-subject", "cl%C3%A9%201"),
        ("ce-time", "2025-11-24T16:00:00Z"),
        ("traceparent", "00-ab-cd-01"),
        ("tenant", "größe"),
    ] {
        assert_eq!(delivery.header(name), value, "{name}");
        assert_eq!(delivery.headers.get_all(name).iter().count(), 1, "{name}");
    }
    assert!(!delivery.headers.contains_key("transfer-encoding"));
    let signatures = delivery.header("webhook-signature");
    assert_eq!(signatures.split(' ').count(), 2);
    assert!(!format!("{hook:?}").contains("abc"));
}

#[tokio::test]
async fn answers_say_what_becomes_of_the_message() {
    let receiver = Receiver::start().await;
    let hook = hook(&receiver);
    for (status, dead) in [
        (500, false),
        (409, false),
        (429, false),
        (410, true),
        (422, true),
        (302, false),
    ] {
        receiver.answers(move |_| {
            let mut response = answer(status, "because");
            let headers = response.headers_mut();
            headers.insert("retry-after", "9".parse().unwrap());
            headers.insert("location", "/elsewhere".parse().unwrap());
            response
        });
        let error = deliver(&hook, &charged()).await.unwrap_err();
        assert_eq!(error.is_dead(), dead, "{status}");
        let wait = (!dead).then_some(Duration::from_secs(9));
        assert_eq!(error.wait(), wait, "{status}");
        assert!(cause(&error).contains(&status.to_string()), "{error:?}");
        assert!(cause(&error).ends_with(": because"), "{error:?}");
    }
    // One request each: no redirect was followed. And one connection for all.
    assert_eq!(receiver.deliveries().len(), 6);
    assert_eq!(receiver.connections(), 1);
}

#[tokio::test]
async fn one_message_of_a_batch_fails_alone() {
    let receiver = Receiver::start().await;
    receiver.answers(|delivery| {
        let bad = delivery.body == "bad";
        answer(if bad { 400 } else { 204 }, "")
    });
    let hook = hook(&receiver).in_flight_max(2);
    let batch: Vec<_> = ["good", "bad", "good"]
        .map(|payload| envelope(&charged().bytes("text/plain", payload)))
        .into();
    let results = within("the batch", hook.publish(&batch)).await;
    let taken: Vec<_> = results.iter().map(Result::is_ok).collect();
    assert_eq!(taken, [true, false, true]);
    assert_eq!(receiver.connections(), 2);
}

#[tokio::test]
async fn a_receiver_that_does_not_answer_is_not_waited_for() {
    let receiver = Receiver::start().await;
    let gate = Gate::default();
    receiver.answers_after(gate.clone());
    let impatient = hook(&receiver).time_limit(Duration::from_millis(50));
    let error = deliver(&impatient, &charged()).await.unwrap_err();
    assert!(!error.is_dead());
    assert!(cause(&error).contains("no answer within 50ms"), "{error:?}");
    gate.open();
    // What was given up does not answer for what comes after it.
    deliver(&hook(&receiver), &charged()).await.unwrap();
}

#[tokio::test]
async fn a_connection_that_was_closed_meanwhile_is_replaced() {
    let receiver = Receiver::start().await;
    let hook = hook(&receiver);
    for _ in 0..3 {
        deliver(&hook, &charged()).await.unwrap();
        receiver.take_away().await;
        receiver.bring_back().await;
    }
    deliver(&hook, &charged()).await.unwrap();
    assert_eq!(receiver.deliveries().len(), 4);
}

#[tokio::test]
async fn an_endless_answer_is_not_read_to_its_end() {
    let receiver = Receiver::start().await;
    receiver.answers(|_| {
        let body = Bytes::from(vec![b'x'; 8 << 20]);
        Response::builder()
            .status(500)
            .body(Full::new(body))
            .unwrap()
    });
    let hook = hook(&receiver);
    for connections in 1..3 {
        let error = deliver(&hook, &charged()).await.unwrap_err();
        assert!(cause(&error).len() < 300);
        // Its connection is of no use any more.
        assert_eq!(receiver.connections(), connections);
    }
}

#[tokio::test]
async fn https_endpoints_are_checked_by_their_certificate() {
    let issued = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let certificate = issued.cert.der().clone();
    let key = PrivateKeyDer::Pkcs8(issued.signing_key.serialize_der().into());
    let server = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(server));
    let receiver = Receiver::start_with(Some(acceptor)).await;
    let url = format!("https://localhost:{}/", receiver.addr.port());
    let trusting = |roots: RootCertStore| {
        let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let hook = Webhook::to(&url, "/shop").unwrap().tls(config);
        hook.secret(receiver.secret.clone())
    };
    let error = deliver(&trusting(RootCertStore::empty()), &charged())
        .await
        .unwrap_err();
    assert!(!error.is_dead(), "{error:?}");
    assert!(receiver.deliveries().is_empty());
    let mut roots = RootCertStore::empty();
    roots.add(certificate).unwrap();
    deliver(&trusting(roots), &charged()).await.unwrap();
    assert_eq!(receiver.deliveries().len(), 1);
}

#[test]
fn headers_that_are_the_sinks_own_are_refused() {
    for name in [
        "Content-Length",
        "Host",
        "webhook-id",
        "ce-type",
        "outbox-seq",
        "a b",
    ] {
        let hook = Webhook::to("http://127.0.0.1:1/", "/shop").unwrap();
        assert!(hook.header(name, "x").is_err(), "{name}");
    }
    let hook = Webhook::to("http://127.0.0.1:1/", "/shop").unwrap();
    assert!(hook.header("authorization", "a\nb").is_err());
}
