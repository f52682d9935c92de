//! The claim: durable before a byte goes out, repeated when its answer is lost, never left behind.

use std::time::Duration;

use onlyonce::policy::OnStoreFailure;
use onlyonce::store::OnUnknown;
use onlyonce::store::operator::{Filter, Operator};
use onlyonce::{IdempotencyLayer, Limits, Policy, StoredState};
use tower::Layer;

use crate::support::*;

#[tokio::test(start_paused = true)]
async fn without_a_store_nothing_is_forwarded() {
    let upstream = Upstream::receipts();
    let store = FaultyStore::new();
    store.claims.lock().unwrap().push_back(Fault::Refuse);
    let service = IdempotencyLayer::new(store.clone()).layer(upstream.clone());
    let answer = send(&service, post("k", "{}")).await;
    assert!(answer.headers().contains_key("retry-after"), "O17");
    assert_eq!(code(answer).await, (503, "store-unavailable".into()));
    assert_eq!(upstream.effects(), 0);
    assert_eq!(send(&service, post("k", "{}")).await.status(), 201);
}

#[tokio::test(start_paused = true)]
async fn a_route_may_forward_without_a_store() {
    let upstream = Upstream::receipts();
    let store = FaultyStore::new();
    store.claims.lock().unwrap().push_back(Fault::Refuse);
    let policy = Policy::default().with_on_store_failure(OnStoreFailure::Forward);
    let service = IdempotencyLayer::new(store)
        .with_policy(policy)
        .layer(upstream.clone());
    assert_eq!(
        read(send(&service, post("k", "{}")).await).await,
        (201, "receipt".into())
    );
    assert_eq!(upstream.effects(), 1);
}

/// As without the layer: the panic is the caller's, and no answer of ours is made of it.
#[tokio::test(start_paused = true)]
async fn a_service_that_panics_without_a_store_panics_its_caller() {
    let upstream = Upstream::new(|_| async { panic!("the service fails") });
    let store = FaultyStore::new();
    store.claims.lock().unwrap().push_back(Fault::Refuse);
    let policy = Policy::default().with_on_store_failure(OnStoreFailure::Forward);
    let layer = IdempotencyLayer::new(store).with_policy(policy);
    let service = layer.layer(upstream.clone());
    let call = tokio::spawn(async move { send(&service, post("k", "{}")).await });
    assert!(call.await.unwrap_err().is_panic());
    assert_eq!(upstream.effects(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_ambiguous_claim_is_repeated_and_found_to_be_ones_own() {
    let upstream = Upstream::receipts();
    let store = FaultyStore::new();
    store
        .claims
        .lock()
        .unwrap()
        .extend([Fault::LoseReply, Fault::LoseReply]);
    let service = IdempotencyLayer::new(store).layer(upstream.clone());
    assert_eq!(
        read(send(&service, post("k", "{}")).await).await.0,
        201,
        "F6"
    );
    assert!(is_replay(&send(&service, post("k", "{}")).await));
    assert_eq!(upstream.effects(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_stays_ambiguous_is_released_in_the_background() {
    let upstream = Upstream::receipts();
    let store = FaultyStore::new();
    store.claims.lock().unwrap().extend([Fault::LoseReply; 40]);
    let layer = IdempotencyLayer::new(store.clone());
    let service = layer.layer(upstream.clone());
    assert_eq!(code(send(&service, post("k", "{}")).await).await.0, 503);
    assert_eq!(upstream.effects(), 0);
    assert!(layer.drain(Duration::from_secs(600)).await);
    let free = Filter {
        state: Some(StoredState::Free),
        limit: 10,
    };
    assert_eq!(store.inner.list(&free).await.unwrap().len(), 1);
    assert_eq!(
        send(&service, post("k", "{}")).await.status(),
        201,
        "the key is usable"
    );
    assert_eq!(upstream.effects(), 1);
}

/// A statement that never returns, on a connection that nobody tells us is dead, is not waited for.
#[tokio::test(start_paused = true)]
async fn a_claim_whose_statement_hangs_is_released_by_another() {
    let upstream = Upstream::receipts();
    let store = FaultyStore::new();
    let hangs = Fault::Late(365 * 24 * 60 * 60);
    store.claims.lock().unwrap().extend([hangs; 2]);
    let layer = IdempotencyLayer::new(store.clone());
    let service = layer.layer(upstream.clone());
    assert_eq!(code(send(&service, post("k", "{}")).await).await.0, 503);
    assert!(layer.drain(Duration::from_secs(60)).await);
    assert_eq!(upstream.effects(), 0);
    assert_eq!(send(&service, post("k", "{}")).await.status(), 201);
    assert_eq!(upstream.effects(), 1);
}

#[tokio::test(start_paused = true)]
async fn unsettled_requests_are_bounded() {
    let upstream = Upstream::new(|_| std::future::pending());
    let limits = Limits {
        unsettled_max: 1,
        ..Limits::default()
    };
    let service = IdempotencyLayer::with_limits(FaultyStore::new(), limits).layer(upstream.clone());
    tokio::spawn({
        let service = service.clone();
        async move { send(&service, post("k1", "{}")).await }
    });
    soon(upstream.wait_for_effects(1)).await;
    assert_eq!(
        code(send(&service, post("k2", "{}")).await).await,
        (503, "store-unavailable".into())
    );
    assert_eq!(upstream.effects(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_comes_too_late_sends_nothing() {
    // Ready only after half the deadline: a service behind a full concurrency limit.
    let upstream = Upstream::receipts();
    let inner = upstream.clone();
    let late = tower::service_fn(move |request| tower::ServiceExt::oneshot(inner.clone(), request));
    let limited = tower::limit::ConcurrencyLimit::with_semaphore(
        late,
        std::sync::Arc::new(tokio::sync::Semaphore::new(0)),
    );
    let service = layer(Policy::default()).layer(limited);
    let mut guarded = service;
    let call = tower::Service::call(&mut guarded, post("k", "{}"));
    let answer: Result<Answer, _> = tokio::time::timeout(Duration::from_secs(31), call)
        .await
        .unwrap();
    assert_eq!(
        code(answer.unwrap()).await,
        (503, "store-unavailable".into())
    );
    assert_eq!(upstream.effects(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_claim_granted_past_half_the_deadline_sends_nothing_and_frees_the_key() {
    let upstream = Upstream::receipts();
    let store = FaultyStore::new();
    store.claims.lock().unwrap().push_back(Fault::Late(8));
    let limits = Limits {
        claim_patience: Duration::from_secs(60),
        ..Limits::default()
    };
    let policy = Policy::default().with_deadline(Duration::from_secs(10));
    let layer = IdempotencyLayer::with_limits(store.clone(), limits).with_policy(policy);
    let service = layer.layer(upstream.clone());
    let answer = send(&service, post("k", "{}")).await;
    assert_eq!(code(answer).await, (503, "store-unavailable".into()));
    assert!(layer.drain(Duration::from_secs(60)).await);
    assert_eq!(upstream.effects(), 0);
    assert_eq!(send(&service, post("k", "{}")).await.status(), 201);
    assert_eq!(upstream.effects(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_abandoned_claim_does_not_free_what_is_unknown() {
    let upstream = Upstream::new(|_| std::future::pending());
    let store = FaultyStore::new();
    let policy = Policy::default().with_on_unknown(OnUnknown::Reexecute);
    let layer = IdempotencyLayer::new(store.clone()).with_policy(policy);
    let service = layer.layer(upstream.clone());
    assert_eq!(code(send(&service, post("k", "{}")).await).await.0, 504);
    store.claims.lock().unwrap().extend([Fault::LoseCall; 40]);
    assert_eq!(code(send(&service, post("k", "{}")).await).await.0, 503);
    assert!(layer.drain(Duration::from_secs(600)).await);
    let unknown = Filter {
        state: Some(StoredState::Unknown),
        limit: 10,
    };
    assert_eq!(store.inner.list(&unknown).await.unwrap().len(), 1);
}
