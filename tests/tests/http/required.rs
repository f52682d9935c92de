//! R: requests without a key.

use crate::support::*;

const REQUIRED: (&str, &str) = ("policy.require-key", "true");

three_ways!(r1_r2_r5_a_missing_key_is_refused_where_it_is_required);
async fn r1_r2_r5_a_missing_key_is_refused_where_it_is_required(front: Front) {
    let page = "https://shop.example/docs/keys";
    let site = Site::with(front, &[REQUIRED, ("policy.documentation", page)]).await;
    for accept in ["*/*", "text/html", "application/json;q=0.1, image/png"] {
        let request = unkeyed("POST", "/charges").line(format!("Accept: {accept}"));
        let answer = site.ask(request.body("amount=100")).await;
        let members = problem(&answer, 400, "idempotency-key-missing"); // R2: never 406
        let detail = members["detail"].as_str().unwrap_or_default();
        assert!(detail.contains("idempotency-key"), "R1: {detail}");
        let link = format!("<{page}>; rel=\"describedby\"; type=\"text/html\"");
        assert_eq!(answer.fields.get("link"), Some(&*link), "R1, G4");
        assert_eq!(answer.fields.get("retry-after"), None, "G11");
    }
    assert_eq!(site.legacy.requests(), 0, "R1: the service is not called");

    // R5: methods that are not guarded need none.
    for method in ["GET", "PUT", "DELETE"] {
        let answer = site.ask(unkeyed(method, "/charges")).await;
        assert_eq!(answer.status, 201, "{method}");
    }
}

#[tokio::test]
async fn r1_the_flag_requires_keys_too() {
    let legacy = charges().await;
    let launch = serve(&legacy.url(), "memory:", &[]).arg("--require-key");
    let proxy = launch.start().await;
    let answer = ask(proxy.addr(), unkeyed("POST", "/").body("")).await;
    problem(&answer, 400, "idempotency-key-missing");
    assert_eq!(legacy.requests(), 0);
}

three_ways!(r3_r6_without_a_key_each_request_is_forwarded_as_it_is);
async fn r3_r6_without_a_key_each_request_is_forwarded_as_it_is(front: Front) {
    let site = Site::start(front).await;
    let request = unkeyed("POST", "/charges").body("amount=100");
    for number in 1..=2 {
        let answer = site.ask(&request).await;
        assert_eq!(answer.text(), format!("charge {number}"), "R3");
        assert_eq!(answer.fields.get("idempotent-replayed"), None, "R3");
        assert_eq!(site.effects().await, number);
    }
    for received in site.legacy.journal() {
        assert_eq!(received.key(), None, "R6: no key is made up");
        assert_eq!(received.body, "amount=100");
    }
}

three_ways!(r7_a_first_answer_is_the_same_with_a_key_and_without);
/// R7: some browsers send keys unasked. One must not change what the client gets.
async fn r7_a_first_answer_is_the_same_with_a_key_and_without(front: Front) {
    let site = Site::start(front).await;
    site.legacy.answer_with(|_| {
        onlyonce_test::upstream::Reply::new(404)
            .field("Date", "Mon, 01 Jan 2024 00:00:00 GMT")
            .field("Content-Type", "application/problem+json")
            .field("Set-Cookie", "a=1")
            .field("X-RateLimit-Remaining", "7")
            .body("{\"type\":\"about:blank\"}")
    });
    let plain = site.ask(unkeyed("POST", "/charges").body("x")).await;
    let keyed = site.ask(post("k").body("x")).await;
    assert_eq!(plain.body, keyed.body);
    // Fields of different names have no order.
    let lines = |head: &[u8]| {
        let mut lines: Vec<_> = head.split(|byte| *byte == b'\n').map(Vec::from).collect();
        lines.sort();
        lines
    };
    assert_eq!(lines(&plain.head), lines(&keyed.head));
}
