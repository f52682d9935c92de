//! The end of a response comes after its record; a slow store may not hold it for long.

use std::time::Duration;

use http_body_util::BodyExt;

use onlyonce::store::operator::{Filter, Operator, Resolution};
use onlyonce::{IdempotencyLayer, StoredState};
use tower::Layer;

use crate::support::*;

fn guarded(
    upstream: &Upstream,
) -> (
    FaultyStore,
    IdempotencyLayer,
    onlyonce::Idempotency<Upstream>,
) {
    let store = FaultyStore::new();
    let layer = IdempotencyLayer::new(store.clone());
    let service = layer.layer(upstream.clone());
    (store, layer, service)
}

fn known_length() -> Upstream {
    Upstream::new(async |_| {
        let mut response = created(TestBody::whole("receipt"));
        response.headers_mut().insert("content-length", 7.into());
        response
    })
}

#[tokio::test(start_paused = true)]
async fn the_completing_frame_of_a_known_length_is_held_until_settled() {
    let upstream = known_length();
    let (store, _, service) = guarded(&upstream);
    store.hold_settlements();
    let answer = send(&service, post("k", "{}")).await;
    let mut body = answer.into_body();
    let early = tokio::time::timeout(Duration::from_millis(1500), body.frame()).await;
    assert!(
        early.is_err(),
        "F5: the whole body would be an answer before its record"
    );
    store.let_settlements_through();
    assert_eq!(body.collect().await.unwrap().to_bytes(), "receipt");
    assert!(is_replay(&send(&service, post("k", "{}")).await));
}

#[tokio::test(start_paused = true)]
async fn a_head_without_a_body_is_held_until_settled() {
    let upstream = Upstream::new(async |_| created(TestBody::empty()));
    let (store, _, service) = guarded(&upstream);
    store.hold_settlements();
    let early =
        tokio::time::timeout(Duration::from_millis(1500), send(&service, post("k", "{}"))).await;
    assert!(early.is_err());
    store.let_settlements_through();
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
    assert!(is_replay(&replay), "P14");
    assert_eq!(replay.headers()["content-length"], "0");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_does_not_settle_holds_the_client_for_two_seconds_and_the_key_for_longer() {
    let upstream = known_length();
    let (store, layer, service) = guarded(&upstream);
    store.hold_settlements();
    let answer = send(&service, post("k", "{}")).await;
    let (status, body) = tokio::time::timeout(Duration::from_millis(2100), read(answer))
        .await
        .expect("O16");
    assert_eq!((status, body.as_str()), (201, "receipt"));
    let duplicate = send(&service, post("k", "{}")).await;
    assert_eq!(
        code(duplicate).await,
        (409, "request-in-progress".into()),
        "the key stays held"
    );
    store.let_settlements_through();
    assert!(layer.drain(Duration::from_secs(30)).await);
    assert!(is_replay(&send(&service, post("k", "{}")).await));
    assert_eq!(upstream.effects(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_settlement_whose_reply_is_lost_is_repeated() {
    let upstream = known_length();
    let (store, _, service) = guarded(&upstream);
    store
        .settlements
        .lock()
        .unwrap()
        .extend([Fault::Refuse, Fault::LoseReply]);
    assert_eq!(read(send(&service, post("k", "{}")).await).await.0, 201);
    assert!(is_replay(&send(&service, post("k", "{}")).await));
}

#[tokio::test(start_paused = true)]
async fn a_stale_owner_never_ends_its_clients_answer_as_success() {
    let upstream = known_length();
    let (store, _, service) = guarded(&upstream);
    store.hold_settlements();
    let answer = send(&service, post("k", "{}")).await;
    // An operator frees the key by force while the owner is about to settle.
    let all = Filter {
        state: Some(StoredState::InFlight),
        limit: 1,
    };
    let id = store.inner.list(&all).await.unwrap()[0].id;
    store
        .inner
        .resolve(&id, &Resolution::Forget, true)
        .await
        .unwrap();
    store.let_settlements_through();
    assert!(soon(answer.into_body().collect()).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn drain_waits_for_work_that_no_client_waits_for() {
    let (feed, body) = TestBody::fed();
    let body = std::sync::Mutex::new(Some(body));
    let upstream = Upstream::new(move |_| {
        let body = body.lock().unwrap().take().unwrap();
        async move { created(body) }
    });
    let (_, layer, service) = guarded(&upstream);
    drop(send(&service, post("k", "{}")).await);
    let drain = tokio::spawn(async move { layer.drain(Duration::from_secs(30)).await });
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(!drain.is_finished());
    feed.data("done");
    drop(feed);
    assert!(soon(drain).await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn drain_that_gives_up_settles_as_unknown() {
    let upstream = Upstream::new(|_| std::future::pending());
    let (store, layer, service) = guarded(&upstream);
    let first = tokio::spawn({
        let service = service.clone();
        async move { send(&service, post("k", "{}")).await }
    });
    soon(upstream.wait_for_effects(1)).await;
    assert!(!layer.drain(Duration::from_secs(1)).await);
    assert_eq!(
        code(soon(first).await.unwrap()).await,
        (502, "outcome-unknown".into())
    );
    let unknown = Filter {
        state: Some(StoredState::Unknown),
        limit: 10,
    };
    assert_eq!(store.inner.list(&unknown).await.unwrap().len(), 1);
}
