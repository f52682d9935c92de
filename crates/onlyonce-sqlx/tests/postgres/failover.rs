//! Several servers, of which one takes writes; and which one changes.

use std::time::Duration;

use onlyonce::store::{Cacheable, Present, Store, StoreErrorKind};
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

    turn_read_only(&first).await;
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

/// Who only asks gets no error from a server that takes no writes any more. Its word on the generation would go on
/// for as long as the session does, whatever is decided at the new primary meanwhile.
#[tokio::test]
async fn a_primary_that_turns_read_only_confirms_and_finds_no_more() {
    let (old, new) = (primary(), primary());
    let (first, second) = (old.url("postgres"), new.url("postgres"));
    let there = PostgresStore::connect(settings(&second)).await.unwrap();
    let expected = there.confirm().await.unwrap().generation;
    let owner = claim(1);
    let epoch = acquired(there.claim(&owner).await);
    there
        .settle(&owner, epoch, &completed("since"))
        .await
        .unwrap();
    let old_store = PostgresStore::connect(settings(&first)).await.unwrap();
    acquired(old_store.claim(&owner).await);
    let is_completed = async |store: &PostgresStore| {
        let found = store.find(&owner.id).await.unwrap();
        matches!(found, Some(Present::Completed(_)))
    };
    let servers = settings(&format!("{first},{second}"));
    let mut moving = Vec::new();
    for pooler in [false, true] {
        let servers = servers.clone().with_pooler(pooler);
        let confirming = PostgresStore::connect(servers.clone()).await.unwrap();
        let finding = PostgresStore::connect(servers).await.unwrap();
        assert_ne!(confirming.confirm().await.unwrap().generation, expected);
        assert!(!is_completed(&finding).await);
        moving.push((confirming, finding));
    }

    turn_read_only(&first).await;
    for (confirming, finding) in moving {
        within("the new primary is asked", async {
            while confirming.confirm().await.unwrap().generation != expected
                || !is_completed(&finding).await
            {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
    }
}

/// Sessions that are open go on.
async fn turn_read_only(server: &str) {
    let mut admin = connect(server).await;
    run(
        &mut admin,
        "alter system set default_transaction_read_only = on",
    )
    .await;
    run(&mut admin, "select pg_reload_conf()").await;
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
