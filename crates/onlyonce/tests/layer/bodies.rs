//! Bodies both ways: bounds, fidelity, and events that are not late.

use http_body_util::BodyExt;
use onlyonce::Policy;
use onlyonce::body::RequestBody;
use tokio::sync::mpsc;
use tower::Layer;

use crate::support::*;

/// An upstream whose response bodies the test feeds; `Some(length)` declares one.
fn fed(length: Option<u64>) -> (Upstream, mpsc::UnboundedReceiver<Feed>) {
    let (feeds, fed) = mpsc::unbounded_channel();
    let upstream = Upstream::new(move |_| {
        let feeds = feeds.clone();
        async move {
            let (feed, body) = TestBody::fed();
            feeds.send(feed).unwrap();
            let mut response = created(body);
            if let Some(length) = length {
                response
                    .headers_mut()
                    .insert("content-length", length.into());
            }
            response
        }
    });
    (upstream, fed)
}

#[tokio::test]
async fn a_stream_reaches_the_client_event_by_event() {
    let (upstream, mut feeds) = fed(None);
    let service = guard(&upstream);
    let answer = send(&service, post("k", "{}")).await;
    let feed = feeds.recv().await.unwrap();
    let mut body = answer.into_body();
    for event in ["data: 1\n\n", "data: 2\n\n"] {
        feed.data(event);
        let frame = soon(body.frame()).await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), event, "U8");
    }
    let duplicate = send(&service, post("k", "{}")).await;
    assert_eq!(
        code(duplicate).await.0,
        409,
        "U8: in flight while it streams"
    );
    drop(feed);
    assert!(soon(body.frame()).await.is_none());
    let replay = send(&service, post("k", "{}")).await;
    assert_eq!(
        read(replay).await,
        (201, "data: 1\n\ndata: 2\n\n".into()),
        "U9"
    );
    assert_eq!(upstream.effects(), 1);
}

#[tokio::test]
async fn a_body_that_breaks_off_is_seen_broken_and_is_unknown() {
    for length in [None, Some(100)] {
        let (upstream, mut feeds) = fed(length);
        let service = guard(&upstream);
        let answer = send(&service, post("k", "{}")).await;
        let feed = feeds.recv().await.unwrap();
        feed.data("part");
        feed.break_off();
        assert!(soon(answer.into_body().collect()).await.is_err(), "O14");
        let retry = send(&service, post("k", "{}")).await;
        assert_eq!(code(retry).await, (409, "outcome-unknown".into()));
        assert_eq!(upstream.effects(), 1);
    }
}

#[tokio::test]
async fn a_body_shorter_than_declared_is_broken() {
    let (upstream, mut feeds) = fed(Some(100));
    let service = guard(&upstream);
    let answer = send(&service, post("k", "{}")).await;
    let feed = feeds.recv().await.unwrap();
    feed.data("part");
    drop(feed);
    assert!(soon(answer.into_body().collect()).await.is_err(), "C-R7");
    let retry = send(&service, post("k", "{}")).await;
    assert_eq!(code(retry).await, (409, "outcome-unknown".into()));
}

#[tokio::test]
async fn a_response_too_large_to_keep_is_delivered_and_never_executed_again() {
    let (upstream, mut feeds) = fed(None);
    let policy = Policy::default().with_response_bytes_max(10);
    let service = layer(policy).layer(upstream.clone());
    let answer = send(&service, post("k", "{}")).await;
    let feed = feeds.recv().await.unwrap();
    for _ in 0..3 {
        feed.data("12345678");
    }
    drop(feed);
    assert_eq!(soon(read(answer)).await, (201, "12345678".repeat(3)), "P16");
    let retry = send(&service, post("k", "{}")).await;
    assert_eq!(code(retry).await, (409, "response-unavailable".into()));
    assert_eq!(upstream.effects(), 1);
}

#[tokio::test]
async fn a_body_is_replayed_byte_for_byte_whatever_form_the_record_gives_it() {
    let (upstream, mut feeds) = fed(None);
    let service = guard(&upstream);
    let text = |len: usize| {
        "{\"status\":\"paid\"},"
            .chars()
            .cycle()
            .take(len)
            .collect::<String>()
    };
    // As it is; compressed; compressed and expanded on a thread of its own.
    for (key, body) in [
        ("a", text(100)),
        ("b", text(4 << 10)),
        ("c", text(300 << 10)),
    ] {
        let answer = send(&service, post(key, "{}")).await;
        let feed = feeds.recv().await.unwrap();
        for piece in body.as_bytes().chunks(1000) {
            feed.data(piece.to_vec());
        }
        drop(feed);
        assert_eq!(soon(read(answer)).await, (201, body.clone()));
        let replay = send(&service, post(key, "{}")).await;
        assert!(is_replay(&replay));
        assert_eq!(replay.headers()["content-length"], body.len().to_string());
        assert!(!replay.headers().contains_key("content-encoding"));
        assert_eq!(soon(read(replay)).await, (201, body));
    }
    assert_eq!(upstream.effects(), 3);
}

#[tokio::test]
async fn bodies_beyond_what_all_may_hold_are_delivered_without_being_kept() {
    let (upstream, mut feeds) = fed(None);
    let limits = onlyonce::Limits {
        captured_bytes_max: 10,
        ..onlyonce::Limits::default()
    };
    let service =
        onlyonce::IdempotencyLayer::with_limits(FaultyStore::new(), limits).layer(upstream.clone());
    let mut answers = Vec::new();
    for key in ["a", "b"] {
        let answer = send(&service, post(key, "{}")).await;
        let feed = feeds.recv().await.unwrap();
        feed.data("12345678");
        let mut body = answer.into_body();
        assert_eq!(
            soon(body.frame())
                .await
                .unwrap()
                .unwrap()
                .into_data()
                .unwrap(),
            "12345678"
        );
        answers.push((feed, body));
    }
    for (feed, body) in answers {
        drop(feed);
        soon(body.collect()).await.unwrap();
    }
    assert!(is_replay(&send(&service, post("a", "{}")).await));
    let retry = send(&service, post("b", "{}")).await;
    assert_eq!(code(retry).await, (409, "response-unavailable".into()));
    // What was settled gave its room back.
    let answer = send(&service, post("c", "{}")).await;
    feeds.recv().await.unwrap().data("12345678");
    soon(answer.into_body().collect()).await.unwrap();
    assert!(is_replay(&send(&service, post("c", "{}")).await));
}

#[tokio::test]
async fn past_the_capture_limit_the_clients_pace_counts_until_it_leaves() {
    const CHUNK: &str = "0123456789abcdef";
    let (upstream, mut feeds) = fed(None);
    let policy = Policy::default().with_response_bytes_max(10);
    let service = layer(policy).layer(upstream.clone());
    let answer = send(&service, post("k", "{}")).await;
    let feed = feeds.recv().await.unwrap();
    for _ in 0..100_000 {
        feed.data(CHUNK);
    }
    drop(feed);
    // The client leaves with most of it unread: the task drains the upstream and settles.
    drop(answer);
    let retry = soon(async {
        loop {
            let retry = send(&service, post("k", "{}")).await;
            let (status, code) = code(retry).await;
            if code != "request-in-progress" {
                return (status, code);
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(retry, (409, "response-unavailable".into()));
}

#[tokio::test]
async fn an_upload_over_the_limit_is_refused_and_claims_nothing() {
    let upstream = Upstream::receipts();
    let store = FaultyStore::new();
    let policy = Policy::default().with_request_bytes_max(4);
    let service = onlyonce::IdempotencyLayer::new(store.clone())
        .with_policy(policy)
        .layer(upstream.clone());
    assert_eq!(
        code(send(&service, post("k", "12345")).await).await,
        (413, "body-too-large".into())
    );
    assert_eq!((store.calls(), upstream.effects()), (0, 0));
    assert_eq!(send(&service, post("k", "1234")).await.status(), 201);
    assert_eq!(upstream.bodies(), ["1234"]);
}

#[tokio::test]
async fn uploads_beyond_what_all_may_hold_are_refused_and_claim_nothing() {
    let gate = std::sync::Arc::new(tokio::sync::Semaphore::new(0));
    let opened = gate.clone();
    let upstream = Upstream::new(move |_| {
        let gate = gate.clone();
        async move {
            gate.acquire().await.unwrap().forget();
            created(TestBody::whole("done"))
        }
    });
    let limits = onlyonce::Limits {
        uploaded_bytes_max: 10,
        ..onlyonce::Limits::default()
    };
    let service =
        onlyonce::IdempotencyLayer::with_limits(FaultyStore::new(), limits).layer(upstream.clone());
    let first = tokio::spawn({
        let service = service.clone();
        async move { send(&service, post("a", "12345678")).await }
    });
    soon(upstream.wait_for_effects(1)).await;
    let second = send(&service, post("b", "123")).await;
    assert_eq!(code(second).await, (503, "store-unavailable".into()));
    assert_eq!(upstream.effects(), 1);
    opened.add_permits(2);
    assert_eq!(read(soon(first).await.unwrap()).await.0, 201);
    // What was forwarded gave its room back.
    assert_eq!(read(send(&service, post("b", "123")).await).await.0, 201);
}

/// A record of a few bytes expands for each of its readers.
#[tokio::test]
async fn replays_beyond_what_all_may_hold_are_refused_until_others_are_sent() {
    const LENGTH: usize = 40 << 10;
    let upstream = Upstream::new(async |number| match number {
        1 => {
            let (feed, body) = TestBody::fed();
            feed.data(vec![b'0'; LENGTH]);
            created(body)
        }
        _ => created(TestBody::whole("small")),
    });
    let limits = onlyonce::Limits {
        replayed_bytes_max: 2 * LENGTH,
        ..onlyonce::Limits::default()
    };
    let layer = onlyonce::IdempotencyLayer::with_limits(FaultyStore::new(), limits);
    let service = layer.layer(upstream.clone());
    for key in ["large", "small"] {
        assert_eq!(read(send(&service, post(key, "{}")).await).await.0, 201);
    }
    let unread = [
        send(&service, post("large", "{}")).await,
        send(&service, post("large", "{}")).await,
    ];
    assert!(unread.iter().all(is_replay), "P16");
    let third = send(&service, post("large", "{}")).await;
    assert_eq!(code(third).await, (503, "store-unavailable".into()), "P16");
    let small = send(&service, post("small", "{}")).await;
    assert!(is_replay(&small), "P16: small ones are not counted");
    drop(unread);
    let (status, body) = read(send(&service, post("large", "{}")).await).await;
    assert_eq!((status, body.len()), (201, LENGTH), "P16: byte for byte");
    assert_eq!(upstream.effects(), 2);
}

#[tokio::test]
async fn an_empty_body_that_declares_a_length_is_broken() {
    let upstream = Upstream::new(async |_| {
        let mut response = created(TestBody::empty());
        response.headers_mut().insert("content-length", 5.into());
        response
    });
    let service = guard(&upstream);
    let answer = send(&service, post("k", "{}")).await;
    assert!(soon(answer.into_body().collect()).await.is_err(), "O14");
    let retry = send(&service, post("k", "{}")).await;
    assert_eq!(code(retry).await, (409, "outcome-unknown".into()));
}

#[tokio::test(start_paused = true)]
async fn an_upload_that_trickles_is_given_up_after_a_while() {
    let inner = tower::service_fn(|_: http::Request<RequestBody<TestBody>>| async {
        panic!("nothing is forwarded before the whole body is here");
        #[expect(unreachable_code, reason = "it names the type")]
        Ok::<_, std::convert::Infallible>(created(TestBody::empty()))
    });
    let service = layer(Policy::default()).layer(inner);
    let (feed, body) = TestBody::fed();
    let trickle = tokio::spawn(async move {
        loop {
            feed.data("x");
            tokio::time::sleep(std::time::Duration::from_secs(20)).await;
        }
    });
    let request = post("k", "").map(|_| body);
    let answer = tower::ServiceExt::oneshot(service, request).await.unwrap();
    assert_eq!(code(answer).await, (408, "body-timeout".into()));
    trickle.abort();
}
