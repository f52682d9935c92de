//! The listener against strangers: slow, greedy, confused; and how it ends.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::num::NonZero;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use onlyonce_proxy::listener::{Drained, Listener, ListenerSettings};
use onlyonce_proxy::workers::Workers;
use onlyonce_test::client::Raw;
use onlyonce_test::event::{Gate, within};
use onlyonce_test::upstream::{Legacy, Reply};
use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tower::service_fn;

use crate::support::{LONG, Proxy};

/// Serves a function that does not look at bodies.
async fn serve<F>(change: impl FnOnce(&mut ListenerSettings), answer: F) -> SocketAddr
where
    F: Fn(&Request<Incoming>) -> Response<Full<Bytes>> + Clone + Send + Sync + 'static,
{
    let mut settings = ListenerSettings::default();
    change(&mut settings);
    let listener = Listener::bind("127.0.0.1:0".parse().unwrap(), settings)
        .await
        .unwrap();
    let addr = listener.local_addr();
    let service = service_fn(move |request: Request<Incoming>| {
        let response = answer(&request);
        async move { Ok::<_, Infallible>(response) }
    });
    tokio::spawn(listener.serve(move |_| service.clone(), std::future::pending()));
    addr
}

fn path_of(request: &Request<Incoming>) -> Response<Full<Bytes>> {
    Response::new(Full::new(request.uri().path().to_owned().into()))
}

#[tokio::test]
async fn a_port_that_is_served_is_an_error_even_if_it_may_be_shared() {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_reuse_port(true).unwrap();
    socket.set_reuse_address(true).unwrap();
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    socket.bind(&any.into()).unwrap();
    socket.listen(1).unwrap();
    let taken = socket.local_addr().unwrap().as_socket().unwrap();

    let everywhere = SocketAddr::from(([0, 0, 0, 0], taken.port()));
    for address in [taken, everywhere] {
        let error = Listener::bind(address, ListenerSettings::default())
            .await
            .unwrap_err();
        assert_eq!(error.source.kind(), std::io::ErrorKind::AddrInUse);
        assert!(error.to_string().contains(&address.to_string()), "{error}");
    }
    drop(socket);
    Listener::bind(taken, ListenerSettings::default())
        .await
        .unwrap();
}

#[tokio::test]
async fn each_worker_gets_its_share_of_the_connections() {
    let workers = Workers::start(NonZero::new(2).unwrap()).unwrap();
    let address = "127.0.0.1:0".parse().unwrap();
    let listener = Listener::bind(address, ListenerSettings::default()).await;
    let listener = listener.unwrap();
    let addr = listener.local_addr();
    let who = |_| {
        service_fn(async |_: Request<Incoming>| {
            let name = std::thread::current().name().unwrap().to_owned();
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(name))))
        })
    };
    let serving: Vec<_> = workers.all().iter().map(|w| (w.clone(), who)).collect();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let server = tokio::spawn(async move {
        let stopped = async { drop(stopped.await) };
        listener.serve_on(&serving, stopped).await
    });
    let ask = async |client: &mut Raw| {
        client.send("GET / HTTP/1.1\r\nHost: s\r\n\r\n").await;
        let response = client.response().await.unwrap();
        String::from_utf8(response.body.to_vec()).unwrap()
    };

    let mut clients = Vec::new();
    for _ in 0..6 {
        let mut client = Raw::connect(addr).await;
        let worker = ask(&mut client).await;
        clients.push((worker, client));
    }
    let first = clients.iter().filter(|(worker, _)| worker == "worker-0");
    assert_eq!(first.count(), 3);
    // Whoever has lost some gets the next, as soon as they are noticed to be gone.
    clients.retain(|(worker, _)| worker == "worker-0");
    within("a connection for the other worker", async {
        while ask(&mut Raw::connect(addr).await).await != "worker-1" {}
    })
    .await;
    stop.send(()).unwrap();
    drop(clients);
    assert_eq!(within("the drain", server).await.unwrap().aborted, 0);
}

#[tokio::test]
async fn a_slow_head_ends_the_connection() {
    let addr = serve(
        |settings| settings.head_timeout = Duration::from_millis(100),
        path_of,
    )
    .await;
    let mut slow = Raw::connect(addr).await;
    slow.send("GET / HTTP/1.1\r\nHost: s\r\nX-Slow: ").await;
    let rest = slow.ended().await;
    assert!(rest.is_err() || !rest.unwrap().starts_with(b"HTTP/1.1 200"));
    // An unused connection ends as well.
    let mut unused = Raw::connect(addr).await;
    let _ = unused.ended().await;
}

#[tokio::test]
async fn too_large_a_head_is_431() {
    let addr = serve(|settings| settings.head_bytes_max = 16 << 10, path_of).await;
    let mut client = Raw::connect(addr).await;
    client
        .send(format!(
            "GET / HTTP/1.1\r\nHost: s\r\nX: {}\r\n\r\n",
            "x".repeat(20 << 10)
        ))
        .await;
    assert_eq!(client.response().await.unwrap().status, 431);
    client.ended().await.unwrap();

    let mut client = Raw::connect(addr).await;
    let fields: String = (0..101)
        .map(|number| format!("X-{number}: 1\r\n"))
        .collect();
    client
        .send(format!("GET / HTTP/1.1\r\nHost: s\r\n{fields}\r\n"))
        .await;
    assert_eq!(client.response().await.unwrap().status, 431);

    let few = serve(|settings| settings.headers_max = 3, path_of).await;
    let mut client = Raw::connect(few).await;
    client
        .send("GET / HTTP/1.1\r\nHost: s\r\nA: 1\r\nB: 1\r\nC: 1\r\n\r\n")
        .await;
    assert_eq!(client.response().await.unwrap().status, 431);
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let addr = serve(|_| {}, path_of).await;
    let mut client = Raw::connect(addr).await;
    let requests: String = (0..20)
        .map(|number| format!("GET /{number} HTTP/1.1\r\nHost: s\r\n\r\n"))
        .collect();
    client.send(requests).await;
    for number in 0..20 {
        assert_eq!(
            client.response().await.unwrap().text(),
            format!("/{number}")
        );
    }
}

/// F21, C-F17, C-F18: what is inside a body is never a request, read or unread.
#[tokio::test]
async fn an_unread_body_is_never_the_next_request() {
    let addr = serve(|_| {}, path_of).await;
    let inner = "GET /smuggled HTTP/1.1\r\nHost: s\r\n\r\n";
    let requests = [
        // All of the body is here.
        format!(
            "POST /a HTTP/1.1\r\nHost: s\r\nContent-Length: {}\r\n\r\n{inner}",
            inner.len()
        ),
        // More of it is to come, and never does.
        format!("POST /a HTTP/1.1\r\nHost: s\r\nContent-Length: 100000\r\n\r\n{inner}"),
        format!("GET /a HTTP/1.1\r\nHost: s\r\nContent-Length: 100000\r\n\r\n{inner}"),
        format!(
            "POST /a HTTP/1.1\r\nHost: s\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{inner}\r\n",
            inner.len()
        ),
        // Two lengths: the coding counts, and the connection ends.
        format!(
            "POST /a HTTP/1.1\r\nHost: s\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{inner}"
        ),
        format!(
            "POST /a HTTP/1.1\r\nHost: s\r\nContent-Length: 100000\r\nExpect: 100-continue\r\n\r\n{inner}"
        ),
        format!(
            "POST /a HTTP/1.1\r\nHost: s\r\nUpgrade: h2c\r\nConnection: upgrade\r\nContent-Length: 100000\r\n\r\n{inner}"
        ),
    ];
    for request in requests {
        let mut client = Raw::connect(addr).await;
        client.send(&request).await;
        let response = client.response().await.unwrap();
        assert_eq!(response.text(), "/a", "{request:?}");
        client.finish().await;
        // Either nothing more, or, where the body was whole, nothing either: there was no second request.
        let rest = client.ended().await.unwrap();
        assert!(rest.is_empty(), "{request:?} {rest:?}");
    }
}

#[tokio::test]
async fn a_whole_unread_body_does_not_cost_the_connection() {
    let addr = serve(|_| {}, path_of).await;
    let mut client = Raw::connect(addr).await;
    client.send("POST /a HTTP/1.1\r\nHost: s\r\nContent-Length: 2\r\n\r\nhiGET /b HTTP/1.1\r\nHost: s\r\n\r\n").await;
    assert_eq!(client.response().await.unwrap().text(), "/a");
    assert_eq!(client.response().await.unwrap().text(), "/b");
}

/// C-F18: a client that is still sending when it is answered is not met with a reset, which could take the
/// response with it: all that it sends is taken.
#[tokio::test]
async fn an_early_answer_reaches_a_client_that_still_sends() {
    let addr = serve(|settings| settings.linger = LONG, path_of).await;
    for _ in 0..20 {
        let mut client = TcpStream::connect(addr).await.unwrap();
        let head = b"POST /early HTTP/1.1\r\nHost: s\r\nContent-Length: 8388608\r\n\r\n";
        client.write_all(head).await.unwrap();
        for _ in 0..128 {
            let sent = within("a write to be taken", client.write_all(&[0; 64 << 10])).await;
            sent.expect("the connection was reset");
        }
        client.shutdown().await.unwrap();
        let mut response = String::new();
        within("the response", client.read_to_string(&mut response))
            .await
            .unwrap();
        assert!(response.ends_with("\r\n\r\n/early"), "{response}");
    }
}

#[tokio::test]
async fn no_100_is_sent_where_the_body_is_not_wanted() {
    let addr = serve(|_| {}, path_of).await;
    let mut client = Raw::connect(addr).await;
    client
        .send("POST /a HTTP/1.1\r\nHost: s\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
        .await;
    let response = client.response().await.unwrap();
    assert_eq!(response.status, 200);
    assert!(response.interim.is_empty(), "U1");

    let legacy = Legacy::start().await;
    let proxy = Proxy::start(&legacy.url()).await;
    let mut client = Raw::connect(proxy.addr).await;
    client
        .send(
            "POST /a HTTP/1.1\r\nHost: s\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhello",
        )
        .await;
    let response = client.response().await.unwrap();
    assert_eq!((response.status, response.interim), (200, vec![100]), "U2");
    assert_eq!(legacy.journal()[0].fields.get("expect"), None);
}

#[tokio::test]
async fn malformed_requests_end_with_their_answer() {
    let addr = serve(|_| {}, path_of).await;
    for (request, status) in [
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\n Host: a\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n folded\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nX\x07: a\r\n\r\n", 400),
        ("GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n",
            400,
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
            501,
        ),
        (
            "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\nhello",
            400,
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
            400,
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n",
            400,
        ),
        ("GET / HTTP/1.7\r\nHost: a\r\n\r\n", 400),
        ("GET / http/1.1\r\nHost: a\r\n\r\n", 400),
        ("G\x7fT / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    ] {
        let mut client = Raw::connect(addr).await;
        client.send(request).await;
        let response = client.response().await.unwrap();
        assert_eq!(response.status, status, "{request:?}");
        let rest = client.ended().await.unwrap();
        assert!(rest.is_empty(), "{request:?}");
    }
}

#[tokio::test]
async fn a_panic_costs_one_request() {
    let addr = serve(
        |_| {},
        |request| match request.uri().path() {
            "/panic" => panic!("a bug, on purpose"),
            _ => path_of(request),
        },
    )
    .await;
    let mut other = Raw::connect(addr).await;
    let mut client = Raw::connect(addr).await;
    client.send("GET /panic HTTP/1.1\r\nHost: s\r\n\r\n").await;
    let response = client.response().await.unwrap();
    assert_eq!(response.status, 500);
    assert!(!response.text().contains("on purpose"));
    other.send("GET /fine HTTP/1.1\r\nHost: s\r\n\r\n").await;
    assert_eq!(other.response().await.unwrap().text(), "/fine");
}

#[tokio::test]
async fn a_client_that_has_ended_its_side_still_gets_its_answer() {
    let legacy = Legacy::start().await;
    let proxy = Proxy::start(&legacy.url()).await;
    let gate = Gate::default();
    legacy.script(Reply::new(200).body("late").held_at(&gate));
    let mut client = Raw::connect(proxy.addr).await;
    client.send("GET / HTTP/1.1\r\nHost: s\r\n\r\n").await;
    client.finish().await;
    gate.reached(1).await;
    gate.open();
    assert_eq!(client.response().await.unwrap().text(), "late");
}

#[tokio::test]
async fn a_client_that_ends_between_requests_frees_its_place() {
    let addr = serve(|settings| settings.connections_max = 1, path_of).await;
    for round in 0..5 {
        let mut client = Raw::connect(addr).await;
        if round % 2 == 0 {
            client.send("GET /a HTTP/1.1\r\nHost: s\r\n\r\n").await;
            assert_eq!(client.response().await.unwrap().text(), "/a");
        }
        client.finish().await;
        assert!(client.ended().await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn more_connections_than_allowed_wait() {
    let addr = serve(|settings| settings.connections_max = 1, path_of).await;
    let mut first = Raw::connect(addr).await;
    first.send("GET /1 HTTP/1.1\r\nHost: s\r\n\r\n").await;
    assert_eq!(first.response().await.unwrap().text(), "/1");
    let mut second = Raw::connect(addr).await;
    second.send("GET /2 HTTP/1.1\r\nHost: s\r\n\r\n").await;
    let early = tokio::time::timeout(Duration::from_millis(100), second.head()).await;
    assert!(early.is_err(), "one too many was served");
    first.reset();
    let mut third = Raw::connect(addr).await;
    third
        .send("GET /3 HTTP/1.1\r\nHost: s\r\nConnection: close\r\n\r\n")
        .await;
    second.finish().await;
    assert_eq!(third.response().await.unwrap().text(), "/3");
}

#[tokio::test]
async fn a_drain_lets_requests_end_and_takes_no_more() {
    let legacy = Legacy::start().await;
    let mut proxy = Proxy::start(&legacy.url()).await;
    let addr = proxy.addr;
    let mut idle = Raw::connect(addr).await;
    idle.send("GET / HTTP/1.1\r\nHost: s\r\n\r\n").await;
    assert_eq!(idle.response().await.unwrap().status, 200);
    let gate = Gate::default();
    legacy.script(Reply::new(200).body("in time").held_at(&gate));
    let mut busy = Raw::connect(addr).await;
    busy.send("POST / HTTP/1.1\r\nHost: s\r\nContent-Length: 2\r\n\r\nhi")
        .await;
    gate.reached(1).await;

    proxy.stop();
    assert!(
        idle.ended().await.unwrap().is_empty(),
        "an idle connection ends at once"
    );
    within("the port to be free", async {
        while TcpStream::connect(addr).await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    gate.open();
    let response = busy.response().await.unwrap();
    assert_eq!(response.text(), "in time");
    assert_eq!(response.fields.get("connection"), Some("close"));
    busy.finish().await;
    assert_eq!(proxy.drained().await, Drained { aborted: 0 });
}

#[tokio::test]
async fn a_drain_has_an_end() {
    let legacy = Legacy::start().await;
    let url = legacy.url();
    let proxy = Proxy::start_with(
        &url,
        |_| {},
        |settings| settings.drain = Duration::from_millis(50),
    )
    .await;
    let (reply, stream) = Reply::streaming(200);
    legacy.script(reply);
    let mut client = Raw::connect(proxy.addr).await;
    client.send("GET / HTTP/1.0\r\n\r\n").await;
    client.head().await.unwrap();
    stream.send("begun");
    assert_eq!(client.bytes(5).await.unwrap(), "begun");
    assert_eq!(proxy.drained().await, Drained { aborted: 1 });
    client.ended().await.unwrap_err(); // cut off, and told so
    drop(stream);
}

#[tokio::test]
async fn methods_that_no_proxy_forwards() {
    let legacy = Legacy::start().await;
    let proxy = Proxy::start(&legacy.url()).await;
    for (request, status) in [
        ("CONNECT bank:443 HTTP/1.1\r\nHost: bank:443\r\n\r\n", 501),
        ("TRACE / HTTP/1.1\r\nHost: s\r\n\r\n", 405),
        (
            "OPTIONS / HTTP/1.1\r\nHost: s\r\nMax-Forwards: 0\r\n\r\n",
            204,
        ),
    ] {
        let mut client = Raw::connect(proxy.addr).await;
        client.send(request).await;
        assert_eq!(
            client.response().await.unwrap().status,
            status,
            "{request:?}"
        );
    }
    assert_eq!(legacy.requests(), 0);
}

/// Whoever gets a client to open a tunnel with bytes of theirs must not have them taken for a request.
#[tokio::test]
async fn what_follows_a_refused_connect_is_no_request() {
    let legacy = Legacy::start().await;
    let proxy = Proxy::start(&legacy.url()).await;
    let mut client = Raw::connect(proxy.addr).await;
    client
        .send("CONNECT bank:443 HTTP/1.1\r\nHost: bank:443\r\n\r\nPOST /tunnelled HTTP/1.1\r\nHost: s\r\n\r\n")
        .await;
    assert_eq!(client.response().await.unwrap().status, 501);
    client.ended().await.unwrap();
    assert_eq!(legacy.requests(), 0);
}
