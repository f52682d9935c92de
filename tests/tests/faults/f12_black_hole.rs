//! F12: the network to the database swallows everything, without a reset, and heals later.

use onlyonce_test::event::Gate;
use onlyonce_test::fault::PgFault;
use onlyonce_test::process::Launch;
use onlyonce_test::upstream::Reply;

use crate::setup::{
    Setup, answer, assert_problem, assert_replays, code, post, retry_while_in_progress,
};

/// Half of the deadline is what a claim may take.
async fn faulty(deadline: &str) -> (Setup, PgFault, Launch) {
    let setup = Setup::postgres().await;
    let fault = PgFault::start(&setup.store.url()).await;
    let launch = setup.launch_on(fault.url());
    (setup, fault, launch.arg("--deadline").arg(deadline))
}

#[tokio::test]
async fn f12_no_claim_gets_through() {
    let (setup, fault, launch) = faulty("4s").await;
    let proxy = launch.start().await;
    answer(&proxy, "warm").await;
    fault.black_hole();
    assert_problem(&answer(&proxy, "key").await, 503, "store-unavailable");
    assert_eq!(setup.legacy.effects_of("key"), 0);
    fault.heal();
    assert_executes_once(&setup, &launch, "key").await;
}

/// The claim is written, and nobody hears of it. It is found out and released when the network heals, long
/// before its lease is over.
#[tokio::test]
async fn f12_no_answer_to_a_claim_gets_through() {
    let (setup, fault, launch) = faulty("4s").await;
    let proxy = launch.start().await;
    answer(&proxy, "warm").await;
    fault.black_hole_to_client();
    assert_problem(&answer(&proxy, "key").await, 503, "store-unavailable");
    assert_eq!(setup.legacy.effects_of("key"), 0);
    fault.heal();
    let first = retry_while_in_progress(&proxy, "key").await;
    assert_eq!(
        (first.status, first.is_replay()),
        (200, false),
        "the key was released: {first:?}"
    );
    assert_eq!(setup.legacy.effects_of("key"), 1);
}

/// The client is not kept from its answer, and the key is held until the record is written.
#[tokio::test]
async fn f12_no_settlement_gets_through() {
    let (setup, fault, launch) = faulty("20s").await;
    let proxy = launch.start().await;
    let elsewhere = setup.launch().start().await;
    let gate = Gate::default();
    setup
        .legacy
        .script(Reply::new(201).body("charged").held_at(&gate));
    let first = async { post(&proxy, "key").await.expect("an answer") };
    let black_hole = async {
        gate.reached(1).await;
        fault.black_hole();
        gate.open();
    };
    let (first, ()) = tokio::join!(first, black_hole);
    assert_eq!((first.status, first.text()), (201, "charged"));
    for proxy in [&elsewhere, &proxy] {
        assert_problem(&answer(proxy, "key").await, 409, "request-in-progress");
    }
    fault.heal();
    assert_replays(&retry_while_in_progress(&elsewhere, "key").await, &first);
    assert_replays(&retry_while_in_progress(&proxy, "key").await, &first);
    assert_eq!(setup.legacy.effects(), 1);
}

/// A key that was refused executes when its client tries again.
async fn assert_executes_once(setup: &Setup, launch: &Launch, key: &str) {
    let proxy = launch.start().await;
    let first = loop {
        let answer = retry_while_in_progress(&proxy, key).await;
        if code(&answer) != "store-unavailable" {
            break answer;
        }
    };
    assert_eq!((first.status, first.text()), (200, "done"));
    assert_replays(&answer(&proxy, key).await, &first);
    assert_eq!(setup.legacy.effects_of(key), 1);
}
