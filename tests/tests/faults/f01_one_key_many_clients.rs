//! F1: many clients send one key at once, by way of two proxies on one store.

use onlyonce_test::event::{Gate, within};
use onlyonce_test::pgbouncer::PgBouncer;
use onlyonce_test::process::Launch;
use onlyonce_test::upstream::Reply;
use tokio::task::JoinSet;

use crate::setup::{BODY, PATH, Setup, answer, assert_problem, assert_replays, on_each_store};

on_each_store!(
    f1_two_hundred_clients_with_one_key_have_one_effect,
    f1_two_hundred_clients_that_wait_get_one_answer,
);

const CLIENTS: usize = 200;

/// Both proxies share two connections to the server, by way of a pooler in transaction mode.
#[tokio::test(flavor = "multi_thread")]
async fn f1_two_hundred_clients_behind_pgbouncer() {
    let setup = Setup::postgres().await;
    let database = setup.store.database();
    let bouncer = PgBouncer::start(database.port(), 2).expect("PgBouncer is installed");
    let url = format!("{}?pooler=transaction", database.url_at(bouncer.port()));
    let launch = setup.launch_on(&url);
    with_one_key_have_one_effect(&setup, &launch).await;
}

/// The one that executes is held in the upstream until all others have their answers, so that each of
/// them meets it in flight.
async fn f1_two_hundred_clients_with_one_key_have_one_effect(setup: Setup) {
    let launch = setup.launch();
    with_one_key_have_one_effect(&setup, &launch).await;
}

async fn with_one_key_have_one_effect(setup: &Setup, launch: &Launch) {
    let proxies = [launch.start().await, launch.start().await];
    let gate = Gate::default();
    setup
        .legacy
        .script(Reply::new(201).body("charged").held_at(&gate));

    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        let addr = proxies[number % 2].addr();
        clients.spawn(async move { onlyonce_test::client::post(addr, PATH, "key", BODY).await });
    }
    gate.reached(1).await;
    for _ in 1..CLIENTS {
        let ended = within("the others' answers", clients.join_next()).await;
        let refused = ended
            .expect("still some")
            .expect("no panic")
            .expect("an answer");
        assert_problem(&refused, 409, "request-in-progress");
    }
    gate.open();
    let ended = within("the first one's answer", clients.join_next()).await;
    let first = ended
        .expect("the last")
        .expect("no panic")
        .expect("an answer");
    assert_eq!(
        (first.status, first.text(), first.is_replay()),
        (201, "charged", false)
    );

    for proxy in &proxies {
        assert_replays(&answer(proxy, "key").await, &first);
    }
    assert_eq!((setup.legacy.effects(), setup.legacy.requests()), (1, 1));
}

/// Those that meet it in flight are held until its answer is there; those that come later find it.
async fn f1_two_hundred_clients_that_wait_get_one_answer(setup: Setup) {
    let launch = setup.launch().arg("--wait").arg("30s");
    let proxies = [launch.start().await, launch.start().await];
    let gate = Gate::default();
    setup
        .legacy
        .script(Reply::new(201).body("charged").held_at(&gate));
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        let addr = proxies[number % 2].addr();
        clients.spawn(async move { onlyonce_test::client::post(addr, PATH, "key", BODY).await });
    }
    gate.reached(1).await;
    gate.open();
    let mut fresh = 0;
    while let Some(ended) = within("all answers", clients.join_next()).await {
        let answer = ended.expect("no panic").expect("an answer");
        assert_eq!((answer.status, answer.text()), (201, "charged"));
        fresh += usize::from(!answer.is_replay());
    }
    assert_eq!(
        (fresh, setup.legacy.effects(), setup.legacy.requests()),
        (1, 1, 1)
    );
}
