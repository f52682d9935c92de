//! I: a retry while the first request is in flight.

use std::time::Duration;

use onlyonce_test::client::{Raw, Response};
use onlyonce_test::event::{Gate, within};
use onlyonce_test::upstream::Reply;
use tokio::task::JoinSet;

use crate::support::*;

/// A site with a request under the key `k` that waits at the gate; the client reads its answer later.
async fn held(front: Front, settings: &[(&str, &str)]) -> (Site, Gate, Raw) {
    let site = Site::with(front, settings).await;
    let gate = Gate::default();
    site.legacy
        .script(Reply::new(201).body("charge 1").held_at(&gate));
    let mut client = site.connect().await;
    client.send(post("k")).await;
    gate.reached(1).await;
    (site, gate, client)
}

fn in_progress(answer: &Response) {
    let members = problem(answer, 409, "request-in-progress");
    assert_eq!(members["retryable"], true);
    let retry_after = answer.fields.get("retry-after").unwrap_or_default();
    assert!(
        retry_after.parse::<u32>().is_ok_and(|seconds| seconds >= 1),
        "I2: {retry_after:?}"
    );
    let instance = members["instance"].as_str().unwrap_or_default();
    assert!(
        instance.starts_with("urn:onlyonce:record:"),
        "G1: {instance}"
    );
}

three_ways!(i1_i2_i4_i9_a_duplicate_is_answered_at_once_whatever_its_payload);
async fn i1_i2_i4_i9_a_duplicate_is_answered_at_once_whatever_its_payload(front: Front) {
    let (site, gate, mut client) = held(front, &[]).await;
    in_progress(&site.ask(post("k")).await);
    in_progress(&site.ask(post("k").body("other")).await); // I4
    assert_eq!(site.legacy.requests(), 1, "I1");
    assert!(site.legacy.connections() <= 1, "I9");
    gate.open();
    let first = client.response().await.expect("a head");
    replayed(&first, &site.ask(post("k")).await);
    problem(
        &site.ask(post("k").body("other")).await,
        422,
        "idempotency-key-reused",
    ); // I4
    assert_eq!(site.legacy.requests(), 1);
}

three_ways!(i3_a_duplicate_is_answered_before_its_body_has_come);
async fn i3_a_duplicate_is_answered_before_its_body_has_come(front: Front) {
    let (site, gate, mut first) = held(front, &[]).await;
    let head = "POST /charges HTTP/1.1\r\nHost: s\r\nIdempotency-Key: k\r\nContent-Length: 4000000\r\n\r\n";
    let mut client = site.connect().await;
    client.send(head).await;
    in_progress(&client.response().await.expect("an answer without the body"));
    let rest = client.ended().await.expect("an orderly end");
    assert!(
        rest.is_empty(),
        "the connection cannot go on: its body was not read"
    );
    gate.open();
    assert_eq!(first.response().await.expect("a head").status, 201);
    assert_eq!(site.legacy.requests(), 1);
}

three_ways!(i5_a_storm_of_one_key_over_two_proxies_has_one_effect);
async fn i5_a_storm_of_one_key_over_two_proxies_has_one_effect(front: Front) {
    let shop = Shop::lasting(front).await;
    let gate = Gate::default();
    shop.legacy
        .script(Reply::new(201).body("charge 1").held_at(&gate));
    let guards = [shop.open(&[]).await, shop.open(&[]).await];
    let mut clients = JoinSet::new();
    for number in 0..60 {
        let addr = guards[number % 2].addr();
        clients.spawn(async move {
            let mut client = Raw::connect(addr).await;
            client.send(post("k")).await;
            client.response().await.expect("a head")
        });
    }
    gate.reached(1).await;
    // All but the owner are answered while it waits.
    let mut answers = Vec::new();
    while answers.len() < 59 {
        answers.push(
            clients
                .join_next()
                .await
                .expect("59 others")
                .expect("no panic"),
        );
    }
    answers.iter().for_each(in_progress);
    gate.open();
    let owner = clients
        .join_next()
        .await
        .expect("the owner")
        .expect("no panic");
    assert_eq!((owner.status, owner.text()), (201, "charge 1"));
    for guard in &guards {
        replayed(&owner, &guard.ask(post("k")).await);
    }
    let effects = shop.effects().await;
    assert_eq!((effects, shop.legacy.requests()), (1, 1), "I5");
}

three_ways!(i6_a_duplicate_that_waits_gets_the_replay);
async fn i6_a_duplicate_that_waits_gets_the_replay(front: Front) {
    let (site, gate, mut client) = held(front, &[("policy.wait", "30s")]).await;
    let mut waiting = Vec::new();
    for _ in 0..3 {
        let mut duplicate = site.connect().await;
        duplicate.send(post("k")).await;
        waiting.push(duplicate);
    }
    // Another key is not held up.
    assert_eq!(site.ask(post("other")).await.status, 201);
    gate.open();
    let first = client.response().await.expect("a head");
    for mut duplicate in waiting {
        replayed(&first, &duplicate.response().await.expect("a head"));
    }
    assert_eq!(site.effects_of("k").await, 1);
}

three_ways!(i6_a_wait_has_an_end_and_a_number);
async fn i6_a_wait_has_an_end_and_a_number(front: Front) {
    let settings = [("policy.wait", "1s"), ("limits.waiting-max", "1")];
    let (site, gate, mut client) = held(front, &settings).await;
    let mut waits = site.connect().await;
    waits.send(post("k")).await;
    let mut answers = vec![site.ask(post("k")).await];
    answers.push(waits.response().await.expect("a head"));
    answers.iter().for_each(in_progress);
    gate.open();
    assert_eq!(client.response().await.expect("a head").status, 201);
    assert_eq!(site.legacy.requests(), 1);
}

three_ways!(i6_who_waits_for_what_is_released_may_retry);
async fn i6_who_waits_for_what_is_released_may_retry(front: Front) {
    let site = Site::with(front, &[("policy.wait", "30s")]).await;
    let gate = Gate::default();
    site.legacy.script(
        Reply::new(429)
            .field("Retry-After", "7")
            .without_effect()
            .held_at(&gate),
    );
    let mut client = site.connect().await;
    client.send(post("k")).await;
    gate.reached(1).await;
    let mut waits = site.connect().await;
    waits.send(post("k")).await;
    gate.open();
    assert_eq!(client.response().await.expect("a head").status, 429);
    let waited = waits.response().await.expect("a head");
    // It came too late to wait and executed, or it waited and never executes.
    if waited.status == 409 {
        in_progress(&waited);
        assert_eq!(site.ask(post("k")).await.status, 201);
    }
    assert_eq!(site.effects().await, 1);
}

three_ways!(i7_o18_a_lapsed_lease_is_unknown_and_executes_nothing);
/// I7, I8, O18: an owner that died holds its key until the lease ends, and then nobody knows.
async fn i7_o18_a_lapsed_lease_is_unknown_and_executes_nothing(front: Front) {
    let shop = Shop::lasting(front).await;
    let gate = Gate::default();
    shop.legacy.script(Reply::new(201).held_at(&gate));
    let settings = [("policy.deadline", "2s")];
    let mut owner = shop.open(&settings).await;
    let mut client = owner.connect().await;
    client.send(post("k")).await;
    gate.reached(1).await;
    owner.kill().await;
    assert!(client.response().await.is_err(), "the client knows nothing");

    let guard = shop.open(&settings).await;
    if front.leaves(End::NoAnswer) == Left::Nothing {
        executes_at_once(&shop, &guard).await;
        return;
    }
    in_progress(&guard.ask(post("k")).await);
    // The lease ends by the store's clock, 5 s after the deadline: there is no event to wait for.
    let answer = within("the lease to end", async {
        loop {
            let answer = guard.ask(post("k")).await;
            if answer.text().contains("outcome-unknown") {
                break answer;
            }
            in_progress(&answer);
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    })
    .await;
    let members = problem(&answer, 409, "outcome-unknown");
    assert_eq!(members["retryable"], false, "O22");
    assert_eq!(answer.fields.get("retry-after"), None, "O22");
    assert_eq!(shop.legacy.requests(), 1, "I7");
}

/// What died was rolled back as soon as the database saw its connection end: there is no lease to wait for.
async fn executes_at_once(shop: &Shop, guard: &Guard) {
    let answer = within("the database to notice", async {
        loop {
            let answer = guard.ask(post("k")).await;
            if answer.status != 409 {
                break answer;
            }
            in_progress(&answer);
        }
    })
    .await;
    assert_eq!((answer.status, answer.is_replay()), (201, false));
    assert_eq!(shop.legacy.requests(), 2);
    assert_eq!(shop.effects().await, 2, "of which one is left");
}
