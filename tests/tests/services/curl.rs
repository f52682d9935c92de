//! `curl`, as people use it in scripts.

use std::process::Output;

use onlyonce_test::event::within;
use tokio::process::Command;

/// Posts a file's bytes with a key, with retries on whatever goes wrong; curl's own pause is a second.
pub(crate) async fn post(url: &str, key: &str, body: &str) -> Output {
    run(&[
        "--silent",
        "--show-error",
        "--include",
        "--fail-with-body",
        "--retry",
        "8",
        "--retry-all-errors",
        "--retry-delay",
        "1",
        "--header",
        &format!("Idempotency-Key: {key}"),
        "--header",
        "Content-Type: application/octet-stream",
        "--data-binary",
        body,
        url,
    ])
    .await
}

/// The body of a `GET`, byte for byte as it came.
pub(crate) async fn get(url: &str) -> Vec<u8> {
    let output = run(&["--silent", "--show-error", "--fail", "--http1.1", url]).await;
    assert!(output.status.success(), "{url}: {output:?}");
    output.stdout
}

pub(crate) async fn run(arguments: &[&str]) -> Output {
    let mut curl = Command::new("curl");
    // Nobody's ~/.curlrc and no proxy of the environment.
    curl.arg("--disable")
        .args(arguments)
        .kill_on_drop(true)
        .env("NO_PROXY", "*")
        .env("no_proxy", "*");
    within("curl", curl.output())
        .await
        .expect("curl is installed")
}

/// Head and body of the last response that `--include` shows: those of failed tries come before.
pub(crate) fn last_response(output: &Output) -> (String, Vec<u8>) {
    let shown = &output.stdout;
    let start = (0..shown.len())
        .rev()
        .find(|at| shown[*at..].starts_with(b"HTTP/1.1 "));
    let shown = &shown[start.unwrap_or_else(|| panic!("no response: {output:?}"))..];
    let end = shown
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .expect("a whole head");
    let head = String::from_utf8_lossy(&shown[..end]).to_lowercase();
    (head, shown[end + 4..].to_vec())
}
