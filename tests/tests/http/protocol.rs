//! U: expectations, uploads, upgrades, streams, trailers, old clients.

use onlyonce_test::client::Raw;
use onlyonce_test::event::Gate;
use onlyonce_test::upstream::{Break, Reply};

use crate::support::*;

/// The head of a `POST` that waits for `100 Continue`, without its body of ten bytes.
fn expecting(key: &str, length: usize) -> String {
    format!(
        "POST /charges HTTP/1.1\r\nHost: s\r\nIdempotency-Key: {key}\r\n\
         Content-Type: application/x-www-form-urlencoded\r\n\
         Expect: 100-continue\r\nContent-Length: {length}\r\n\r\n"
    )
}

const CONTINUE: &str = "HTTP/1.1 100 Continue\r\n\r\n";

/// The bytes that come before the body was sent.
async fn invitation(client: &mut Raw) -> String {
    let bytes = client.bytes(CONTINUE.len()).await;
    String::from_utf8_lossy(&bytes.expect("an interim response")).into_owned()
}

three_ways!(u1_no_100_is_sent_where_the_answer_is_known);
async fn u1_no_100_is_sent_where_the_answer_is_known(front: Front) {
    let settings = [
        ("policy.require-key", "true"),
        ("policy.request-max", "1KiB"),
    ];
    let site = Site::with(front, &settings).await;
    let gate = Gate::default();
    site.legacy.script(Reply::new(201).held_at(&gate));
    let mut holder = site.connect().await;
    holder.send(post("held")).await;
    gate.reached(1).await;
    let missing = expecting("x", 10).replace("Idempotency-Key: x\r\n", "");
    for (head, status, code) in [
        (missing, 400, "idempotency-key-missing"),
        (expecting("a, b", 10), 400, "idempotency-key-invalid"),
        (expecting("held", 10), 409, "request-in-progress"),
        (expecting("large", 1025), 413, "body-too-large"),
    ] {
        let mut client = site.connect().await;
        client.send(head).await;
        let answer = client.response().await.expect("a final answer");
        problem(&answer, status, code);
        assert!(answer.interim.is_empty(), "U1: {code}");
        let rest = client.ended().await.expect("an orderly end");
        assert!(rest.is_empty(), "U1: the connection ends: {code}");
    }
    gate.open();
    assert_eq!(holder.response().await.expect("a head").status, 201);
    assert_eq!(site.legacy.requests(), 1);
}

three_ways!(u2_we_say_100_ourselves_and_pass_the_body_on_without_the_expectation);
async fn u2_we_say_100_ourselves_and_pass_the_body_on_without_the_expectation(front: Front) {
    let site = Site::start(front).await;
    site.legacy
        .script(Reply::new(201).interim(100).body("charge 1"));
    let mut client = site.connect().await;
    client.send(expecting("k", 10)).await;
    assert_eq!(invitation(&mut client).await, CONTINUE, "U2");
    assert_eq!(
        site.legacy.requests(),
        0,
        "before the body there is nothing to forward"
    );
    client.send("amount=100").await;
    let first = client.response().await.expect("a head");
    assert_eq!((first.status, first.text()), (201, "charge 1"));
    assert!(
        first.interim.is_empty(),
        "U2: the service's own 100 is not relayed"
    );
    let received = &site.legacy.journal()[0];
    assert_eq!(received.fields.get("expect"), None, "U2");
    assert_eq!(received.body, "amount=100");
    // A duplicate is known by its body, so that is asked for too.
    client.send(expecting("k", 10)).await;
    assert_eq!(invitation(&mut client).await, CONTINUE, "U2");
    client.send("amount=100").await;
    replayed(&first, &client.response().await.expect("a head"));
    assert_eq!(site.legacy.requests(), 1);
}

three_ways!(u3_other_expectations_and_old_clients_do_not_matter);
async fn u3_other_expectations_and_old_clients_do_not_matter(front: Front) {
    let site = Site::start(front).await;
    let request = post("k").line("Expect: 200-ok");
    let first = site.ask(&request).await;
    assert_eq!(first.status, 201);
    let old = expecting("k", 10).replace("HTTP/1.1", "HTTP/1.0") + "amount=100";
    let again = site.ask(old).await;
    replayed(&first, &again);
    assert!(again.interim.is_empty(), "U3: HTTP/1.0 knows no 100");
    assert_eq!(site.legacy.journal()[0].fields.get("expect"), None);
    assert_eq!(site.legacy.requests(), 1);
}

/// U4 is left out: hyper's server cannot send a 103. It does no harm either.
#[tokio::test]
async fn u4_interim_responses_are_swallowed() {
    let site = Site::start(Front::Proxy).await;
    for request in [post("k"), unkeyed("GET", "/")] {
        site.legacy
            .script(Reply::new(200).interim(103).interim(104).body("final"));
        let answer = site.ask(request).await;
        assert_eq!((answer.status, answer.text()), (200, "final"));
        assert!(answer.interim.is_empty());
    }
}

three_ways!(u5_an_upload_over_the_limit_is_refused_and_claims_nothing);
async fn u5_an_upload_over_the_limit_is_refused_and_claims_nothing(front: Front) {
    let site = Site::with(front, &[("policy.request-max", "16B")]).await;
    let over = "8\r\n01234567\r\n8\r\n89abcdef\r\n1\r\n!\r\n";
    // The end does not come: the limit is enough.
    problem(
        &site.ask(post("k").chunked(over)).await,
        413,
        "body-too-large",
    );
    let mut client = site.connect().await;
    client
        .send(expecting("k", 17).replace("Expect: 100-continue\r\n", ""))
        .await;
    problem(
        &client.response().await.expect("a head"),
        413,
        "body-too-large",
    );
    assert_eq!(site.legacy.requests(), 0);
    let exact = "8\r\n01234567\r\n8\r\n89abcdef\r\n0\r\n\r\n";
    let first = site.ask(post("k").chunked(exact)).await;
    assert_eq!(first.status, 201);
    replayed(&first, &site.ask(post("k").body("0123456789abcdef")).await);
    assert_eq!(site.legacy.requests(), 1);
    // What is not guarded has no limit.
    let plain = site
        .ask(unkeyed("POST", "/charges").body("x".repeat(100_000)))
        .await;
    assert_eq!(plain.status, 201);
}

#[tokio::test]
async fn u6_a_guarded_request_never_switches_protocols() {
    let site = Site::start(Front::Proxy).await;
    let upgrade = |key| {
        post(key)
            .line("Connection: upgrade")
            .line("Upgrade: websocket")
    };
    let first = site.ask(upgrade("k")).await;
    assert_eq!(first.status, 201);
    assert_eq!(site.legacy.journal()[0].fields.get("upgrade"), None, "U6");
    replayed(&first, &site.ask(upgrade("k")).await);

    let switch =
        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
    site.legacy.script(Reply::raw(switch));
    problem(&site.ask(upgrade("l")).await, 502, "outcome-unknown"); // C-R6
    problem(&site.ask(upgrade("l")).await, 409, "outcome-unknown");
    assert_eq!(site.legacy.requests(), 2);
}

/// U6, C-H4: a `GET` with a key tunnels like any other.
#[tokio::test]
async fn u6_a_websocket_with_a_key_passes_by() {
    let site = Site::start(Front::Proxy).await;
    let switch = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nhello";
    site.legacy.script(Reply::raw(switch));
    let mut client = site.connect().await;
    let upgrade = keyed("GET", "/socket", "k").line("Connection: upgrade");
    client.send(upgrade.line("Upgrade: websocket")).await;
    let answer = client.head().await.expect("a head");
    assert_eq!((answer.status, answer.is_replay()), (101, false));
    assert_eq!(client.bytes(5).await.expect("the tunnel's bytes"), "hello");
}

three_ways!(u8_u9_i1_events_are_not_held_back_and_are_replayed_at_once);
async fn u8_u9_i1_events_are_not_held_back_and_are_replayed_at_once(front: Front) {
    let site = Site::start(front).await;
    let (reply, stream) = Reply::streaming(200);
    site.legacy
        .script(reply.field("Content-Type", "text/event-stream"));
    let mut client = site.connect().await;
    client.send(post("k")).await;
    site.legacy.wait_for_effects(1).await;
    if front.streams() {
        let head = client.head().await.expect("a head before any event");
        assert_eq!(head.status, 200);
    }
    for event in ["data: 1\n\n", "data: 2\n\n", "data: 3\n\n"] {
        stream.send(event);
        if front.streams() {
            let chunk = client.chunk().await.expect("a chunk").expect("not the end");
            assert_eq!(chunk, event, "U8: as it comes");
        }
        problem(&site.ask(post("k")).await, 409, "request-in-progress"); // U8, I1
    }
    stream.end();
    let all = "data: 1\n\ndata: 2\n\ndata: 3\n\n";
    if front.streams() {
        assert_eq!(client.chunk().await.expect("the end"), None);
    } else {
        let first = client.response().await.expect("a head");
        assert_eq!((first.status, first.text()), (200, all));
    }
    let again = site.ask(post("k")).await;
    assert!(again.is_replay());
    assert_eq!(again.text(), all, "U9");
    assert_eq!(again.fields.get("content-type"), Some("text/event-stream"));
    assert_eq!(site.legacy.requests(), 1);
}

three_ways!(u8_a_stream_that_breaks_off_is_broken_and_unknown);
async fn u8_a_stream_that_breaks_off_is_broken_and_unknown(front: Front) {
    let site = Site::start(front).await;
    for (key, how) in [("reset", Break::Reset), ("finish", Break::Finish)] {
        let (reply, stream) = Reply::streaming(200);
        site.legacy
            .script(reply.field("Content-Type", "text/event-stream"));
        let mut client = site.connect().await;
        client.send(post(key)).await;
        if front.streams() {
            client.head().await.expect("a head");
        }
        stream.send("data: 1\n\n");
        if front.streams() {
            client.chunk().await.expect("a chunk").expect("not the end");
        }
        stream.breaks(how);
        let rest = client.response().await;
        let broken = rest.is_err() || rest.is_ok_and(|response| !response.is_whole());
        assert!(broken, "C-R7: never a clean end: {key}");
        assert_eq!(site.effects_of(key).await, 1);
        site.retried(key, None, front.leaves(End::Truncated)).await;
    }
}

three_ways!(u10_trailers_reach_the_first_caller_and_are_not_stored);
async fn u10_trailers_reach_the_first_caller_and_are_not_stored(front: Front) {
    let site = Site::start(front).await;
    for te in [None, Some("TE: trailers")] {
        let reply = Reply::new(200).field("Trailer", "X-Sum");
        site.legacy.script(reply.chunked(["one"], [("X-Sum", "1")]));
        let key = te.map_or("without", |_| "with");
        let ask = match te {
            Some(line) => post(key).line(line).line("Connection: TE"),
            None => post(key),
        };
        let first = site.ask(&ask).await;
        let sum = te.map(|_| "1");
        assert_eq!(
            first.trailers.get("x-sum"),
            sum,
            "U10: only for those who take them"
        );
        assert_eq!(first.fields.get("x-sum"), None, "U10: never merged");
        let again = site.ask(&ask).await;
        replayed(&first, &again);
        assert!(
            again.trailers.is_empty() && again.fields.get("x-sum").is_none(),
            "U10"
        );
        assert_eq!(again.fields.get("trailer"), None);
    }
}

three_ways!(u11_c_f7_request_trailers_are_dropped);
/// U11: whatever the trailers of a request say, they are not passed on and decide nothing.
async fn u11_c_f7_request_trailers_are_dropped(front: Front) {
    let site = Site::start(front).await;
    let trailers = "Content-Length: 5\r\nTransfer-Encoding: chunked\r\nHost: evil.example\r\n\
                    Authorization: Bearer evil\r\nIdempotency-Key: evil\r\nX-Own: 1\r\n";
    let framed = format!("2\r\nhi\r\n0\r\n{trailers}\r\n");
    for request in [post("k"), unkeyed("POST", "/plain")] {
        let answer = site
            .ask(request.line("Trailer: X-Own").chunked(&framed))
            .await;
        assert_eq!(answer.status, 201);
        let journal = site.legacy.journal();
        let received = journal.last().expect("a request");
        assert_eq!(received.body, "hi");
        // A layer leaves alone what it does not guard.
        let passed = !front.is_hop() && received.key().is_none();
        let trailers = &received.trailers;
        assert_eq!(trailers.is_empty(), !passed, "U11: {trailers:?}");
        let head = String::from_utf8_lossy(&received.head);
        assert!(
            !head.contains("evil") && !head.contains("X-Own: 1"),
            "C-F7: {head}"
        );
        let named = passed.then_some("X-Own");
        assert_eq!(received.fields.get("trailer"), named);
    }
}

three_ways!(u12_u13_ranges_and_conditions_are_the_services_and_a_replay_wins);
async fn u12_u13_ranges_and_conditions_are_the_services_and_a_replay_wins(front: Front) {
    let site = Site::start(front).await;
    let partial = Reply::new(206).field("Content-Range", "bytes 0-1/9");
    site.legacy.script(partial.body("ab"));
    let first = site.ask(post("k").line("Range: bytes=0-1")).await;
    let received = &site.legacy.journal()[0];
    assert_eq!(
        received.fields.get("range"),
        Some("bytes=0-1"),
        "U12: unchanged"
    );
    let again = site.ask(post("k").line("Range: bytes=1-1")).await;
    replayed(&first, &again);
    assert_eq!((again.status, again.text()), (206, "ab"), "U12: not sliced");

    let patch = keyed("PATCH", "/charges/1", "k")
        .line("If-Match: \"1\"")
        .body("x");
    site.legacy
        .script(Reply::new(200).field("ETag", "\"2\"").body("patched"));
    let first = site.ask(&patch).await;
    assert_eq!(
        site.legacy.journal()[1].fields.get("if-match"),
        Some("\"1\"")
    );
    // Were it asked, the service would say 412 by now.
    site.legacy.script(Reply::new(412));
    replayed(&first, &site.ask(&patch).await); // U13
    assert_eq!(site.legacy.requests(), 2);
}

three_ways!(u15_u18_a_202_and_a_redirect_are_answers);
async fn u15_u18_a_202_and_a_redirect_are_answers(front: Front) {
    let site = Site::start(front).await;
    for (status, name) in [(202, "operation-location"), (307, "location")] {
        site.legacy
            .script(Reply::new(status).field(name, "https://b.example/x?y"));
        let request = post(format!("k-{status}"));
        let first = site.ask(&request).await;
        assert_eq!(first.status, status, "U18: not followed");
        let again = site.ask(&request).await;
        replayed(&first, &again);
        assert_eq!(
            again.fields.get(name),
            Some("https://b.example/x?y"),
            "C-T6"
        );
    }
    assert_eq!(site.legacy.requests(), 2);
}

three_ways!(u16_an_old_client_gets_lengths_and_an_end);
async fn u16_an_old_client_gets_lengths_and_an_end(front: Front) {
    let site = Site::start(front).await;
    site.legacy
        .script(Reply::new(200).chunked(["one ", "two"], []));
    let text = String::from_utf8(post("k").as_ref().to_vec()).expect("ASCII");
    let old = text.replace("HTTP/1.1", "HTTP/1.0");
    let mut client = site.connect().await;
    client.send(&old).await;
    let first = client.response().await.expect("a head");
    assert_eq!(first.fields.get("transfer-encoding"), None, "U16");
    assert_eq!(first.text(), "one two");
    let mut client = site.connect().await;
    client.send(&old).await;
    let again = client.response().await.expect("a head");
    replayed(&first, &again);
    assert_eq!(again.fields.get("content-length"), Some("7"), "U16");
    assert!(client.ended().await.expect("an orderly end").is_empty());
    assert_eq!(site.legacy.requests(), 1);
}

/// C-R7: what ends with its connection must not end cleanly where it was broken.
#[tokio::test]
async fn u16_o14_an_old_client_sees_a_broken_answer_as_broken() {
    let site = Site::start(Front::Proxy).await;
    for (key, how) in [("reset", Break::Reset), ("finish", Break::Finish)] {
        let (reply, stream) = Reply::streaming(200);
        site.legacy.script(reply);
        let text = String::from_utf8(post(key).as_ref().to_vec()).expect("ASCII");
        let mut client = site.connect().await;
        client.send(text.replace("HTTP/1.1", "HTTP/1.0")).await;
        client.head().await.expect("a head");
        stream.send("half");
        assert_eq!(client.bytes(4).await.expect("a piece"), "half");
        stream.breaks(how);
        assert!(
            client.ended().await.is_err(),
            "a reset, for there is no other way: {key}"
        );
        problem(&site.ask(post(key)).await, 409, "outcome-unknown");
        assert_eq!(site.effects_of(key).await, 1);
    }
}
