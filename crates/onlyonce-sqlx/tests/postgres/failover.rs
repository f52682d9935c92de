//! Several servers, of which one takes writes; and which one changes.

use std::time::Duration;

use onlyonce::store::{Store, StoreErrorKind};
use onlyonce_sqlx::PostgresStore;
use onlyonce_test::conformance::sample::{acquired, claim, completed, response};
use onlyonce_test::event::within;
use onlyonce_test::postgres::{Cluster, Options};

use crate::durability::bin_dir;
use crate::fixture::{connect, run, settings};

fn primary() -> Cluster {
    Options::default().fsync(false).start(&bin_dir()).unwrap()
}

async fn claimed_eventually(store: &PostgresStore, number: u16) {
    within("a claim is acquired", async {
        while store.claim(&claim(number)).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn the_primary_is_found_and_found_again_after_a_failover() {
    let mut primary = primary();
    let standby = primary.standby().unwrap();
    let (first, second) = (standby.url("postgres"), primary.url("postgres"));
    let store = PostgresStore::connect(settings(&format!("{first},{second}")))
        .await
        .unwrap();
    let owner = claim(1);
    let epoch = acquired(store.claim(&owner).await);
    store
        .settle(&owner, epoch, &completed("before"))
        .await
        .unwrap();

    // In order: what was acknowledged reaches the standby before the primary ends.
    primary.stop_fast().unwrap();
    let error = store.claim(&claim(2)).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unavailable);

    standby.promote().unwrap();
    claimed_eventually(&store, 2).await;
    let found = store.find(&owner.id).await.unwrap();
    assert_eq!(response(found), Some("before".into()));

    // The old primary comes back as it was: it is not asked again while the new one answers.
    primary.start_again().unwrap();
    acquired(store.claim(&claim(3)).await);
}

#[tokio::test]
async fn a_standby_alone_is_refused() {
    let primary = primary();
    let standby = primary.standby().unwrap();
    let store = PostgresStore::open(settings(&standby.url("postgres")));
    let error = store.claim(&claim(1)).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unavailable);
    assert!(!error.may_have_applied());
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(source.contains("it is a standby"), "{source}");
}

/// Sessions stay open while their server becomes read-only: what they say then is a reason to look again.
#[tokio::test]
async fn a_primary_that_turns_read_only_is_left() {
    let (old, new) = (primary(), primary());
    let (first, second) = (old.url("postgres"), new.url("postgres"));
    PostgresStore::connect(settings(&second)).await.unwrap();
    let store = PostgresStore::connect(settings(&format!("{first},{second}")))
        .await
        .unwrap();
    acquired(store.claim(&claim(1)).await);

    let mut admin = connect(&first).await;
    run(
        &mut admin,
        "alter system set default_transaction_read_only = on",
    )
    .await;
    run(&mut admin, "select pg_reload_conf()").await;
    within("the store has moved", async {
        loop {
            let claimed = store.claim(&claim(2)).await;
            let there = PostgresStore::open(settings(&second));
            if claimed.is_ok() && there.find(&claim(2).id).await.unwrap().is_some() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_crash_and_a_restart_need_no_new_store() {
    let mut server = primary();
    let store = PostgresStore::connect(settings(&server.url("postgres")))
        .await
        .unwrap();
    acquired(store.claim(&claim(1)).await);
    server.stop_immediate().unwrap();
    let error = store.claim(&claim(2)).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unavailable);
    server.start_again().unwrap();
    claimed_eventually(&store, 2).await;
}
