//! S: whose key it is, and who is told.

use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use onlyonce_test::event::Gate;
use onlyonce_test::upstream::{Legacy, Reply};

use crate::support::*;

fn by(credential: &str) -> Ask {
    post("k").line(credential)
}

fn basic(pair: &str) -> String {
    format!("Authorization: Basic {}", BASE64_STANDARD.encode(pair))
}

/// A token of this subject. Nobody verifies its signature.
fn token(subject: &str, signature: &str) -> String {
    let claims = format!("{{\"iss\":\"https://a.example\",\"sub\":\"{subject}\"}}");
    let claims = BASE64_URL_SAFE_NO_PAD.encode(claims);
    format!("Authorization: Bearer e30.{claims}.{signature}")
}

#[tokio::test]
async fn s1_s11_two_principals_are_two_operations() {
    let site = Site::start().await;
    let all = [
        "Authorization: Bearer sk_test_a".to_owned(),
        "Authorization: Bearer sk_test_b".to_owned(),
        basic("alice:x"),
        basic("bob:x"),
        token("alice", "x"),
        token("bob", "x"),
        "X-Api-Key: a".to_owned(),
        "X-Api-Key: b".to_owned(),
        "X-None: 1".to_owned(),
    ];
    let mut firsts = Vec::new();
    for credential in &all {
        // Another payload each: what one did with a key shows nothing to another, not even a 422.
        let request = by(credential).body(credential);
        let first = site.ask(&request).await;
        assert_eq!(
            (first.status, first.is_replay()),
            (201, false),
            "S1: {credential}"
        );
        firsts.push((request, first));
    }
    for (request, first) in firsts {
        replayed(&first, &site.ask(request).await);
    }
    assert_eq!(site.legacy.effects(), all.len());
}

#[tokio::test]
async fn s1_a_request_in_flight_is_no_conflict_to_another_principal() {
    let site = Site::start().await;
    let gate = Gate::default();
    site.legacy.script(Reply::new(201).held_at(&gate));
    let mut alice = site.connect().await;
    alice.send(by("X-Api-Key: alice")).await;
    gate.reached(1).await;
    assert_eq!(site.ask(by("X-Api-Key: bob")).await.status, 201, "S1");
    problem(
        &site.ask(by("X-Api-Key: alice")).await,
        409,
        "request-in-progress",
    );
    gate.open();
    assert_eq!(alice.response().await.expect("a head").status, 201);
    assert_eq!(site.legacy.effects(), 2);
}

/// S2: without any credential there is nothing to tell callers apart; they share a scope, and what one
/// with a cookie did is not shown to another.
#[tokio::test]
async fn s2_s5_anonymous_callers_share_their_keys_and_not_their_answers() {
    let site = Site::start().await;
    let first = site.ask(by("Cookie: session=1")).await;
    replayed(&first, &site.ask(by("Cookie: session=1")).await);
    for other in ["Cookie: session=2", "X-None: 1"] {
        let answer = site.ask(by(other)).await;
        let members = problem(&answer, 409, "replay-withheld");
        assert_eq!(members["retryable"], false);
        assert!(!answer.text().contains("charge"));
    }
    assert_eq!(site.legacy.requests(), 1);
}

#[tokio::test]
async fn s5_another_attribute_can_tell_callers_apart() {
    let settings = [
        ("policy.principal", "cookie:sid"),
        ("policy.credential", "cookie:sid"),
    ];
    let site = Site::with(&settings).await;
    let first = site.ask(by("Cookie: seen=1; sid=a")).await;
    replayed(&first, &site.ask(by("Cookie: sid=a; seen=2")).await);
    assert!(!site.ask(by("Cookie: sid=b")).await.is_replay());
    assert_eq!(site.legacy.effects(), 2);

    let site = Site::with(&[("policy.principal", "header:x-tenant")]).await;
    let tenant = |name| by("Authorization: Bearer shared").line(format!("X-Tenant: {name}"));
    let first = site.ask(tenant("a")).await;
    assert!(!site.ask(tenant("b")).await.is_replay());
    replayed(&first, &site.ask(tenant("a")).await);
    assert_eq!(site.legacy.effects(), 2);
}

/// S3: the service decides who is let in. Its refusals are never recorded, and to a credential that did
/// not make the record nothing is shown. The very credential that made it is not checked again: that a
/// revoked one still reads its own old answers is the price of a proxy that does not authenticate.
#[tokio::test]
async fn s3_a_refusal_is_the_services_and_takes_no_key() {
    let legacy = Legacy::answering(|received| match received.fields.get("authorization") {
        Some("Bearer good") => Reply::new(201).body("made"),
        _ => Reply::new(401)
            .field("WWW-Authenticate", "Bearer")
            .without_effect(),
    })
    .await;
    let proxy = serve(&legacy.url(), "memory:", &[]).start().await;
    let first = ask(&proxy, by("Authorization: Bearer good")).await;
    for _ in 0..2 {
        let refused = ask(&proxy, by("Authorization: Bearer bad")).await;
        assert_eq!((refused.status, refused.is_replay()), (401, false), "S3");
    }
    replayed(&first, &ask(&proxy, by("Authorization: Bearer good")).await);
    assert_eq!(legacy.effects(), 1);
}

#[tokio::test]
async fn s4_a_refreshed_token_never_executes_again_and_a_forged_one_sees_nothing() {
    let site = Site::start().await;
    for (one, other) in [
        (
            token("alice", "first"),
            token("alice", "refreshed-or-forged"),
        ),
        (basic("carol:old"), basic("carol:new")),
    ] {
        let before = site.legacy.effects();
        let first = site.ask(by(&one)).await;
        for body in ["amount=100", "other"] {
            let answer = site.ask(by(&other).body(body)).await;
            problem(&answer, 409, "replay-withheld"); // not even whether the payload was the same
            assert!(!answer.text().contains("charge"));
        }
        replayed(&first, &site.ask(by(&one)).await);
        assert_eq!(site.legacy.effects(), before + 1, "S4");
    }
}

#[tokio::test]
async fn s7_a_bad_key_never_reaches_the_store() {
    // A store that is away answers 503 to whatever reaches it.
    let legacy = charges().await;
    let away = onlyonce_test::upstream::refusing_addr().await;
    let proxy = serve(&legacy.url(), &format!("postgres://u@{away}/d"), &[])
        .start()
        .await;
    for key in ["k".repeat(256), "a, b".to_owned(), "\"".to_owned()] {
        problem(
            &ask(&proxy, post(key)).await,
            400,
            "idempotency-key-invalid",
        );
    }
    problem(&ask(&proxy, post("k")).await, 503, "store-unavailable");
    assert_eq!(legacy.requests(), 0);
}

/// S7: requests that wait for a settlement are bounded; over the bound nothing is executed.
#[tokio::test]
async fn s7_unsettled_requests_are_bounded() {
    let site = Site::with(&[("limits.unsettled-max", "1")]).await;
    let gate = Gate::default();
    site.legacy.script(Reply::new(201).held_at(&gate));
    let mut client = site.connect().await;
    client.send(post("k")).await;
    gate.reached(1).await;
    let members = problem(&site.ask(post("other")).await, 503, "store-unavailable");
    assert_eq!(members["retryable"], true);
    gate.open();
    assert_eq!(client.response().await.expect("a head").status, 201);
    assert_eq!(site.legacy.requests(), 1);
}

/// S10: what could split a response cannot come in, hence not out.
#[tokio::test]
async fn s10_a_header_value_that_splits_is_no_answer() {
    let site = Site::start().await;
    for (key, line) in [("nul", "X: a\0b"), ("cr", "X: a\rSet-Cookie: evil=1")] {
        let raw = format!("HTTP/1.1 201 Created\r\n{line}\r\nContent-Length: 0\r\n\r\n");
        site.legacy.script(Reply::raw(raw));
        let first = site.ask(post(key)).await;
        problem(&first, 502, "outcome-unknown");
        let again = site.ask(post(key)).await;
        problem(&again, 409, "outcome-unknown");
        assert_eq!(again.fields.get("set-cookie"), None);
        assert_eq!(site.legacy.effects_of(key), 1);
    }
}

/// S12: two services behind one store never share a key; what tells them apart is a name, not an address.
#[tokio::test]
async fn s12_a_service_has_its_own_keys() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = format!("sqlite://{}", directory.path().join("o.db").display());
    let legacy = charges().await;
    let named = |name: &'static str| serve(&legacy.url(), &store, &[("upstream.name", name)]);
    let (live, test) = (named("live").start().await, named("test").start().await);
    let first = ask(&live, post("k")).await;
    assert!(!ask(&test, post("k")).await.is_replay());
    replayed(&first, &ask(&named("live").start().await, post("k")).await);
    assert_eq!(legacy.effects(), 2);
}
