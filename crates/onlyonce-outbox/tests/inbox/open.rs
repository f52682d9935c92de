//! Opening: settings that contradict themselves, tables that are missing, several at once.

use std::time::Duration;

use onlyonce_outbox::Error;
use onlyonce_outbox::inbox::{self, Inbox};
use onlyonce_test::postgres::{Database, Server};

use crate::fixture::{DAY, HOUR, Postgres, apply, billing, fresh, pool, run};

#[tokio::test]
async fn what_contradicts_itself_is_refused_before_anything_is_sent() {
    let pool = sqlx::PgPool::connect_lazy("postgres://nobody@127.0.0.1:1/none").unwrap();
    let zero = Duration::ZERO;
    for (options, fault) in [
        (billing().dedupe_window(zero), "above zero"),
        (billing().dedupe_window(DAY * 367), "366 days"),
        (billing().dedupe_window(DAY), "delivery age"),
        (billing().max_delivery_age(DAY * 7, zero), "delivery age"),
        (
            billing().max_delivery_age(DAY * 6, DAY),
            "longer than the greatest delivery age",
        ),
        (
            billing().max_delivery_age(Duration::MAX, DAY),
            "delivery age",
        ),
        (billing().twin_wait(zero), "twin"),
        (billing().twin_wait(DAY * 30), "twin"),
        (Inbox::consumer(""), "name"),
        (Inbox::consumer("a\0b"), "name"),
        (Inbox::consumer("x".repeat(256)), "name"),
    ] {
        let error = options.open(&pool).await.unwrap_err();
        assert!(
            matches!(&error, Error::Settings(text) if text.contains(fault)),
            "{error:?}"
        );
    }
}

#[tokio::test]
async fn an_empty_database_is_said_to_need_its_migrations() {
    let database = Database::fresh().await;
    let pool = pool(&database.url(), 1).await;
    let error = billing().open(&pool).await.unwrap_err();
    assert!(error.to_string().contains("the inbox's tables"), "{error}");
    assert!(error.to_string().contains("run its migrations"), "{error}");
}

#[tokio::test]
async fn several_processes_migrate_and_open_at_once() {
    for server in [Server::Default, Server::Newest] {
        let database = Database::fresh_on(server).await;
        let mut opening = tokio::task::JoinSet::new();
        for _ in 0..6 {
            let url = database.url();
            opening.spawn(async move {
                let pool = pool(&url, 1).await;
                inbox::migrate(&mut pool.acquire().await?.detach()).await?;
                billing().open(&pool).await.map(drop)
            });
        }
        for outcome in opening.join_all().await {
            let outcome: Result<(), Error> = outcome;
            outcome.unwrap();
        }
    }
}

/// Its floor went with its row: what it has forgotten, nobody knows.
#[tokio::test]
async fn a_consumer_whose_row_was_deleted_applies_nothing() {
    let postgres = Postgres::fresh().await;
    let pool = postgres.pool(1).await;
    let inbox = billing().open(&pool).await.unwrap();
    let mut admin = postgres.database.connect().await;
    run(&mut admin, "delete from onlyonce_inbox_consumer").await;
    let message = fresh();
    let error = apply(&inbox, &message).await.unwrap_err();
    assert!(error.to_string().contains("open its inbox"), "{error}");
    assert_eq!(postgres.effects(&message).await, 0);
    billing().open(&pool).await.unwrap();
    apply(&inbox, &message).await.unwrap();
    assert_eq!(postgres.effects(&message).await, 1);
}

#[tokio::test]
async fn a_name_with_quotes_is_a_name() {
    let postgres = Postgres::behind_pgbouncer().await;
    let pool = postgres.pool(1).await;
    let odd = Inbox::consumer("o'brien\\\"; drop table ledger")
        .dedupe_window(DAY)
        .max_delivery_age(HOUR, HOUR);
    let inbox = odd.open(&pool).await.unwrap();
    let message = fresh();
    apply(&inbox, &message).await.unwrap();
    assert_eq!(postgres.effects(&message).await, 1);
}
