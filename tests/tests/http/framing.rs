//! C-F: where a request begins and ends. What is in a body is never a request, and what has two readings
//! is answered with an error and the end of the connection.

use onlyonce_test::client::{Raw, Response};
use onlyonce_test::event::Gate;
use onlyonce_test::upstream::{Legacy, Received, Reply};

use crate::support::*;

const SMUGGLED: &str =
    "POST /smuggled HTTP/1.1\r\nHost: s\r\nIdempotency-Key: smuggled\r\nContent-Length: 0\r\n\r\n";

/// Sends all of it on one connection, the last of which ends it, and reads every answer that comes.
async fn exchange(site: &Site, bytes: impl AsRef<[u8]>) -> Vec<Response> {
    let mut client = site.connect().await;
    client.send(bytes).await;
    if site.shop.front.is_hop() {
        // hyper's own server takes this for a client that has left.
        client.finish().await;
    }
    rest(client).await
}

async fn rest(mut client: Raw) -> Vec<Response> {
    let mut answers = Vec::new();
    while let Ok(answer) = client.response().await {
        answers.push(answer);
    }
    answers
}

fn statuses(answers: &[Response]) -> Vec<u16> {
    answers.iter().map(|answer| answer.status).collect()
}

/// The targets that the service has seen.
fn targets(legacy: &Legacy) -> Vec<String> {
    let journal = legacy.journal();
    journal
        .into_iter()
        .map(|received| received.target)
        .collect()
}

/// A keyed request whose head ends with these lines, and whatever follows.
fn framed(lines: &str, rest: &str) -> String {
    format!("POST /a HTTP/1.1\r\nHost: s\r\nIdempotency-Key: k\r\n{lines}\r\n{rest}")
}

/// Sends a request with another behind it: an error, and the end; the service sees nothing, and no record is
/// left.
async fn refused(front: Front, requests: &[(&str, String)]) {
    let site = Site::start(front).await;
    for (item, request) in requests {
        let answers = exchange(&site, request).await;
        let statuses = statuses(&answers);
        let refused = matches!(statuses[..], [400 | 501 | 505]);
        assert!(refused, "{item}: {statuses:?} for {request:?}");
        assert_eq!(targets(&site.legacy), [""; 0], "{item}: {request:?}");
    }
    let answer = site.ask(framed("Content-Length: 0\r\n", "")).await;
    assert_eq!(answer.status, 201);
    assert!(!answer.is_replay(), "nothing was recorded under the key");
}

#[tokio::test]
async fn c_f2_c_f3_c_f4_lengths_and_codings_with_two_readings_are_refused() {
    let coding = |coding: &str| {
        let line = format!("Transfer-Encoding: {coding}\r\n");
        framed(&line, &format!("0\r\n\r\n{SMUGGLED}"))
    };
    let length = |length: &str| {
        let line = format!("Content-Length: {length}\r\n");
        framed(&line, &format!("hello{SMUGGLED}"))
    };
    let old = coding("chunked").replacen("HTTP/1.1", "HTTP/1.0", 1);
    refused(
        Front::Proxy,
        &[
            ("C-F2", coding("gzip")),
            ("C-F2", coding("chunked, gzip")),
            ("C-F2", coding("gzip, chunked")),
            ("C-F2", coding("xchunked")),
            ("C-F2", coding("chunked, chunked")),
            ("C-F2", coding("chunked\r\nTransfer-Encoding: chunked")),
            ("C-F2", coding("\x0bchunked")),
            ("C-F2", coding("identity")),
            ("C-F3", old),
            ("C-F4", length("+5")),
            ("C-F4", length("-0")),
            ("C-F4", length("5_0")),
            ("C-F4", length("0x5")),
            ("C-F4", length("5 5")),
            ("C-F4", length("")),
            ("C-F4", length("1e3")),
            ("C-F4", length("99999999999999999999")),
            ("C-F4", length("5\r\nContent-Length: 6")),
            ("C-F4", length("5, 6")),
            ("C-F4", length("5, 5")),
        ],
    )
    .await;
}

three_ways!(c_f5_c_f6_chunks_with_two_readings_are_refused);
async fn c_f5_c_f6_chunks_with_two_readings_are_refused(front: Front) {
    let chunked = |rest: &str| {
        framed(
            "Transfer-Encoding: chunked\r\n",
            &format!("{rest}{SMUGGLED}"),
        )
    };
    refused(
        front,
        &[
            ("C-F5", chunked("0x5\r\nhello\r\n0\r\n\r\n")),
            ("C-F5", chunked("+5\r\nhello\r\n0\r\n\r\n")),
            ("C-F5", chunked("-5\r\nhello\r\n0\r\n\r\n")),
            ("C-F5", chunked("5_0\r\nhello\r\n0\r\n\r\n")),
            ("C-F5", chunked("\r\nhello\r\n0\r\n\r\n")),
            ("C-F5", chunked("10000000000000005\r\nhello\r\n0\r\n\r\n")),
            ("C-F6", chunked("5\nhello\r\n0\r\n\r\n")),
            ("C-F6", chunked("5\r\nhelloX\r\n0\r\n\r\n")),
            ("C-F6", chunked("5\r\nhello0\r\n\r\n")),
            ("C-F6", chunked("5;a\nb\r\nhello\r\n0\r\n\r\n")),
            (
                "C-F6",
                chunked(&format!("5;{}\r\nhello\r\n0\r\n\r\n", "x".repeat(100_000))),
            ),
        ],
    )
    .await;
}

#[tokio::test]
async fn c_f8_c_f9_c_f10_c_f12_c_f14_c_f15_c_f16_malformed_heads_are_refused() {
    let head = |line: &str| framed(&format!("{line}\r\nContent-Length: 0\r\n"), SMUGGLED);
    let start = |line: &str| {
        let head = "Host: s\r\nIdempotency-Key: k\r\nContent-Length: 0";
        format!("{line}\r\n{head}\r\n\r\n{SMUGGLED}")
    };
    let host = |lines: &str| start("POST /a HTTP/1.1").replacen("Host: s\r\n", lines, 1);
    refused(
        Front::Proxy,
        &[
            ("C-F8", head("X : a")),
            ("C-F8", head("X: a\r\n folded: b")),
            ("C-F9", head("X: a\rb")),
            ("C-F9", head("X\r: a")),
            ("C-F9", head("X: a\0b")),
            ("C-F10", head(": a")),
            ("C-F10", head("X@Y: a")),
            ("C-F10", head("X\u{a0}: a")),
            ("C-F10", head("(X): a")),
            ("C-F12", host("")),
            ("C-F12", head("Host: t")),
            ("C-F12", host("Host: a b\r\n")),
            ("C-F12", host("Host: u@s\r\n")),
            ("C-F12", host("Host: s/t\r\n")),
            ("C-F14", start("POST /a b HTTP/1.1")),
            ("C-F14", start("POST /a\x01 HTTP/1.1")),
            ("C-F15", start("POST /a HTTP/1.32")),
            ("C-F15", start("POST /a HTTP/2.0")),
            ("C-F15", start("POST /a http/1.1")),
            ("C-F15", start("POST /a")),
            ("C-F16", start("PO(ST /a HTTP/1.1")),
        ],
    )
    .await;
}

/// Two readings of which HTTP allows one: it is taken, and stated anew to the service. With two lengths
/// the connection ends, so that nothing behind the request is a matter of opinion.
#[tokio::test]
async fn c_f1_c_f4_c_f20_what_is_taken_is_stated_anew() {
    let site = Site::start(Front::Proxy).await;
    for (number, (lines, sent, body, expected)) in [
        (
            "Content-Length: 6\r\nTransfer-Encoding: chunked\r\n",
            "2\r\nhi\r\n0\r\n\r\n",
            "hi",
            &[201][..],
        ),
        (
            "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n",
            "2\r\nhi\r\n0\r\n\r\n",
            "hi",
            &[201],
        ),
        (
            "Content-Length: 5\r\nContent-Length: 5\r\n",
            "hello",
            "hello",
            &[201, 201],
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let request = framed(lines, sent).replace("Key: k", &format!("Key: k-{number}"));
        let after = SMUGGLED.replace("smuggled", &format!("after-{number}"));
        let answers = exchange(&site, request + &after).await;
        assert_eq!(statuses(&answers), expected, "C-F1, C-F4: {lines:?}");
        let journal = site.legacy.journal();
        let own = |received: &&Received| received.key() == Some(&*format!("k-{number}"));
        let received = journal.iter().find(own).expect("it was forwarded");
        assert_eq!(received.body, body, "C-F20: {lines:?}");
        let lengths: Vec<_> = received.fields.all("content-length").collect();
        assert_eq!(lengths, [body.len().to_string()], "C-F20: {lines:?}");
        assert_eq!(received.fields.get("transfer-encoding"), None, "C-F20");
    }
}

/// C-F11: a bare LF ends a line, as RFC 9112 section 2.2 allows, and is never passed on as one.
#[tokio::test]
async fn c_f11_bare_line_feeds_are_not_passed_on() {
    let site = Site::start(Front::Proxy).await;
    let request =
        "POST /a HTTP/1.1\nHost: s\nIdempotency-Key: k\nX-Own: 1\nContent-Length: 2\n\nhi";
    let answers = exchange(&site, request).await;
    assert_eq!(statuses(&answers), [201]);
    let head = &site.legacy.journal()[0].head;
    let bare = head
        .windows(2)
        .any(|pair| pair[1] == b'\n' && pair[0] != b'\r');
    assert!(!bare, "C-F11: {head:?}");
    // And it is the same request, written properly.
    let again = framed("X-Own: 1\r\nContent-Length: 2\r\n", "hi");
    replayed(&answers[0], &site.ask(again).await);
}

/// A site in which every answer of ours can be had: `held` is in flight, `used` is completed.
async fn with_used_keys(front: Front) -> (Site, Gate, Raw) {
    let settings = [
        ("policy.require-key", "true"),
        ("policy.request-max", "1KiB"),
    ];
    let site = Site::with(front, &settings).await;
    let used = site.ask(keyed("POST", "/a", "used").body(SMUGGLED)).await;
    assert_eq!(used.status, 201);
    let gate = Gate::default();
    site.legacy.script(Reply::new(201).held_at(&gate));
    let mut holder = site.connect().await;
    holder.send(keyed("POST", "/a", "held")).await;
    gate.reached(1).await;
    (site, gate, holder)
}

/// The line of the key, and the answer that it brings about.
const PATHS: [(&str, u16); 5] = [
    ("Idempotency-Key: held", 409),
    ("Idempotency-Key: used", 422),
    ("Idempotency-Key: a, b", 400),
    ("X-None: 1", 400),
    ("Idempotency-Key: \"", 400),
];

three_ways!(c_f17_c_f18_c_f19_f21_a_body_that_comes_with_its_head_is_no_request);
/// F21, C-F18, C-F19: what is in a body is never a request, whether or not somebody read it.
async fn c_f17_c_f18_c_f19_f21_a_body_that_comes_with_its_head_is_no_request(front: Front) {
    let (site, gate, mut holder) = with_used_keys(front).await;
    let before = targets(&site.legacy).len();
    let request = |line: &str| unkeyed("POST", "/a").line(line);
    let other = format!("x{SMUGGLED}"); // not the body that `used` had
    let next = "GET /next HTTP/1.1\r\nHost: s\r\nConnection: close\r\n\r\n";
    let mut nexts = 0;
    for (line, status) in PATHS {
        for ask in [
            request(line).body(&other),
            request(line).chunked(&format!("{:x}\r\n{other}\r\n0\r\n\r\n", other.len())),
        ] {
            let bytes = [ask.as_ref(), next.as_bytes()].concat();
            let answers = exchange(&site, bytes).await;
            // The connection may end with the answer; where it goes on, the next request is the next one.
            match statuses(&answers)[..] {
                [first] => assert_eq!(first, status, "{line}"),
                [first, 201] => {
                    assert_eq!(first, status, "{line}");
                    nexts += 1;
                }
                ref all => panic!("C-F19: {line}: {all:?}"),
            }
        }
    }
    // A replay has read its body: the connection goes on.
    let replay = request("Idempotency-Key: used").body(SMUGGLED);
    let bytes = [replay.as_ref(), replay.as_ref(), next.as_bytes()].concat();
    let answers = exchange(&site, bytes).await;
    assert_eq!(statuses(&answers), [201, 201, 201], "C-F19");
    assert!(answers[0].is_replay() && answers[1].is_replay() && !answers[2].is_replay());
    nexts += 1;
    gate.open();
    assert_eq!(holder.response().await.expect("a head").status, 201);
    let seen = targets(&site.legacy);
    assert_eq!(
        seen[before..],
        vec!["/next"; nexts],
        "F21: nothing else arrived"
    );
    assert_eq!(site.effects_of("smuggled").await, 0);
}

three_ways!(c_f18_f21_a_body_that_comes_after_its_answer_is_no_request);
/// F21: the answer is there before the body; what the client sends then is thrown away.
async fn c_f18_f21_a_body_that_comes_after_its_answer_is_no_request(front: Front) {
    let (site, gate, mut holder) = with_used_keys(front).await;
    let before = targets(&site.legacy).len();
    let unread = PATHS.iter().filter(|(_, status)| *status != 422);
    for (line, status) in unread.chain(&[("Idempotency-Key: large", 413)]) {
        for late in [SMUGGLED.repeat(20), SMUGGLED.to_owned()] {
            if *status == 413 && late.len() <= 1024 {
                continue;
            }
            let length = format!("Content-Length: {}", late.len());
            let mut client = site.connect().await;
            let head = unkeyed("POST", "/a").line(line).line(length);
            client.send(head).await;
            let answer = client.response().await.expect("an answer before the body");
            assert_eq!(answer.status, *status, "{line}");
            client.send(&late).await;
            client.finish().await;
            let more = rest(client).await;
            assert!(more.is_empty(), "F21: {line}: {more:?}");
        }
    }
    // A chunked upload is refused in its midst, and its rest is no request either.
    let mut client = site.connect().await;
    let over = format!("401\r\n{}\r\n", "x".repeat(0x401));
    client
        .send(
            unkeyed("POST", "/a")
                .line("Idempotency-Key: large")
                .chunked(&over),
        )
        .await;
    assert_eq!(
        client
            .response()
            .await
            .expect("an answer amid the body")
            .status,
        413
    );
    client.send(SMUGGLED).await;
    client.send(format!("0\r\n\r\n{SMUGGLED}")).await;
    client.finish().await;
    let more = rest(client).await;
    assert!(more.is_empty(), "F21: 413: {more:?}");
    gate.open();
    assert_eq!(holder.response().await.expect("a head").status, 201);
    assert_eq!(targets(&site.legacy).len(), before, "F21: nothing arrived");
}

three_ways!(c_f17_bodies_of_other_methods_are_bodies);
/// C-F17: the body of a method that has none by custom stays its body.
async fn c_f17_bodies_of_other_methods_are_bodies(front: Front) {
    let site = Site::start(front).await;
    for method in ["GET", "DELETE", "PUT", "OPTIONS"] {
        for ask in [
            unkeyed(method, "/a").body(SMUGGLED),
            unkeyed(method, "/a")
                .chunked(&format!("{:x}\r\n{SMUGGLED}\r\n0\r\n\r\n", SMUGGLED.len())),
        ] {
            let answers = exchange(
                &site,
                [
                    ask.as_ref(),
                    b"GET /next HTTP/1.1\r\nHost: s\r\nConnection: close\r\n\r\n",
                ]
                .concat(),
            )
            .await;
            assert_eq!(statuses(&answers), [201, 201], "{method}");
            let journal = site.legacy.journal();
            assert_eq!(journal[journal.len() - 2].body, SMUGGLED, "C-F17: {method}");
            assert_eq!(journal[journal.len() - 1].target, "/next");
        }
    }
    assert_eq!(site.effects_of("smuggled").await, 0);
}
