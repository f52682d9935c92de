//! Rows that are not there any more: a response that was recorded, a claim that is about to be settled.

use onlyonce_test::event::Gate;
use onlyonce_test::upstream::Reply;

use crate::setup::{Setup, answer, assert_problem, assert_replays, on_each_store};

on_each_store!(
    a_response_row_is_missing,
    a_response_row_cannot_be_read,
    a_settlement_finds_its_claim_gone,
    an_unknown_outcome_finds_its_claim_gone,
);

/// That it was executed is known; what was answered is not.
async fn a_response_row_is_missing(setup: Setup) {
    let proxy = setup.launch().start().await;
    assert_eq!(answer(&proxy, "key").await.status, 200);
    setup
        .store
        .run("delete from response", "delete from onlyonce_responses")
        .await;
    let_nothing_be_kept(&setup).await;
    assert_unavailable(&setup).await;
}

async fn a_response_row_cannot_be_read(setup: Setup) {
    let proxy = setup.launch().start().await;
    assert_eq!(answer(&proxy, "key").await.status, 200);
    let (sqlite, postgres) = (
        "update response set body = x'ff00ff'",
        r"update onlyonce_responses set response = '\xff00ff'",
    );
    setup.store.run(sqlite, postgres).await;
    let_nothing_be_kept(&setup).await;
    assert_unavailable(&setup).await;
}

/// A Redis that all tests share would know the answer still, and rightly: without a generation it is not asked.
async fn let_nothing_be_kept(setup: &Setup) {
    let (sqlite, postgres) = ("delete from generation", "delete from onlyonce_generation");
    setup.store.run(sqlite, postgres).await;
}

/// By the process that executed it and by one that just started.
async fn assert_unavailable(setup: &Setup) {
    let proxies = [setup.launch().start().await, setup.launch().start().await];
    for proxy in &proxies {
        let answer = answer(proxy, "key").await;
        assert_problem(&answer, 409, "response-unavailable");
        assert_eq!(answer.fields.get("x-should-retry"), Some("false"));
    }
    assert_eq!(setup.legacy.effects(), 1);
}

/// As after a failover that lost the claim: what was executed is recorded all the same.
async fn a_settlement_finds_its_claim_gone(setup: Setup) {
    let proxy = setup.launch().start().await;
    let gate = Gate::default();
    setup
        .legacy
        .script(Reply::new(201).body("charged").held_at(&gate));
    let lose = async {
        gate.reached(1).await;
        setup
            .store
            .run("delete from record", "delete from onlyonce_records")
            .await;
        gate.open();
    };
    let (first, ()) = tokio::join!(answer(&proxy, "key"), lose);
    assert_eq!((first.status, first.text()), (201, "charged"));
    assert_replays(&answer(&proxy, "key").await, &first);
    assert_replays(&answer(&setup.launch().start().await, "key").await, &first);
    assert_eq!(setup.legacy.effects(), 1);
}

async fn an_unknown_outcome_finds_its_claim_gone(setup: Setup) {
    let proxy = setup.launch().arg("--deadline").arg("1s").start().await;
    setup.legacy.script(Reply::never());
    let lose = async {
        setup.legacy.wait_for_effects(1).await;
        setup
            .store
            .run("delete from record", "delete from onlyonce_records")
            .await;
    };
    let (first, ()) = tokio::join!(answer(&proxy, "key"), lose);
    assert_problem(&first, 504, "outcome-unknown");
    assert_problem(&answer(&proxy, "key").await, 409, "outcome-unknown");
    assert_eq!(setup.legacy.effects(), 1);
}
