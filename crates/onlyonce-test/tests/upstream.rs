//! The legacy upstream and the raw client, checked against each other: what is an effect, and what the
//! other side of each kind of break sees.

use onlyonce_test::client::{self, Raw, Response};
use onlyonce_test::event::Gate;
use onlyonce_test::upstream::{At, Break, Legacy, Reply};
use tokio::net::TcpStream;

async fn post(legacy: &Legacy, key: &str) -> std::io::Result<Response> {
    client::post(legacy.addr(), "/charges", key, "amount=100").await
}

#[tokio::test]
async fn each_whole_request_is_one_effect() {
    let legacy = Legacy::start().await;
    let mut client = Raw::connect(legacy.addr()).await;
    for _ in 0..2 {
        client.send(client::post_bytes("/a?b=%7e", "k", "x")).await;
        assert_eq!(client.response().await.unwrap().text(), "done");
    }
    post(&legacy, "other").await.unwrap();
    assert_eq!(
        (
            legacy.effects(),
            legacy.effects_of("k"),
            legacy.connections()
        ),
        (3, 2, 2)
    );
    let first = &legacy.journal()[0];
    assert_eq!(
        (first.method.as_str(), first.target.as_str()),
        ("POST", "/a?b=%7e")
    );
    assert_eq!(&first.body[..], b"x");
    assert!(
        first
            .head
            .starts_with(b"POST /a?b=%7e HTTP/1.1\r\nHost: localhost\r\n")
    );
}

#[tokio::test]
async fn a_break_before_the_end_of_the_request_is_no_effect() {
    for at in [At::FirstByte, At::InRequest(0), At::InRequest(4)] {
        for how in [Break::Reset, Break::Finish] {
            let legacy = Legacy::start().await;
            legacy.script(Reply::new(200).breaks(at, how));
            assert!(post(&legacy, "k").await.is_err(), "{at:?} {how:?}");
            assert_eq!(
                (legacy.effects(), legacy.requests()),
                (0, 1),
                "{at:?} {how:?}"
            );
        }
    }
}

#[tokio::test]
async fn a_break_after_the_request_is_an_effect_without_an_answer() {
    for how in [Break::Reset, Break::Finish] {
        let legacy = Legacy::start().await;
        legacy.script(Reply::new(200).breaks(At::AfterRequest, how));
        legacy.script(Reply::new(200).interim(100).breaks(At::AfterInterim, how));
        for effects in 1..=2 {
            assert!(post(&legacy, "k").await.is_err());
            assert_eq!(legacy.effects_of("k"), effects);
        }
    }
}

#[tokio::test]
async fn a_body_that_breaks_off_is_seen_as_broken() {
    let chunked = Reply::new(200).chunked(["hello", "world"], []);
    let (streamed, stream) = Reply::streaming(200);
    stream.send("hello");
    stream.breaks(Break::Finish);
    let cases = [
        Reply::new(200)
            .body("hello")
            .breaks(At::AfterHead, Break::Finish),
        Reply::new(200)
            .body("hello")
            .breaks(At::InBody(3), Break::Finish),
        Reply::new(200).body_declared("hello", 10),
        chunked.clone().breaks(At::InBody(10), Break::Finish),
        streamed,
        Reply::raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nxyz\r\n"),
    ];
    for reply in cases {
        let legacy = Legacy::start().await;
        legacy.script(reply.clone());
        let broken = post(&legacy, "k").await.unwrap();
        assert!(!broken.is_whole(), "{reply:?} came as {broken:?}");
    }
    let legacy = Legacy::start().await;
    legacy.script(chunked);
    let whole = post(&legacy, "k").await.unwrap();
    assert_eq!((whole.text(), whole.is_whole()), ("helloworld", true));
}

#[tokio::test]
async fn an_answer_waits_at_its_gate_and_the_effect_does_not() {
    let legacy = Legacy::start().await;
    let gate = Gate::default();
    legacy.script(
        Reply::new(201)
            .interim(103)
            .body("late")
            .field("X-A", "1")
            .held_at(&gate),
    );
    let mut client = Raw::connect(legacy.addr()).await;
    client.send(client::post_bytes("/", "k", "")).await;
    legacy.wait_for_effects(1).await;
    gate.reached(1).await;
    gate.open();
    let late = client.response().await.unwrap();
    assert_eq!(
        (late.status, late.text(), late.fields.get("x-a")),
        (201, "late", Some("1"))
    );
    assert_eq!(late.interim, [103]);
}

#[tokio::test]
async fn a_stream_comes_step_by_step_and_ends_with_trailers_where_scripted() {
    let legacy = Legacy::start().await;
    let (reply, stream) = Reply::streaming(200);
    legacy.script(reply.field("Content-Type", "text/event-stream"));
    legacy.script(Reply::new(200).chunked(["a"], [("X-Sum", "1")]));
    let mut client = Raw::connect(legacy.addr()).await;
    client.send(client::post_bytes("/", "k", "")).await;
    assert_eq!(client.head().await.unwrap().status, 200);
    for event in ["data: 1\n\n", "data: 2\n\n"] {
        stream.send(event); // only now: the first is read before the second is sent
        assert_eq!(client.chunk().await.unwrap().unwrap(), event);
    }
    stream.end();
    assert_eq!(client.chunk().await.unwrap(), None);
    let trailed = post(&legacy, "k").await.unwrap();
    assert_eq!(trailed.trailers.get("x-sum"), Some("1"));
}

#[tokio::test]
async fn idle_connections_close_on_command() {
    let legacy = Legacy::start().await;
    for how in [Break::Finish, Break::Reset] {
        let mut client = Raw::connect(legacy.addr()).await;
        client.send(client::post_bytes("/", "k", "")).await;
        client.response().await.unwrap();
        legacy.close_idle(how);
        assert_eq!(client.ended().await.is_ok(), how == Break::Finish);
    }
}

#[tokio::test]
async fn expectations_refusals_and_silence() {
    let legacy = Legacy::start().await;
    legacy.script(Reply::new(401).without_effect());
    legacy.script(Reply::never());
    let mut client = Raw::connect(legacy.addr()).await;
    client
        .send("POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n")
        .await;
    client.send("x").await;
    let refused = client.response().await.unwrap();
    assert_eq!(
        (refused.status, refused.interim, legacy.effects()),
        (401, vec![100], 0)
    );

    let mut silent = Raw::connect(legacy.addr()).await;
    silent.send(client::post_bytes("/", "k", "")).await;
    legacy.wait_for_effects(1).await;
    silent.reset();
    legacy.stop();
    assert!(client.ended().await.is_ok());
    assert!(
        TcpStream::connect(legacy.addr()).await.is_err(),
        "a stopped service refuses"
    );
}
