//! Duplicates: in one process, in several, and with next to no connections.

use std::time::Duration;

use onlyonce::Policy;
use onlyonce::policy::OnDuplicate;
use onlyonce_test::event::within;
use tokio::task::JoinSet;

use crate::fixture::*;

/// F1, in small: many clients, one key, two processes.
#[tokio::test]
async fn a_storm_of_one_key_on_two_processes_has_one_effect() {
    let site = Site::fresh().await;
    let apps = [site.app(), site.app()];
    let mut storm = JoinSet::new();
    for number in 0..64 {
        let app = apps[number % 2].clone();
        storm.spawn(async move { charge_of(&app, "k", 100).await });
    }
    let answers = within("all answers", storm.join_all()).await;
    let fresh: Vec<_> = answers
        .iter()
        .filter(|a| a.status == 201 && !a.is_replay())
        .collect();
    assert_eq!(fresh.len(), 1, "one executes");
    for answer in &answers {
        match answer.status {
            201 => assert_eq!(answer.body, fresh[0].body),
            _ => assert_eq!(
                (answer.status, answer.code()),
                (409, "request-in-progress".into())
            ),
        }
    }
    assert_eq!(site.rows().await, (1, 1, 1));
    for app in &apps {
        replayed(fresh[0], &charge_of(app, "k", 100).await);
    }
    site.nothing_is_open().await;
}

/// P1d: retries of a slow call park no connection, neither in its process nor in another.
#[tokio::test]
async fn ten_retries_of_a_slow_call_leave_a_pool_of_one_free() {
    let site = Site::fresh().await;
    let (slow, gate) = slow_app(&site.layer(1));
    let other = slow_app(&site.layer(1)).0;
    let first = tokio::spawn({
        let slow = slow.clone();
        async move { post_to(&slow, "/slow", "k").await }
    });
    gate.reached(1).await;
    for app in [&slow, &other] {
        for _ in 0..10 {
            let retry = post_to(app, "/slow", "k").await;
            assert_eq!(
                (retry.status, retry.code()),
                (409, "request-in-progress".into())
            );
            assert_eq!(retry.headers["retry-after"], "1");
        }
    }
    // Its one connection is to be had.
    assert_eq!(charge_of(&other, "another", 1).await.status, 201);
    gate.open();
    let first = first.await.unwrap();
    assert_eq!(first.status, 201);
    replayed(&first, &post_to(&other, "/slow", "k").await);
    assert_eq!(site.count("payments").await, 2);
    site.nothing_is_open().await;
}

/// Its twin's row is not to be seen before it commits; its lock is.
#[tokio::test]
async fn a_duplicate_that_waits_gets_the_answer_of_its_twin_in_another_process() {
    let site = Site::fresh().await;
    let wait = Policy::default().with_on_duplicate(OnDuplicate::Wait(Duration::from_secs(20)));
    let (slow, gate) = slow_app(&site.layer(1));
    let waiting_app = slow_app(&site.layer(1).with_policy(wait)).0;
    let first = tokio::spawn(async move { post_to(&slow, "/slow", "k").await });
    gate.reached(1).await;
    let waiting = tokio::spawn({
        let app = waiting_app.clone();
        async move { post_to(&app, "/slow", "k").await }
    });
    // It holds no connection while it waits.
    assert_eq!(charge_of(&waiting_app, "another", 1).await.status, 201);
    gate.open();
    let first = first.await.unwrap();
    replayed(&first, &within("the duplicate", waiting).await.unwrap());
    assert_eq!(site.count("payments").await, 2);
}

#[tokio::test]
async fn another_request_under_a_used_key_is_refused() {
    let site = Site::fresh().await;
    let app = site.app();
    let first = charge_of(&app, "k", 100).await;
    let other = charge_of(&app, "k", 200).await;
    assert_eq!(
        (other.status, other.code()),
        (422, "idempotency-key-reused".into())
    );
    replayed(&first, &charge_of(&app, "k", 100).await);
    assert_eq!(site.rows().await, (1, 1, 1));
}

/// More requests than connections: they wait for one another, and none is lost.
#[tokio::test]
async fn many_keys_share_two_connections() {
    let site = Site::fresh().await;
    let app = app(&site.layer(2));
    let mut requests = JoinSet::new();
    for number in 0..100 {
        let app = app.clone();
        requests.spawn(async move { charge_of(&app, &format!("k-{number}"), 1).await.status });
    }
    let statuses = within("all answers", requests.join_all()).await;
    assert_eq!(statuses, [201; 100]);
    assert_eq!(site.rows().await, (100, 100, 100));
}

/// Waiting for a connection is bounded, and nothing was executed.
#[tokio::test]
async fn a_request_that_gets_no_connection_is_told_so() {
    let site = Site::fresh().await;
    let limits = onlyonce::Limits {
        claim_patience: Duration::from_millis(200),
        ..Default::default()
    };
    let (slow, gate) = slow_app(&site.layer(1).with_limits(limits));
    let first = tokio::spawn({
        let slow = slow.clone();
        async move { post_to(&slow, "/slow", "k").await }
    });
    gate.reached(1).await;
    let other = charge_of(&slow, "other", 1).await;
    assert_eq!(
        (other.status, other.code()),
        (503, "store-unavailable".into())
    );
    gate.open();
    assert_eq!(first.await.unwrap().status, 201);
    assert_eq!(charge_of(&slow, "other", 1).await.status, 201);
    assert_eq!(site.count("payments").await, 2);
}
