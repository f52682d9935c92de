//! F2, F3, F4: the proxy is killed between two steps of a request, and another one takes its place.
//!
//! Leases have to lapse here, in real time: deadline and margin of a lease are six seconds.

use onlyonce_test::process::{Launch, Proxy};
use onlyonce_test::upstream::Reply;
use tokio::task::JoinSet;

use crate::setup::{
    BODY, PATH, Setup, answer, assert_problem, assert_replays, code, on_each_store, post, record,
    retry_while_in_progress,
};

on_each_store!(
    f2_killed_after_the_claim_and_before_the_forward,
    f3_killed_after_the_upstream_executed_and_before_it_is_recorded,
    f4_killed_after_the_record_and_before_the_reply,
);

fn launch(setup: &Setup, on_unknown: &str) -> Launch {
    setup
        .launch()
        .arg("--deadline")
        .arg("1s")
        .env("ONLYONCE__POLICY__ON_UNKNOWN", on_unknown)
}

/// Runs one request into a proxy that dies at `failpoint`.
async fn die(launch: &Launch, failpoint: &str, key: &str) {
    let mut proxy = launch
        .clone()
        .failpoints(&format!("{failpoint}=abort"))
        .start()
        .await;
    let lost = post(&proxy, key).await;
    assert!(
        lost.as_ref().map_or(true, |reply| !reply.is_whole()),
        "answered: {lost:?}"
    );
    proxy.logged(&format!("failpoint {failpoint}")).await;
    assert!(!proxy.exited().await.success());
}

/// Waits until the lease of a dead proxy's claim has lapsed; answers the record's id.
async fn lapsed(proxy: &Proxy, key: &str) -> String {
    let unknown = retry_while_in_progress(proxy, key).await;
    assert_problem(&unknown, 409, "outcome-unknown");
    record(&unknown)
}

/// Many clients retry at once by way of two proxies. All are told the truth.
async fn storm(proxies: [&Proxy; 2], key: &str) {
    let mut clients = JoinSet::new();
    for number in 0..20 {
        let (addr, key) = (proxies[number % 2].addr(), key.to_owned());
        clients.spawn(async move { onlyonce_test::client::post(addr, PATH, &key, BODY).await });
    }
    while let Some(ended) = clients.join_next().await {
        let answer = ended.expect("no panic").expect("an answer");
        let busy = answer.status == 409 && code(&answer) == "request-in-progress";
        assert!(
            busy || (answer.status, answer.text()) == (200, "done"),
            "{answer:?}"
        );
    }
}

async fn f2_killed_after_the_claim_and_before_the_forward(setup: Setup) {
    let (hold, reexecute) = (launch(&setup, "hold"), launch(&setup, "reexecute"));
    tokio::join!(
        die(&hold, "after_claim", "held"),
        die(&reexecute, "before_forward", "again")
    );
    assert_eq!(setup.legacy.requests(), 0);

    let (holding, first, second) = tokio::join!(hold.start(), reexecute.start(), reexecute.start());
    let held = lapsed(&holding, "held").await;
    setup.until_state(&held, "unknown").await;
    assert_eq!(
        setup.legacy.requests(),
        0,
        "nothing executes while the outcome is unknown"
    );

    // Where the route may execute again, exactly one of many does.
    retry_while_in_progress(&first, "again").await;
    storm([&first, &second], "again").await;
    assert_eq!(
        (
            setup.legacy.effects_of("again"),
            setup.legacy.effects_of("held")
        ),
        (1, 0)
    );

    // The operator finds out that it did not happen.
    setup
        .records(["resolve", &held, "--not-executed", "--force"])
        .await;
    let executed = retry_while_in_progress(&holding, "held").await;
    assert_eq!(
        (executed.status, executed.text(), executed.is_replay()),
        (200, "done", false)
    );
    assert_replays(&answer(&holding, "held").await, &executed);
    assert_eq!(setup.legacy.effects_of("held"), 1);
}

async fn f3_killed_after_the_upstream_executed_and_before_it_is_recorded(setup: Setup) {
    let (hold, reexecute) = (launch(&setup, "hold"), launch(&setup, "reexecute"));
    tokio::join!(
        die(&hold, "after_forward", "held"),
        die(&reexecute, "before_settle", "again")
    );
    assert_eq!(setup.legacy.effects(), 2, "the upstream executed both");

    let (holding, first, second) = tokio::join!(hold.start(), reexecute.start(), reexecute.start());
    let held = lapsed(&holding, "held").await;
    setup.until_state(&held, "unknown").await;
    assert_eq!(
        setup.legacy.effects_of("held"),
        1,
        "nothing executes while the outcome is unknown"
    );

    retry_while_in_progress(&first, "again").await;
    storm([&first, &second], "again").await;
    assert_eq!(
        setup.legacy.effects_of("again"),
        2,
        "exactly one more than before the crash"
    );

    // The operator finds out that it happened, and what its answer was.
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("response");
    std::fs::write(
        &file,
        "HTTP/1.1 201 Created\r\nX-Charge: ch_1\r\n\r\ncharged",
    )
    .expect("written");
    let file = file.to_str().expect("text");
    setup
        .records(["resolve", &held, "--response", file, "--force"])
        .await;
    let told = answer(&holding, "held").await;
    assert_eq!(
        (told.status, told.text(), told.is_replay()),
        (201, "charged", true)
    );
    assert_eq!(told.fields.get("x-charge"), Some("ch_1"));
    assert_eq!(setup.legacy.effects_of("held"), 1);
}

async fn f4_killed_after_the_record_and_before_the_reply(setup: Setup) {
    let body: Vec<u8> = (0..=255).cycle().take(70_000).collect();
    setup
        .legacy
        .script(Reply::new(201).field("X-Charge", "ch_1").body(body.clone()));
    die(&setup.launch(), "after_settle", "key").await;

    let proxy = setup.launch().start().await;
    for _ in 0..2 {
        let replay = answer(&proxy, "key").await;
        assert!(replay.is_replay() && replay.is_whole(), "{replay:?}");
        assert_eq!(
            (replay.status, replay.fields.get("x-charge")),
            (201, Some("ch_1"))
        );
        assert!(replay.body == body, "the bytes differ");
    }
    assert_eq!((setup.legacy.effects(), setup.legacy.requests()), (1, 1));
}
