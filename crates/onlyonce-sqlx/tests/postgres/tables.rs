//! What the tables are shaped for: heap-only updates (P8), partitions by day (P9), the record of unknowns.

use std::time::Duration;

use onlyonce::store::{Present, Settled, Settlement, Store, StoreErrorKind, Sweep};
use onlyonce_test::conformance::sample::{acquired, claim, completed, response};
use onlyonce_test::conformance::{Fixture, sample};
use onlyonce_test::postgres::Database;
use sqlx::postgres::PgConnection;

use crate::fixture::{DROP_DAYS, Postgres, eventually, run, value};

const DAY: Duration = Duration::from_secs(86_400);

/// Claims and completes, many at the same time, and ends the stores: a backend reports what it counted when it
/// ends.
async fn counted_after_completions(f: Postgres) -> (PgConnection, Database) {
    let claims: Vec<_> = (0..2_000).map(claim).collect();
    let mut working = tokio::task::JoinSet::new();
    for part in claims.chunks(250) {
        let (store, part) = (f.store.clone(), part.to_vec());
        working.spawn(async move {
            let settle = async |claim, epoch| {
                let settled = store.settle(&claim, epoch, &completed("answer")).await;
                assert_eq!(settled.unwrap(), Settled::Done);
            };
            // Some while the table is small, which is when plans are made; most once it has grown.
            let mut owned = Vec::new();
            for (number, claim) in part.into_iter().enumerate() {
                let epoch = acquired(store.claim(&claim).await);
                if number < 50 {
                    settle(claim, epoch).await;
                } else {
                    owned.push((claim, epoch));
                }
            }
            for (claim, epoch) in owned {
                settle(claim, epoch).await;
            }
        });
    }
    working.join_all().await;
    let Postgres {
        store,
        second,
        admin,
        database,
        ..
    } = f;
    drop((store, second));
    let mut admin = admin.into_inner();
    let counted =
        "select n_tup_upd = 2000 from pg_stat_user_tables where relname = 'onlyonce_records'";
    eventually(&mut admin, "all updates are counted", counted).await;
    (admin, database)
}

#[tokio::test]
async fn completions_are_heap_only_updates() {
    let (mut admin, _database) = counted_after_completions(Postgres::fresh().await).await;
    let ratio = "select n_tup_hot_upd::float8 / n_tup_upd from pg_stat_user_tables \
         where relname = 'onlyonce_records'";
    let ratio: f64 = value(&mut admin, ratio).await;
    assert!(
        ratio > 0.99,
        "{ratio} of the completions were heap-only updates"
    );
}

/// Nothing has analyzed the tables yet, and a plan that reads all of them looks cheap. It was kept for minutes,
/// while the tables grew.
#[tokio::test]
async fn no_request_reads_a_whole_table() {
    let (mut admin, _database) = counted_after_completions(Postgres::fresh().await).await;
    let read = "select seq_tup_read from pg_stat_user_tables where relname = 'onlyonce_records'";
    assert_eq!(value::<i64>(&mut admin, read).await, 0);
}

#[tokio::test]
async fn a_response_is_kept_where_no_partition_was_made_ahead() {
    let f = Postgres::fresh().await;
    f.advance(DAY * 30).await;
    let owner = claim(1);
    let epoch = acquired(f.store.claim(&owner).await);
    let settled = f.store.settle(&owner, epoch, &completed("answer")).await;
    assert_eq!(settled.unwrap(), Settled::Done);
    let found = f.second.find(&owner.id).await.unwrap();
    assert_eq!(response(found), Some("answer".into()));
}

/// One account finds a schema of its own before that of the tables; the other does not look there.
#[tokio::test]
async fn a_day_is_made_beside_its_table_whatever_is_searched_first() {
    let f = Postgres::fresh().await;
    f.run(DROP_DAYS).await;
    let name = f.database.name();
    f.run(&format!(
        "create schema \"Own schema\"; \
         alter database {name} set search_path = \"Own schema\", public, clock, pg_catalog"
    ))
    .await;
    let owner = claim(1);
    let store = f.another(|settings| settings);
    let epoch = acquired(store.claim(&owner).await);
    let settled = store.settle(&owner, epoch, &completed("answer")).await;
    assert_eq!(settled.unwrap(), Settled::Done);
    // Connected before, it searches as before.
    let found = f.second.find(&owner.id).await.unwrap();
    assert_eq!(response(found), Some("answer".into()));
}

/// Another process takes its time over the days ahead: whoever gives up waiting leaves nothing behind on
/// the connection, which the next call uses.
#[tokio::test]
async fn a_turn_that_was_not_had_in_time_leaves_the_connection_usable() {
    let f = Postgres::fresh().await;
    let store = f.another(|settings| settings.with_connections(1));
    let owner = claim(1);
    let epoch = acquired(store.claim(&owner).await);
    f.run(DROP_DAYS).await;
    let mut slow = f.database.connect().await;
    run(
        &mut slow,
        "begin; select pg_advisory_xact_lock(6032170923155741026)",
    )
    .await;
    let error = store
        .settle(&owner, epoch, &completed("answer"))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Timeout);

    acquired(store.claim(&claim(2)).await);
    run(&mut slow, "rollback").await;
    let settled = store.settle(&owner, epoch, &completed("answer")).await;
    assert_eq!(settled.unwrap(), Settled::Done);
}

#[tokio::test]
async fn many_processes_make_the_days_ahead_at_once() {
    let f = Postgres::fresh().await;
    f.advance(DAY * 30).await;
    let mut sweeping = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let store = f.another(|settings| settings);
        sweeping.spawn(async move { store.sweep(100).await.unwrap() });
    }
    sweeping.join_all().await;
    // Those of before are measured and dropped by whoever comes later.
    let ahead = "select count(*) from pg_inherits \
         where inhparent = 'onlyonce_responses'::regclass and inhrelid::regclass::text >= \
         'onlyonce_responses_' || to_char(statement_timestamp() at time zone 'UTC', 'YYYYMMDD')";
    let mut fresh = f.database.connect().await; // with the database's own search path: the moved clock
    assert_eq!(value::<i64>(&mut fresh, ahead).await, 8);
}

/// The number of partitions of the responses.
const PARTITIONS: &str =
    "select count(*) from pg_inherits where inhparent = 'onlyonce_responses'::regclass";

#[tokio::test]
async fn a_day_is_dropped_when_its_records_are_past_retention_and_a_reader_delays_only_that() {
    let f = Postgres::fresh().await;
    let mut owner = claim(1);
    owner.retention = DAY * 5;
    let epoch = acquired(f.store.claim(&owner).await);
    f.store
        .settle(&owner, epoch, &completed("long kept"))
        .await
        .unwrap();

    // The day is over, its record is not.
    f.advance(DAY * 4).await;
    upkeep(&f).await;
    let found = f.store.find(&owner.id).await.unwrap();
    assert_eq!(response(found), Some("long kept".into()));

    f.advance(DAY * 2).await;
    let before: i64 = value(&mut *f.admin.lock().await, PARTITIONS).await;
    let mut reader = f.database.connect().await;
    run(&mut reader, "begin; select * from onlyonce_responses").await;
    // Dropping waits for the reader, and others for the drop, but not for long: everything goes on.
    let sweeper = f.another(|settings| settings);
    let sweeping = tokio::spawn(async move { sweeper.sweep(100).await.unwrap() });
    for number in 2..50 {
        let other = claim(number);
        let epoch = acquired(f.store.claim(&other).await);
        let settled = f.store.settle(&other, epoch, &completed("meanwhile")).await;
        assert_eq!(settled.unwrap(), Settled::Done);
    }
    assert_eq!(sweeping.await.unwrap(), 1);
    let during: i64 = value(&mut *f.admin.lock().await, PARTITIONS).await;
    assert!(during >= before, "nothing is dropped under a reader");

    run(&mut reader, "rollback").await;
    upkeep(&f).await;
    let first_day = "select to_regclass('onlyonce_responses_' || \
         to_char(pg_catalog.statement_timestamp() at time zone 'UTC', 'YYYYMMDD')) is null";
    assert!(value::<bool>(&mut *f.admin.lock().await, first_day).await);
}

/// One process measures the days that are over, another drops them: each looks once an hour.
async fn upkeep(f: &Postgres) {
    for _ in 0..2 {
        f.another(|settings| settings).sweep(1).await.unwrap();
    }
}

#[tokio::test]
async fn a_dropped_day_leaves_a_completed_record_without_response() {
    let f = Postgres::fresh().await;
    let owner = claim(1);
    let epoch = acquired(f.store.claim(&owner).await);
    f.store
        .settle(&owner, epoch, &completed("answer"))
        .await
        .unwrap();
    f.run(DROP_DAYS).await;
    let found = f.store.find(&owner.id).await.unwrap();
    assert_eq!(response(found), None);
}

#[tokio::test]
async fn what_was_unknown_is_noted_until_its_retention_ends() {
    let f = Postgres::fresh().await;
    let owner = claim(1);
    let epoch = acquired(f.store.claim(&owner).await);
    f.store
        .settle(&owner, epoch, &Settlement::Unknown)
        .await
        .unwrap();
    // The late truth changes the record, not what was noted.
    f.store
        .settle(&owner, epoch, &completed("it happened"))
        .await
        .unwrap();
    assert!(matches!(
        f.store.find(&owner.id).await.unwrap(),
        Some(Present::Completed(_))
    ));
    let noted = "select count(*) from onlyonce_unknown where epoch = 1";
    assert_eq!(value::<i64>(&mut *f.admin.lock().await, noted).await, 1);

    f.advance(sample::PAST_RETENTION).await;
    f.store.sweep(10).await.unwrap();
    assert_eq!(value::<i64>(&mut *f.admin.lock().await, noted).await, 0);
}
