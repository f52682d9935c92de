//! K: how a key is written, and what is no key.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use crate::support::*;

const UUID: &str = "8e03978e-40d5-43e8-bc93-6894a57f9324";

/// Sends two spellings of one key: one effect, and the second is a replay.
async fn same(site: &Site, one: &str, other: &str) {
    let before = site.effects().await;
    let first = site.ask(post(one)).await;
    replayed(&first, &site.ask(post(other)).await);
    assert_eq!(site.effects().await, before + 1, "{one} {other}");
}

/// Sends what is no key: 400, and the service sees nothing of it.
async fn refused(site: &Site, request: Ask) {
    let answer = site.ask(&request).await;
    let members = problem(&answer, 400, "idempotency-key-invalid");
    assert_eq!(members["retryable"], false);
    assert_eq!(site.legacy.requests(), 0, "K7");
}

three_ways!(k1_k2_k14_a_quoted_key_is_its_content);
async fn k1_k2_k14_a_quoted_key_is_its_content(front: Front) {
    let site = Site::start(front).await;
    same(&site, &format!("\"{UUID}\""), UUID).await;
    same(&site, r#""a\"b\\c""#, r#"  "a\"b\\c" 	 "#).await;
    same(&site, r#""a b, c;d""#, r#""a b, c;d""#).await;
    assert_eq!(site.ask(post(r#""a b""#)).await.status, 201);
    let inside = site.ask(post(r#"" a b""#)).await;
    assert!(!inside.is_replay(), "K14: spaces inside quotes count");
}

three_ways!(k2_k5_k6_k7_k8_k10_what_is_no_key_is_refused_where_keys_are_optional);
async fn k2_k5_k6_k7_k8_k10_what_is_no_key_is_refused_where_keys_are_optional(front: Front) {
    let site = Site::start(front).await;
    for value in [
        &br#""a\x""#[..], // K2
        br#""a"#,
        br#""a"b"#,
        b"a, b", // K5
        br#""a", "b""#,
        b"a,a",
        b"a b",
        b"a;v=1",
        b"", // K8
        b"   ",
        br#""""#,
        br#""  ""#,
        b"a\tb", // K10
        b"\"a\tb\"",
        b"k\xe4",
        b"\"k\xc3\xa4\"",
    ] {
        refused(&site, post(value)).await;
    }
    let key = "Idempotency-Key: a";
    let twice = unkeyed("POST", "/charges").line(key);
    refused(&site, twice.clone().line(key).body("")).await; // K6
    refused(&site, twice.line("idempotency-key: b").body("")).await; // K5

    // Control bytes that HTTP itself forbids are refused before anybody looks for a key.
    for value in [&b"a\0b"[..], b"a\x01b", b"a\x7fb", b"a\rb"] {
        let answer = site.ask(post(value)).await;
        assert_eq!(answer.status, 400, "K10: {value:?}");
        assert_eq!(site.legacy.requests(), 0, "K10");
    }
    assert_eq!(site.ask(post("a")).await.status, 201);
    assert_eq!(site.effects().await, 1, "nothing was recorded under `a`");
}

three_ways!(k3_k20_strict_syntax_wants_quotes);
async fn k3_k20_strict_syntax_wants_quotes(front: Front) {
    let site = Site::with(front, &[("policy.key-syntax", "strict")]).await;
    for value in [UUID, "abc", ":YWJj:", "42", "?1", "@1"] {
        refused(&site, post(value)).await;
    }
    same(&site, "\"abc\"", "\"abc\";v=1").await;
}

three_ways!(k3_k4_keys_of_real_clients_raw_or_quoted_name_one_record);
/// The shapes that official SDKs send, none of them quoted.
async fn k3_k4_keys_of_real_clients_raw_or_quoted_name_one_record(front: Front) {
    let site = Site::start(front).await;
    let base64 = BASE64_STANDARD.encode([0xfb, 0xff, 0xbe, 0x00]);
    assert_eq!(base64, "+/++AA==");
    for key in [
        UUID,
        "8E03978E-40D5-43E8-BC93-6894A57F932G", // not hexadecimal, and a key all the same
        "stripe-node-retry-8e03978e-40d5-43e8-bc93-6894a57f9325",
        "stainless-python-retry-3d1f0c34-7c0d-4e0f-a1f9-32b0f2b7a001",
        "auto_1fGh-._~",
        &base64,
        "order:1234/attempt=1",
        "42",
        "?1",
        ":YWJj:",
    ] {
        same(&site, key, &format!("\"{key}\"")).await;
    }
}

three_ways!(k9_parameters_are_no_part_of_the_key);
async fn k9_parameters_are_no_part_of_the_key(front: Front) {
    let site = Site::start(front).await;
    same(&site, "\"abc\"", "\"abc\";v=1; w=\"x, y\"").await;
}

three_ways!(k11_255_bytes_are_a_key_and_256_are_none);
async fn k11_255_bytes_are_a_key_and_256_are_none(front: Front) {
    let site = Site::start(front).await;
    for key in ["k".repeat(256), format!("\"{}\"", "k".repeat(256))] {
        refused(&site, post(key)).await;
    }
    let longest = "k".repeat(255);
    same(&site, &longest, &format!("\"{longest}\"")).await;

    let site = Site::with(front, &[("policy.key-max", "8B")]).await;
    refused(&site, post("123456789")).await;
    same(&site, "12345678", "12345678").await;
}

three_ways!(k12_the_name_of_the_field_has_no_case);
async fn k12_the_name_of_the_field_has_no_case(front: Front) {
    let site = Site::start(front).await;
    let named = |name| {
        unkeyed("POST", "/charges")
            .line(format!("{name}: k"))
            .body("")
    };
    let first = site.ask(named("Idempotency-Key")).await;
    for name in ["idempotency-key", "IDEMPOTENCY-KEY", "idempotencY-keY"] {
        replayed(&first, &site.ask(named(name)).await);
    }
    assert_eq!(site.effects().await, 1);
}

three_ways!(k13_keys_that_differ_in_case_are_two);
async fn k13_keys_that_differ_in_case_are_two(front: Front) {
    let site = Site::start(front).await;
    site.ask(post("abc")).await;
    assert!(!site.ask(post("ABC")).await.is_replay());
    assert_eq!(site.effects().await, 2);
}

three_ways!(k15_a_key_in_the_trailers_is_none);
async fn k15_a_key_in_the_trailers_is_none(front: Front) {
    let site = Site::start(front).await;
    let trailed = |ask: Ask| ask.chunked("2\r\nhi\r\n0\r\nIdempotency-Key: late\r\n\r\n");
    for _ in 0..2 {
        let answer = site.ask(trailed(unkeyed("POST", "/charges"))).await;
        assert!(!answer.is_replay());
    }
    assert_eq!(site.effects().await, 2, "unguarded, both");
    let first = site.ask(trailed(keyed("POST", "/charges", "k"))).await;
    replayed(
        &first,
        &site.ask(keyed("POST", "/charges", "k").body("hi")).await,
    );
    for received in site.legacy.journal() {
        assert_ne!(received.key(), Some("late"), "never merged into the head");
        // A layer leaves alone what it does not guard.
        let passed = !front.is_hop() && received.key().is_none();
        assert_eq!(received.trailers.is_empty(), !passed, "nor passed on");
    }
    let required = Site::with(front, &[("policy.require-key", "true")]).await;
    let answer = required.ask(trailed(unkeyed("POST", "/charges"))).await;
    problem(&answer, 400, "idempotency-key-missing");
}

three_ways!(k16_an_underscore_makes_no_key_and_never_reaches_the_service);
async fn k16_an_underscore_makes_no_key_and_never_reaches_the_service(front: Front) {
    let site = Site::start(front).await;
    let twin = |ask: Ask| ask.line("Idempotency_Key: other").body("");
    site.ask(twin(unkeyed("POST", "/charges"))).await;
    site.ask(twin(keyed("POST", "/charges", "k"))).await;
    for received in site.legacy.journal() {
        // Behind a layer there is nobody who could take the one for the other.
        let twin = (!front.is_hop()).then_some("other");
        assert_eq!(received.fields.get("idempotency_key"), twin);
    }
    assert_eq!(site.effects_of("k").await, 1);

    let required = Site::with(front, &[("policy.require-key", "true")]).await;
    let answer = required.ask(twin(unkeyed("POST", "/charges"))).await;
    problem(&answer, 400, "idempotency-key-missing");
    assert_eq!(required.legacy.requests(), 0);
}

three_ways!(k17_a_key_that_connection_names_is_enforced_and_not_passed_on);
async fn k17_a_key_that_connection_names_is_enforced_and_not_passed_on(front: Front) {
    let site = Site::start(front).await;
    let request = post("k").line("Connection: Idempotency-Key, X-Own");
    let first = site.ask(&request).await;
    replayed(&first, &site.ask(&request).await);
    replayed(&first, &site.ask(post("k")).await);
    assert_eq!(site.legacy.journal().len(), 1);
    let passed_on = (!front.is_hop()).then_some("k");
    assert_eq!(site.legacy.journal()[0].key(), passed_on, "RFC 9110, 7.6.1");
}

three_ways!(k18_keys_are_checked_before_the_body_is_read);
/// K18 as far as it goes: length and syntax; patterns are not offered.
async fn k18_keys_are_checked_before_the_body_is_read(front: Front) {
    let site = Site::start(front).await;
    let mut client = site.connect().await;
    let head =
        "POST /charges HTTP/1.1\r\nHost: s\r\nIdempotency-Key: a, b\r\nContent-Length: 9\r\n\r\n";
    client.send(head).await;
    let answer = client.response().await.expect("an answer without the body");
    problem(&answer, 400, "idempotency-key-invalid");
}

three_ways!(k19_m16_neither_key_nor_body_nor_credential_is_in_the_log_or_the_file);
async fn k19_m16_neither_key_nor_body_nor_credential_is_in_the_log_or_the_file(front: Front) {
    let shop = Shop::lasting(front).await;
    let mut guard = shop.open(&[("log.level", "debug")]).await;
    let request = post("very-secret-key")
        .line("Authorization: Bearer very-secret-token")
        .body("card=very-secret-number");
    let first = guard.ask(&request).await;
    replayed(&first, &guard.ask(&request).await);
    let other = guard.ask(post("very-secret-key, other")).await;
    problem(&other, 400, "idempotency-key-invalid");
    assert!(!other.text().contains("very-secret"));
    // An app's log is its own.
    if let Guard::Proxy(proxy) = &mut guard {
        let line = proxy.logged("replayed").await;
        assert!(line.contains("record"), "the log names the record: {line}");
        assert!(proxy.terminate().await.success());
        let log = proxy.log().join("\n");
        assert!(!log.contains("very-secret"), "{log}");
    }
    let stored = shop.stored().await;
    assert!(!stored.is_empty());
    for (place, bytes) in stored {
        let found = bytes.windows(11).any(|window| window == b"very-secret");
        assert!(!found, "{place}");
    }
    assert_eq!(shop.effects().await, 1);
}
