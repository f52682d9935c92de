//! One suite, both ways: what a client sees of the plain layer on the same tables it sees of this one, byte by byte,
//! except where something rolled back.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::extract::Path;
use axum::routing::post;
use http::{HeaderValue, StatusCode};
use onlyonce::{IdempotencyLayer, Policy};
use onlyonce_axum::TransactionalLayer;
use onlyonce_sqlx::PostgresStore;

use crate::fixture::*;

/// An app under one of the layers, whose effects are counted.
struct Way {
    name: &'static str,
    app: Router,
    effects: Arc<AtomicUsize>,
}

impl Way {
    fn of(name: &'static str, guard: impl FnOnce(Router) -> Router) -> Self {
        let effects = Arc::<AtomicUsize>::default();
        let counted = Arc::clone(&effects);
        let handler = async move |Path(status): Path<u16>| {
            let number = counted.fetch_add(1, Ordering::SeqCst) + 1;
            let status = StatusCode::from_u16(status).unwrap();
            let headers = [
                ("location", format!("/{number}")),
                ("set-cookie", "session=1".into()),
            ];
            (status, headers, format!("effect {number}"))
        };
        let app = guard(Router::new().route("/{status}", post(handler)));
        Self { name, app, effects }
    }

    fn effects(&self) -> usize {
        self.effects.load(Ordering::SeqCst)
    }
}

async fn both(site: &Site, policy: impl Fn() -> Policy) -> [Way; 2] {
    let store = PostgresStore::connect(site.database.url().parse().unwrap())
        .await
        .unwrap();
    // Apart, so that each has records of its own.
    let plain = IdempotencyLayer::new(store).with_policy(policy().with_service("plain"));
    let here = TransactionalLayer::new(site.pool(5)).with_policy(policy().with_service("here"));
    [
        Way::of("plain", |app| app.layer(plain)),
        Way::of("same transaction", |app| app.layer(here)),
    ]
}

/// What two answers have in common, the record's id aside.
fn seen(answer: &Answer) -> (u16, Vec<(String, HeaderValue)>, serde_json::Value) {
    let mut headers: Vec<_> = answer
        .headers
        .iter()
        .map(|(name, value)| (name.to_string(), value.clone()))
        .collect();
    headers.sort_by(|a, b| a.0.cmp(&b.0));
    let mut body = serde_json::from_slice(&answer.body)
        .unwrap_or_else(|_| serde_json::Value::from(answer.text()));
    if let Some(problem) = body.as_object_mut() {
        problem.remove("instance");
    }
    (answer.status, headers, body)
}

/// Sends the same to both, and checks that the answers are the same.
async fn same(ways: &[Way; 2], request: impl Fn() -> http::Request<axum::body::Body>) -> Answer {
    let (plain, here) = (
        ask(&ways[0].app, request()).await,
        ask(&ways[1].app, request()).await,
    );
    assert_eq!(seen(&plain), seen(&here));
    assert_eq!(
        ways[0].effects(),
        ways[1].effects(),
        "{} and {}",
        ways[0].name,
        ways[1].name
    );
    here
}

#[tokio::test]
async fn kept_answers_and_their_replays_are_the_same() {
    let site = Site::fresh().await;
    let ways = both(&site, Policy::default).await;
    for status in [
        200, 201, 202, 204, 301, 303, 400, 402, 404, 409, 412, 422, 451,
    ] {
        let (target, key) = (format!("/{status}"), format!("k-{status}"));
        let before = ways[1].effects();
        let first = same(&ways, || request(&target, Some(&key), "{}")).await;
        assert_eq!((first.status, first.is_replay()), (status, false));
        let again = same(&ways, || request(&target, Some(&key), "{}")).await;
        assert!(again.is_replay(), "{status}");
        assert_eq!(again.body, first.body);
        assert!(!again.headers.contains_key("set-cookie"));
        let other = same(&ways, || request(&target, Some(&key), "{ }")).await;
        assert_eq!(
            (other.status, other.code()),
            (422, "idempotency-key-reused".into())
        );
        assert_eq!(ways[1].effects(), before + 1);
    }
}

#[tokio::test]
async fn what_is_refused_frees_the_key_both_ways() {
    let site = Site::fresh().await;
    let ways = both(&site, Policy::default).await;
    for status in [401, 403, 407, 408, 421, 425, 426, 429] {
        let (target, key) = (format!("/{status}"), format!("k-{status}"));
        let before = ways[1].effects();
        for _ in 0..2 {
            let answer = same(&ways, || request(&target, Some(&key), "{}")).await;
            assert_eq!((answer.status, answer.is_replay()), (status, false));
        }
        assert_eq!(ways[1].effects(), before + 2);
    }
}

#[tokio::test]
async fn keys_are_read_the_same() {
    let site = Site::fresh().await;
    let ways = both(&site, || Policy::default().require_key()).await;
    for key in [
        "",
        "\"\"",
        "a,b",
        "\"a\", \"b\"",
        "\"unclosed",
        &"k".repeat(256),
    ] {
        let answer = same(&ways, || request("/201", Some(key), "{}")).await;
        assert_eq!(
            (answer.status, answer.code()),
            (400, "idempotency-key-invalid".into())
        );
    }
    let answer = same(&ways, || request("/201", None, "{}")).await;
    assert_eq!(
        (answer.status, answer.code()),
        (400, "idempotency-key-missing".into())
    );
    let first = same(&ways, || request("/201", Some("\"k\""), "{}")).await;
    assert_eq!(first.status, 201);
    assert!(
        same(&ways, || request("/201", Some("k"), "{}"))
            .await
            .is_replay()
    );
    assert_eq!(ways[1].effects(), 1);
}

#[tokio::test]
async fn who_may_see_an_answer_is_decided_the_same() {
    let site = Site::fresh().await;
    let ways = both(&site, Policy::default).await;
    let by = |password: &'static str| {
        move || {
            let mut request = request("/201", Some("k"), "{}");
            request
                .headers_mut()
                .insert("authorization", HeaderValue::from_static(password));
            request
        }
    };
    // One user, two passwords.
    let (first, second) = ("Basic dXNlcjpvbmU=", "Basic dXNlcjp0d28=");
    assert_eq!(same(&ways, by(first)).await.status, 201);
    let other = same(&ways, by(second)).await;
    assert_eq!(
        (other.status, other.code()),
        (409, "replay-withheld".into())
    );
    assert!(same(&ways, by(first)).await.is_replay());
    assert_eq!(ways[1].effects(), 1);
}

#[tokio::test]
async fn bodies_that_are_too_large_are_refused_the_same() {
    let site = Site::fresh().await;
    let ways = both(&site, || Policy::default().with_request_bytes_max(100)).await;
    let answer = same(&ways, || request("/201", Some("k"), &"x".repeat(101))).await;
    assert_eq!(
        (answer.status, answer.code()),
        (413, "body-too-large".into())
    );
    assert_eq!(ways[1].effects(), 0);
}
