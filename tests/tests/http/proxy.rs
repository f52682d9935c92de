//! C: responses, fields and connections, where they meet keys. What has nothing to do with keys is tested
//! beside the forwarder and the listener.

use onlyonce_test::event::{Counter, Gate};
use onlyonce_test::upstream::Reply;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::support::*;

/// C-R1, C-R3, C-R6, C-R8, S10: an answer that no proxy may pass on is none, for the client and for the record.
#[tokio::test]
async fn c_r_invalid_answers_are_unknown() {
    let site = Site::with(Front::Proxy, &[("upstream.head-max", "16KiB")]).await;
    let large = format!("X: {}\r\n", "x".repeat(20_000));
    for (number, (item, lines)) in [
        ("C-R1", "Content-Length: 2\r\nContent-Length: 3\r\n"),
        ("C-R1", "Content-Length: x\r\n"),
        ("C-R1", "Content-Length: +2\r\n"),
        (
            "C-R1",
            "Content-Length: 2\r\nTransfer-Encoding: chunked\r\n",
        ),
        ("C-R1", "Transfer-Encoding: gzip, chunked\r\n"),
        ("C-R3", "X : a\r\nContent-Length: 2\r\n"),
        ("C-R3", "X: a\r\n folded: b\r\nContent-Length: 2\r\n"),
        ("C-R8", &large),
        ("C-R3", "no field at all\r\n"),
    ]
    .into_iter()
    .enumerate()
    {
        site.legacy
            .script(Reply::raw(format!("HTTP/1.1 201 Created\r\n{lines}\r\nhi")));
        let key = format!("k-{number}");
        problem(&site.ask(post(&key)).await, 502, "outcome-unknown");
        problem(&site.ask(post(&key)).await, 409, "outcome-unknown");
        assert_eq!(site.effects_of(&key).await, 1, "{item}: {lines:?}");
    }
    assert_eq!(
        site.legacy.connections(),
        9,
        "C-R1: each connection was given up"
    );
}

/// C-R2: what comes behind an answer is not the answer to the next request, of another caller perhaps.
#[tokio::test]
async fn c_r2_bytes_behind_an_answer_poison_no_record() {
    let site = Site::start(Front::Proxy).await;
    let evil = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";
    let honest = "HTTP/1.1 201 Created\r\nContent-Length: 6\r\n\r\nhonest";
    site.legacy.script(Reply::raw(format!("{honest}{evil}")));
    let first = site.ask(post("k")).await;
    assert_eq!((first.status, first.text()), (201, "honest"));
    for key in ["l", "m"] {
        let answer = site.ask(post(key)).await;
        assert_eq!(answer.status, 201, "C-R2");
        assert!(
            answer.text().starts_with("charge"),
            "C-R2: {}",
            answer.text()
        );
        replayed(&answer, &site.ask(post(key)).await);
    }
    replayed(&first, &site.ask(post("k")).await);
}

#[tokio::test]
async fn c_r4_content_where_there_is_none_is_dropped() {
    let site = Site::start(Front::Proxy).await;
    for (status, line) in [
        (204, "Content-Length: 5"),
        (204, "Transfer-Encoding: chunked"),
        (304, "Content-Length: 5"),
    ] {
        let key = format!("{status} {line}").replace([' ', ':'], "-");
        site.legacy
            .script(Reply::raw(format!("HTTP/1.1 {status} X\r\n{line}\r\n\r\n")));
        let first = site.ask(post(&key)).await;
        let again = site.ask(post(&key)).await;
        replayed(&first, &again);
        assert_eq!(first.status, status);
        for answer in [&first, &again] {
            assert_eq!(answer.fields.get("transfer-encoding"), None, "C-R4: {key}");
            assert!(
                status != 204 || answer.fields.get("content-length").is_none(),
                "C-R4: {key}"
            );
        }
    }
}

#[tokio::test]
async fn c_r5_c_r9_many_interim_responses_and_no_date() {
    let site = Site::start(Front::Proxy).await;
    let reply = (0..500).fold(Reply::new(201), |reply, _| reply.interim(102));
    site.legacy.script(reply.body("made"));
    let first = site.ask(post("k")).await;
    assert_eq!((first.status, first.text()), (201, "made"), "C-R5");
    assert_eq!(first.fields.all("date").count(), 1, "C-R9");
    replayed(&first, &site.ask(post("k")).await);
}

#[tokio::test]
async fn c_h1_c_h2_c_h3_c_h5_c_v1_a_guarded_request_is_cleaned_like_any_other() {
    let site = Site::start(Front::Proxy).await;
    let request = post("k")
        .line("Connection: close, X-Own, X-Forwarded-For, Host, Content-Length, Via")
        .line("X-Own: 1")
        .line("Keep-Alive: timeout=9")
        .line("Proxy-Connection: close")
        .line("Proxy-Authorization: Basic eA==")
        .line("TE: gzip")
        .line("X-Forwarded-For: 1.2.3.4")
        .line("X-Unknown: a, b")
        .line("X-Unknown: c");
    assert_eq!(site.ask(request).await.status, 201);
    let received = &site.legacy.journal()[0];
    for name in [
        "x-own",
        "keep-alive",
        "proxy-connection",
        "proxy-authorization",
        "te",
    ] {
        assert_eq!(received.fields.get(name), None, "C-H1, C-H3: {name}");
    }
    assert_eq!(received.fields.get("host"), Some("shop.example"), "C-H2");
    assert_eq!(received.fields.get("content-length"), Some("10"), "C-H2");
    assert_eq!(
        received.fields.get("x-forwarded-for"),
        Some("127.0.0.1"),
        "C-H2, C-T3"
    );
    let via = received.fields.get("via").unwrap_or_default();
    assert!(via.starts_with("1.1 onlyonce-"), "C-H2, C-V1: {via:?}");
    let unknown: Vec<_> = received.fields.all("x-unknown").collect();
    assert_eq!(unknown, ["a, b", "c"], "C-H5: apart, in order");
}

three_ways!(c_t1_c_f13_targets_of_guarded_requests_arrive_byte_for_byte);
async fn c_t1_c_f13_targets_of_guarded_requests_arrive_byte_for_byte(front: Front) {
    let site = Site::start(front).await;
    for (number, target) in [
        "//a",
        "/./a/../b",
        "/%2F%2e%2f",
        "/a;b=c",
        "/a?",
        "/a?b?c&&d=%FF",
        "/a+b",
        "/%00",
        "/~!$&'()*,=:@",
    ]
    .into_iter()
    .enumerate()
    {
        let key = &format!("k-{number}");
        let first = site.ask(keyed("POST", target, key).body("x")).await;
        assert!(!first.is_replay(), "{target}");
        let journal = site.legacy.journal();
        assert_eq!(journal.last().expect("a request").target, target, "C-T1");
        // C-F13: absolute form, another authority: the same service and the same record.
        let absolute = format!("http://evil.invalid:1{target}");
        replayed(
            &first,
            &site.ask(keyed("POST", &absolute, key).body("x")).await,
        );
    }
}

#[tokio::test]
async fn c_t3_c_t4_only_trusted_peers_say_where_a_request_comes_from() {
    let spoofed = || {
        post("k")
            .line("X-Forwarded-For: 1.2.3.4")
            .line("X-Forwarded-Proto: https")
            .line("X-Forwarded-Host: evil.example")
            .line("X-Real-IP: 1.2.3.4")
            .line("Forwarded: for=1.2.3.4;proto=https")
    };
    let stranger = Site::start(Front::Proxy).await;
    stranger.ask(spoofed()).await;
    let head = String::from_utf8_lossy(&stranger.legacy.journal()[0].head).into_owned();
    assert!(
        !head.contains("1.2.3.4") && !head.contains("evil") && !head.contains("https"),
        "C-T3, C-T4: {head}"
    );

    let trusted = Site::with(Front::Proxy, &[("listen.trusted-peers", "127.0.0.0/8")]).await;
    trusted.ask(spoofed()).await;
    let received = &trusted.legacy.journal()[0];
    for (name, value) in [
        ("x-forwarded-for", "1.2.3.4, 127.0.0.1"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "evil.example"),
        ("x-real-ip", "1.2.3.4"),
        (
            "forwarded",
            "for=1.2.3.4;proto=https, for=127.0.0.1;host=\"shop.example\";proto=http",
        ),
    ] {
        assert_eq!(received.fields.get(name), Some(value), "C-T3, C-T4");
    }
}

/// C-T2: the service sees the client's host, or its own.
#[tokio::test]
async fn c_t2_the_host_is_kept_or_rewritten() {
    for (policy, rewritten) in [("preserve", false), ("rewrite", true)] {
        let site = Site::with(Front::Proxy, &[("upstream.host", policy)]).await;
        site.ask(post("k")).await;
        let received = &site.legacy.journal()[0];
        let own = site.legacy.addr().to_string();
        let expected = if rewritten { &own } else { "shop.example" };
        assert_eq!(received.fields.get("host"), Some(expected), "C-T2");
        assert_eq!(
            received.fields.get("x-forwarded-host"),
            Some("shop.example"),
            "C-T2"
        );
    }
}

/// C-V2: a request that has been here is refused, and its key stays free.
#[tokio::test]
async fn c_v2_a_loop_is_refused_and_takes_no_key() {
    let site = Site::start(Front::Proxy).await;
    site.ask(post("first")).await;
    let via = site.legacy.journal()[0]
        .fields
        .get("via")
        .unwrap_or_default()
        .to_owned();
    for _ in 0..2 {
        let answer = site
            .ask(post("k").line(format!("Via: 1.0 other, {via}")))
            .await;
        assert_eq!((answer.status, answer.is_replay()), (508, false), "C-V2");
    }
    assert_eq!(site.ask(post("k").line("Via: 1.0 other")).await.status, 201);
    assert_eq!(site.legacy.requests(), 2);
}

#[tokio::test]
async fn c_v3_c_v4_max_forwards_counts_for_options_and_traces_pass() {
    let site = Site::start(Front::Proxy).await;
    let answer = site
        .ask(unkeyed("OPTIONS", "/a").line("Max-Forwards: 0"))
        .await;
    assert_eq!(answer.status, 204, "C-V3: answered here");
    assert_eq!(site.legacy.requests(), 0);
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let request = post("k")
        .line("Max-Forwards: 0")
        .line(format!("traceparent: {trace}"));
    assert_eq!(
        site.ask(request).await.status,
        201,
        "C-V3: not for other methods"
    );
    assert_eq!(
        site.legacy.journal()[0].fields.get("traceparent"),
        Some(trace),
        "C-V4"
    );
}

three_ways!(c_l3_an_upload_that_pauses_is_given_up);
/// C-L3: an upload that pauses ends, and has claimed nothing.
async fn c_l3_an_upload_that_pauses_is_given_up(front: Front) {
    let site = Site::with(front, &[("policy.body-idle-max", "300ms")]).await;
    let mut client = site.connect().await;
    client
        .send(keyed("POST", "/charges", "k").line("Content-Length: 1000"))
        .await;
    client.send("amount").await;
    let answer = client.response().await.expect("an answer");
    let members = problem(&answer, 408, "body-timeout");
    assert_eq!(members["retryable"], true);
    client.send(post("smuggled")).await;
    client.finish().await;
    assert!(
        client.response().await.is_err(),
        "F21: it is still the body"
    );
    assert_eq!(site.legacy.requests(), 0);
    assert_eq!(
        site.ask(keyed("POST", "/charges", "k").body("amount=100"))
            .await
            .status,
        201
    );
    assert_eq!(site.legacy.requests(), 1);
}

three_ways!(c_l5_uploads_share_one_bound);
/// C-L5: all uploads together are bounded; what does not fit claims nothing, and its rest is no request.
async fn c_l5_uploads_share_one_bound(front: Front) {
    let site = Site::with(front, &[("limits.uploaded-max", "16KiB")]).await;
    let gate = Gate::default();
    site.legacy.script(Reply::new(201).held_at(&gate));
    let body = vec![b'x'; 10_000];
    let mut holder = site.connect().await;
    holder.send(post("held").body(&body)).await;
    gate.reached(1).await;
    let mut client = site.connect().await;
    let head = keyed("POST", "/charges", "k").line("Content-Length: 20000");
    client.send(head).await;
    client.send(&body).await;
    let answer = client.response().await.expect("an answer amid the body");
    let members = problem(&answer, 503, "store-unavailable");
    assert_eq!(members["retryable"], true, "C-L5");
    let mut rest = post("smuggled").as_ref().to_vec();
    rest.resize(10_000, b'x');
    client.send(rest).await;
    client.finish().await;
    assert!(
        client.response().await.is_err(),
        "F21: it is still the body"
    );
    gate.open();
    assert_eq!(holder.response().await.expect("a head").status, 201);
    // The room is free again, and so is the key, for any payload.
    assert_eq!(site.ask(post("k").body(&body)).await.status, 201);
    assert_eq!(site.legacy.requests(), 2);
}

three_ways!(c_n5_a_drain_records_what_no_client_waits_for);
/// C-N5: a request in progress ends and is recorded, though its client has left; the next process replays.
async fn c_n5_a_drain_records_what_no_client_waits_for(front: Front) {
    let shop = Shop::lasting(front).await;
    let gate = Gate::default();
    shop.legacy
        .script(Reply::new(201).body("charge 1").held_at(&gate));
    let mut guard = shop.open(&[]).await;
    let mut client = guard.connect().await;
    client.send(post("k")).await;
    gate.reached(1).await;
    client.reset();
    guard.drain(|| gate.open()).await;
    let again = shop.open(&[]).await.ask(post("k")).await;
    assert!(again.is_replay());
    assert_eq!((again.status, again.text()), (201, "charge 1"));
    assert_eq!(shop.effects().await, 1);
}

/// A service that answers before it has read the request, as nginx does with one that is too large, and
/// throws the rest away.
async fn hasty(listener: TcpListener, answered: Counter) {
    while let Ok((mut stream, _)) = listener.accept().await {
        let mut head = [0; 4096];
        if !matches!(stream.read(&mut head).await, Ok(1..)) {
            continue;
        }
        answered.add();
        let answer =
            "HTTP/1.1 413 Content Too Large\r\nContent-Length: 5\r\nConnection: close\r\n\r\nlarge";
        let _ = stream.write_all(answer.as_bytes()).await;
        let _ = stream.shutdown().await;
        let mut ignored = vec![0; 1 << 16];
        while matches!(stream.read(&mut ignored).await, Ok(1..)) {}
    }
}

/// C-R, O3: an answer that comes before the request is through is an answer.
#[tokio::test]
async fn o3_an_answer_amid_the_upload_is_kept() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    let answered = Counter::default();
    let service = tokio::spawn(hasty(listener, answered.clone()));
    let proxy = serve(&url, "memory:", &[]).start().await;
    for key in ["a", "b", "c"] {
        let request = post(key).body(vec![b'x'; 6 << 20]);
        let first = ask(proxy.addr(), &request).await;
        assert_eq!((first.status, first.text()), (413, "large"), "O3");
        replayed(&first, &ask(proxy.addr(), &request).await);
    }
    assert_eq!(answered.get(), 3, "C-N1: each was sent once");
    service.abort();
}
