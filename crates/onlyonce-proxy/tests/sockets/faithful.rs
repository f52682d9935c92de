//! What arrives is what was sent, but for what a proxy must remove and add.

use onlyonce_test::client::Raw;
use onlyonce_test::upstream::{Legacy, Received, Reply};

use crate::support::Proxy;

/// Sends raw bytes through a proxy and returns what the upstream got.
async fn through(proxy: &Proxy, legacy: &Legacy, request: &str) -> Received {
    let mut client = Raw::connect(proxy.addr).await;
    client.send(request).await;
    let response = client.response().await.unwrap();
    assert_eq!(response.status, 200, "{request:?} {}", response.text());
    legacy.journal().pop().unwrap()
}

fn lines<'a>(received: &'a Received, name: &str) -> Vec<&'a str> {
    received.fields.all(name).collect()
}

#[tokio::test]
async fn targets_arrive_byte_for_byte() {
    let legacy = Legacy::start().await;
    let proxy = Proxy::start(&legacy.url()).await;
    for target in [
        "/",
        "//",
        "///a//b/",
        "/./a/../b/.",
        "/%2F%2f%2e",
        "/a;b=c;d",
        "/a?",
        "/?",
        "/a?b?c",
        "/a+b?c+d",
        "/%FF%00%",
        "/a?%zz",
        "/~!$&'()*,=:@",
        "/{x}|\"",
        "/ä/日本",
        "//evil.example/a",
        "/http://evil.example/",
    ] {
        let request = format!("GET {target} HTTP/1.1\r\nHost: shop\r\n\r\n");
        assert_eq!(through(&proxy, &legacy, &request).await.target, target);
    }
    let asterisk = "OPTIONS * HTTP/1.1\r\nHost: shop\r\n\r\n";
    assert_eq!(through(&proxy, &legacy, asterisk).await.target, "*");
}

/// C-F13, C-T7: the authority of an absolute target is what `Host` says, and nothing connects there.
#[tokio::test]
async fn absolute_targets_do_not_choose_the_upstream() {
    let legacy = Legacy::start().await;
    let proxy = Proxy::start(&legacy.url()).await;
    let request = "GET http://evil.invalid:1/a?b HTTP/1.1\r\nHost: shop\r\n\r\n";
    let received = through(&proxy, &legacy, request).await;
    assert_eq!(received.target, "/a?b");
    assert_eq!(lines(&received, "host"), ["evil.invalid:1"]);
    assert_eq!(lines(&received, "x-forwarded-host"), ["evil.invalid:1"]);
}

#[tokio::test]
async fn methods_arrive_as_they_are_written() {
    let legacy = Legacy::start().await;
    let proxy = Proxy::start(&legacy.url()).await;
    for method in ["get", "PROPFIND", "M-SEARCH", "QUERY", "x!#$%&'*+-.^_`|~"] {
        let request = format!("{method} / HTTP/1.1\r\nHost: shop\r\nContent-Length: 0\r\n\r\n");
        assert_eq!(through(&proxy, &legacy, &request).await.method, method);
    }
}

#[tokio::test]
async fn hop_by_hop_fields_stay_on_their_hop() {
    let legacy = Legacy::start().await;
    let proxy = Proxy::start(&legacy.url()).await;
    let request = "POST / HTTP/1.1\r\nHost: shop\r\nConnection: X-Listed, keep-alive\r\n\
        Connection: Idempotency-Key, x-forwarded-for\r\nX-Listed: 1\r\nKeep-Alive: timeout=9\r\n\
        Proxy-Connection: close\r\nProxy-Authorization: Basic QQ==\r\nTE: gzip\r\nTrailer: X\r\n\
        Idempotency-Key: k\r\nIdempotency_Key: other\r\nX_Forwarded_For: 6.6.6.6\r\nExpect: 100-continue\r\n\
        X-Kept: a\r\nX-Kept: b\r\nx_odd: kept\r\nContent-Length: 2\r\n\r\nhi";
    let received = through(&proxy, &legacy, request).await;
    for gone in [
        "connection",
        "x-listed",
        "keep-alive",
        "proxy-connection",
        "proxy-authorization",
        "te",
        "trailer",
        "idempotency-key",
        "idempotency_key",
        "x_forwarded_for",
        "expect",
        "transfer-encoding",
        "upgrade",
    ] {
        assert!(
            lines(&received, gone).is_empty(),
            "{gone}: {:?}",
            received.fields
        );
    }
    assert_eq!(lines(&received, "x-kept"), ["a", "b"]);
    assert_eq!(lines(&received, "x_odd"), ["kept"]);
    assert_eq!(lines(&received, "x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(received.body, "hi");
}

#[tokio::test]
async fn response_fields_are_cleaned_and_kept() {
    let legacy = Legacy::start().await;
    let proxy = Proxy::start(&legacy.url()).await;
    legacy.script(
        Reply::new(200)
            .field("Connection", "x-listed")
            .field("X-Listed", "1")
            .field("Keep-Alive", "timeout=9")
            .field("Proxy-Authenticate", "Basic")
            .field("Set-Cookie", "a=1")
            .field("Set-Cookie", "b=2")
            .field("Server", "legacy/1")
            .field("Location", "http://internal/x")
            .body("done"),
    );
    let mut client = Raw::connect(proxy.addr).await;
    client.send("GET / HTTP/1.1\r\nHost: shop\r\n\r\n").await;
    let response = client.response().await.unwrap();
    for gone in ["connection", "x-listed", "keep-alive", "proxy-authenticate"] {
        assert_eq!(response.fields.get(gone), None, "{gone}");
    }
    assert_eq!(
        response.fields.all("set-cookie").collect::<Vec<_>>(),
        ["a=1", "b=2"]
    );
    assert_eq!(response.fields.get("server"), Some("legacy/1"));
    assert_eq!(response.fields.get("location"), Some("http://internal/x"));
    assert!(response.fields.get("date").is_some(), "C-R9");
    assert_eq!(response.text(), "done");
}

/// C-T3, C-T4.
#[tokio::test]
async fn a_stranger_can_not_forge_where_it_comes_from() {
    const FORGED: &str = "GET / HTTP/1.1\r\nHost: shop\r\nX-Forwarded-For: 6.6.6.6\r\nX-Forwarded-For: 7.7.7.7\r\n\
        X-Forwarded-Proto: https\r\nX-Forwarded-Host: bank\r\nX-Real-IP: 6.6.6.6\r\nForwarded: for=6.6.6.6\r\n\r\n";
    let legacy = Legacy::start().await;
    let proxy = Proxy::start(&legacy.url()).await;
    let received = through(&proxy, &legacy, FORGED).await;
    assert_eq!(lines(&received, "x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(lines(&received, "x-forwarded-proto"), ["http"]);
    assert_eq!(lines(&received, "x-forwarded-host"), ["shop"]);
    assert_eq!(lines(&received, "x-real-ip"), ["127.0.0.1"]);
    assert_eq!(
        lines(&received, "forwarded"),
        ["for=127.0.0.1;host=\"shop\";proto=http"]
    );

    let trusting = Proxy::start_with(
        &legacy.url(),
        |settings| settings.trusted_peers = ["127.0.0.0/8".parse().unwrap()].into_iter().collect(),
        |_| {},
    )
    .await;
    let received = through(&trusting, &legacy, FORGED).await;
    assert_eq!(
        lines(&received, "x-forwarded-for"),
        ["6.6.6.6, 7.7.7.7, 127.0.0.1"]
    );
    assert_eq!(lines(&received, "x-forwarded-proto"), ["https"]);
    assert_eq!(lines(&received, "x-real-ip"), ["6.6.6.6"]);
}

#[tokio::test]
async fn via_names_us_and_ends_loops() {
    let legacy = Legacy::start().await;
    let via = onlyonce_proxy::headers::Via::new("edge").unwrap();
    let proxy = Proxy::start_with(&legacy.url(), |settings| settings.via = via, |_| {}).await;
    let received = through(&proxy, &legacy, "GET / HTTP/1.0\r\nVia: 1.1 cdn\r\n\r\n").await;
    assert_eq!(lines(&received, "via"), ["1.1 cdn", "1.0 edge"]);

    // A proxy whose upstream is another whose upstream is the first.
    let first = Proxy::start(&format!("http://{}", proxy.addr)).await;
    let mut client = Raw::connect(proxy.addr).await;
    client
        .send("GET / HTTP/1.1\r\nHost: shop\r\nVia: 1.1 edge\r\n\r\n")
        .await;
    assert_eq!(client.response().await.unwrap().status, 508);
    let mut client = Raw::connect(first.addr).await;
    client
        .send("GET / HTTP/1.1\r\nHost: shop\r\nVia: 1.1 edge\r\n\r\n")
        .await;
    assert_eq!(client.response().await.unwrap().status, 508);
    assert_eq!(legacy.requests(), 1);
}

#[tokio::test]
async fn framing_is_kept_in_both_directions() {
    let legacy = Legacy::start().await;
    let proxy = Proxy::start(&legacy.url()).await;
    for (request, length, coding, body) in [
        ("GET / HTTP/1.1\r\nHost: s\r\n\r\n", None, None, ""),
        (
            "POST / HTTP/1.1\r\nHost: s\r\nContent-Length: 0\r\n\r\n",
            Some("0"),
            None,
            "",
        ),
        ("POST / HTTP/1.1\r\nHost: s\r\n\r\n", Some("0"), None, ""),
        (
            "GET / HTTP/1.1\r\nHost: s\r\nContent-Length: 2\r\n\r\nhi",
            Some("2"),
            None,
            "hi",
        ),
        (
            "DELETE / HTTP/1.1\r\nHost: s\r\nContent-Length: 2, 2\r\n\r\nhi",
            None,
            None,
            "",
        ),
        (
            "GET / HTTP/1.1\r\nHost: s\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
            None,
            Some("chunked"),
            "hi",
        ),
        (
            "POST / HTTP/1.1\r\nHost: s\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n\
             2;ext=1\r\nhi\r\n0\r\nHost: evil\r\nX-T: 1\r\n\r\n",
            None,
            Some("chunked"),
            "hi",
        ),
    ] {
        let mut client = Raw::connect(proxy.addr).await;
        client.send(request).await;
        let response = client.response().await.unwrap();
        if request.contains("2, 2") {
            assert_eq!(response.status, 400, "a list is refused");
            continue;
        }
        assert_eq!(response.status, 200, "{request:?}");
        let received = legacy.journal().pop().unwrap();
        assert_eq!(received.fields.get("content-length"), length, "{request:?}");
        assert_eq!(
            received.fields.get("transfer-encoding"),
            coding,
            "{request:?}"
        );
        assert_eq!(received.body, body, "{request:?}");
        assert!(received.trailers.is_empty(), "{request:?}");
    }
}

#[tokio::test]
async fn responses_without_content_stay_so() {
    let legacy = Legacy::start().await;
    let proxy = Proxy::start(&legacy.url()).await;
    let mut client = Raw::connect(proxy.addr).await;

    legacy.script(Reply::raw("HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n"));
    client.send("HEAD / HTTP/1.1\r\nHost: s\r\n\r\n").await;
    let head = client.response_to_head().await.unwrap();
    assert_eq!(
        (head.status, head.fields.get("content-length")),
        (200, Some("7"))
    );

    legacy.script(Reply::raw(
        "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n",
    ));
    client.send("GET / HTTP/1.1\r\nHost: s\r\n\r\n").await;
    let response = client.response().await.unwrap();
    assert_eq!(response.status, 204);
    assert_eq!(response.fields.get("transfer-encoding"), None, "C-R4");
    assert_eq!(response.fields.get("content-length"), None);

    legacy.script(Reply::raw(
        "HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\nContent-Length: 9\r\n\r\n",
    ));
    client.send("GET / HTTP/1.1\r\nHost: s\r\n\r\n").await;
    let response = client.response().await.unwrap();
    assert_eq!(
        (response.status, response.fields.get("etag")),
        (304, Some("\"x\""))
    );
}

#[tokio::test]
async fn response_trailers_reach_those_who_take_them() {
    let legacy = Legacy::start().await;
    let proxy = Proxy::start(&legacy.url()).await;
    let reply = || {
        let trailers = [
            ("X-Sum", "42"),
            ("Content-Length", "9"),
            ("Authorization", "no"),
            ("X-Hop", "1"),
        ];
        Reply::new(200)
            .field("Trailer", "x-sum, content-length, authorization, x-hop")
            .field("Connection", "x-hop")
            .chunked(["a", "b"], trailers)
    };
    legacy.script(reply());
    let mut client = Raw::connect(proxy.addr).await;
    client
        .send("GET / HTTP/1.1\r\nHost: s\r\nTE: trailers\r\nConnection: TE\r\n\r\n")
        .await;
    let response = client.response().await.unwrap();
    assert_eq!(response.text(), "ab");
    assert_eq!(
        response.trailers.iter().collect::<Vec<_>>(),
        [("x-sum", "42")]
    );
    assert_eq!(
        legacy.journal().pop().unwrap().fields.get("te"),
        Some("trailers")
    );

    legacy.script(reply());
    client.send("GET / HTTP/1.1\r\nHost: s\r\n\r\n").await;
    let response = client.response().await.unwrap();
    assert_eq!(response.text(), "ab");
    assert!(response.trailers.is_empty());
}

#[tokio::test]
async fn an_old_client_gets_what_it_understands() {
    let legacy = Legacy::start().await;
    let proxy = Proxy::start(&legacy.url()).await;
    legacy.script(Reply::new(200).chunked(["ab", "cd"], []));
    let mut client = Raw::connect(proxy.addr).await;
    client
        .send("POST / HTTP/1.0\r\nContent-Length: 2\r\n\r\nhi")
        .await;
    let response = client.response().await.unwrap();
    assert_eq!(response.text(), "abcd");
    assert_eq!(response.fields.get("transfer-encoding"), None);
    let received = legacy.journal().pop().unwrap();
    assert_eq!(received.body, "hi");
    assert!(
        received.head.starts_with(b"POST / HTTP/1.1\r\n"),
        "we speak 1.1"
    );
}
