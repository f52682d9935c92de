//! X: which methods are guarded.

use crate::support::*;

/// Sends it twice and counts: 2 where the method passes by, 1 where it is guarded.
async fn effects(site: &Site, request: Ask) -> usize {
    let before = site.effects().await;
    for _ in 0..2 {
        let answer = site.ask(&request).await;
        assert!(answer.status < 300, "{answer:?}");
    }
    site.effects().await - before
}

three_ways!(x1_x2_x3_x4_only_post_and_patch_are_guarded);
async fn x1_x2_x3_x4_only_post_and_patch_are_guarded(front: Front) {
    let site = Site::start(front).await;
    for method in ["POST", "PATCH"] {
        assert_eq!(
            effects(&site, keyed(method, "/a", "k").body("x")).await,
            1,
            "X2: {method}"
        );
    }
    for method in [
        "GET",
        "QUERY",
        "PUT",
        "DELETE",
        "MKCOL",
        "LOCK",
        "MOVE",
        "PROPPATCH",
        "post",
        "X-ANY",
    ] {
        let request = keyed(method, "/a", "k").body("x");
        assert_eq!(effects(&site, request).await, 2, "X1, X3, X4: {method}");
        // X1: nor is the key looked at, and it reaches the service as it is.
        let odd = keyed(method, "/a", "a, b")
            .line("Idempotency-Key: c")
            .body("x");
        assert_eq!(effects(&site, odd).await, 2, "{method}");
        let journal = site.legacy.journal();
        let received = journal.last().expect("a request");
        let keys: Vec<_> = received.fields.all("idempotency-key").collect();
        assert_eq!(keys, ["a, b", "c"], "{method}");
        assert_eq!(received.method, method);
    }
    // X3: nor do those that pass by collide with what is guarded.
    let again = site.ask(keyed("POST", "/a", "k").body("x")).await;
    assert!(again.is_replay());
}

three_ways!(x1_head_and_options_pass_by);
async fn x1_head_and_options_pass_by(front: Front) {
    let site = Site::start(front).await;
    for method in ["HEAD", "OPTIONS"] {
        for _ in 0..2 {
            let mut client = site.connect().await;
            client.send(keyed(method, "/a", "k")).await;
            let answer = client.response_to_head().await.expect("a head");
            assert!(!answer.is_replay() && answer.status == 201, "{answer:?}");
        }
    }
    assert_eq!(site.effects().await, 4);
}

three_ways!(x3_other_methods_are_guarded_where_that_is_asked_for);
async fn x3_other_methods_are_guarded_where_that_is_asked_for(front: Front) {
    let site = Site::with(front, &[("policy.methods", "PUT, DELETE")]).await;
    for (method, expected) in [("PUT", 1), ("DELETE", 1), ("POST", 2), ("PATCH", 2)] {
        let request = keyed(method, "/a", "k").body("x");
        assert_eq!(effects(&site, request).await, expected, "{method}");
    }
}

three_ways!(x5_preflight_needs_no_key);
async fn x5_preflight_needs_no_key(front: Front) {
    let site = Site::with(front, &[("policy.require-key", "true")]).await;
    let preflight = unkeyed("OPTIONS", "/charges")
        .line("Origin: https://a.example")
        .line("Access-Control-Request-Method: POST")
        .line("Access-Control-Request-Headers: idempotency-key");
    assert_eq!(site.ask(preflight).await.status, 201);
    assert_eq!(site.legacy.requests(), 1);
}

#[tokio::test]
async fn x6_x1_connect_and_trace_are_refused_keyed_or_not() {
    let site = Site::start(Front::Proxy).await;
    for (request, status) in [
        (
            "CONNECT shop.example:443 HTTP/1.1\r\nHost: shop.example:443\r\nIdempotency-Key: k\r\n\r\n",
            501,
        ),
        (
            "TRACE / HTTP/1.1\r\nHost: s\r\nIdempotency-Key: k\r\n\r\n",
            405,
        ),
    ] {
        assert_eq!(site.ask(request).await.status, status, "{request}");
    }
    assert_eq!(site.legacy.requests(), 0);
}

/// X6: even where somebody lists them, they are never forwarded, and take no key.
#[tokio::test]
async fn x6_listing_connect_does_not_open_it() {
    let site = Site::with(Front::Proxy, &[("policy.methods", "CONNECT, TRACE")]).await;
    for _ in 0..2 {
        let trace = site.ask(keyed("TRACE", "/", "k")).await;
        assert_eq!((trace.status, trace.is_replay()), (405, false));
    }
    assert_eq!(site.legacy.requests(), 0);
}

three_ways!(x7_a_stored_answer_is_never_that_of_a_get);
/// X7, X8: a stored answer is for retries; this is no cache.
async fn x7_a_stored_answer_is_never_that_of_a_get(front: Front) {
    let site = Site::start(front).await;
    let location = "/charges/1";
    let first = site.ask(post("k")).await;
    assert_eq!(first.fields.get("location"), Some(location));
    for target in [location, "/charges"] {
        let answer = site.ask(keyed("GET", target, "k")).await;
        assert!(!answer.is_replay());
        assert_ne!(answer.body, first.body);
    }
    assert_eq!(site.effects().await, 3);
}
