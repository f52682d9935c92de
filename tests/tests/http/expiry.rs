//! E: how long a record lasts.

use std::time::Duration;

use onlyonce_test::event::within;
use onlyonce_test::process::Launch;
use onlyonce_test::upstream::{At, Break, Reply};
use tokio::time::Instant;

use crate::support::*;

three_ways!(e1_e2_e3_e4_e7_after_the_retention_a_key_is_new);
/// E1, E2, E4, E7: replayed for at least the retention, counted from the claim (E3), and then new.
async fn e1_e2_e3_e4_e7_after_the_retention_a_key_is_new(front: Front) {
    let shop = Shop::lasting(front).await;
    // The sweep stays away: it is reading that finds a record expired (E2).
    let settings = [
        ("policy.deadline", "2s"),
        ("policy.retention", "10s"),
        ("store.sweep-interval", "1h"),
    ];
    let guard = shop.open(&settings).await;
    let claimed_after = Instant::now();
    let first = guard.ask(post("k")).await;
    // By the store's clock: there is no event to wait for.
    let second = within("the retention to end", async {
        loop {
            let answer = guard.ask(post("k")).await;
            if !answer.is_replay() {
                break answer;
            }
            replayed(&first, &answer);
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    })
    .await;
    // The store's clock is the system's, which may be set; a second is far more than it is ever slewed.
    assert!(
        claimed_after.elapsed() > Duration::from_secs(9),
        "E4: never earlier"
    );
    assert_eq!(
        (second.status, second.text()),
        (201, "charge 2"),
        "E1, E7: no error"
    );
    assert_eq!(shop.effects().await, 2);
    // An expired key takes another payload: it is new in every respect.
    replayed(&second, &guard.ask(post("k")).await);
}

fn list_unknown(store: &str) -> Launch {
    Launch::of([
        "records", "list", "--state", "unknown", "--json", "--store", store,
    ])
}

three_ways!(e9_an_unknown_outcome_waits_for_an_operator);
/// E9: what is unknown is listed, shown and resolved, and keeps as long as what is completed.
async fn e9_an_unknown_outcome_waits_for_an_operator(front: Front) {
    let shop = Shop::lasting(front).await;
    let store = shop.store();
    let guard = shop.open(&[]).await;
    shop.legacy
        .script(Reply::new(201).breaks(At::AfterRequest, Break::Reset));
    let mut client = guard.connect().await;
    client.send(post("k")).await;
    // What it is told is tested with the outcomes.
    let _ = client.response().await;
    if front.leaves(End::NoAnswer) == Left::Nothing {
        let output = list_unknown(&store).output().await;
        assert_eq!(
            output.stdout.trim_ascii(),
            b"[]",
            "there is nothing to wait for"
        );
        return;
    }
    let again = guard.ask(post("k")).await;
    let members = problem(&again, 409, "outcome-unknown");
    let instance = members["instance"].as_str().expect("an instance");
    let id = instance
        .strip_prefix("urn:onlyonce:record:")
        .expect("a record");

    let output = list_unknown(&store).output().await;
    let records: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(records[0]["id"], id, "the id that the client was told");
    let length = |from: &str, to: &str| {
        let of = |name: &str| records[0][name].as_str().expect("a time").to_owned();
        (of(from), of(to))
    };
    let (claimed, expires) = length("claimed_at", "expires_at");
    assert_ne!(
        claimed[..10],
        expires[..10],
        "a day later: {claimed} {expires}"
    );

    let directory = tempfile::tempdir().expect("a directory");
    let response = directory.path().join("response");
    std::fs::write(
        &response,
        "HTTP/1.1 201 Created\r\nLocation: /charges/1\r\n\r\ncharge 1",
    )
    .expect("written");
    let path = response.to_str().expect("text");
    let resolve = Launch::of([
        "records",
        "resolve",
        "--store",
        &store,
        "--force",
        "--response",
        path,
        id,
    ]);
    let output = resolve.output().await;
    assert!(output.status.success(), "{output:?}");
    let answer = guard.ask(post("k")).await;
    assert!(answer.is_replay(), "{answer:?}");
    assert_eq!((answer.status, answer.text()), (201, "charge 1"));
    assert_eq!(shop.effects().await, 1);
}
