//! S: whose key it is, and who is told.

use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use onlyonce_test::event::Gate;
use onlyonce_test::upstream::Reply;

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

three_ways!(s1_s11_two_principals_are_two_operations);
async fn s1_s11_two_principals_are_two_operations(front: Front) {
    let site = Site::start(front).await;
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
    assert_eq!(site.effects().await, all.len());
}

three_ways!(s1_a_request_in_flight_is_no_conflict_to_another_principal);
async fn s1_a_request_in_flight_is_no_conflict_to_another_principal(front: Front) {
    let site = Site::start(front).await;
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
    assert_eq!(site.effects().await, 2);
}

three_ways!(s2_s5_anonymous_callers_share_their_keys_and_not_their_answers);
/// S2: without any credential there is nothing to tell callers apart; they share a scope, and what one
/// with a cookie did is not shown to another.
async fn s2_s5_anonymous_callers_share_their_keys_and_not_their_answers(front: Front) {
    let site = Site::start(front).await;
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

three_ways!(s5_another_attribute_can_tell_callers_apart);
async fn s5_another_attribute_can_tell_callers_apart(front: Front) {
    let settings = [
        ("policy.principal", "cookie:sid"),
        ("policy.credential", "cookie:sid"),
    ];
    let site = Site::with(front, &settings).await;
    let first = site.ask(by("Cookie: seen=1; sid=a")).await;
    replayed(&first, &site.ask(by("Cookie: sid=a; seen=2")).await);
    assert!(!site.ask(by("Cookie: sid=b")).await.is_replay());
    assert_eq!(site.effects().await, 2);

    let site = Site::with(front, &[("policy.principal", "header:x-tenant")]).await;
    let tenant = |name| by("Authorization: Bearer shared").line(format!("X-Tenant: {name}"));
    let first = site.ask(tenant("a")).await;
    assert!(!site.ask(tenant("b")).await.is_replay());
    replayed(&first, &site.ask(tenant("a")).await);
    assert_eq!(site.effects().await, 2);
}

three_ways!(s3_a_refusal_is_the_services_and_takes_no_key);
/// S3: the service decides who is let in. Its refusals are never recorded, and to a credential that did
/// not make the record nothing is shown. The very credential that made it is not checked again: that a
/// revoked one still reads its own old answers is the price of a proxy that does not authenticate.
async fn s3_a_refusal_is_the_services_and_takes_no_key(front: Front) {
    let site = Site::start(front).await;
    site.legacy
        .answer_with(|received| match received.fields.get("authorization") {
            Some("Bearer good") => Reply::new(201).body("made"),
            _ => Reply::new(401)
                .field("WWW-Authenticate", "Bearer")
                .without_effect(),
        });
    let first = site.ask(by("Authorization: Bearer good")).await;
    for _ in 0..2 {
        let refused = site.ask(by("Authorization: Bearer bad")).await;
        assert_eq!((refused.status, refused.is_replay()), (401, false), "S3");
    }
    replayed(&first, &site.ask(by("Authorization: Bearer good")).await);
    assert_eq!(site.effects().await, 1);
}

three_ways!(s4_a_refreshed_token_never_executes_again_and_a_forged_one_sees_nothing);
async fn s4_a_refreshed_token_never_executes_again_and_a_forged_one_sees_nothing(front: Front) {
    let site = Site::start(front).await;
    for (one, other) in [
        (
            token("alice", "first"),
            token("alice", "refreshed-or-forged"),
        ),
        (basic("carol:old"), basic("carol:new")),
    ] {
        let before = site.effects().await;
        let first = site.ask(by(&one)).await;
        for body in ["amount=100", "other"] {
            let answer = site.ask(by(&other).body(body)).await;
            problem(&answer, 409, "replay-withheld"); // not even whether the payload was the same
            assert!(!answer.text().contains("charge"));
        }
        replayed(&first, &site.ask(by(&one)).await);
        assert_eq!(site.effects().await, before + 1, "S4");
    }
}

three_ways!(s7_a_bad_key_never_reaches_the_store);
async fn s7_a_bad_key_never_reaches_the_store(front: Front) {
    // A store that is away answers 503 to whatever reaches it.
    let shop = Shop::without_a_store(front).await;
    let guard = shop.open(&[]).await;
    for key in ["k".repeat(256), "a, b".to_owned(), "\"".to_owned()] {
        problem(&guard.ask(post(key)).await, 400, "idempotency-key-invalid");
    }
    problem(&guard.ask(post("k")).await, 503, "store-unavailable");
    assert_eq!(shop.legacy.requests(), 0);
}

three_ways!(s7_unsettled_requests_are_bounded);
/// S7: requests that wait for a settlement are bounded; over the bound nothing is executed.
async fn s7_unsettled_requests_are_bounded(front: Front) {
    let site = Site::with(front, &[("limits.unsettled-max", "1")]).await;
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
    let site = Site::start(Front::Proxy).await;
    for (key, line) in [("nul", "X: a\0b"), ("cr", "X: a\rSet-Cookie: evil=1")] {
        let raw = format!("HTTP/1.1 201 Created\r\n{line}\r\nContent-Length: 0\r\n\r\n");
        site.legacy.script(Reply::raw(raw));
        let first = site.ask(post(key)).await;
        problem(&first, 502, "outcome-unknown");
        let again = site.ask(post(key)).await;
        problem(&again, 409, "outcome-unknown");
        assert_eq!(again.fields.get("set-cookie"), None);
        assert_eq!(site.effects_of(key).await, 1);
    }
}

three_ways!(s12_a_service_has_its_own_keys);
/// S12: two services behind one store never share a key; what tells them apart is a name, not an address.
async fn s12_a_service_has_its_own_keys(front: Front) {
    let shop = Shop::lasting(front).await;
    let named = async |name| shop.open(&[("upstream.name", name)]).await;
    let (live, test) = (named("live").await, named("test").await);
    let first = live.ask(post("k")).await;
    assert!(!test.ask(post("k")).await.is_replay());
    replayed(&first, &named("live").await.ask(post("k")).await);
    assert_eq!(shop.effects().await, 2);
}
