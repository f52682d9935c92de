//! Moving from the proxy or the plain layer to this one and back, on the same tables.

use axum::Router;
use onlyonce::IdempotencyLayer;
use onlyonce::store::operator::{Operator, Resolution};
use onlyonce::store::{Claim, OnUnknown, Settlement, Store};
use onlyonce::{CredentialHash, Epoch, Fingerprint, RecordId, Token};
use onlyonce_sqlx::PostgresStore;
use std::time::Duration;

use crate::fixture::*;

async fn store(site: &Site) -> PostgresStore {
    PostgresStore::connect(site.database.url().parse().unwrap())
        .await
        .unwrap()
}

/// The routes that need no transaction, so that either layer can be around them.
fn plain_app(store: PostgresStore) -> Router {
    routes().layer(IdempotencyLayer::new(store))
}

#[tokio::test]
async fn a_record_of_one_mode_is_replayed_by_the_other() {
    let site = Site::fresh().await;
    let (plain, here) = (plain_app(store(&site).await), site.app());
    let first = post_to(&plain, "/without", "plain").await;
    replayed(&first, &post_to(&here, "/without", "plain").await);
    let first = post_to(&here, "/without", "here").await;
    replayed(&first, &post_to(&plain, "/without", "here").await);
    let other = ask(&plain, request("/without", Some("here"), "other")).await;
    assert_eq!(
        (other.status, other.code()),
        (422, "idempotency-key-reused".into())
    );
    assert_eq!(site.count("onlyonce_records").await, 2);
}

/// The id under which a key of this app is recorded.
async fn id_of(site: &Site, app: &Router, key: &str) -> RecordId {
    post_to(app, "/without", key).await;
    let id: String = site
        .value("select replace(id::text, '-', '') from onlyonce_records")
        .await;
    site.run("truncate onlyonce_records, onlyonce_responses")
        .await;
    id.parse().unwrap()
}

fn claim(id: RecordId) -> Claim {
    Claim {
        id,
        token: Token::random(),
        fingerprint: Fingerprint::from_bytes([1; 32]),
        credential: CredentialHash::from_bytes([2; 32]),
        lease: Duration::from_secs(65),
        retention: Duration::from_secs(3_600),
        on_unknown: OnUnknown::Hold,
        asked_at: tokio::time::Instant::now(),
    }
}

/// In flight, unknown, released, freed by an operator: what a proxy left is what it says.
#[tokio::test]
async fn what_a_proxy_left_is_respected() {
    let site = Site::fresh().await;
    let (store, app) = (store(&site).await, site.app());
    let id = id_of(&site, &app, "k").await;

    let owner = claim(id);
    store.claim(&owner).await.unwrap();
    let answer = post_to(&app, "/without", "k").await;
    assert_eq!(
        (answer.status, answer.code()),
        (409, "request-in-progress".into())
    );

    store
        .settle(&owner, Epoch::FIRST, &Settlement::Unknown)
        .await
        .unwrap();
    let answer = post_to(&app, "/without", "k").await;
    assert_eq!(
        (answer.status, answer.code()),
        (409, "outcome-unknown".into())
    );

    store
        .resolve(&id, &Resolution::NotExecuted, true)
        .await
        .unwrap();
    let answer = post_to(&app, "/without", "k").await;
    assert_eq!(
        (answer.status, answer.code()),
        (409, "request-in-progress".into()),
        "it rests"
    );
    site.run("update onlyonce_records set claimable_at = claimable_at - interval '1 minute'")
        .await;

    let first = post_to(&app, "/without", "k").await;
    assert_eq!(first.status, 201);
    replayed(&first, &post_to(&app, "/without", "k").await);
    assert_eq!(
        site.value::<i32>("select epoch from onlyonce_records")
            .await,
        3
    );
    assert_eq!(site.count("onlyonce_records").await, 1);
}

/// Past its retention a key is new, also where its row is still there.
#[tokio::test]
async fn an_expired_record_is_taken_over() {
    let site = Site::fresh().await;
    site.hold_sweeps().await;
    let app = site.app();
    let first = charge_of(&app, "k", 1).await;
    site.run("update onlyonce_records set expires_at = now() - interval '1 second'")
        .await;
    let second = charge_of(&app, "k", 1).await;
    assert!(!second.is_replay());
    assert_ne!(first.body, second.body);
    replayed(&second, &charge_of(&app, "k", 1).await);
    assert_eq!(site.rows().await, (2, 2, 1));
    assert_eq!(
        site.value::<i32>("select epoch from onlyonce_records")
            .await,
        2
    );
}

/// A claim of another program that commits while ours is open: the insertion waits, and finds it.
#[tokio::test]
async fn a_proxy_that_claims_at_the_same_time_gets_it_or_we_do() {
    let site = Site::fresh().await;
    let (store, app) = (store(&site).await, site.app());
    let id = id_of(&site, &app, "k").await;
    for round in 0..20 {
        let owner = claim(id);
        let (theirs, ours) = tokio::join!(store.claim(&owner), post_to(&app, "/without", "k"));
        let theirs = matches!(theirs.unwrap(), onlyonce::store::Claimed::Acquired(_));
        assert_ne!(theirs, ours.status == 201, "{round}");
        site.run("truncate onlyonce_records, onlyonce_responses")
            .await;
    }
}
