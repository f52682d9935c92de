//! What may have been forgotten is not applied.

use std::time::{Duration, SystemTime};

use onlyonce_outbox::inbox::{Inbox, Outcome};

use crate::fixture::{DAY, HOUR, Postgres, apply, billing, foreign, fresh, made_ago, made_in};

#[tokio::test]
async fn a_message_older_than_the_window_is_not_applied() {
    let postgres = Postgres::fresh().await;
    let inbox = billing().open(&postgres.pool(1).await).await.unwrap();
    let minute = Duration::from_secs(60);
    for (message, outcome) in [
        (made_ago(DAY * 7 - minute), Outcome::Applied(())),
        (made_ago(DAY * 7 + minute), Outcome::TooOld),
        (made_ago(DAY * 400), Outcome::TooOld),
        (made_in(HOUR), Outcome::Applied(())),
        (made_in(DAY * 6), Outcome::Applied(())),
    ] {
        assert_eq!(apply(&inbox, &message).await.unwrap(), outcome);
        let applied = i64::from(outcome == Outcome::Applied(()));
        assert_eq!(postgres.effects(&message).await, applied);
    }
}

#[tokio::test]
async fn ids_that_say_nothing_go_by_what_the_message_says() {
    let postgres = Postgres::fresh().await;
    let inbox = billing().open(&postgres.pool(1).await).await.unwrap();
    let now = fresh().id().made_at().unwrap();
    for (id, made_at, outcome) in [
        ("evt_1", now - DAY * 6, Outcome::Applied(())),
        ("evt_2", now - DAY * 8, Outcome::TooOld),
        ("evt_3", SystemTime::UNIX_EPOCH - DAY, Outcome::TooOld),
        ("evt_4", now + DAY * 100_000, Outcome::Applied(())),
        ("evt_5", now + DAY * 10_000_000, Outcome::Applied(())),
    ] {
        let message = foreign(id).made_at(made_at);
        assert_eq!(apply(&inbox, &message).await.unwrap(), outcome, "{id}");
    }
}

/// No partition is made for it: a sender whose clock is wrong could make any number of tables.
#[tokio::test]
async fn an_id_of_the_far_future_is_refused() {
    let postgres = Postgres::fresh().await;
    let inbox = billing().open(&postgres.pool(1).await).await.unwrap();
    for ahead in [DAY * 9, DAY * 1_000_000] {
        let message = made_in(ahead);
        let outcome = apply(&inbox, &message).await.unwrap();
        assert_eq!(outcome, Outcome::TooNew);
        assert!(!outcome.is_done());
        assert_eq!(postgres.effects(&message).await, 0);
    }
    assert_eq!(apply(&inbox, &fresh()).await.unwrap(), Outcome::Applied(()));
}

/// The days of a window that was longer in the past, or that nobody swept for, are made when they are needed.
#[tokio::test]
async fn a_day_that_is_missing_is_made() {
    let postgres = Postgres::behind_pgbouncer().await;
    let inbox = billing().open(&postgres.pool(2).await).await.unwrap();
    let partitions =
        "select count(*) from pg_inherits where inhparent = 'onlyonce_inbox_message'::regclass";
    let before: i64 = postgres.value(partitions).await;
    let message = made_ago(DAY * 3);
    let drop = "do $$ declare day text := to_char(now() at time zone 'UTC' - interval '3 days', 'YYYYMMDD'); \
         begin execute 'drop table onlyonce_inbox_message_' || day; end $$";
    crate::fixture::run(&mut postgres.database.connect().await, drop).await;
    assert_eq!(apply(&inbox, &message).await.unwrap(), Outcome::Applied(()));
    assert_eq!(postgres.value::<i64>(partitions).await, before);
    let again = apply(&inbox, &message).await.unwrap();
    assert_eq!(again, Outcome::Duplicate(None));
}

/// What was forgotten under a short window stays refused under a long one.
#[tokio::test]
async fn a_longer_window_does_not_bring_back_what_was_forgotten() {
    let postgres = Postgres::fresh().await;
    let pool = postgres.pool(1).await;
    let (recent, old) = (made_ago(HOUR), made_ago(DAY * 3));
    let inbox = billing().open(&pool).await.unwrap();
    for message in [&recent, &old] {
        assert_eq!(apply(&inbox, message).await.unwrap(), Outcome::Applied(()));
    }
    let short = billing().dedupe_window(DAY).max_delivery_age(HOUR, HOUR);
    short.open(&pool).await.unwrap().sweep().await.unwrap();
    let inbox = billing().open(&pool).await.unwrap();
    assert_eq!(apply(&inbox, &old).await.unwrap(), Outcome::TooOld);
    assert_eq!(
        apply(&inbox, &recent).await.unwrap(),
        Outcome::Duplicate(None)
    );
    // A consumer that is new has forgotten nothing.
    let new = Inbox::consumer("new").open(&pool).await.unwrap();
    assert_eq!(apply(&new, &old).await.unwrap(), Outcome::Applied(()));
}
