//! F8: Postgres is killed and started again under load.

use onlyonce_test::event::Gate;
use onlyonce_test::postgres::Cluster;
use onlyonce_test::upstream::Reply;
use tokio::sync::watch;

use crate::load::{Load, assert_consistent, number_charges};
use crate::setup::{
    BODY, PATH, Setup, answer, assert_problem, assert_replays, cluster, retry_while_in_progress,
    retry_while_unavailable, until_not_relied_on,
};

const RESTARTS: usize = 3;
/// Effects that show that it works (again).
const PROGRESS: usize = 40;

/// As after a crash: connections are cut, and recovery has to run before the next.
async fn restart(mut cluster: Cluster) -> Cluster {
    let restarted = tokio::task::spawn_blocking(move || {
        cluster.stop_immediate().expect("it can be killed");
        cluster.start_again().expect("it starts again");
        cluster
    });
    restarted.await.expect("no panic")
}

#[tokio::test(flavor = "multi_thread")]
async fn f8_postgres_restarts_under_load() {
    let mut cluster = cluster();
    let setup = Setup::cluster(&cluster).await;
    let launch = setup.launch();
    let (first, second) = tokio::join!(launch.start(), launch.start());

    // One request is at work in the upstream over all the restarts.
    let gate = Gate::default();
    setup
        .legacy
        .script(Reply::new(201).body("charged").held_at(&gate));
    let long = tokio::spawn(onlyonce_test::client::post(
        first.addr(),
        PATH,
        "long",
        BODY,
    ));
    gate.reached(1).await;

    number_charges(&setup.legacy);
    let addresses = watch::Sender::new(vec![first.addr(), second.addr()]);
    let load = Load::start(6, &addresses.subscribe());
    for _ in 0..RESTARTS {
        setup
            .legacy
            .wait_for_effects(setup.legacy.effects() + PROGRESS)
            .await;
        cluster = restart(cluster).await;
    }
    setup
        .legacy
        .wait_for_effects(setup.legacy.effects() + PROGRESS)
        .await;
    let charges = load.stop().await;
    gate.open();
    let long = long.await.expect("no panic").expect("an answer");
    assert_eq!((long.status, long.text()), (201, "charged"));

    assert_replays(&retry_while_in_progress(&second, "long").await, &long);
    let told = assert_consistent(&setup.legacy, second.addr(), charges).await;
    assert!(told >= PROGRESS * RESTARTS, "only {told} successes");
    for proxy in [&first, &second] {
        assert_eq!(answer(proxy, "after").await.status, 201);
        let panicked = proxy.log().iter().any(|line| line.contains("panicked"));
        assert!(!panicked, "{:#?}", proxy.log());
    }
    drop(setup);
    drop(cluster);
}

/// Down is not a reason to forward, nor to fail for good.
#[tokio::test(flavor = "multi_thread")]
async fn f8_postgres_is_down_and_restarts() {
    let mut cluster = cluster();
    let setup = Setup::cluster(&cluster).await;
    let proxy = setup.launch().start().await;
    let before = answer(&proxy, "before").await;
    cluster.stop_immediate().expect("it can be killed");
    until_not_relied_on(&proxy, "before", &before).await;
    for key in ["before", "during"] {
        let refused = answer(&proxy, key).await;
        assert_problem(&refused, 503, "store-unavailable");
        assert!(refused.fields.get("retry-after").is_some());
    }
    assert_eq!(setup.legacy.effects(), 1);
    cluster.start_again().expect("it starts again");
    let during = retry_while_unavailable(&proxy, "during").await;
    assert_eq!((during.status, during.is_replay()), (200, false));
    assert_replays(&answer(&proxy, "before").await, &before);
    assert_eq!(setup.legacy.effects(), 2);
}
