//! What is known of a request's execution, wherever its exchange breaks. Effects are counted by the
//! upstream, and no request reaches it twice.

use std::time::Duration;

use http::StatusCode;
use onlyonce::{Deadline, Evidence};
use onlyonce_test::event::{Gate, within};
use onlyonce_test::upstream::{At, Break, Legacy, Reply, refusing_addr};
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;

use crate::support::{forward, forward_with, get, post, post_within};

#[tokio::test]
async fn a_refused_connection_is_not_sent() {
    let addr = refusing_addr().await;
    let outcome = post(&forward(&format!("http://{addr}")), "k", "a=1").await;
    assert_eq!(outcome.status, StatusCode::BAD_GATEWAY);
    assert_eq!(outcome.evidence, Some(Evidence::NotSent));
    assert_eq!(outcome.code(), "upstream-unreachable");
    let told = String::from_utf8(outcome.body.unwrap().to_vec()).unwrap();
    assert!(
        !told.contains("127.0.0.1"),
        "addresses are for the log: {told}"
    );
}

#[tokio::test]
async fn a_name_that_does_not_resolve_is_not_sent() {
    let outcome = post(&forward("http://nowhere.invalid"), "k", "a=1").await;
    assert_eq!(outcome.evidence, Some(Evidence::NotSent));
    assert_eq!(outcome.code(), "upstream-unreachable");
}

#[tokio::test]
async fn a_break_before_any_response_is_unknown_and_never_repeated() {
    for how in [Break::Reset, Break::Finish] {
        for (at, effects) in [
            (At::FirstByte, 0),
            (At::InRequest(1), 0),
            (At::AfterRequest, 1),
            (At::AfterInterim, 1),
        ] {
            let legacy = Legacy::start().await;
            legacy.script(Reply::new(200).interim(100).breaks(at, how));
            let outcome = post(&forward(&legacy.url()), "k", "a=1").await;

            assert_eq!(outcome.evidence, Some(Evidence::Unknown), "{at:?} {how:?}");
            assert_eq!(outcome.status, StatusCode::BAD_GATEWAY, "{at:?} {how:?}");
            assert_eq!(outcome.code(), "outcome-unknown");
            assert_eq!(legacy.effects_of("k"), effects, "{at:?} {how:?}");
            assert_eq!(
                (legacy.requests(), legacy.connections()),
                (1, 1),
                "{at:?} {how:?}"
            );
        }
    }
}

#[tokio::test]
async fn a_break_on_a_pooled_connection_is_as_unknown_as_on_a_new_one() {
    for how in [Break::Reset, Break::Finish] {
        for at in [At::FirstByte, At::InRequest(1), At::AfterRequest] {
            let legacy = Legacy::start().await;
            let forward = forward(&legacy.url());
            assert_eq!(post(&forward, "first", "a=1").await.status, StatusCode::OK);
            legacy.script(Reply::new(200).breaks(at, how));
            let outcome = post(&forward, "k", "a=1").await;

            assert_eq!(outcome.evidence, Some(Evidence::Unknown), "{at:?} {how:?}");
            assert_eq!(
                (legacy.requests(), legacy.connections()),
                (2, 1),
                "{at:?} {how:?}"
            );
        }
    }
}

#[tokio::test]
async fn a_body_that_breaks_off_is_seen_broken() {
    let whole = || Reply::new(200).body("0123456789");
    let chunked = || Reply::new(200).chunked(["01234", "56789"], []);
    let cases = [
        (
            "reset amid a sized body",
            whole().breaks(At::InBody(4), Break::Reset),
        ),
        (
            "end amid a sized body",
            whole().breaks(At::InBody(4), Break::Finish),
        ),
        (
            "end before a sized body",
            whole().breaks(At::AfterHead, Break::Finish),
        ),
        (
            "a length that promises too much",
            Reply::new(200).body_declared("0123", 10),
        ),
        (
            "end amid a chunk",
            chunked().breaks(At::InBody(6), Break::Finish),
        ),
        (
            "end between chunks",
            chunked().breaks(At::InBody(10), Break::Finish),
        ),
        (
            "end before the last chunk",
            chunked().breaks(At::InBody(20), Break::Finish),
        ),
        (
            "reset before the last chunk",
            chunked().breaks(At::InBody(20), Break::Reset),
        ),
    ];
    for (what, reply) in cases {
        let legacy = Legacy::start().await;
        legacy.script(reply);
        let outcome = post(&forward(&legacy.url()), "k", "a=1").await;
        // A reset may overtake the head; then nothing came at all.
        match outcome.status {
            StatusCode::OK => assert!(outcome.body.is_err(), "{what}: {outcome:?}"),
            _ => assert_eq!(outcome.evidence, Some(Evidence::Unknown), "{what}"),
        }
        assert_eq!(
            (legacy.effects_of("k"), legacy.connections()),
            (1, 1),
            "{what}"
        );
    }
}

#[tokio::test]
async fn what_no_proxy_may_pass_on_is_unknown() {
    let cases = [
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n01234",
        "HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\n01234",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n01234",
        "HTTP/1.1 200 OK\r\nX : y\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: y\r\n folded\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
        "HTTP/3.7 200 OK\r\nContent-Length: 0\r\n\r\n",
        "SSH-2.0-OpenSSH_9.2\r\n\r\n",
    ];
    for raw in cases {
        let legacy = Legacy::start().await;
        legacy.script(Reply::raw(raw));
        let forward = forward(&legacy.url());
        let outcome = post(&forward, "k", "a=1").await;
        assert_eq!(outcome.status, StatusCode::BAD_GATEWAY, "{raw:?}");
        assert_eq!(outcome.evidence, Some(Evidence::Unknown), "{raw:?}");
        assert_eq!(legacy.effects_of("k"), 1);
        // Nothing more is sent where that came from.
        assert_eq!(post(&forward, "k2", "a=1").await.status, StatusCode::OK);
        assert_eq!(legacy.connections(), 2, "{raw:?}");
    }
}

#[tokio::test]
async fn a_bad_chunk_breaks_the_body() {
    for chunk in [
        "5_0\r\n",
        "+5\r\n01234\r\n0\r\n\r\n",
        "0x5\r\n01234\r\n0\r\n\r\n",
        "5\r\n0123456\r\n",
    ] {
        let legacy = Legacy::start().await;
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        legacy.script(Reply::raw(format!("{head}{chunk}")));
        let outcome = post(&forward(&legacy.url()), "k", "a=1").await;
        assert!(outcome.body.is_err(), "{chunk:?}: {outcome:?}");
    }
}

#[tokio::test]
async fn too_large_a_head_is_unknown() {
    let legacy = Legacy::start().await;
    legacy.script(Reply::new(200).field("x-large", &"x".repeat(70 << 10)));
    let outcome = post(&forward(&legacy.url()), "k", "a=1").await;
    assert_eq!(outcome.status, StatusCode::BAD_GATEWAY);
    assert_eq!(outcome.evidence, Some(Evidence::Unknown));
}

#[tokio::test]
async fn an_answer_after_the_deadline_is_unknown() {
    let legacy = Legacy::start().await;
    let gate = Gate::default();
    legacy.script(Reply::new(200).held_at(&gate));
    let deadline = Deadline::after(Duration::from_millis(400));
    let outcome = post_within(&forward(&legacy.url()), "k", "a=1", deadline).await;
    gate.open();
    assert_eq!(outcome.status, StatusCode::GATEWAY_TIMEOUT);
    assert_eq!(outcome.evidence, Some(Evidence::Unknown));
    assert_eq!(outcome.code(), "outcome-unknown");
    assert_eq!((legacy.effects_of("k"), legacy.requests()), (1, 1));
}

#[tokio::test]
async fn a_body_after_the_deadline_is_seen_broken() {
    let legacy = Legacy::start().await;
    let (reply, stream) = Reply::streaming(200);
    stream.send("begun");
    legacy.script(reply);
    let deadline = Deadline::after(Duration::from_millis(400));
    let outcome = post_within(&forward(&legacy.url()), "k", "a=1", deadline).await;
    assert_eq!(outcome.status, StatusCode::OK);
    assert!(outcome.body.is_err());
    drop(stream);
}

#[tokio::test]
async fn past_half_the_deadline_nothing_is_sent() {
    let legacy = Legacy::start().await;
    let forward = forward(&legacy.url());
    let late = Deadline::after(Duration::ZERO);
    let outcome = post_within(&forward, "k", "a=1", late).await;
    assert_eq!(outcome.evidence, Some(Evidence::NotSent));
    assert_eq!(legacy.connections(), 0);

    // Nor where a connection is at hand.
    assert_eq!(post(&forward, "first", "a=1").await.status, StatusCode::OK);
    let outcome = post_within(&forward, "k", "a=1", late).await;
    assert_eq!(outcome.evidence, Some(Evidence::NotSent));
    assert_eq!((legacy.effects_of("k"), legacy.requests()), (0, 1));
}

/// The upstream ends a connection before it has seen a byte. Whether a byte left first is a race; the
/// evidence has to match the bytes that arrived.
#[tokio::test]
async fn an_end_before_the_request_is_told_as_it_was() {
    for _ in 0..200 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let forward = forward(&format!("http://{}", listener.local_addr().unwrap()));
        let upstream = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let (mut read, write) = stream.into_split();
            drop(write); // sends FIN; what comes in can still be counted
            let mut received = Vec::new();
            let _ = read.read_to_end(&mut received).await;
            let again = tokio::time::timeout(Duration::from_millis(1), listener.accept()).await;
            (received.len(), again.is_ok())
        });
        let outcome = post(&forward, "k", "a=1").await;
        let (received, again) = within("the upstream", upstream).await.unwrap();
        assert!(
            !again,
            "a new connection that failed is no reason for another"
        );
        match outcome.evidence {
            Some(Evidence::NotSent) => assert_eq!(received, 0),
            Some(Evidence::Unknown) => assert!(received > 0),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_reset_before_the_request_is_never_success() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let forward = forward(&format!("http://{}", listener.local_addr().unwrap()));
    let upstream = tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            stream.set_zero_linger().unwrap();
        }
    });
    for _ in 0..200 {
        let outcome = post(&forward, "k", "a=1").await;
        assert_eq!(outcome.status, StatusCode::BAD_GATEWAY);
        assert!(outcome.evidence.is_some());
    }
    upstream.abort();
}

#[tokio::test]
async fn an_unguarded_request_has_its_own_words() {
    let legacy = Legacy::start().await;
    let impatient = forward_with(&legacy.url(), |settings| {
        settings.first_byte_timeout = Duration::from_millis(100);
    });
    legacy.script(Reply::never());
    let outcome = get(&impatient).await;
    assert_eq!(outcome.status, StatusCode::GATEWAY_TIMEOUT);
    assert_eq!(outcome.code(), "upstream-timeout");

    legacy.script(Reply::new(200).breaks(At::AfterRequest, Break::Finish));
    let outcome = get(&impatient).await;
    assert_eq!(outcome.status, StatusCode::BAD_GATEWAY);
    assert_eq!(
        outcome.code(),
        "upstream-unreachable",
        "a GET may be repeated"
    );
    assert_eq!(legacy.requests(), 2, "but not by us");
}

#[tokio::test]
async fn bodies_of_unguarded_requests_have_an_end_too() {
    let legacy = Legacy::start().await;
    let (reply, stream) = Reply::streaming(200);
    stream.send("begun");
    legacy.script(reply);
    let impatient = forward_with(&legacy.url(), |settings| {
        settings.idle_timeout = Duration::from_millis(100);
    });
    assert!(get(&impatient).await.body.is_err());

    let (reply, other_stream) = Reply::streaming(200);
    legacy.script(reply);
    let limited = forward_with(&legacy.url(), |settings| {
        settings.total_timeout = Some(Duration::from_millis(100));
    });
    assert!(get(&limited).await.body.is_err());
    drop((stream, other_stream));
}
