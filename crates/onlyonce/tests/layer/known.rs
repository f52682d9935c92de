//! What the process knows by itself is answered without a claim.

use std::sync::Arc;

use onlyonce::store::MemoryStore;
use onlyonce::{IdempotencyLayer, Limits};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tower::Layer;

use crate::support::*;

/// Every request that is claimed needs a place until it is settled. A replay needs none.
#[tokio::test]
async fn a_replay_takes_no_place_among_the_unsettled() {
    let gate = Arc::new(Semaphore::new(1));
    let upstream = Upstream::new({
        let gate = Arc::clone(&gate);
        move |_| {
            let gate = Arc::clone(&gate);
            async move {
                gate.acquire().await.unwrap().forget();
                created(TestBody::whole("receipt"))
            }
        }
    });
    let limits = Limits {
        unsettled_max: 1,
        ..Limits::default()
    };
    let layer = IdempotencyLayer::with_limits(MemoryStore::default(), limits);
    let service = layer.layer(upstream.clone());
    read(send(&service, post("known", "{}")).await).await;
    let held = tokio::spawn({
        let service = service.clone();
        async move { read(send(&service, post("held", "{}")).await).await }
    });
    upstream.wait_for_effects(2).await;
    let refused = send(&service, post("third", "{}")).await;
    assert_eq!(code(refused).await, (503, "store-unavailable".into()));
    assert!(is_replay(&send(&service, post("known", "{}")).await));
    let other = send(&service, post("known", "[]")).await;
    assert_eq!(code(other).await, (422, "idempotency-key-reused".into()));
    gate.add_permits(1);
    assert_eq!(held.await.unwrap().0, 201);
    assert_eq!(upstream.effects(), 2);
}

/// None of them is in another's way, as the twins of a request in flight are.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn retries_at_the_same_time_all_get_the_answer() {
    let upstream = Upstream::receipts();
    let layer = IdempotencyLayer::new(MemoryStore::default());
    let service = layer.layer(upstream.clone());
    read(send(&service, post("k", "{}")).await).await;
    let mut retries = JoinSet::new();
    for _ in 0..64 {
        let service = service.clone();
        retries.spawn(async move { is_replay(&send(&service, post("k", "{}")).await) });
    }
    assert!(retries.join_all().await.into_iter().all(|replay| replay));
    assert_eq!(upstream.effects(), 1);
}
