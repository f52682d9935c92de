//! One process with its service, requests as bytes, and what is checked of answers.

use std::sync::Arc;

use onlyonce_test::client::{Raw, Response};
use onlyonce_test::upstream::{At, Break, Legacy, Reply};
use serde_json::Value;

pub(crate) use crate::differences::{End, Left};
pub(crate) use crate::front::{Front, three_ways};
pub(crate) use crate::shop::{Guard, Shop, ask, charges, serve};

/// A running guard and the service that it guards.
pub(crate) struct Site {
    pub(crate) shop: Shop,
    pub(crate) legacy: Arc<Legacy>,
    pub(crate) guard: Guard,
}

impl Site {
    /// With the default settings, but for records in memory.
    pub(crate) async fn start(front: Front) -> Self {
        Self::with(front, &[]).await
    }

    /// With these settings, as `("policy.key-max", "8B")`.
    pub(crate) async fn with(front: Front, settings: &[(&str, &str)]) -> Self {
        let shop = Shop::passing(front).await;
        Self {
            legacy: Arc::clone(&shop.legacy),
            guard: shop.open(settings).await,
            shop,
        }
    }

    /// Sends a request on a connection of its own, and reads the answer.
    pub(crate) async fn ask(&self, request: impl AsRef<[u8]>) -> Response {
        self.guard.ask(request).await
    }

    pub(crate) async fn connect(&self) -> Raw {
        self.guard.connect().await
    }

    /// Sends a request whose handler, or whose connection to the service, dies after the effect.
    pub(crate) async fn loses(&self, request: impl AsRef<[u8]>) {
        let lost = Reply::new(201).breaks(At::AfterRequest, Break::Reset);
        self.legacy.script(lost);
        let mut client = self.connect().await;
        client.send(request).await;
        let answer = client.response().await;
        match self.shop.front {
            Front::Proxy => unknown(&answer.expect("an answer"), 502),
            // It goes on as it would without the layer: the server ends the connection.
            Front::Layer => assert!(answer.is_err(), "{answer:?}"),
            Front::SameTransaction => {
                let members = problem(&answer.expect("an answer"), 500, "rolled-back");
                assert_eq!(members["retryable"], true);
            }
        }
    }

    /// Retries what a [`post`] of this key got, and checks that it finds what is left.
    pub(crate) async fn retried(&self, key: &str, first: Option<&Response>, left: Left) {
        let before = self.legacy.requests();
        match left {
            Left::Answer => {
                let first = first.expect("what is kept was answered");
                replayed(first, &self.ask(post(key)).await);
            }
            Left::Unknown => {
                for body in ["amount=100", "other"] {
                    unknown(&self.ask(post(key).body(body)).await, 409);
                }
            }
            Left::Nothing => {
                // Also of the payload.
                let request = post(key).body("amount=7");
                let again = self.ask(&request).await;
                assert_eq!((again.status, again.is_replay()), (201, false), "{key}");
                replayed(&again, &self.ask(&request).await);
            }
        }
        let executed = usize::from(left == Left::Nothing);
        assert_eq!(self.legacy.requests(), before + executed, "{key}: {left:?}");
    }

    /// As [`Shop::effects`].
    pub(crate) async fn effects(&self) -> usize {
        self.shop.effects().await
    }

    /// As [`Shop::effects_of`].
    pub(crate) async fn effects_of(&self, key: &str) -> usize {
        self.shop.effects_of(key).await
    }
}

/// A request in the making; `as_ref` are its bytes.
#[derive(Clone)]
pub(crate) struct Ask {
    head: Vec<u8>,
    bytes: Vec<u8>,
}

/// `POST /charges` with this value of `Idempotency-Key`, and a form as its body.
pub(crate) fn post(key: impl AsRef<[u8]>) -> Ask {
    unkeyed("POST", "/charges")
        .line("Content-Type: application/x-www-form-urlencoded")
        .line([b"Idempotency-Key: ", key.as_ref()].concat())
        .body("amount=100")
}

/// A request without a key, and without a body so far.
pub(crate) fn unkeyed(method: &str, target: &str) -> Ask {
    let head = format!("{method} {target} HTTP/1.1\r\nHost: shop.example\r\n").into_bytes();
    let bytes = [&head[..], b"\r\n"].concat();
    Ask { head, bytes }
}

/// Any method and target, with a key and without a body so far.
pub(crate) fn keyed(method: &str, target: &str, key: &str) -> Ask {
    unkeyed(method, target).line(format!("Idempotency-Key: {key}"))
}

impl Ask {
    /// One more field line; before the body.
    pub(crate) fn line(mut self, line: impl AsRef<[u8]>) -> Self {
        let body = self.bytes.split_off(self.head.len());
        self.head.extend_from_slice(line.as_ref());
        self.head.extend_from_slice(b"\r\n");
        // Lines of a body's framing come last, and stay.
        self.bytes = [&self.head[..], &body].concat();
        self
    }

    /// A body with its length; replaces the one before.
    pub(crate) fn body(mut self, body: impl AsRef<[u8]>) -> Self {
        let body = body.as_ref();
        let length = format!("Content-Length: {}\r\n\r\n", body.len());
        self.bytes = [&self.head[..], length.as_bytes(), body].concat();
        self
    }

    /// A body with these bytes as its chunks, the last one and trailers included; replaces the one before.
    pub(crate) fn chunked(mut self, framed: &str) -> Self {
        let framed = format!("Transfer-Encoding: chunked\r\n\r\n{framed}");
        self.bytes = [&self.head[..], framed.as_bytes()].concat();
        self
    }
}

impl AsRef<[u8]> for Ask {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Checks an error of ours (G1), and answers its members.
#[track_caller]
pub(crate) fn problem(response: &Response, status: u16, code: &str) -> Value {
    let text = response.text();
    assert_eq!(response.status, status, "{code}: {text}");
    let kind = response.fields.get("content-type");
    assert_eq!(kind, Some("application/problem+json"), "G1: {text}");
    let members: Value = serde_json::from_str(text).expect("G1: the body is JSON");
    assert_eq!(members["code"], code, "{text}");
    assert_eq!(members["type"], format!("urn:onlyonce:problem:{code}"));
    assert_eq!(members["status"], status, "G1: the status is the status");
    for member in ["title", "detail"] {
        assert!(!members[member].as_str().unwrap_or_default().is_empty());
    }
    let retryable = members["retryable"].as_bool().expect("G3: a boolean");
    let should_retry = response.fields.get("x-should-retry");
    assert_eq!(should_retry, Some(if retryable { "true" } else { "false" }));
    assert!(!response.is_replay(), "P20: no record");
    members
}

/// Checks that an answer says that nobody knows.
#[track_caller]
pub(crate) fn unknown(answer: &Response, status: u16) {
    let members = problem(answer, status, "outcome-unknown");
    assert_eq!(members["retryable"], false, "O22");
    assert_eq!(answer.fields.get("retry-after"), None, "O22, G11");
}

/// Checks that `again` is the answer `first`, from the record.
#[track_caller]
pub(crate) fn replayed(first: &Response, again: &Response) {
    assert!(again.is_replay(), "P2: {again:?}");
    assert!(!first.is_replay(), "F3: {first:?}");
    assert_eq!(again.status, first.status, "P1");
    assert_eq!(again.body, first.body, "P1");
    assert!(first.is_whole() && again.is_whole());
}
