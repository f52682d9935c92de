//! P: a retry after completion.

use onlyonce_test::upstream::Reply;

use crate::support::*;

/// Every byte there is, NULs first and last, and so no text in any encoding.
fn binary() -> Vec<u8> {
    let all = (0..=255).chain((0..=255).rev());
    all.chain([0, 0]).collect()
}

three_ways!(p1_p2_p15_p19_status_and_bytes_are_repeated_and_marked_errors_too);
async fn p1_p2_p15_p19_status_and_bytes_are_repeated_and_marked_errors_too(front: Front) {
    let site = Site::start(front).await;
    for status in [200, 201, 202, 400, 402, 404, 409, 422, 500] {
        let binary = Reply::new(status)
            .field("Content-Type", "application/octet-stream")
            .body(binary());
        site.legacy.script(binary);
        let key = format!("k-{status}");
        let request = post(&key);
        let first = site.ask(&request).await;
        assert_eq!(first.status, status);
        assert_eq!(first.body, self::binary());
        if status == 500 {
            site.retried(&key, Some(&first), front.leaves(End::Failed))
                .await;
            continue;
        }
        for _ in 0..2 {
            let again = site.ask(&request).await;
            replayed(&first, &again);
            let marks: Vec<_> = again.fields.all("idempotent-replayed").collect();
            assert_eq!(marks, ["true"], "P2, P19: {status}");
        }
        assert_eq!(site.effects_of(&key).await, 1);
    }
}

three_ways!(p2_the_marker_has_the_names_that_are_asked_for);
async fn p2_the_marker_has_the_names_that_are_asked_for(front: Front) {
    let names = "Idempotency-Replayed, X-Again";
    let site = Site::with(front, &[("policy.replay-markers", names)]).await;
    site.ask(post("k")).await;
    let again = site.ask(post("k")).await;
    assert_eq!(again.fields.get("idempotency-replayed"), Some("true"));
    assert_eq!(again.fields.get("x-again"), Some("true"));
    assert_eq!(again.fields.get("idempotent-replayed"), None);
}

three_ways!(p3_p4_what_belonged_to_a_connection_is_made_anew);
async fn p3_p4_what_belonged_to_a_connection_is_made_anew(front: Front) {
    let site = Site::start(front).await;
    site.legacy.script(
        Reply::new(200)
            .field("Connection", "X-Hop, close")
            .field("X-Hop", "1")
            .field("Keep-Alive", "timeout=9")
            .field("Proxy-Authenticate", "Basic")
            .field("Proxy-Authentication-Info", "x")
            .field("Trailer", "X-Sum")
            .field("Upgrade", "h3")
            .field("X-Kept", "yes")
            .chunked(["one ", "two"], [("X-Sum", "3")]),
    );
    let first = site.ask(post("k")).await;
    let again = site.ask(post("k")).await;
    replayed(&first, &again);
    assert_eq!(again.text(), "one two");
    assert_eq!(again.fields.get("content-length"), Some("7"), "P4");
    assert_eq!(again.fields.get("x-kept"), Some("yes"));
    for name in [
        "connection",
        "x-hop",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authentication-info",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "x-sum",
    ] {
        assert_eq!(again.fields.get(name), None, "P3: {name}");
    }
    assert!(again.trailers.is_empty());
}

/// Fields of the first moment, or of the first receiver.
const LEFT_OUT: [(&str, &str); 17] = [
    ("Set-Cookie", "session=1"),
    ("Set-Cookie", "csrf=2; Path=/"),
    ("WWW-Authenticate", "Basic"),
    ("Authentication-Info", "x=1"),
    ("Age", "5"),
    ("Alt-Svc", "clear"),
    ("Server-Timing", "db;dur=1"),
    ("RateLimit", "\"a\";r=1"),
    ("RateLimit-Policy", "\"a\";q=9"),
    ("X-RateLimit-Remaining", "7"),
    ("Retry-After", "9"),
    ("X-Request-Id", "r-1"),
    ("traceparent", "00-0-0-00"),
    ("NEL", "{}"),
    ("Report-To", "{}"),
    ("Clear-Site-Data", "\"*\""),
    ("Access-Control-Allow-Origin", "https://a.example"),
];

/// Fields that describe the result, some of them on two lines.
const REPEATED: [(&str, &str); 15] = [
    ("Content-Type", "application/json;charset=utf-8"),
    ("Content-Language", "de, en"),
    ("Content-Location", "/charges/1"),
    ("Location", "/charges/1"),
    ("ETag", "W/\"1\""),
    ("Last-Modified", "Mon, 01 Jan 2024 00:00:00 GMT"),
    ("Link", "</a>; rel=next"),
    ("Link", "</b>; rel=prev"),
    ("Vary", "accept"),
    ("Vary", "origin"),
    ("Cache-Control", "no-store"),
    ("Repr-Digest", "sha-256=:AA==:"),
    ("Preference-Applied", "respond-async"),
    ("X-Own", "a, b"),
    ("X-Own", ""),
];

fn with_fields(fields: &[(&str, &str)]) -> Reply {
    let reply = Reply::new(201).field("Date", "Mon, 01 Jan 2024 00:00:00 GMT");
    let reply = fields
        .iter()
        .fold(reply, |reply, (name, value)| reply.field(name, value));
    reply.body("{}")
}

three_ways!(p5_p6_p7_p9_results_are_repeated_and_moments_are_not);
async fn p5_p6_p7_p9_results_are_repeated_and_moments_are_not(front: Front) {
    let site = Site::start(front).await;
    let all: Vec<_> = LEFT_OUT.iter().chain(&REPEATED).copied().collect();
    site.legacy.script(with_fields(&all));
    let first = site.ask(post("k")).await;
    let again = site.ask(post("k")).await;
    replayed(&first, &again);
    for (name, _) in LEFT_OUT {
        let sent = all.iter().filter(|(own, _)| *own == name).count();
        assert_eq!(first.fields.all(name).count(), sent, "the first has {name}");
        assert_eq!(again.fields.get(name), None, "P5, P6, P9: {name}");
    }
    for (name, _) in REPEATED {
        let sent = REPEATED.iter().filter(|(own, _)| *own == name);
        let sent: Vec<_> = sent.map(|(_, value)| *value).collect();
        let repeated: Vec<_> = again.fields.all(name).collect();
        assert_eq!(repeated, sent, "P7: each line, in order: {name}");
    }
}

three_ways!(p5_p6_a_route_can_keep_or_drop_fields);
async fn p5_p6_a_route_can_keep_or_drop_fields(front: Front) {
    let kept = ("policy.headers-kept", "set-cookie, x-request-id, age");
    let site = Site::with(front, &[kept, ("policy.headers-dropped", "x-own")]).await;
    let all: Vec<_> = LEFT_OUT.iter().chain(&REPEATED).copied().collect();
    site.legacy.script(with_fields(&all));
    let first = site.ask(post("k")).await;
    let again = site.ask(post("k")).await;
    replayed(&first, &again);
    let cookies: Vec<_> = again.fields.all("set-cookie").collect();
    assert_eq!(cookies, ["session=1", "csrf=2; Path=/"], "P5: line by line");
    assert_eq!(again.fields.get("x-request-id"), Some("r-1"));
    assert_eq!(again.fields.get("age"), None, "P9: never");
    assert_eq!(again.fields.get("x-own"), None);
}

three_ways!(p8_the_date_is_that_of_the_replay);
async fn p8_the_date_is_that_of_the_replay(front: Front) {
    let site = Site::start(front).await;
    site.legacy.script(with_fields(&[]));
    let first = site.ask(post("k")).await;
    assert_eq!(
        first.fields.get("date"),
        Some("Mon, 01 Jan 2024 00:00:00 GMT")
    );
    let again = site.ask(post("k")).await;
    let dates: Vec<_> = again.fields.all("date").collect();
    let [date] = dates[..] else {
        panic!("P8: one Date: {dates:?}")
    };
    let date = httpdate::parse_http_date(date).expect("P8: a date");
    let stored = httpdate::parse_http_date("Mon, 01 Jan 2024 00:00:00 GMT");
    assert!(date > stored.expect("a date"), "P8");
}

three_ways!(p10_p12_p13_p18_a_replay_depends_on_nothing_but_the_record);
async fn p10_p12_p13_p18_a_replay_depends_on_nothing_but_the_record(front: Front) {
    let site = Site::start(front).await;
    let first = site.ask(post("k")).await;
    // The service would answer otherwise by now, were it asked; then it is gone.
    site.legacy.answer_with(|_| Reply::new(410));
    for gone in [false, true] {
        if gone {
            site.legacy.stop();
        }
        for line in [
            "Accept: application/xml",
            "Accept-Encoding: identity",
            "Range: bytes=0-1",
            "If-Match: \"other\"",
            "If-None-Match: *",
            "Prefer: return=minimal",
            "Accept-Language: de",
        ] {
            replayed(&first, &site.ask(post("k").line(line)).await);
        }
        let old = String::from_utf8(post("k").as_ref().to_vec()).expect("ASCII");
        let again = site.ask(old.replace("HTTP/1.1", "HTTP/1.0")).await;
        replayed(&first, &again);
        assert_eq!(again.fields.get("transfer-encoding"), None, "P13, U16");
        assert_eq!(again.fields.get("content-length"), Some("8"), "P13, U16");
    }
    assert_eq!(site.legacy.requests(), 1);
}

three_ways!(p11_a_stored_encoding_is_not_decoded);
/// P11 is left out: an encoding is repeated as it was stored, whoever asks.
async fn p11_a_stored_encoding_is_not_decoded(front: Front) {
    let site = Site::start(front).await;
    let gzip = [
        0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 0x4b, 0x04, 0, 0x43, 0xbe, 0xb7, 0xe8, 1, 0, 0, 0,
    ];
    site.legacy.script(
        Reply::new(200)
            .field("Content-Encoding", "gzip")
            .body(gzip.to_vec()),
    );
    let first = site.ask(post("k").line("Accept-Encoding: gzip")).await;
    let again = site.ask(post("k").line("Accept-Encoding: identity")).await;
    replayed(&first, &again);
    assert_eq!(again.fields.get("content-encoding"), Some("gzip"));
}

three_ways!(p14_p4_answers_without_a_body_are_repeated_as_such);
async fn p14_p4_answers_without_a_body_are_repeated_as_such(front: Front) {
    let site = Site::start(front).await;
    for (status, length) in [(201, Some("0")), (204, None), (303, Some("0"))] {
        site.legacy
            .script(Reply::new(status).field("Location", "/charges/1"));
        let request = post(format!("k-{status}"));
        let mut client = site.connect().await;
        client.send(&request).await;
        let first = client.response().await.expect("a head");
        client.send(&request).await;
        let again = client
            .response()
            .await
            .expect("the same connection goes on");
        replayed(&first, &again);
        assert_eq!(again.fields.get("location"), Some("/charges/1"));
        assert_eq!(again.fields.get("content-length"), length, "P4: {status}");
        assert_eq!(again.fields.get("transfer-encoding"), None, "P4: {status}");
    }
    assert_eq!(site.effects().await, 3);
}

three_ways!(p16_what_is_too_large_to_keep_is_delivered_and_never_executed_again);
async fn p16_what_is_too_large_to_keep_is_delivered_and_never_executed_again(front: Front) {
    let site = Site::with(front, &[("policy.response-max", "1KiB")]).await;
    let large = "x".repeat(3000);
    let chunks = [&large[..1000], &large[1000..2000], &large[2000..]];
    for (key, reply) in [
        ("sized", Reply::new(201).body(large.clone())),
        ("chunked", Reply::new(201).chunked(chunks, [])),
    ] {
        site.legacy.script(reply);
        let first = site.ask(post(key)).await;
        assert!(first.is_whole());
        assert_eq!(first.text(), large, "P16: {key}");
        for _ in 0..2 {
            let again = site.ask(post(key)).await;
            problem(&again, 409, "response-unavailable");
            assert_eq!(again.fields.get("retry-after"), None, "G11");
        }
        assert_eq!(site.effects_of(key).await, 1, "P16");
    }
}

three_ways!(p17_records_outlive_the_process_and_are_everybodys);
async fn p17_records_outlive_the_process_and_are_everybodys(front: Front) {
    let shop = Shop::lasting(front).await;
    let mut one = shop.open(&[]).await;
    let other = shop.open(&[]).await;
    let first = one.ask(post("k")).await;
    replayed(&first, &other.ask(post("k")).await);
    one.kill().await;
    replayed(&first, &shop.open(&[]).await.ask(post("k")).await);
    assert_eq!(shop.effects().await, 1);
}

three_ways!(p20_our_own_errors_are_not_recorded);
/// P20: none of our own answers takes a key.
async fn p20_our_own_errors_are_not_recorded(front: Front) {
    let site = Site::with(front, &[("policy.request-max", "1KiB")]).await;
    let large = "x".repeat(2000);
    problem(
        &site.ask(post("k").body(&large)).await,
        413,
        "body-too-large",
    );
    problem(
        &site.ask(post("k, l")).await,
        400,
        "idempotency-key-invalid",
    );
    let first = site.ask(post("k")).await;
    assert_eq!(first.status, 201);
    problem(
        &site.ask(post("k").body("other")).await,
        422,
        "idempotency-key-reused",
    );
    problem(
        &site.ask(post("k").body(&large)).await,
        413,
        "body-too-large",
    );
    replayed(&first, &site.ask(post("k")).await);
    assert_eq!(site.legacy.requests(), 1);

    site.loses(post("lost")).await;
    let left = front.leaves(End::NoAnswer);
    site.retried("lost", None, left).await;
}
