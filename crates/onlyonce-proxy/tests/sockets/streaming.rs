//! Unguarded traffic streams: events at once, and gigabytes in constant memory.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use onlyonce_test::client::Raw;
use onlyonce_test::event::within;
use onlyonce_test::upstream::{At, Break, Legacy, Reply};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::support::Proxy;

const TOTAL: usize = 200 << 20;
const PIECE: usize = 64 << 10;
/// What the sockets' and hyper's own buffers may hold between the two ends; a fraction of `TOTAL`.
const IN_FLIGHT_MAX: usize = 32 << 20;

/// Listens with small buffers, so that back-pressure is felt early.
fn listen() -> TcpListener {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(64 << 10).unwrap();
    socket.set_send_buffer_size(64 << 10).unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    socket.listen(16).unwrap()
}

async fn connect(addr: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(64 << 10).unwrap();
    socket.set_send_buffer_size(64 << 10).unwrap();
    socket.connect(addr).await.unwrap()
}

async fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(within("a head", stream.read_u8()).await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

/// Writes `TOTAL` bytes and counts what was taken.
async fn pour(stream: &mut TcpStream, taken: &AtomicUsize) {
    let piece = vec![b'x'; PIECE];
    while taken.load(Ordering::SeqCst) < TOTAL {
        let written = stream.write(&piece).await.unwrap();
        taken.fetch_add(written, Ordering::SeqCst);
    }
}

/// Waits until nothing more is taken: the writer is held back.
async fn settles(taken: &AtomicUsize) -> usize {
    let mut before = 0;
    loop {
        tokio::time::sleep(Duration::from_millis(150)).await;
        let now = taken.load(Ordering::SeqCst);
        if now == before && now > 0 {
            return now;
        }
        before = now;
    }
}

async fn drink(stream: &mut TcpStream) -> usize {
    let mut piece = vec![0; PIECE];
    let mut total = 0;
    while total < TOTAL {
        let read = within("more of the body", stream.read(&mut piece))
            .await
            .unwrap();
        assert!(read > 0, "ended after {total}");
        total += read;
    }
    total
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_download_waits_for_its_reader() {
    let listener = listen();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let taken = Arc::new(AtomicUsize::new(0));
    let upstream = tokio::spawn({
        let taken = Arc::clone(&taken);
        async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            read_head(&mut stream).await;
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {TOTAL}\r\n\r\n");
            stream.write_all(head.as_bytes()).await.unwrap();
            pour(&mut stream, &taken).await;
            stream
        }
    });
    let proxy = Proxy::start(&url).await;
    let mut client = connect(proxy.addr).await;
    client
        .write_all(b"GET / HTTP/1.1\r\nHost: shop\r\n\r\n")
        .await
        .unwrap();
    read_head(&mut client).await;
    let in_flight = within("back-pressure", settles(&taken)).await;
    assert!(in_flight < IN_FLIGHT_MAX, "{in_flight} bytes were buffered");
    assert!(drink(&mut client).await >= TOTAL);
    upstream.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_waits_for_its_reader() {
    let listener = listen();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let proxy = Proxy::start(&url).await;
    let mut client = connect(proxy.addr).await;
    let taken = Arc::new(AtomicUsize::new(0));
    let head = format!("PUT / HTTP/1.1\r\nHost: shop\r\nContent-Length: {TOTAL}\r\n\r\n");
    client.write_all(head.as_bytes()).await.unwrap();
    let uploading = tokio::spawn({
        let taken = Arc::clone(&taken);
        async move {
            // One piece too much may be written; it is no part of the request and is never read.
            pour(&mut client, &taken).await;
            client
        }
    });
    let (mut upstream, _) = listener.accept().await.unwrap();
    let forwarded = read_head(&mut upstream).await;
    assert!(
        forwarded.contains(&format!("content-length: {TOTAL}\r\n")),
        "{forwarded}"
    );
    let in_flight = within("back-pressure", settles(&taken)).await;
    assert!(in_flight < IN_FLIGHT_MAX, "{in_flight} bytes were buffered");
    assert_eq!(drink(&mut upstream).await, TOTAL);
    upstream
        .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone")
        .await
        .unwrap();
    let mut client = uploading.await.unwrap();
    assert!(
        read_head(&mut client)
            .await
            .starts_with("HTTP/1.1 200 OK\r\n")
    );
}

/// Many clients read nothing before they have sent all, and an upstream may answer while it reads.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_goes_on_behind_a_response_that_nobody_reads() {
    let listener = listen();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let upstream = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        read_head(&mut stream).await;
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {TOTAL}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let (mut reader, mut writer) = stream.into_split();
        let answering = tokio::spawn(async move {
            writer.write_all(&vec![b'y'; TOTAL]).await.unwrap();
            writer
        });
        let mut upload = vec![0; TOTAL];
        within("the upload", reader.read_exact(&mut upload))
            .await
            .unwrap();
        (reader, answering.await.unwrap())
    });
    let proxy = Proxy::start(&url).await;
    let mut client = connect(proxy.addr).await;
    let head = format!("PUT / HTTP/1.1\r\nHost: shop\r\nContent-Length: {TOTAL}\r\n\r\n");
    client.write_all(head.as_bytes()).await.unwrap();
    within("the upload", client.write_all(&vec![b'x'; TOTAL]))
        .await
        .unwrap();
    read_head(&mut client).await;
    assert_eq!(drink(&mut client).await, TOTAL);
    upstream.await.unwrap();
}

#[tokio::test]
async fn events_are_not_held_back() {
    let legacy = Legacy::start().await;
    let proxy = Proxy::start(&legacy.url()).await;
    let (reply, stream) = Reply::streaming(200);
    legacy.script(reply.field("content-type", "text/event-stream"));
    let mut client = Raw::connect(proxy.addr).await;
    client
        .send("GET /events HTTP/1.1\r\nHost: shop\r\n\r\n")
        .await;
    assert_eq!(
        client.head().await.unwrap().status,
        200,
        "the head comes before the first event"
    );
    for number in 0..5 {
        let event = format!("data: {number}\n\n");
        stream.send(event.clone());
        assert_eq!(client.chunk().await.unwrap().unwrap(), event);
    }
    stream.end();
    assert_eq!(client.chunk().await.unwrap(), None);
}

#[tokio::test]
async fn an_upload_reaches_the_upstream_as_it_comes() {
    let listener = listen();
    let proxy = Proxy::start(&format!("http://{}", listener.local_addr().unwrap())).await;
    let mut client = Raw::connect(proxy.addr).await;
    client
        .send("POST / HTTP/1.1\r\nHost: shop\r\nTransfer-Encoding: chunked\r\n\r\n")
        .await;
    let (mut upstream, _) = within("a connection", listener.accept()).await.unwrap();
    read_head(&mut upstream).await;
    for word in ["one", "two"] {
        client.send(format!("3\r\n{word}\r\n")).await;
        let mut chunk = [0; 8];
        within("a chunk", upstream.read_exact(&mut chunk))
            .await
            .unwrap();
        assert_eq!(chunk, *format!("3\r\n{word}\r\n").as_bytes());
    }
    // A client that breaks off must not look like one that has finished.
    client.reset();
    let mut rest = Vec::new();
    let _ = within("the end", upstream.read_to_end(&mut rest)).await;
    assert!(rest.is_empty(), "{rest:?}");
}

/// F23: a client that pauses its upload holds nothing for ever, and is not taken for a slow upstream.
#[tokio::test]
async fn a_stalled_upload_is_408() {
    let legacy = Legacy::start().await;
    let limit = Duration::from_millis(100);
    let url = legacy.url();
    let proxy =
        Proxy::start_with(&url, |settings| settings.first_byte_timeout = limit, |_| {}).await;
    let mut client = Raw::connect(proxy.addr).await;
    client
        .send("POST / HTTP/1.1\r\nHost: s\r\nContent-Length: 10\r\n\r\n01234")
        .await;
    assert_eq!(client.response().await.unwrap().status, 408);
    assert_eq!(legacy.effects(), 0);
    client.ended().await.unwrap();
}

/// F23: nor does one that does not read its response.
#[tokio::test]
async fn a_response_that_is_not_read_is_given_up() {
    let listener = listen();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let limit = Duration::from_millis(100);
    let proxy = Proxy::start_with(&url, |_| {}, |settings| settings.write_timeout = limit).await;
    let mut client = connect(proxy.addr).await;
    client
        .write_all(b"GET / HTTP/1.1\r\nHost: shop\r\n\r\n")
        .await
        .unwrap();
    let (mut upstream, _) = listener.accept().await.unwrap();
    read_head(&mut upstream).await;
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {TOTAL}\r\n\r\n");
    upstream.write_all(head.as_bytes()).await.unwrap();
    let piece = vec![b'x'; PIECE];
    let pouring = async { while upstream.write_all(&piece).await.is_ok() {} };
    within("the proxy to give up", pouring).await;
    drop(client);
}

#[tokio::test]
async fn a_broken_upload_is_answered_as_such() {
    let legacy = Legacy::start().await;
    let proxy = Proxy::start(&legacy.url()).await;
    let mut client = Raw::connect(proxy.addr).await;
    client
        .send("POST / HTTP/1.1\r\nHost: s\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\nzz\r\n")
        .await;
    assert_eq!(client.response().await.unwrap().status, 400);
    assert_eq!(legacy.effects(), 0);
    client.ended().await.unwrap();
}

#[tokio::test]
async fn a_client_that_leaves_takes_its_request_along() {
    let legacy = Legacy::start().await;
    let proxy = Proxy::start(&legacy.url()).await;
    let (reply, stream) = Reply::streaming(200);
    legacy.script(reply);
    let mut client = Raw::connect(proxy.addr).await;
    client.send("GET / HTTP/1.1\r\nHost: shop\r\n\r\n").await;
    client.head().await.unwrap();
    client.reset();
    // The upstream's connection is not kept for others with half a response in it.
    let mut other = Raw::connect(proxy.addr).await;
    other.send("GET / HTTP/1.1\r\nHost: shop\r\n\r\n").await;
    assert_eq!(other.response().await.unwrap().text(), "done");
    assert_eq!(legacy.connections(), 2);
    drop(stream);
}

/// C-R7: to a client of any version a broken response looks broken.
#[tokio::test]
async fn a_broken_response_is_broken_for_the_client() {
    let legacy = Legacy::start().await;
    let proxy = Proxy::start(&legacy.url()).await;
    for request in [
        "GET / HTTP/1.1\r\nHost: s\r\n\r\n",
        "GET / HTTP/1.0\r\n\r\n",
    ] {
        for how in [Break::Finish, Break::Reset] {
            let (reply, stream) = Reply::streaming(200);
            legacy.script(reply);
            let mut client = Raw::connect(proxy.addr).await;
            client.send(request).await;
            let head = client.head().await.unwrap();
            stream.send("begun");
            match head.fields.get("transfer-encoding") {
                Some(_) => assert_eq!(client.chunk().await.unwrap().unwrap(), "begun"),
                None => assert_eq!(client.bytes(5).await.unwrap(), "begun"),
            }
            stream.breaks(how);
            // Neither a last chunk nor, where the end of the connection is the end of the body, an end.
            client.ended().await.unwrap_err();
        }
    }
    // Where the length is known, an end is enough to tell.
    legacy.script(
        Reply::new(200)
            .body("0123456789")
            .breaks(At::InBody(4), Break::Finish),
    );
    let mut client = Raw::connect(proxy.addr).await;
    client.send("GET / HTTP/1.1\r\nHost: s\r\n\r\n").await;
    assert!(!client.response().await.unwrap().is_whole());
}

/// It has answered, and neither reads the rest of the upload nor ends the connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_that_nobody_reads_any_more_is_cut_off() {
    let listener = listen();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let upstream = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        read_head(&mut stream).await;
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
        stream.write_all(answer).await.unwrap();
        stream
    });
    let idle = Duration::from_millis(200);
    let proxy = Proxy::start_with(&url, |settings| settings.idle_timeout = idle, |_| {}).await;
    let mut client = connect(proxy.addr).await;
    let head = format!("PUT / HTTP/1.1\r\nHost: shop\r\nContent-Length: {TOTAL}\r\n\r\n");
    client.write_all(head.as_bytes()).await.unwrap();
    assert!(read_head(&mut client).await.starts_with("HTTP/1.1 200 "));
    let mut body = [0; 2];
    within("the answer", client.read_exact(&mut body))
        .await
        .unwrap();
    let piece = vec![b'x'; PIECE];
    let pouring = async { while client.write_all(&piece).await.is_ok() {} };
    within("the client is cut off", pouring).await;
    drop(upstream.await.unwrap());
}
