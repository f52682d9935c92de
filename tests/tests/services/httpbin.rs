//! httpbin under gunicorn: an unmodified service that echoes what it was sent.

use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use onlyonce_test::event::within;
use serde_json::Value;
use tokio::process::Command;

use crate::curl;
use crate::relay::{Fate, Relay};
use crate::service::{Service, assert_once, guard, python};

/// What httpbin says that it was sent, as bytes.
fn echoed(answer: &[u8]) -> Vec<u8> {
    let answer: Value = serde_json::from_slice(answer).expect("httpbin answers JSON");
    let data = answer["data"].as_str().expect("an echo");
    match data.strip_prefix("data:application/octet-stream;base64,") {
        Some(encoded) => STANDARD.decode(encoded).expect("base64"),
        None => data.as_bytes().to_vec(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn real_input_curl_retries_until_it_has_an_answer() {
    let (service, directory) = (
        Service::httpbin().await,
        tempfile::tempdir().expect("a directory"),
    );
    let proxy = guard(&service, &directory).await;
    let sent: Vec<u8> = (0..=255).cycle().take(20_000).collect();
    let file = directory.path().join("body");
    std::fs::write(&file, &sent).expect("written");
    let file = format!("@{}", file.display());

    // Twice the answer is lost; then it is replayed.
    let lossy = Relay::to(proxy.addr(), [Fate::LoseAnswer; 2]).await;
    let first = curl::post(&format!("{}/post", lossy.url()), "curl-1", &file).await;
    assert!(first.status.success(), "{first:?}");
    let (head, body) = curl::last_response(&first);
    assert!(
        head.starts_with("http/1.1 200") && head.contains("idempotent-replayed: true"),
        "{head}"
    );
    assert!(echoed(&body) == sent, "the bytes differ");

    // The connection breaks while httpbin is at work. The next try is told so, the one after it gets the
    // answer. `httpbin` waits for a second here, whatever is sent.
    let cut = Relay::to(proxy.addr(), [Fate::CutAfter(Duration::from_millis(300))]).await;
    let second = curl::post(&format!("{}/delay/1", cut.url()), "curl-2", &file).await;
    assert!(second.status.success(), "{second:?}");
    let (head, body) = curl::last_response(&second);
    assert!(head.contains("idempotent-replayed: true"), "{head}");
    assert!(echoed(&body) == sent, "the bytes differ");

    let keys = ["curl-1", "curl-2"].map(str::to_owned);
    assert_once(&service.stop().await, &keys);
}

/// What is not guarded passes byte for byte: sized, chunked, compressed, binary, redirects, errors.
#[tokio::test(flavor = "multi_thread")]
async fn real_input_everything_else_passes_unchanged() {
    let (service, directory) = (
        Service::httpbin().await,
        tempfile::tempdir().expect("a directory"),
    );
    let proxy = guard(&service, &directory).await;
    let straight = service.url();
    let guarded = format!("http://{}", proxy.addr());
    for path in [
        "/bytes/100000?seed=1",
        "/stream-bytes/100000?seed=2&chunk_size=777",
        "/image/png",
        "/encoding/utf8",
        "/range/5000",
        "/base64/aGVsbG8%3D",
        "/html",
    ] {
        let (here, there) = (
            curl::get(&format!("{guarded}{path}")).await,
            curl::get(&format!("{straight}{path}")).await,
        );
        assert!(
            here == there && !here.is_empty(),
            "{path}: {} and {} bytes",
            here.len(),
            there.len()
        );
    }
    // An answer is the service's, an error of its own included: recorded and replayed.
    for (status, replayed) in [(500, true), (404, true), (429, false)] {
        let (url, key) = (
            format!("{guarded}/status/{status}"),
            format!("status-{status}"),
        );
        for again in [false, true] {
            let output = curl::run(&[
                "-s",
                "-i",
                "-X",
                "POST",
                "-H",
                &format!("Idempotency-Key: {key}"),
                &url,
            ])
            .await;
            let (head, _) = curl::last_response(&output);
            assert!(head.starts_with(&format!("http/1.1 {status}")), "{head}");
            assert_eq!(
                head.contains("idempotent-replayed"),
                again && replayed,
                "{head}"
            );
        }
    }
    let log = service.stop().await;
    assert_once(&log, &["status-500", "status-404"].map(str::to_owned));
    let twice = log
        .iter()
        .filter(|access| access.key == "status-429")
        .count();
    assert_eq!(twice, 2, "429 says that nothing was executed");
}

#[tokio::test(flavor = "multi_thread")]
async fn real_input_a_python_client_drops_connections() {
    const KEYS: usize = 60;
    let (service, directory) = (
        Service::httpbin().await,
        tempfile::tempdir().expect("a directory"),
    );
    let proxy = guard(&service, &directory).await;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/services/client.py");
    let mut client = Command::new(python());
    client
        .arg(script)
        .args([
            proxy.addr().ip().to_string(),
            proxy.addr().port().to_string(),
        ])
        .args(["/post", &KEYS.to_string(), "1"])
        .kill_on_drop(true);
    let output = within("the Python client", client.output())
        .await
        .expect("Python is there");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );

    let mut keys = Vec::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let told: Value = serde_json::from_str(line).expect("JSON");
        let bytes = |field: &str| {
            STANDARD
                .decode(told[field].as_str().expect(field))
                .expect("base64")
        };
        assert_eq!(told["status"], 200, "{line}");
        assert!(
            echoed(&bytes("answer")) == bytes("sent"),
            "{}: the bytes differ",
            told["key"]
        );
        assert_eq!(
            told["again"], true,
            "{}: a retry is another answer",
            told["key"]
        );
        keys.push(told["key"].as_str().expect("a key").to_owned());
    }
    assert_eq!(keys.len(), KEYS);
    assert_once(&service.stop().await, &keys);
}
