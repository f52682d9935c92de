//! What other transactions can do to a claim: P1 of the research, and rows held by strangers.

use std::time::Duration;

use onlyonce::Epoch;
use onlyonce::store::{Claimed, Present, Settled, Store, StoreErrorKind};
use onlyonce_test::conformance::sample::{acquired, claim, completed, present, rival};
use onlyonce_test::conformance::{Fixture, sample};

use crate::fixture::{Postgres, eventually, run, waiting};

/// P1a: the insertion waits for a twin that is not committed yet, finds it, and reads it with a later
/// snapshot.
#[tokio::test]
async fn a_claim_waits_for_an_uncommitted_twin_and_sees_its_outcome() {
    for (end, expected) in [("commit", None), ("rollback", Some(Epoch::FIRST))] {
        let f = Postgres::fresh().await;
        let first = claim(1);
        acquired(f.store.claim(&first).await);
        let mut twin = f.database.connect().await;
        // A row of the same key, by another transaction, which this one cannot see.
        run(
            &mut twin,
            "create table copy as select * from onlyonce_records; delete from onlyonce_records",
        )
        .await;
        run(
            &mut twin,
            "begin; insert into onlyonce_records select * from copy",
        )
        .await;

        let (store, second) = (f.store.clone(), rival(&first));
        let claiming = tokio::spawn(async move { store.claim(&second).await });
        eventually(&mut *f.admin.lock().await, "the claim waits", &waiting(1)).await;
        run(&mut twin, end).await;

        let claimed = claiming.await.unwrap();
        match expected {
            Some(epoch) => assert_eq!(acquired(claimed), epoch),
            None => assert!(matches!(present(claimed), Present::InFlight { .. })),
        }
    }
}

/// P1b: under serializable a duplicate is a serialization failure, not an empty answer.
#[tokio::test]
async fn claims_race_on_a_database_that_is_serializable_by_default() {
    for pooled in [false, true] {
        let f = if pooled {
            Postgres::behind_pgbouncer().await
        } else {
            Postgres::fresh().await
        };
        let name = f.database.name();
        f.run(&format!(
            "alter database {name} set default_transaction_isolation = 'serializable'"
        ))
        .await;
        // Server connections of before the change end.
        f.run(
            "select pg_terminate_backend(pid) from pg_stat_activity \
             where datname = current_database() and pid <> pg_backend_pid()",
        )
        .await;
        let key = claim(1);
        let mut racing = tokio::task::JoinSet::new();
        for _ in 0..32 {
            let (store, claim) = (f.store.clone(), rival(&key));
            racing.spawn(async move { store.claim(&claim).await.unwrap() });
        }
        let answers = racing.join_all().await;
        let won = answers
            .iter()
            .filter(|answer| matches!(answer, Claimed::Acquired(_)))
            .count();
        assert_eq!(won, 1, "pooled: {pooled}");
    }
}

/// P1c: the insertion does not wait for a row that is locked, and then the row is gone.
#[tokio::test]
async fn a_row_that_is_locked_and_then_deleted_is_neither_inserted_nor_found_but_claimed() {
    let f = Postgres::fresh().await;
    let first = claim(1);
    acquired(f.store.claim(&first).await);
    f.advance(sample::PAST_RETENTION).await;
    let mut sweeper = f.database.connect().await;
    run(
        &mut sweeper,
        "begin; select * from onlyonce_records for update",
    )
    .await;

    let (store, second) = (f.store.clone(), rival(&first));
    let claiming = tokio::spawn(async move { store.claim(&second).await });
    // It has read the expired row, and its take-over waits for the lock.
    eventually(&mut *f.admin.lock().await, "the claim waits", &waiting(1)).await;
    run(&mut sweeper, "delete from onlyonce_records; commit").await;

    assert_eq!(acquired(claiming.await.unwrap()), Epoch::FIRST);
}

#[tokio::test]
async fn a_row_in_a_strangers_transaction_delays_a_call_only_so_long() {
    let f = Postgres::fresh().await;
    let first = claim(1);
    let epoch = acquired(f.store.claim(&first).await);
    let mut stranger = f.database.connect().await;
    run(
        &mut stranger,
        "begin; select * from onlyonce_records for update",
    )
    .await;

    let store = f.another(|settings| settings.with_call_timeout(Duration::from_millis(500)));
    let error = store
        .settle(&first, epoch, &completed("late"))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Timeout);

    run(&mut stranger, "rollback").await;
    let settled = store.settle(&first, epoch, &completed("late")).await;
    assert_eq!(settled.unwrap(), Settled::Done);
}
