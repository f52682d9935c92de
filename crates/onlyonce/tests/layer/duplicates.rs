//! One key, one effect.

use std::sync::Arc;
use std::time::Duration;

use onlyonce::Policy;
use onlyonce::policy::{BodyFingerprint, OnDuplicate};
use onlyonce::store::OnUnknown;
use tokio::sync::Semaphore;
use tower::Layer;

use crate::support::*;

/// An upstream that answers only when the test lets it.
fn gated() -> (Upstream, Arc<Semaphore>) {
    let gate = Arc::new(Semaphore::new(0));
    let opened = Arc::clone(&gate);
    let upstream = Upstream::new(move |_| {
        let gate = Arc::clone(&opened);
        async move {
            gate.acquire().await.unwrap().forget();
            created(TestBody::whole("receipt"))
        }
    });
    (upstream, gate)
}

#[tokio::test]
async fn a_retry_gets_the_first_answer_and_no_second_effect() {
    let upstream = Upstream::receipts();
    let service = guard(&upstream);

    let first = send(&service, post("k", "{}")).await;
    assert!(!is_replay(&first), "F3: the first answer bears no marker");
    assert_eq!(read(first).await, (201, "receipt".into()));

    let retry = send(&service, post("k", "{}")).await;
    assert!(is_replay(&retry), "P2");
    assert_eq!(retry.headers()["content-length"], "7", "P4");
    assert_eq!(read(retry).await, (201, "receipt".into()), "P1");
    assert_eq!(upstream.effects(), 1);
}

#[tokio::test]
async fn quoted_and_raw_keys_are_one_record() {
    let upstream = Upstream::receipts();
    let service = guard(&upstream);
    read(send(&service, post("\"k\"", "{}")).await).await;
    assert!(is_replay(&send(&service, post("k", "{}")).await), "K4");
    assert_eq!(upstream.effects(), 1);
}

#[tokio::test]
async fn another_body_under_a_used_key_is_refused_and_poisons_nothing() {
    let upstream = Upstream::receipts();
    let service = guard(&upstream);
    read(send(&service, post("k", "{\"amount\":1}")).await).await;
    let other = send(&service, post("k", "{\"amount\":2}")).await;
    assert_eq!(
        code(other).await,
        (422, "idempotency-key-reused".into()),
        "M1"
    );
    assert!(
        is_replay(&send(&service, post("k", "{\"amount\":1}")).await),
        "M2"
    );
    assert_eq!(upstream.effects(), 1);
}

#[tokio::test]
async fn a_duplicate_in_flight_is_answered_without_its_body_and_without_the_store() {
    let (upstream, gate) = gated();
    let store = FaultyStore::new();
    let layer = onlyonce::IdempotencyLayer::new(store.clone());
    let service = layer.layer(upstream.clone());
    let first = tokio::spawn({
        let service = service.clone();
        async move { read(send(&service, post("k", "{}")).await).await }
    });
    soon(upstream.wait_for_effects(1)).await;
    let calls = store.calls();

    let duplicate = send(&service, post("k", "another payload")).await;
    let wait: u64 = duplicate.headers()["retry-after"]
        .to_str()
        .unwrap()
        .parse()
        .unwrap();
    assert!(wait >= 1, "I2");
    assert_eq!(duplicate.headers()["x-should-retry"], "true");
    assert_eq!(
        code(duplicate).await,
        (409, "request-in-progress".into()),
        "I1, I4"
    );
    assert_eq!(store.calls(), calls, "the store was not asked");

    gate.add_permits(1);
    assert_eq!(soon(first).await.unwrap(), (201, "receipt".into()));
    assert_eq!(upstream.effects(), 1);
}

#[tokio::test]
async fn a_storm_of_one_key_has_one_effect() {
    let (upstream, gate) = gated();
    let service = guard(&upstream);
    let storm: Vec<_> = (0..200)
        .map(|_| {
            let service = service.clone();
            tokio::spawn(async move { read(send(&service, post("k", "{}")).await).await.0 })
        })
        .collect();
    soon(upstream.wait_for_effects(1)).await;
    gate.add_permits(200);
    let mut created = 0;
    for request in storm {
        match soon(request).await.unwrap() {
            201 => created += 1,
            409 => {}
            status => panic!("I5: a duplicate is answered 201 or 409, not {status}"),
        }
    }
    assert!(created >= 1);
    assert_eq!(upstream.effects(), 1);
}

#[tokio::test]
async fn two_keys_are_two_effects() {
    let upstream = Upstream::receipts();
    let service = guard(&upstream);
    read(send(&service, post("k1", "{}")).await).await;
    assert!(!is_replay(&send(&service, post("k2", "{}")).await), "F8");
    assert_eq!(upstream.effects(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_duplicate_that_waits_gets_the_replay() {
    let (upstream, gate) = gated();
    let policy = Policy::default().with_on_duplicate(OnDuplicate::Wait(Duration::from_secs(5)));
    let service = layer(policy).layer(upstream.clone());
    let first = tokio::spawn({
        let service = service.clone();
        async move { read(send(&service, post("k", "{}")).await).await }
    });
    soon(upstream.wait_for_effects(1)).await;
    let waiting = tokio::spawn({
        let service = service.clone();
        async move { send(&service, post("k", "{}")).await }
    });
    gate.add_permits(1);
    soon(first).await.unwrap();
    let replay = soon(waiting).await.unwrap();
    assert!(is_replay(&replay), "I6");
    assert_eq!(read(replay).await, (201, "receipt".into()));
    assert_eq!(upstream.effects(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_duplicate_waits_no_longer_than_it_may() {
    let (upstream, _gate) = gated();
    let policy = Policy::default().with_on_duplicate(OnDuplicate::Wait(Duration::from_secs(2)));
    let service = layer(policy).layer(upstream.clone());
    tokio::spawn({
        let service = service.clone();
        async move { send(&service, post("k", "{}")).await }
    });
    soon(upstream.wait_for_effects(1)).await;
    let duplicate = soon(send(&service, post("k", "{}"))).await;
    assert_eq!(code(duplicate).await, (409, "request-in-progress".into()));
    assert_eq!(upstream.effects(), 1);
}

#[tokio::test]
async fn a_client_that_leaves_does_not_stop_the_work() {
    let (upstream, gate) = gated();
    let service = guard(&upstream);
    let impatient = tokio::spawn({
        let service = service.clone();
        async move { send(&service, post("k", "{}")).await }
    });
    soon(upstream.wait_for_effects(1)).await;
    impatient.abort();
    assert!(impatient.await.unwrap_err().is_cancelled());
    gate.add_permits(1);

    // The duplicate is answered 409 until the task has settled, then with the replay.
    let replay = soon(async {
        loop {
            let answer = send(&service, post("k", "{}")).await;
            if answer.status() != 409 {
                return answer;
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert!(is_replay(&replay), "F6");
    assert_eq!(upstream.effects(), 1);
}

#[tokio::test]
async fn the_key_is_echoed_as_it_was_sent_where_asked_for() {
    let upstream = Upstream::receipts();
    let service = layer(Policy::default().with_echo_key(true)).layer(upstream.clone());
    for replayed in [false, true] {
        let answer = send(&service, post("\"a key\"", "{}")).await;
        assert_eq!(is_replay(&answer), replayed);
        assert_eq!(answer.headers()["idempotency-key"], "\"a key\"", "F4");
    }
    let reused = send(&service, post("\"a key\"", "other")).await;
    assert_eq!(reused.headers()["idempotency-key"], "\"a key\"");
}

#[tokio::test]
async fn large_json_is_compared_by_value_too() {
    let upstream = Upstream::receipts();
    let policy = Policy::default().with_body_fingerprint(BodyFingerprint::CanonicalJson);
    let service = layer(policy).layer(upstream.clone());
    let padding = " ".repeat(200 << 10);
    for body in [
        r#"{"a":1,"b":2.0}"#.to_owned(),
        format!(r#"{{"b":2,{padding}"a":1}}"#),
    ] {
        let request = with_header(
            post("k", "").map(|_| body.into()),
            "content-type",
            "application/json",
        );
        assert_eq!(send(&service, request).await.status(), 201, "M12");
    }
    assert_eq!(upstream.effects(), 1);
}

/// A service on a store that counts, with one completed record of key `k`.
async fn completed() -> (FaultyStore, Upstream, onlyonce::Idempotency<Upstream>) {
    let (store, upstream) = (FaultyStore::new(), Upstream::receipts());
    let service = onlyonce::IdempotencyLayer::new(store.clone()).layer(upstream.clone());
    read(send(&service, post("k", "{}")).await).await;
    (store, upstream, service)
}

#[tokio::test(start_paused = true)]
async fn of_duplicates_that_come_together_one_asks_the_store_for_all() {
    let (store, upstream, service) = completed().await;
    store.claims.lock().unwrap().push_back(Fault::Late(1));
    let asked = store.calls();
    let same = || async { is_replay(&send(&service, post("k", "{}")).await) };
    let other = async { code(send(&service, post("k", "{\"other\":1}")).await).await };
    let (one, two, three, other) = tokio::join!(same(), same(), same(), other);
    assert!(one && two && three);
    // What is shared is the record. Each is compared with it for itself.
    assert_eq!(other, (422, "idempotency-key-reused".into()));
    assert_eq!((store.calls() - asked, upstream.effects()), (1, 1));
}

/// A service on a store that counts, with one record of key `k` whose outcome is unknown.
async fn unknown(policy: Policy) -> (FaultyStore, Upstream, onlyonce::Idempotency<Upstream>) {
    let upstream = Upstream::new(async |number| {
        let status = if number == 1 { 502 } else { 201 };
        with_status(status.try_into().unwrap(), TestBody::whole("receipt"))
    });
    let store = FaultyStore::new();
    let layer = onlyonce::IdempotencyLayer::new(store.clone()).with_policy(policy);
    let service = layer.layer(upstream.clone());
    read(send(&service, post("k", "{}")).await).await;
    (store, upstream, service)
}

#[tokio::test(start_paused = true)]
async fn of_duplicates_of_an_unknown_outcome_one_asks_the_store_for_all() {
    let (store, upstream, service) = unknown(Policy::default()).await;
    store.claims.lock().unwrap().push_back(Fault::Late(1));
    let asked = store.calls();
    let told = async |body| code(send(&service, post("k", body)).await).await;
    let (one, two, other) = tokio::join!(told("{}"), told("{}"), told("{\"other\":1}"));
    assert_eq!(one, (409, "outcome-unknown".into()));
    assert_eq!((&two, &other), (&one, &one));
    assert_eq!((store.calls() - asked, upstream.effects()), (1, 1));
}

/// What one may not execute again, its twin may.
#[tokio::test(start_paused = true)]
async fn a_twin_that_may_execute_an_unknown_outcome_again_asks_for_itself() {
    let policy = Policy::default().with_on_unknown(OnUnknown::Reexecute);
    let (store, upstream, service) = unknown(policy).await;
    store.claims.lock().unwrap().push_back(Fault::Late(1));
    let told = async |body| read(send(&service, post("k", body)).await).await.0;
    let (other, same) = tokio::join!(told("{\"other\":1}"), told("{}"));
    assert_eq!((other, same, upstream.effects()), (422, 201, 2));
}

#[tokio::test(start_paused = true)]
async fn of_duplicates_whose_store_is_away_one_asks_it_for_all() {
    let (store, upstream, service) = completed().await;
    store.claims.lock().unwrap().push_back(Fault::RefuseLate(1));
    let asked = store.calls();
    let told = || async { code(send(&service, post("k", "{}")).await).await };
    let (one, two, three) = tokio::join!(told(), told(), told());
    assert_eq!(one, (503, "store-unavailable".into()));
    assert_eq!((&two, &three), (&one, &one));
    assert_eq!((store.calls() - asked, upstream.effects()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn what_a_twin_asked_long_ago_is_asked_anew() {
    let (store, _upstream, service) = completed().await;
    store.claims.lock().unwrap().push_back(Fault::Late(4));
    let asked = store.calls();
    let slow = async { is_replay(&send(&service, post("k", "{}")).await) };
    let later = async {
        tokio::time::sleep(Duration::from_millis(2_500)).await;
        is_replay(&send(&service, post("k", "{}")).await)
    };
    let (slow, later) = tokio::join!(slow, later);
    assert!(slow && later);
    assert_eq!(store.calls() - asked, 2);
}

#[tokio::test(start_paused = true)]
async fn a_duplicate_that_comes_during_the_claim_waits_for_it_and_is_in_progress() {
    let (store, upstream) = (FaultyStore::new(), Upstream::receipts());
    store.claims.lock().unwrap().push_back(Fault::Late(1));
    store.hold_settlements();
    let service = onlyonce::IdempotencyLayer::new(store.clone()).layer(upstream.clone());
    let first = send(&service, post("k", "{}"));
    let twin = async {
        let twin = code(send(&service, post("k", "{}")).await).await;
        store.let_settlements_through();
        twin
    };
    let (first, twin) = tokio::join!(first, twin);
    assert_eq!(twin, (409, "request-in-progress".into()));
    assert_eq!((read(first).await.0, upstream.effects()), (201, 1));
}
