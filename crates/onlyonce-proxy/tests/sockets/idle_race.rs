//! F19: the upstream closes an idle connection just as a POST is written to it.

use std::convert::Infallible;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::mpsc::{Receiver, Sender, channel};

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body::Frame;
use http_body_util::StreamBody;
use onlyonce::Evidence;
use onlyonce_test::event::{PATIENCE, within};
use onlyonce_test::upstream::{Break, Legacy, Reply};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tower::ServiceExt;

use crate::support::{Outcome, forward, forward_with, outcome, post};

/// Fails unless the evidence agrees with what the upstream counted.
fn check(outcome: &Outcome, effects: usize) {
    match (outcome.status, outcome.evidence) {
        (StatusCode::OK, None) => assert_eq!(effects, 1, "{outcome:?}"),
        (_, Some(Evidence::NotSent)) => assert_eq!(effects, 0, "{outcome:?}"),
        (_, Some(Evidence::Unknown)) => assert!(effects <= 1, "{outcome:?}"),
        other => panic!("{other:?}"),
    }
}

/// The last of 48 steps close only then: a yield may take no time where threads are idle.
const AFTER_THE_ANSWER: usize = 44;

async fn race(how: Break, rounds: usize) {
    let legacy = Legacy::start().await;
    let forward = forward(&legacy.url());
    let (mut on_old, mut on_new) = (0, 0);
    for round in 0..rounds {
        let first = format!("first-{round}");
        let outcome = post(&forward, &first, "a=1").await;
        check(&outcome, legacy.effects_of(&first));
        if outcome.status != StatusCode::OK {
            continue; // the previous round's closing was later than its request
        }
        let connections = legacy.connections();
        let key = format!("raced-{round}");
        // From closing long before the POST to closing long after it.
        let steps = round % 48;
        if steps < 24 {
            legacy.close_idle(how);
            yield_times(24 - steps).await;
        }
        let sending = tokio::spawn({
            let (forward, key) = (forward.clone(), key.clone());
            async move { post(&forward, &key, "a=1").await }
        });
        let outcome = if steps >= AFTER_THE_ANSWER {
            let outcome = sending.await.unwrap();
            legacy.close_idle(how);
            outcome
        } else {
            if steps >= 24 {
                yield_times(steps - 24).await;
                legacy.close_idle(how);
            }
            sending.await.unwrap()
        };
        check(&outcome, legacy.effects_of(&key));
        match legacy.connections() > connections {
            true => on_new += 1,
            false => on_old += 1,
        }
    }
    // Both sides of the race were run, or this test proves nothing.
    assert!(on_old > 0 && on_new > 0, "old {on_old}, new {on_new}");
}

async fn yield_times(count: usize) {
    for _ in 0..count {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn an_orderly_close_never_doubles_a_request() {
    race(Break::Finish, 600).await;
}

#[tokio::test]
async fn a_reset_never_doubles_a_request() {
    race(Break::Reset, 600).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nor_where_threads_interleave() {
    race(Break::Finish, 300).await;
    race(Break::Reset, 300).await;
}

#[tokio::test]
async fn a_connection_closed_long_ago_costs_nothing() {
    let legacy = Legacy::start().await;
    let forward = forward(&legacy.url());
    for round in 1..=20 {
        legacy.script(
            Reply::new(200).breaks(onlyonce_test::upstream::At::AfterResponse, Break::Finish),
        );
        let outcome = post(&forward, "k", "a=1").await;
        assert_eq!(outcome.status, StatusCode::OK);
        assert_eq!(legacy.effects_of("k"), round);
    }
}

/// An upstream on a thread of its own: it answers one request per connection, ends the connection when it
/// is told to, and reports the request once the end has arrived.
struct Closing {
    addr: SocketAddr,
    close: Sender<()>,
    closed: Receiver<String>,
}

impl Closing {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let (close, told) = channel();
        let (report, closed) = channel();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let received = read_request(&mut stream);
                let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone";
                stream.write_all(answer).unwrap();
                if told.recv().is_err() {
                    return;
                }
                drop(stream);
                report.send(received).unwrap();
            }
        });
        Self {
            addr,
            close,
            closed,
        }
    }

    /// Blocks the thread on purpose: the runtime must not learn of the end before the next request.
    fn close(&self) -> String {
        self.close.send(()).unwrap();
        self.closed.recv_timeout(PATIENCE).unwrap()
    }
}

fn read_request(stream: &mut impl Read) -> String {
    let mut received = Vec::new();
    while !received.ends_with(b"a=1") && !received.ends_with(b"0\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        received.push(byte[0]);
    }
    String::from_utf8(received).unwrap()
}

/// The end has arrived, but nobody has looked. The request is provably unsent and goes once more, on a new
/// connection.
#[tokio::test]
async fn an_unsent_request_goes_once_more() {
    let upstream = Closing::start();
    let forward = forward(&format!("http://{}", upstream.addr));
    for round in 0..50 {
        let key = format!("k-{round}.");
        let outcome = post(&forward, &key, "a=1").await;
        assert_eq!(outcome.status, StatusCode::OK, "{round} {outcome:?}");
        assert!(
            upstream.close().contains(&key),
            "each is received once, in order"
        );
    }
}

/// Nor is an upload lost: not a frame of it is taken before the connection was looked at.
#[tokio::test]
async fn an_unsent_upload_goes_once_more() {
    let upstream = Closing::start();
    let forward = forward(&format!("http://{}", upstream.addr));
    for round in 0..50 {
        let key = format!("k-{round}.");
        let frames = [Ok::<_, Infallible>(Frame::data(Bytes::from("a=1")))];
        let body = StreamBody::new(futures_util::stream::iter(frames));
        let request = Request::post("/")
            .header("host", "shop")
            .header("x-key", &key)
            .body(body)
            .unwrap();
        let response = within("a response", forward.clone().oneshot(request));
        let outcome = outcome(response.await.unwrap()).await;
        assert_eq!(outcome.status, StatusCode::OK, "{round} {outcome:?}");
        assert!(
            upstream.close().contains(&key),
            "each is received once, in order"
        );
    }
}

#[tokio::test]
async fn connections_are_used_again_unless_told_otherwise() {
    for (field, connections) in [
        (("x-none", ""), 1),
        (("keep-alive", "timeout=60"), 1),
        (("keep-alive", "timeout=1"), 3),
        (("connection", "close"), 3),
    ] {
        let legacy = Legacy::start().await;
        legacy.answer_with(move |_| Reply::new(200).field(field.0, field.1).body("done"));
        let forward = forward(&legacy.url());
        for _ in 0..3 {
            let outcome = post(&forward, "k", "a=1").await;
            assert_eq!(outcome.body.unwrap(), "done");
        }
        assert_eq!(legacy.connections(), connections, "{field:?}");
    }
}

#[tokio::test]
async fn an_old_connection_is_not_used() {
    let legacy = Legacy::start().await;
    let forward = forward_with(&legacy.url(), |settings| {
        settings.idle_connection_max = std::time::Duration::from_nanos(1);
    });
    for _ in 0..3 {
        assert_eq!(post(&forward, "k", "a=1").await.status, StatusCode::OK);
    }
    assert_eq!(legacy.connections(), 3);
}

/// Nobody waits for such a connection, and yet it is not left half open for as long as it could be kept.
#[tokio::test]
async fn a_connection_that_the_upstream_ends_is_ended_as_well() {
    let upstream = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let forward = forward_with(
        &format!("http://{}", upstream.local_addr().unwrap()),
        |settings| settings.idle_connection_max = std::time::Duration::from_secs(3600),
    );
    let answering = async {
        let (mut stream, _) = upstream.accept().await.unwrap();
        let mut received = Vec::new();
        while !received.ends_with(b"a=1") {
            stream.read_buf(&mut received).await.unwrap();
        }
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone";
        stream.write_all(answer).await.unwrap();
        stream
    };
    let (outcome, mut stream) = tokio::join!(post(&forward, "k", "a=1"), answering);
    assert_eq!(outcome.status, StatusCode::OK);
    stream.shutdown().await.unwrap();
    let read = within("the end", stream.read(&mut [0])).await.unwrap();
    assert_eq!(read, 0);
}

/// C-R2: bytes that nobody asked for must not become the next request's answer.
#[tokio::test]
async fn bytes_behind_a_response_are_not_the_next_answer() {
    let legacy = Legacy::start().await;
    let forward = forward(&legacy.url());
    legacy.script(Reply::raw(
        "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndoneHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged",
    ));
    assert_eq!(post(&forward, "k1", "a=1").await.body.unwrap(), "done");
    assert_eq!(post(&forward, "k2", "a=1").await.body.unwrap(), "done");
    assert_eq!(legacy.connections(), 2);
}
