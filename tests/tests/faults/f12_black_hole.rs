//! F12: the network to the database swallows everything, without a reset, and heals later.

use onlyonce_test::event::Gate;
use onlyonce_test::fault::PgFault;
use onlyonce_test::process::{Launch, Proxy};
use onlyonce_test::upstream::Reply;

use crate::setup::{
    Setup, answer, assert_problem, assert_replays, post, retry_while_in_progress,
    retry_while_unavailable,
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
    assert_executes_once(&setup, &proxy, "key").await;
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
    assert_executes_once(&setup, &proxy, "key").await;
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
async fn assert_executes_once(setup: &Setup, proxy: &Proxy, key: &str) {
    let first = retry_while_unavailable(proxy, key).await;
    assert_eq!(
        (first.status, first.text(), first.is_replay()),
        (200, "done", false)
    );
    assert_replays(&answer(proxy, key).await, &first);
    assert_eq!(setup.legacy.effects_of(key), 1);
}
