//! U6, C-H4: WebSocket and other upgrades.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use onlyonce::Evidence;
use onlyonce_test::client::Raw;
use onlyonce_test::event::within;
use onlyonce_test::upstream::{Legacy, Reply};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tower::ServiceExt;

use crate::support::{LONG, Proxy, forward, outcome};

const SWITCHED: &str =
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\n";
const ASK: &str =
    "GET /chat HTTP/1.1\r\nHost: shop\r\nConnection: keep-alive, Upgrade\r\nUpgrade: echo\r\n\r\n";

/// An upstream that switches protocols, says `hello` with the same packet, and echoes until its peer ends.
/// Returns the heads it got.
async fn echo() -> (SocketAddr, mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (heads, received) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(switch_and_echo(stream, heads.clone()));
        }
    });
    (addr, received)
}

async fn switch_and_echo(mut stream: TcpStream, heads: mpsc::UnboundedSender<String>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    heads.send(String::from_utf8(head).unwrap()).unwrap();
    stream
        .write_all(format!("{SWITCHED}hello").as_bytes())
        .await
        .unwrap();
    let (mut read, mut write) = stream.split();
    let _ = tokio::io::copy(&mut read, &mut write).await;
    let _ = write.write_all(b"bye").await;
}

#[tokio::test]
async fn bytes_flow_both_ways_until_both_have_ended() {
    let (addr, mut heads) = echo().await;
    let proxy = Proxy::start(&format!("http://{addr}")).await;
    let mut client = Raw::connect(proxy.addr).await;
    client.send(format!("{ASK}early")).await; // bytes of the new protocol right behind the head
    let head = client.head().await.unwrap();
    assert_eq!(head.status, 101);
    assert_eq!(head.fields.get("upgrade"), Some("echo"));
    assert_eq!(head.fields.get("connection"), Some("upgrade"));
    assert_eq!(client.bytes(10).await.unwrap(), "helloearly");

    let forwarded = heads.recv().await.unwrap().to_lowercase();
    assert!(forwarded.contains("upgrade: echo\r\n"), "{forwarded}");
    assert!(forwarded.contains("connection: upgrade\r\n"), "{forwarded}");

    let large = vec![7; 1 << 20];
    let (mut sent, mut echoed) = (0, 0);
    while sent < 8 {
        client.send(&large).await;
        echoed += client
            .bytes(large.len())
            .await
            .unwrap()
            .iter()
            .filter(|byte| **byte == 7)
            .count();
        sent += 1;
    }
    assert_eq!(echoed, 8 << 20);

    client.finish().await; // half-closed: the other direction still has something to say
    assert_eq!(client.ended().await.unwrap(), "bye");
    assert_eq!(within("the tunnels", proxy.forward.drain(LONG)).await, 0);
}

#[tokio::test]
async fn a_drain_cuts_tunnels_that_stay() {
    let (addr, _heads) = echo().await;
    let proxy = Proxy::start(&format!("http://{addr}")).await;
    let mut client = Raw::connect(proxy.addr).await;
    client.send(ASK).await;
    assert_eq!(client.head().await.unwrap().status, 101);
    assert_eq!(client.bytes(5).await.unwrap(), "hello");
    assert_eq!(proxy.forward.drain(Duration::ZERO).await, 1);
    let _ = client.ended().await;
}

#[tokio::test]
async fn an_idle_tunnel_ends() {
    let (addr, _heads) = echo().await;
    let url = format!("http://{addr}");
    let idle = Duration::from_millis(100);
    let proxy = Proxy::start_with(&url, |settings| settings.idle_timeout = idle, |_| {}).await;
    let mut client = Raw::connect(proxy.addr).await;
    client.send(ASK).await;
    assert_eq!(client.head().await.unwrap().status, 101);
    assert_eq!(client.bytes(5).await.unwrap(), "hello");
    let _ = client.ended().await;
}

#[tokio::test]
async fn a_refused_upgrade_is_an_ordinary_response() {
    let legacy = Legacy::start().await;
    let proxy = Proxy::start(&legacy.url()).await;
    let mut client = Raw::connect(proxy.addr).await;
    client.send(ASK).await;
    assert_eq!(client.response().await.unwrap().text(), "done");
    client.send("GET / HTTP/1.1\r\nHost: shop\r\n\r\n").await;
    assert_eq!(client.response().await.unwrap().text(), "done");
}

#[tokio::test]
async fn only_a_plain_get_may_upgrade() {
    let legacy = Legacy::start().await;
    let proxy = Proxy::start(&legacy.url()).await;
    let upgrade = "Host: shop\r\nConnection: upgrade, HTTP2-Settings\r\nHTTP2-Settings: x";
    for request in [
        format!(
            "POST / HTTP/1.1\r\n{upgrade}\r\nUpgrade: websocket\r\nContent-Length: 2\r\n\r\nhi"
        ),
        format!("GET / HTTP/1.1\r\n{upgrade}\r\nUpgrade: websocket\r\nContent-Length: 2\r\n\r\nhi"),
        format!("GET / HTTP/1.1\r\n{upgrade}\r\nUpgrade: h2c\r\n\r\n"),
        format!("GET / HTTP/1.1\r\n{upgrade}\r\nUpgrade: websocket, h2c\r\n\r\n"),
        format!("GET / HTTP/1.0\r\n{upgrade}\r\nUpgrade: websocket\r\n\r\n"),
        "GET / HTTP/1.1\r\nHost: shop\r\nUpgrade: websocket\r\n\r\n".to_owned(),
    ] {
        let mut client = Raw::connect(proxy.addr).await;
        client.send(&request).await;
        assert_eq!(client.response().await.unwrap().status, 200, "{request:?}");
        let received = legacy.journal().pop().unwrap();
        for gone in ["upgrade", "connection", "http2-settings"] {
            assert_eq!(received.fields.get(gone), None, "{request:?}");
        }
        // An upstream that switches all the same is not followed.
        legacy.script(Reply::raw(SWITCHED));
        let mut client = Raw::connect(proxy.addr).await;
        client.send(&request).await;
        assert_eq!(client.response().await.unwrap().status, 502, "{request:?}");
    }
}

#[tokio::test]
async fn a_guarded_request_never_upgrades() {
    let legacy = Legacy::start().await;
    legacy.script(Reply::raw(SWITCHED));
    let request = Request::get("/")
        .header("host", "shop")
        .header("connection", "upgrade")
        .header("upgrade", "echo")
        .extension(onlyonce::Deadline::after(LONG))
        .body(Full::new(Bytes::new()))
        .unwrap();
    let outcome = outcome(forward(&legacy.url()).oneshot(request).await.unwrap()).await;
    assert_eq!(outcome.status, 502);
    assert_eq!(outcome.evidence, Some(Evidence::Unknown));
    assert_eq!(legacy.journal().pop().unwrap().fields.get("upgrade"), None);
}
