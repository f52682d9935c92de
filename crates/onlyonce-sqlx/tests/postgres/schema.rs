//! Migrations: concurrent, repeated, older and newer.

use onlyonce::store::{Settled, Store, StoreError, StoreErrorKind, Sweep};
use onlyonce_sqlx::PostgresStore;
use onlyonce_test::conformance::sample::{acquired, claim, completed, response};
use onlyonce_test::postgres::Database;

use crate::fixture::{DROP_DAYS, run, settings, value};

#[tokio::test]
async fn eight_processes_migrate_an_empty_database_at_once() {
    let database = Database::fresh().await;
    let mut migrating = tokio::task::JoinSet::new();
    for number in 1..=8 {
        let settings = settings(&database.url());
        migrating.spawn(async move {
            let store = PostgresStore::connect(settings).await.unwrap();
            acquired(store.claim(&claim(number)).await);
        });
    }
    migrating.join_all().await;
    let mut admin = database.connect().await;
    let steps: i64 = value(&mut admin, "select count(*) from onlyonce_schema").await;
    assert_eq!(steps, 3);
}

#[tokio::test]
async fn an_empty_database_is_said_to_need_a_migration() {
    let database = Database::fresh().await;
    let store = PostgresStore::open(settings(&database.url()));
    for error in [
        store.check_schema().await.unwrap_err(),
        store.claim(&claim(1)).await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), StoreErrorKind::Incompatible);
        assert!(!error.may_have_applied());
        assert!(advice(&error).contains("onlyonce migrate"), "{error:?}");
    }
    store.migrate().await.unwrap();
    store.check_schema().await.unwrap();
}

/// A newer program has expanded the schema while this one still runs.
#[tokio::test]
async fn an_older_program_works_on_a_newer_schema_that_allows_it() {
    let database = Database::fresh().await;
    let store = PostgresStore::connect(settings(&database.url()))
        .await
        .unwrap();
    let mut admin = database.connect().await;
    run(
        &mut admin,
        "insert into onlyonce_schema (version, min_compatible) values (1000, 1); \
         alter table onlyonce_records add column added text; create table onlyonce_added (n int)",
    )
    .await;
    store.check_schema().await.unwrap();
    store.prepare().await.unwrap();
    store.migrate().await.unwrap();
    acquired(store.claim(&claim(1)).await);

    run(
        &mut admin,
        "update onlyonce_schema set min_compatible = 1000 where version = 1000",
    )
    .await;
    for error in [
        store.check_schema().await.unwrap_err(),
        store.prepare().await.unwrap_err(),
        store.migrate().await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), StoreErrorKind::Incompatible);
        assert!(advice(&error).contains("newer program"), "{error:?}");
    }
}

/// A role that may use the tables and create nothing, on the day after the last migration: the day that is a
/// week ahead is missing, and the owner has made a partition since the role got its rights.
#[tokio::test]
async fn a_role_without_the_right_to_create_uses_what_is_there() {
    let database = Database::fresh().await;
    let owner = PostgresStore::connect(settings(&database.url()))
        .await
        .unwrap();
    let role = format!("user_of_{}", database.name());
    let mut admin = database.connect().await;
    run(
        &mut admin,
        &format!(
            "create role {role} login; revoke create on schema public from public; \
             grant select, insert, update, delete on all tables in schema public to {role}"
        ),
    )
    .await;
    run(&mut admin, DROP_DAYS).await;
    owner.migrate().await.unwrap();
    run(
        &mut admin,
        "do $$ begin execute 'drop table onlyonce_responses_' || \
         to_char((now() at time zone 'UTC')::date + 7, 'YYYYMMDD'); end $$",
    )
    .await;

    let url = database.url().replacen("postgres@", &format!("{role}@"), 1);
    let store = PostgresStore::connect(settings(&url)).await.unwrap();
    let first = claim(1);
    let epoch = acquired(store.claim(&first).await);
    let settled = store.settle(&first, epoch, &completed("answer")).await;
    assert_eq!(settled.unwrap(), Settled::Done);
    let found = store.find(&first.id).await.unwrap();
    assert_eq!(response(found), Some("answer".into()));
    // Full batches follow each other whether or not the days ahead can be made.
    for number in 2..4 {
        acquired(store.claim(&claim(number)).await);
    }
    run(
        &mut admin,
        "update onlyonce_records set expires_at = now() - interval '1 hour'",
    )
    .await;
    assert_eq!(store.sweep(2).await.unwrap(), 2);
    assert_eq!(store.sweep(2).await.unwrap(), 1);

    drop(store);
    run(
        &mut admin,
        &format!("drop owned by {role}; drop role {role}"),
    )
    .await;
}

fn advice(error: &StoreError) -> String {
    std::error::Error::source(error).unwrap().to_string()
}
