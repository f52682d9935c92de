//! Stricter isolation levels: collisions fail instead of waiting, and are retried where that is asked for.

use std::sync::atomic::{AtomicU32, Ordering};

use onlyonce_outbox::inbox::{Isolation, Outcome, ProcessError};
use onlyonce_outbox::is_transient;
use onlyonce_test::event::{Gate, within};
use sqlx::postgres::PgConnection;

use crate::fixture::{Postgres, apply, billing, enter, eventually, fresh, run, value, waiting};

#[tokio::test]
async fn a_twin_that_collides_is_found_to_be_one_when_it_is_retried() {
    for isolation in [Isolation::RepeatableRead, Isolation::Serializable] {
        let postgres = Postgres::behind_pgbouncer().await;
        let strict = billing().isolation(isolation);
        let inbox = strict.open(&postgres.pool(3).await).await.unwrap();
        let message = fresh();
        let gate = Gate::default();
        let held = {
            let (inbox, message, gate) = (inbox.clone(), message.clone(), gate.clone());
            tokio::spawn(async move {
                let work = async |tx: &mut PgConnection| {
                    enter(tx, &message).await?;
                    gate.pass().await;
                    Ok::<_, sqlx::Error>(())
                };
                inbox.process(&message, work).await
            })
        };
        gate.reached(1).await;
        let twins = [false, true].map(|retried| {
            let (inbox, message) = (inbox.clone(), message.clone());
            tokio::spawn(async move {
                if !retried {
                    return apply(&inbox, &message).await;
                }
                let work = async |tx: &mut PgConnection| enter(tx, &message).await;
                inbox
                    .process_retrying(&message, 3, is_transient, work)
                    .await
            })
        });
        let mut admin = postgres.database.connect().await;
        eventually(&mut admin, "the twins to wait", &waiting(2)).await;
        gate.open();
        within("the first", held).await.unwrap().unwrap();
        let [once, retried] = twins;
        let error = within("a twin", once).await.unwrap().unwrap_err();
        assert!(
            matches!(&error, ProcessError::NotApplied(error) if error.is_transient()),
            "{error:?}"
        );
        let retried = within("the other twin", retried).await.unwrap().unwrap();
        assert_eq!(retried, Outcome::Duplicate(None));
        assert_eq!(postgres.effects(&message).await, 1);
    }
}

/// The work itself collides with another transaction.
#[tokio::test]
async fn work_that_collides_is_run_again() {
    let postgres = Postgres::fresh().await;
    let strict = billing().isolation(Isolation::RepeatableRead);
    let inbox = strict.open(&postgres.pool(1).await).await.unwrap();
    let mut admin = postgres.database.connect().await;
    run(
        &mut admin,
        "create table balance (amount int); insert into balance values (0)",
    )
    .await;
    let (message, runs) = (fresh(), AtomicU32::new(0));
    let work = async |tx: &mut PgConnection| {
        if runs.fetch_add(1, Ordering::Relaxed) < 2 {
            let mut other = postgres.database.connect().await;
            run(&mut other, "update balance set amount = amount + 1").await;
        }
        let add = sqlx::raw_sql("update balance set amount = amount + 10");
        add.execute(tx).await.map(drop)
    };
    let outcome = inbox
        .process_retrying(&message, 3, is_transient, work)
        .await;
    assert_eq!(outcome.unwrap(), Outcome::Applied(()));
    assert_eq!(runs.load(Ordering::Relaxed), 3);
    let amount = value::<i32>(&mut admin, "select amount from balance").await;
    assert_eq!(amount, 12);
}

#[tokio::test]
async fn attempts_come_to_an_end() {
    let postgres = Postgres::fresh().await;
    let inbox = billing().open(&postgres.pool(1).await).await.unwrap();
    let (message, runs) = (fresh(), AtomicU32::new(0));
    let work = async |_: &mut PgConnection| {
        runs.fetch_add(1, Ordering::Relaxed);
        Err::<(), _>("again")
    };
    let outcome = inbox.process_retrying(&message, 4, |_| true, work).await;
    assert!(matches!(outcome, Err(ProcessError::Work("again"))));
    assert_eq!(runs.load(Ordering::Relaxed), 4);
}
