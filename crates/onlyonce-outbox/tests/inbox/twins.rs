//! The same message twice at the same time.

use std::time::Duration;

use onlyonce_outbox::inbox::{Admission, Inbox, Message, Outcome};
use onlyonce_test::event::{Gate, within};
use sqlx::postgres::PgConnection;
use tokio::task::JoinHandle;

use crate::fixture::{
    Postgres, Processed, apply, billing, enter, eventually, foreign, fresh, run, value, waiting,
};

/// Begins to apply a message, and goes on when the gate opens.
fn held(inbox: &Inbox, message: &Message, gate: &Gate, fails: bool) -> JoinHandle<Processed> {
    let (inbox, message, gate) = (inbox.clone(), message.clone(), gate.clone());
    tokio::spawn(async move {
        let work = async |tx: &mut PgConnection| {
            enter(tx, &message).await?;
            gate.pass().await;
            if fails {
                Err(sqlx::Error::RowNotFound)
            } else {
                Ok(())
            }
        };
        inbox.process(&message, work).await
    })
}

/// And is applied itself, if the first one fails.
#[tokio::test]
async fn a_twin_waits_for_the_first() {
    for postgres in [Postgres::fresh().await, Postgres::behind_pgbouncer().await] {
        let patient = billing().twin_wait(Duration::from_secs(60));
        let inbox = patient.open(&postgres.pool(2).await).await.unwrap();
        let mut admin = postgres.database.connect().await;
        for (message, fails) in [
            (fresh(), false),
            (fresh(), true),
            (foreign("evt_1"), false),
            (foreign("evt_2"), true),
        ] {
            let gate = Gate::default();
            let first = held(&inbox, &message, &gate, fails);
            gate.reached(1).await;
            let twin = tokio::spawn({
                let (inbox, message) = (inbox.clone(), message.clone());
                async move { apply(&inbox, &message).await }
            });
            eventually(&mut admin, "the twin to wait", &waiting(1)).await;
            gate.open();
            let first = within("the first", first).await.unwrap();
            let twin = within("the twin", twin).await.unwrap().unwrap();
            assert_eq!(first.is_err(), fails);
            let expected = if fails {
                Outcome::Applied(())
            } else {
                Outcome::Duplicate(None)
            };
            assert_eq!(twin, expected);
            assert_eq!(postgres.effects(&message).await, 1);
        }
    }
}

#[tokio::test]
async fn a_twin_does_not_wait_for_ever() {
    let postgres = Postgres::behind_pgbouncer().await;
    let impatient = billing().twin_wait(Duration::from_millis(20));
    let inbox = impatient.open(&postgres.pool(3).await).await.unwrap();
    for message in [fresh(), foreign("evt_1")] {
        let gate = Gate::default();
        let first = held(&inbox, &message, &gate, false);
        gate.reached(1).await;
        for _ in 0..3 {
            let twin = apply(&inbox, &message).await.unwrap();
            assert_eq!(twin, Outcome::Busy);
            assert!(!twin.is_done());
        }
        // Others do not wait.
        assert_eq!(apply(&inbox, &fresh()).await.unwrap(), Outcome::Applied(()));
        gate.open();
        let first = within("the first", first).await.unwrap().unwrap();
        assert_eq!(first, Outcome::Applied(()));
        assert_eq!(
            apply(&inbox, &message).await.unwrap(),
            Outcome::Duplicate(None)
        );
    }
}

/// The time-out for twins is not the application's.
#[tokio::test]
async fn the_time_out_for_locks_is_as_it_was() {
    let postgres = Postgres::fresh().await;
    let pool = postgres.pool(1).await;
    let inbox = billing().open(&pool).await.unwrap();
    let setting = "select current_setting('lock_timeout')";
    let message = fresh();
    let seen = inbox.process(&message, async |tx| {
        Ok::<_, sqlx::Error>(value::<String>(tx, setting).await)
    });
    assert_eq!(seen.await.unwrap(), Outcome::Applied("0".to_owned()));
    // For duplicates and the old ones too, where the transaction is the caller's.
    let mut connection = pool.acquire().await.unwrap();
    run(&mut connection, "begin; set local lock_timeout = '7s'").await;
    let admitted = inbox.admit(&mut connection, &message).await.unwrap();
    assert_eq!(admitted, Admission::Duplicate);
    assert_eq!(value::<String>(&mut connection, setting).await, "7s");
    let old = crate::fixture::made_ago(crate::fixture::DAY * 8);
    let admitted = inbox.admit(&mut connection, &old).await.unwrap();
    assert_eq!(admitted, Admission::TooOld);
    assert_eq!(value::<String>(&mut connection, setting).await, "7s");
    run(&mut connection, "rollback").await;
}
