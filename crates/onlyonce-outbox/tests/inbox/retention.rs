//! Forgetting: days are dropped, rows deleted, and nothing of it is applied again.

use std::time::Duration;

use onlyonce_outbox::inbox::{Inbox, Outcome};
use onlyonce_test::event::{Gate, within};
use sqlx::postgres::PgConnection;

use crate::fixture::{DAY, HOUR, Postgres, apply, billing, enter, foreign, made_ago, run};

const DAYS: &str =
    "select count(*) from pg_inherits where inhparent = 'onlyonce_inbox_message'::regclass";
const MESSAGES: &str = "select count(*) from onlyonce_inbox_message";

fn window(days: u32) -> onlyonce_outbox::inbox::Options {
    billing()
        .dedupe_window(DAY * days)
        .max_delivery_age(HOUR, HOUR)
}

#[tokio::test]
async fn days_are_dropped_when_they_are_past_every_window() {
    let postgres = Postgres::behind_pgbouncer().await;
    let pool = postgres.pool(2).await;
    let inbox = window(10).open(&pool).await.unwrap();
    let mails = Inbox::consumer("mails").dedupe_window(DAY * 5);
    let mails = mails.open(&pool).await.unwrap();
    // Today, 10 days back and 7 ahead.
    assert_eq!(postgres.value::<i64>(DAYS).await, 18);
    let (old, recent) = (made_ago(DAY * 8), made_ago(DAY * 2));
    for message in [&old, &recent] {
        apply(&inbox, message).await.unwrap();
    }
    let swept = mails.sweep().await.unwrap();
    assert_eq!((swept.days, swept.days_in_use), (0, 0));
    window(3).open(&pool).await.unwrap();
    let swept = mails.sweep().await.unwrap();
    assert_eq!((swept.days, swept.days_in_use), (5, 0));
    assert_eq!(postgres.value::<i64>(MESSAGES).await, 1);
    // The inbox that still believes in the longer window applies nothing below the floor.
    assert_eq!(apply(&inbox, &old).await.unwrap(), Outcome::TooOld);
    let again = apply(&inbox, &recent).await.unwrap();
    assert_eq!(again, Outcome::Duplicate(None));
    // And no day comes back to be dropped again.
    let swept = mails.sweep().await.unwrap();
    assert_eq!((swept.days, swept.days_in_use), (0, 0));
}

#[tokio::test]
async fn a_day_that_is_in_use_stays_for_a_later_sweep() {
    let postgres = Postgres::fresh().await;
    let pool = postgres.pool(3).await;
    let inbox = window(4).open(&pool).await.unwrap();
    let gate = Gate::default();
    let holding = tokio::spawn({
        let (inbox, gate) = (inbox.clone(), gate.clone());
        async move {
            let message = made_ago(DAY * 3);
            let work = async |tx: &mut PgConnection| {
                enter(tx, &message).await?;
                gate.pass().await;
                Ok::<_, sqlx::Error>(())
            };
            inbox.process(&message, work).await
        }
    });
    gate.reached(1).await;
    let short = window(1).open(&pool).await.unwrap();
    let swept = within("the sweep", short.sweep()).await.unwrap();
    assert_eq!((swept.days, swept.days_in_use), (0, 3));
    // Whoever came meanwhile was not held up for long.
    let fresh = crate::fixture::fresh();
    assert_eq!(apply(&inbox, &fresh).await.unwrap(), Outcome::Applied(()));
    gate.open();
    let held = within("the work", holding).await.unwrap().unwrap();
    assert_eq!(held, Outcome::Applied(()));
    assert_eq!(short.sweep().await.unwrap().days, 3);
}

#[tokio::test]
async fn foreign_ids_are_deleted_when_they_are_past_their_window() {
    let postgres = Postgres::behind_pgbouncer().await;
    let pool = postgres.pool(2).await;
    let inbox = billing().open(&pool).await.unwrap();
    let mails = Inbox::consumer("mails").open(&pool).await.unwrap();
    let mut admin = postgres.database.connect().await;
    run(
        &mut admin,
        "insert into onlyonce_inbox_foreign (consumer, message_id, seen_at) \
         select 'billing', 'old_' || n, statement_timestamp() - interval '8 days' from generate_series(1, 2500) n",
    )
    .await;
    apply(&inbox, &foreign("recent")).await.unwrap();
    apply(&mails, &foreign("recent")).await.unwrap();
    assert_eq!(mails.sweep().await.unwrap().messages, 2_500);
    assert_eq!(mails.sweep().await.unwrap().messages, 0);
    let rows = "select count(*) from onlyonce_inbox_foreign";
    assert_eq!(postgres.value::<i64>(rows).await, 2);
}

/// A sender's clock that is ahead must not shorten the memory of its messages.
#[tokio::test]
async fn a_message_made_in_the_future_is_known_as_long_as_it_is_admitted() {
    let postgres = Postgres::fresh().await;
    let inbox = billing().open(&postgres.pool(1).await).await.unwrap();
    let now = crate::fixture::fresh().id().made_at().unwrap();
    let message = foreign("ahead").made_at(now + HOUR);
    apply(&inbox, &message).await.unwrap();
    let ahead = "select seen_at > statement_timestamp() + interval '59 minutes' from onlyonce_inbox_foreign";
    assert!(postgres.value::<bool>(ahead).await);
}

#[tokio::test]
async fn sweeping_goes_on_by_itself() {
    let postgres = Postgres::fresh().await;
    let inbox = window(4).open(&postgres.pool(1).await).await.unwrap();
    apply(&inbox, &made_ago(DAY * 3)).await.unwrap();
    let sweeping = tokio::spawn(inbox.sweep_every(Duration::from_millis(10)));
    let mut admin = postgres.database.connect().await;
    run(
        &mut admin,
        "update onlyonce_inbox_consumer set keep = interval '1 day'",
    )
    .await;
    crate::fixture::eventually(
        &mut admin,
        "the day to be dropped",
        "select count(*) = 0 from onlyonce_inbox_message",
    )
    .await;
    sweeping.abort();
}
