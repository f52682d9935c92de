//! F24: keys that were made to break something, over the wire, in front of Postgres.

use onlyonce_test::client::{Raw, Response};
use onlyonce_test::process::Proxy;
use onlyonce_test::upstream::Reply;

use crate::setup::{BODY, Setup, assert_problem, assert_replays, code};

/// The request's fields are given as bytes, so that anything can be sent.
async fn send(proxy: &Proxy, method: &str, path: &str, fields: &[u8], body: &str) -> Response {
    let mut request = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n").into_bytes();
    request.extend_from_slice(fields);
    request
        .extend_from_slice(format!("\r\nContent-Length: {}\r\n\r\n{body}", body.len()).as_bytes());
    let mut client = Raw::connect(proxy.addr()).await;
    client.send(&request).await;
    client.response().await.expect("an answer")
}

fn keyed(key: &[u8]) -> Vec<u8> {
    [b"Idempotency-Key: ", key].concat()
}

async fn post(proxy: &Proxy, key: &str) -> Response {
    send(proxy, "POST", "/charges", &keyed(key.as_bytes()), BODY).await
}

#[tokio::test]
async fn f24_what_is_no_key_is_refused_and_leaves_nothing() {
    let setup = Setup::postgres().await;
    let proxy = setup.launch().start().await;
    let long = "k".repeat(256);
    let no_keys: [&[u8]; 14] = [
        b"",
        b"   ",
        b"\"\"",
        b"\"  \"",
        long.as_bytes(),
        b"\"unfinished",
        b"\"a\", \"b\"",
        b"a, b",
        b"a b",
        b"a;b",
        b"\"a\"b",
        "schlüssel".as_bytes(),
        b"\xff\xfe",
        b"a\r\nIdempotency-Key: a",
    ];
    for key in no_keys {
        let refused = send(&proxy, "POST", "/charges", &keyed(key), BODY).await;
        assert_problem(&refused, 400, "idempotency-key-invalid");
    }
    let varied = b"idempotency-key: a\r\nIDEMPOTENCY-KEY: b";
    let refused = send(&proxy, "POST", "/charges", varied, BODY).await;
    assert_problem(&refused, 400, "idempotency-key-invalid");
    // These break the head itself: what parses it refuses them.
    let huge = vec![b'k'; 1 << 20];
    for key in [b"a\0b", b"a\x01b", &huge[..]] {
        let refused = try_send(&proxy, key).await;
        assert!(
            refused.is_none_or(|status| (400..500).contains(&status)),
            "{refused:?}"
        );
    }
    assert_eq!((setup.legacy.requests(), setup.list().await.len()), (0, 0));
}

/// The status, or nothing where the connection was closed in the middle of the request.
async fn try_send(proxy: &Proxy, key: &[u8]) -> Option<u16> {
    let mut client = Raw::connect(proxy.addr()).await;
    let head = [
        b"POST /charges HTTP/1.1\r\nHost: localhost\r\nIdempotency-Key: ",
        key,
        b"\r\nContent-Length: 0\r\n\r\n",
    ];
    client.send(head.concat()).await;
    client.response().await.ok().map(|answer| answer.status)
}

#[tokio::test]
async fn f24_strange_keys_are_keys_and_each_is_its_own() {
    let setup = Setup::postgres().await;
    setup.legacy.answer_with(|request| {
        Reply::new(201).body(format!("for {}", request.key().unwrap_or_default()))
    });
    let proxy = setup.launch().start().await;
    let longest = "k".repeat(255);
    let keys = [
        "'; drop table onlyonce_records; --"
            .replace(' ', "/")
            .replace(';', ":"),
        "\"'; drop table onlyonce_records; --\"".to_owned(),
        "$1".to_owned(),
        "%00".to_owned(),
        "%s%n".to_owned(),
        "../../etc/passwd".to_owned(),
        "${jndi:ldap://x}".to_owned(),
        "<script>".to_owned(),
        "null".to_owned(),
        "a".to_owned(),
        "A".to_owned(),
        "\"\\\"\"".to_owned(),
        "\"\\\\\"".to_owned(),
        longest,
    ];
    let mut firsts = Vec::new();
    for key in &keys {
        let first = post(&proxy, key).await;
        assert_eq!(
            (first.status, first.is_replay()),
            (201, false),
            "{key}: {first:?}"
        );
        firsts.push(first);
    }
    for (key, first) in keys.iter().zip(&firsts) {
        assert_replays(&post(&proxy, key).await, first);
    }
    assert_eq!(
        (setup.legacy.effects(), setup.list().await.len()),
        (keys.len(), keys.len())
    );
}

#[tokio::test]
async fn f24_one_key_of_two_tenants_two_routes_and_two_bodies() {
    let setup = Setup::postgres().await;
    setup.legacy.answer_with(|request| {
        let tenant = request.fields.get("authorization").unwrap_or_default();
        Reply::new(201).body(format!("{} {} {tenant}", request.method, request.target))
    });
    let proxy = setup.launch().start().await;
    let cases = [
        ("POST", "/charges", "Bearer alice"),
        ("POST", "/charges", "Bearer bob"),
        ("POST", "/refunds", "Bearer alice"),
        ("PATCH", "/charges", "Bearer alice"),
        ("POST", "/Charges", "Bearer alice"),
    ];
    for (method, path, tenant) in cases {
        let fields = format!("idempotency-KEY: key\r\nAuthorization: {tenant}");
        for replay in [false, true] {
            let answer = send(&proxy, method, path, fields.as_bytes(), BODY).await;
            assert_eq!(
                answer.text(),
                format!("{method} {path} {tenant}"),
                "nobody sees another's"
            );
            assert_eq!(answer.is_replay(), replay);
        }
    }
    assert_eq!(setup.legacy.effects(), cases.len());

    // One bit of the body.
    let fields = b"Authorization: Bearer alice\r\nAccept: */*\r\nIdempotency-Key: \"key\"";
    let again = send(&proxy, "POST", "/charges", fields, BODY).await;
    assert!(
        again.is_replay(),
        "the order of fields and the quotes make no difference"
    );
    let other = send(&proxy, "POST", "/charges", fields, &BODY.replace('0', "1")).await;
    assert_eq!(
        (other.status, code(&other).as_str()),
        (422, "idempotency-key-reused")
    );
    assert_eq!(setup.legacy.effects(), cases.len());
}
