//! SIGTERM: what is in flight is finished and recorded, and the exit status says so.

use onlyonce_test::client::{Raw, post_bytes};
use onlyonce_test::event::Gate;
use onlyonce_test::process::Signal;
use onlyonce_test::upstream::Reply;
use tokio::sync::watch;

use crate::load::{Load, assert_consistent, number_charges};
use crate::setup::{BODY, PATH, Setup, answer, assert_replays, on_each_store};

on_each_store!(terminated_while_requests_are_at_work, terminated_under_load,);

async fn terminated_while_requests_are_at_work(setup: Setup) {
    const CLIENTS: usize = 20;
    let (mut proxy, other) = (setup.launch().start().await, setup.launch().start().await);
    let gate = Gate::default();
    let held = gate.clone();
    setup.legacy.answer_with(move |request| {
        let body = request.key().unwrap_or_default().to_owned();
        Reply::new(201).body(body).held_at(&held)
    });
    let mut clients = Vec::new();
    for number in 0..CLIENTS {
        let mut client = Raw::connect(proxy.addr()).await;
        client
            .send(post_bytes(PATH, &format!("key-{number}"), BODY))
            .await;
        clients.push(client);
    }
    // One has left: what it asked for goes on.
    clients.pop().expect("the last one").reset();
    gate.reached(CLIENTS).await;

    proxy.signal(Signal::TERM);
    proxy.logged("draining").await;
    gate.open();
    let mut answers = Vec::new();
    for client in &mut clients {
        answers.push(client.response().await.expect("an answer"));
    }
    assert!(proxy.exited().await.success());
    for (number, first) in answers.iter().enumerate() {
        let key = format!("key-{number}");
        assert_eq!(
            (first.status, first.text(), first.is_whole()),
            (201, &*key, true)
        );
        assert_replays(&answer(&other, &key).await, first);
    }
    let left = answer(&other, &format!("key-{}", CLIENTS - 1)).await;
    assert!(left.is_replay(), "{left:?}");
    assert_eq!(setup.legacy.effects(), CLIENTS);
}

async fn terminated_under_load(setup: Setup) {
    number_charges(&setup.legacy);
    let (mut proxy, other) = (setup.launch().start().await, setup.launch().start().await);
    let addresses = watch::Sender::new(vec![proxy.addr(), other.addr()]);
    let load = Load::start(6, &addresses.subscribe());
    setup.legacy.wait_for_effects(100).await;
    assert!(proxy.terminate().await.success());
    addresses.send_replace(vec![other.addr()]);
    setup
        .legacy
        .wait_for_effects(setup.legacy.effects() + 20)
        .await;
    let charges = load.stop().await;
    assert_consistent(&setup.legacy, other.addr(), charges).await;
    // Nothing was left behind in the middle.
    let states = setup.list().await;
    assert!(
        states.iter().all(|(_, state)| state == "completed"),
        "{states:?}"
    );
}
