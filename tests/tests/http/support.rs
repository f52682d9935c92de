//! The binary in front of a service that counts its effects, and requests as bytes.

use onlyonce_test::client::{Raw, Response};
use onlyonce_test::process::{Launch, Proxy};
use onlyonce_test::upstream::{Legacy, Reply};
use serde_json::Value;

/// A running proxy and the service behind it.
pub(crate) struct Site {
    pub(crate) legacy: Legacy,
    pub(crate) proxy: Proxy,
}

impl Site {
    /// With the default settings, but for records in memory.
    pub(crate) async fn start() -> Self {
        Self::with(&[]).await
    }

    /// With these settings, as `("policy.key-max", "8B")`.
    pub(crate) async fn with(settings: &[(&str, &str)]) -> Self {
        let legacy = charges().await;
        let proxy = serve(&legacy.url(), "memory:", settings).start().await;
        Self { legacy, proxy }
    }

    /// Sends a request on a connection of its own, and reads the answer.
    pub(crate) async fn ask(&self, request: impl AsRef<[u8]>) -> Response {
        ask(&self.proxy, request).await
    }

    pub(crate) async fn connect(&self) -> Raw {
        Raw::connect(self.proxy.addr()).await
    }
}

/// The answer of one of several proxies.
pub(crate) async fn ask(proxy: &Proxy, request: impl AsRef<[u8]>) -> Response {
    let mut client = Raw::connect(proxy.addr()).await;
    client.send(request).await;
    client.response().await.expect("a whole head")
}

/// How to start the binary, with settings that flags have no names for.
pub(crate) fn serve(upstream: &str, store: &str, settings: &[(&str, &str)]) -> Launch {
    let launch = Launch::serve(["--upstream", upstream, "--store", store]);
    settings.iter().fold(launch, |launch, (key, value)| {
        let variable = key.replace('.', "__").replace('-', "_");
        launch.env(&format!("ONLYONCE__{}", variable.to_uppercase()), value)
    })
}

/// A service whose every effect has an answer of its own: `201`, `charge 1`, then `charge 2`.
pub(crate) async fn charges() -> Legacy {
    let mut number = 0;
    Legacy::answering(move |_| {
        number += 1;
        Reply::new(201)
            .field("Location", &format!("/charges/{number}"))
            .body(format!("charge {number}"))
    })
    .await
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

/// Checks that `again` is the answer `first`, from the record.
#[track_caller]
pub(crate) fn replayed(first: &Response, again: &Response) {
    assert!(again.is_replay(), "P2: {again:?}");
    assert!(!first.is_replay(), "F3: {first:?}");
    assert_eq!(again.status, first.status, "P1");
    assert_eq!(again.body, first.body, "P1");
    assert!(first.is_whole() && again.is_whole());
}
