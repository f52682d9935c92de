//! `onlyonce serve` as a process: its store away and back, readiness, signals, its log.

use std::net::SocketAddr;

use onlyonce_test::client::{Raw, Response, post, post_bytes};
use onlyonce_test::event::{Gate, within};
use onlyonce_test::postgres::{Cluster, find_bin_dirs};
use onlyonce_test::process::{Launch, Signal};
use onlyonce_test::upstream::{Legacy, Reply};

async fn get(address: SocketAddr, path: &str) -> Response {
    let mut client = Raw::connect(address).await;
    client
        .send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"))
        .await;
    client.response().await.expect("an answer")
}

fn serve(upstream: &Legacy, store: &str) -> Launch {
    Launch::serve([
        "--admin",
        "127.0.0.1:0",
        "--upstream",
        &upstream.url(),
        "--store",
        store,
    ])
}

fn sqlite(directory: &tempfile::TempDir) -> String {
    format!(
        "sqlite://{}",
        directory.path().join("onlyonce.db").display()
    )
}

#[tokio::test]
async fn a_ready_process_says_so_and_guards() {
    let directory = tempfile::tempdir().expect("a directory");
    let upstream = Legacy::start().await;
    let mut proxy = serve(&upstream, &sqlite(&directory)).start().await;

    let ready = get(proxy.admin(), "/readyz").await;
    assert_eq!((ready.status, ready.text()), (200, r#"{"status":"ready"}"#));
    assert_eq!(
        get(proxy.admin(), "/livez").await.text(),
        r#"{"status":"live"}"#
    );
    assert_eq!(get(proxy.admin(), "/metrics").await.status, 404);
    assert_eq!(
        post(proxy.admin(), "/readyz", "", "")
            .await
            .expect("an answer")
            .status,
        405
    );

    let first = post(proxy.addr(), "/charges", "k", "amount=1")
        .await
        .expect("an answer");
    let second = post(proxy.addr(), "/charges", "k", "amount=1")
        .await
        .expect("an answer");
    assert_eq!((first.status, first.is_replay()), (200, false));
    assert_eq!((second.status, second.is_replay()), (200, true));
    assert_eq!(upstream.effects(), 1);
    assert!(proxy.terminate().await.success());
}

/// The soft limit is there for the sake of other programs.
#[tokio::test]
async fn it_takes_all_the_descriptors_that_it_may_have() {
    let upstream = Legacy::start().await;
    let limited = [
        "sh",
        "-c",
        "ulimit -Sn 99; ulimit -Hn 777; exec \"$0\" \"$@\"",
    ];
    let proxy = serve(&upstream, "memory:").under(limited).start().await;
    proxy.logged("the process may open 777 files").await;
    let id = proxy.id().expect("it runs");
    let limits = std::fs::read_to_string(format!("/proc/{id}/limits")).expect("its limits");
    let files = limits
        .lines()
        .find(|line| line.starts_with("Max open files"));
    let files: Vec<_> = files
        .expect("a limit of files")
        .split_whitespace()
        .collect();
    assert_eq!(files[3..5], ["777", "777"]);
}

/// The log's fields are part of the interface, and visible without asking for more.
#[tokio::test]
async fn every_guarded_request_leaves_one_line() {
    let upstream = Legacy::start().await;
    let launch = serve(&upstream, "memory:").arg("--log-format").arg("json");
    let mut proxy = launch.start().await;
    post(proxy.addr(), "/charges", "the-key", "amount=1")
        .await
        .expect("an answer");
    post(proxy.addr(), "/charges", "the-key", "amount=1")
        .await
        .expect("an answer");
    assert!(proxy.terminate().await.success());

    let log = proxy.log();
    let lines: Vec<serde_json::Value> = log
        .iter()
        .filter_map(|line| serde_json::from_str(line).ok())
        .filter(|line: &serde_json::Value| line["target"] == "onlyonce::request")
        .collect();
    let outcomes: Vec<_> = lines.iter().map(|line| &line["outcome"]).collect();
    assert_eq!(outcomes, ["fresh", "replayed"]);
    for line in &lines {
        assert_eq!(line["record"].as_str().map(str::len), Some(32), "{line}");
        assert_eq!(line["status"], 200);
        assert!(line["duration_ms"].is_number(), "{line}");
    }
    assert!(!log.join("\n").contains("the-key"));
    assert!(
        log.iter()
            .any(|line| line.contains("a restart forgets every key"))
    );
}

/// Forgetting a record to make room would let its key execute again.
#[tokio::test]
async fn a_full_memory_takes_no_new_key() {
    let upstream = Legacy::start().await;
    let launch = serve(&upstream, "memory:").env("ONLYONCE__STORE__RECORDS_MAX", "1");
    let proxy = launch.start().await;
    let mut statuses = Vec::new();
    for key in ["one", "two", "one"] {
        let answer = post(proxy.addr(), "/charges", key, "amount=1").await;
        statuses.push(answer.expect("an answer").status);
    }
    assert_eq!(statuses, [200, 503, 200]);
    assert_eq!(upstream.effects(), 1);
}

#[tokio::test]
async fn the_first_signal_drains_and_exits_0() {
    let directory = tempfile::tempdir().expect("a directory");
    let upstream = Legacy::start().await;
    let gate = Gate::default();
    upstream.script(Reply::new(201).body("charged").held_at(&gate));
    let mut proxy = serve(&upstream, &sqlite(&directory)).start().await;

    let mut client = Raw::connect(proxy.addr()).await;
    client.send(post_bytes("/charges", "k", "amount=1")).await;
    gate.reached(1).await;
    proxy.signal(Signal::TERM);
    proxy.logged("draining").await;
    let readiness = get(proxy.admin(), "/readyz").await;
    let draining = r#"{"status":"not-ready","reason":"draining"}"#;
    assert_eq!((readiness.status, readiness.text()), (503, draining));
    gate.open();

    let response = client.response().await.expect("an answer");
    assert_eq!((response.status, response.text()), (201, "charged"));
    assert!(response.is_whole());
    assert!(proxy.exited().await.success());

    // What was finished while draining was recorded.
    let proxy = serve(&upstream, &sqlite(&directory)).start().await;
    let retry = post(proxy.addr(), "/charges", "k", "amount=1")
        .await
        .expect("an answer");
    assert_eq!((retry.status, retry.is_replay()), (201, true));
    assert_eq!(upstream.effects(), 1);
}

/// A charge that its client no longer waits for is waited for all the same.
#[tokio::test]
async fn a_drain_waits_for_work_whose_client_has_left() {
    let directory = tempfile::tempdir().expect("a directory");
    let upstream = Legacy::start().await;
    let gate = Gate::default();
    upstream.script(Reply::new(201).body("charged").held_at(&gate));
    let mut proxy = serve(&upstream, &sqlite(&directory)).start().await;

    let mut client = Raw::connect(proxy.addr()).await;
    client.send(post_bytes("/charges", "k", "amount=1")).await;
    gate.reached(1).await;
    client.reset();
    proxy.signal(Signal::TERM);
    proxy.logged("draining").await;
    gate.open();
    assert!(proxy.exited().await.success());

    let proxy = serve(&upstream, &sqlite(&directory)).start().await;
    let retry = post(proxy.addr(), "/charges", "k", "amount=1")
        .await
        .expect("an answer");
    assert_eq!((retry.status, retry.is_replay()), (201, true));
    assert_eq!(upstream.effects(), 1);
}

#[tokio::test]
async fn a_drain_ends_at_its_deadline_and_admits_what_it_does_not_know() {
    let directory = tempfile::tempdir().expect("a directory");
    let upstream = Legacy::start().await;
    upstream.script(Reply::never());
    let launch = serve(&upstream, &sqlite(&directory))
        .arg("--drain")
        .arg("100ms");
    let mut proxy = launch.start().await;
    let mut client = Raw::connect(proxy.addr()).await;
    client.send(post_bytes("/charges", "k", "amount=1")).await;
    upstream.wait_for_effects(1).await;

    assert!(proxy.terminate().await.success());
    proxy.logged("the time to drain is over").await;
    let proxy = serve(&upstream, &sqlite(&directory)).start().await;
    let retry = post(proxy.addr(), "/charges", "k", "amount=1")
        .await
        .expect("an answer");
    assert_eq!(retry.status, 409);
    assert!(retry.text().contains("outcome-unknown"), "{}", retry.text());
    assert_eq!(upstream.effects(), 1);
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    let upstream = Legacy::start().await;
    upstream.script(Reply::never());
    let mut proxy = serve(&upstream, "memory:").start().await;
    let mut client = Raw::connect(proxy.addr()).await;
    client.send(post_bytes("/charges", "k", "amount=1")).await;
    upstream.wait_for_effects(1).await;

    proxy.signal(Signal::INT);
    proxy.logged("draining").await;
    proxy.signal(Signal::INT);
    assert_eq!(proxy.exited().await.code(), Some(1));
    proxy.logged("stopped at once by a second SIGINT").await;
}

/// A store that is away is no reason not to start, nor to forward; when it comes, it is used.
#[tokio::test]
async fn a_store_that_comes_later_is_waited_for() {
    let bin = find_bin_dirs().pop().expect("a Postgres is installed");
    let mut cluster = Cluster::start(&bin).expect("a Postgres of our own");
    cluster.stop_fast().expect("stopped");
    let upstream = Legacy::start().await;
    let mut proxy = serve(&upstream, &cluster.url("postgres")).start().await;

    let away = get(proxy.admin(), "/readyz").await;
    assert_eq!(
        (away.status, away.text()),
        (503, r#"{"status":"not-ready","reason":"store"}"#)
    );
    let refused = post(proxy.addr(), "/charges", "k", "amount=1")
        .await
        .expect("an answer");
    assert_eq!(refused.status, 503);
    assert!(
        refused.text().contains("store-unavailable"),
        "{}",
        refused.text()
    );
    assert_eq!(upstream.requests(), 0, "no store, no forward");
    // What needs no guard needs no store.
    assert_eq!(get(proxy.addr(), "/charges").await.status, 200);

    cluster.start_again().expect("started");
    within("the store to be found", async {
        while get(proxy.admin(), "/readyz").await.status != 200 {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    })
    .await;
    let first = post(proxy.addr(), "/charges", "k", "amount=1")
        .await
        .expect("an answer");
    assert_eq!((first.status, first.is_replay()), (200, false));
    assert_eq!(upstream.effects_of("k"), 1);

    // And away again.
    cluster.stop_immediate().expect("stopped");
    within("readiness to notice", async {
        while get(proxy.admin(), "/readyz").await.status != 503 {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    })
    .await;
    assert!(proxy.terminate().await.success());
}

/// `store.migrate = false` changes nothing in the database: without tables, the start fails.
#[tokio::test]
async fn a_schema_that_is_not_there_is_an_error_when_migrating_is_off() {
    let bin = find_bin_dirs().pop().expect("a Postgres is installed");
    let cluster = Cluster::start(&bin).expect("a Postgres of our own");
    let upstream = Legacy::start().await;
    let url = cluster.url("postgres");
    let launch = serve(&upstream, &url).env("ONLYONCE__STORE__MIGRATE", "false");
    let output = launch.output().await;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("migrate"), "it says what to do: {text}");

    let output = Launch::of(["migrate", "--store", &url]).output().await;
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let proxy = launch.start().await;
    assert_eq!(get(proxy.admin(), "/readyz").await.status, 200);
}
