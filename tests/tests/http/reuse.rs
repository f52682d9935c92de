//! M: one key, another request.

use onlyonce_test::client::Response;

use crate::support::*;

fn reused(answer: &Response) {
    let members = problem(answer, 422, "idempotency-key-reused");
    assert_eq!(members["retryable"], false);
    assert_eq!(answer.fields.get("retry-after"), None, "G11");
}

three_ways!(m1_m2_m17_another_body_is_refused_and_poisons_nothing);
async fn m1_m2_m17_another_body_is_refused_and_poisons_nothing(front: Front) {
    let site = Site::start(front).await;
    let first = site
        .ask(post("k").body("amount=1&card=4242424242424242"))
        .await;
    for body in [
        "amount=2&card=4242424242424242",
        "",
        "amount=1&card=4242424242424242 ",
    ] {
        let answer = site.ask(post("k").body(body)).await;
        reused(&answer);
        let text = answer.text();
        assert!(
            !text.contains("4242") && !text.contains("amount"),
            "M17: {text}"
        );
    }
    replayed(
        &first,
        &site
            .ask(post("k").body("amount=1&card=4242424242424242"))
            .await,
    ); // M2
    assert_eq!(site.legacy.requests(), 1, "M1");
}

three_ways!(m3_m5_another_path_or_method_is_another_record);
async fn m3_m5_another_path_or_method_is_another_record(front: Front) {
    let site = Site::start(front).await;
    let mut seen = Vec::new();
    for (method, target) in [
        ("POST", "/charges"),
        ("POST", "/charges/"),
        ("POST", "//charges"),
        ("POST", "/%63harges"),
        ("POST", "/refunds"),
        ("PATCH", "/charges"),
    ] {
        let request = keyed(method, target, "k").body("x");
        let first = site.ask(&request).await;
        assert!(!first.is_replay(), "M3, M5: {method} {target}");
        replayed(&first, &site.ask(&request).await);
        assert!(!seen.contains(&first.body), "never another route's answer");
        seen.push(first.body);
    }
    assert_eq!(site.effects().await, 6);
}

three_ways!(m3_m5_in_the_account_scope_another_path_or_method_is_refused);
async fn m3_m5_in_the_account_scope_another_path_or_method_is_refused(front: Front) {
    let site = Site::with(front, &[("policy.scope", "account")]).await;
    let first = site.ask(keyed("POST", "/charges", "k").body("x")).await;
    for (method, target) in [("POST", "/refunds"), ("PATCH", "/charges")] {
        reused(&site.ask(keyed(method, target, "k").body("x")).await);
    }
    replayed(
        &first,
        &site.ask(keyed("POST", "/charges", "k").body("x")).await,
    );
    assert_eq!(site.legacy.requests(), 1);
}

three_ways!(m4_another_query_is_refused);
async fn m4_another_query_is_refused(front: Front) {
    let site = Site::start(front).await;
    let first = site
        .ask(keyed("POST", "/charges?a=1&b=2", "k").body("x"))
        .await;
    for target in [
        "/charges",
        "/charges?",
        "/charges?b=2&a=1",
        "/charges?a=1&b=%32",
    ] {
        reused(&site.ask(keyed("POST", target, "k").body("x")).await);
    }
    replayed(
        &first,
        &site
            .ask(keyed("POST", "/charges?a=1&b=2", "k").body("x"))
            .await,
    );
    assert_eq!(site.legacy.requests(), 1);
}

three_ways!(m6_m19_what_changes_between_attempts_does_not_count);
async fn m6_m19_what_changes_between_attempts_does_not_count(front: Front) {
    let site = Site::start(front).await;
    let first = site.ask(post("k").line("User-Agent: a/1")).await;
    for line in [
        "User-Agent: a/2",
        "traceparent: 00-1-2-01",
        "Date: Mon, 01 Jan 2024 00:00:00 GMT",
        "X-Request-Id: 2",
        "Signature: t=1,v1=2",
        "Content-Digest: sha-256=:AA==:",
        "X-Stainless-Retry-Count: 1",
        "X-Stripe-Client-Telemetry: {\"last\":1}",
    ] {
        replayed(&first, &site.ask(post("k").line(line)).await);
    }
    assert_eq!(site.legacy.requests(), 1);
    let digest = "Content-Digest: sha-256=:BB==:";
    site.ask(post("other").line(digest)).await;
    let received = &site.legacy.journal()[1];
    let forwarded = received.fields.get("content-digest");
    assert_eq!(
        forwarded,
        Some("sha-256=:BB==:"),
        "M19: passed on, not trusted"
    );
}

three_ways!(m7_m8_another_type_or_coding_is_refused_another_spelling_is_not);
async fn m7_m8_another_type_or_coding_is_refused_another_spelling_is_not(front: Front) {
    let site = Site::start(front).await;
    let typed = |line: &str| keyed("POST", "/charges", "k").line(line).body("{}");
    let first = site
        .ask(typed("Content-Type: application/json; charset=utf-8; a=b"))
        .await;
    for line in [
        "content-type: Application/JSON;A=\"b\";Charset=UTF-8",
        "Content-Type: application/json ; charset=\"utf-8\" ; a=b",
    ] {
        replayed(&first, &site.ask(typed(line)).await);
    }
    for line in [
        "Content-Type: application/json",
        "Content-Type: application/json; charset=latin1; a=b",
        "Content-Type: application/x-www-form-urlencoded",
        "X-None: 1",
    ] {
        reused(&site.ask(typed(line)).await);
    }
    let coded =
        typed("Content-Type: application/json; charset=utf-8; a=b\r\nContent-Encoding: gzip");
    reused(&site.ask(coded).await); // M8
    assert_eq!(site.legacy.requests(), 1);
}

three_ways!(m9_m10_m15_u11_how_a_body_travels_does_not_count);
async fn m9_m10_m15_u11_how_a_body_travels_does_not_count(front: Front) {
    let site = Site::start(front).await;
    let first = site.ask(post("k").body("amount=100")).await;
    for framed in [
        "a\r\namount=100\r\n0\r\n\r\n",
        "3\r\namo\r\n7\r\nunt=100\r\n0\r\n\r\n",
        "00A;ext=\"v\"\r\namount=100\r\n0;last\r\n\r\n",
        "a\r\namount=100\r\n0\r\nX-Trailer: 1\r\n\r\n",
    ] {
        replayed(&first, &site.ask(post("k").chunked(framed)).await);
    }
    // M15: no body, an empty one, and a chunked empty one.
    let empty = site.ask(keyed("POST", "/empty", "k")).await;
    replayed(
        &empty,
        &site.ask(keyed("POST", "/empty", "k").body("")).await,
    );
    replayed(
        &empty,
        &site
            .ask(keyed("POST", "/empty", "k").chunked("0\r\n\r\n"))
            .await,
    );
    assert_eq!(site.legacy.requests(), 2);
}

three_ways!(m9_a_chunked_first_request_arrives_whole);
/// A first request in chunks reaches the service with a length, and its retry with a length is the same.
async fn m9_a_chunked_first_request_arrives_whole(front: Front) {
    let site = Site::start(front).await;
    let first = site
        .ask(post("k").chunked("3\r\namo\r\n7\r\nunt=100\r\n0\r\n\r\n"))
        .await;
    replayed(&first, &site.ask(post("k").body("amount=100")).await);
    let received = &site.legacy.journal()[0];
    assert_eq!(received.body, "amount=100");
    assert_eq!(received.fields.get("content-length"), Some("10"));
    assert_eq!(received.fields.get("transfer-encoding"), None);
}

three_ways!(m11_a_new_boundary_is_another_body);
/// M11: by default a multipart form counts by its bytes, and a new boundary is another body.
async fn m11_a_new_boundary_is_another_body(front: Front) {
    let site = Site::start(front).await;
    let form = |boundary: &str| {
        let part = format!("--{boundary}\r\nContent-Disposition: form-data; name=a\r\n\r\n1\r\n");
        let line = format!("Content-Type: multipart/form-data; boundary={boundary}");
        keyed("POST", "/charges", "k")
            .line(line)
            .body(format!("{part}--{boundary}--\r\n"))
    };
    let first = site.ask(form("abc")).await;
    reused(&site.ask(form("xyz")).await);
    replayed(&first, &site.ask(form("abc")).await);
    assert_eq!(site.legacy.requests(), 1);
}

fn json(key: &str, body: &str) -> Ask {
    keyed("POST", "/charges", key)
        .line("Content-Type: application/json")
        .body(body)
}

three_ways!(m12_json_counts_by_its_bytes_unless_asked_otherwise);
async fn m12_json_counts_by_its_bytes_unless_asked_otherwise(front: Front) {
    let site = Site::start(front).await;
    let first = site.ask(json("k", r#"{"a":1,"b":2}"#)).await;
    reused(&site.ask(json("k", r#"{"b":2,"a":1}"#)).await);
    replayed(&first, &site.ask(json("k", r#"{"a":1,"b":2}"#)).await);
    assert_eq!(site.legacy.requests(), 1);
}

three_ways!(m12_m13_canonical_json_never_makes_two_requests_one);
async fn m12_m13_canonical_json_never_makes_two_requests_one(front: Front) {
    let site = Site::with(front, &[("policy.body-fingerprint", "canonical-json")]).await;
    let first = site.ask(json("k", r#"{"a":1,"b":[2,null]}"#)).await;
    replayed(
        &first,
        &site
            .ask(json("k", "{ \"b\" : [ 2, null ],\n\"a\" : 1.0 }"))
            .await,
    );
    for other in [
        r#"{"a":1,"b":[null,2]}"#,
        r#"{"a":1}"#,
        r#"{"a":"1","b":[2,null]}"#,
    ] {
        reused(&site.ask(json("k", other)).await);
    }
    for (key, one, other) in [
        ("twice", r#"{"a":1,"a":2}"#, r#"{"a":2,"a":1}"#),
        ("far", "[9007199254740993]", "[9007199254740992]"),
    ] {
        let first = site.ask(json(key, one)).await;
        reused(&site.ask(json(key, other)).await); // M13
        replayed(&first, &site.ask(json(key, one)).await);
    }
    assert_eq!(site.legacy.requests(), 3);
}

three_ways!(m18_the_body_can_be_ignored_and_then_the_key_alone_decides);
async fn m18_the_body_can_be_ignored_and_then_the_key_alone_decides(front: Front) {
    let site = Site::with(front, &[("policy.body-fingerprint", "ignored")]).await;
    let first = site.ask(post("k").body("amount=1")).await;
    replayed(&first, &site.ask(post("k").body("amount=2")).await);
    assert_eq!(site.legacy.requests(), 1);
}

three_ways!(m20_named_headers_count);
async fn m20_named_headers_count(front: Front) {
    let names = (
        "policy.fingerprint-headers",
        "stripe-version, x-http-method-override",
    );
    let site = Site::with(front, &[names]).await;
    let first = site.ask(post("k").line("Stripe-Version: 2024-01-01")).await;
    reused(&site.ask(post("k").line("Stripe-Version: 2025-01-01")).await);
    reused(&site.ask(post("k")).await);
    replayed(
        &first,
        &site.ask(post("k").line("stripe-version: 2024-01-01")).await,
    );
    assert_eq!(site.legacy.requests(), 1);
}
