//! Work that fails, and connections that are lost.

use std::mem::ManuallyDrop;

use onlyonce_outbox::inbox::{Inbox, Message, Outcome, ProcessError};
use onlyonce_test::fault::Action;
use sqlx::Connection;
use sqlx::postgres::PgConnection;

use crate::fixture::{
    Postgres, Processed, apply, billing, enter, foreign, fresh, pool, run, value,
};

async fn fail(inbox: &Inbox, message: &Message) -> Processed {
    let work = async |tx: &mut PgConnection| {
        enter(tx, message).await?;
        Err(sqlx::Error::RowNotFound)
    };
    inbox.process(message, work).await
}

#[tokio::test]
async fn a_message_whose_work_failed_is_as_new_as_before() {
    for postgres in [Postgres::fresh().await, Postgres::behind_pgbouncer().await] {
        let inbox = billing().open(&postgres.pool(1).await).await.unwrap();
        for message in [fresh(), foreign("evt_1")] {
            for _ in 0..3 {
                let error = fail(&inbox, &message).await.unwrap_err();
                assert!(
                    matches!(error, ProcessError::Work(sqlx::Error::RowNotFound)),
                    "{error:?}"
                );
                assert_eq!(postgres.effects(&message).await, 0);
            }
            let outcome = apply(&inbox, &message).await.unwrap();
            assert_eq!(outcome, Outcome::Applied(()));
            assert_eq!(postgres.effects(&message).await, 1);
        }
    }
}

/// `COMMIT` in a transaction that has failed answers without an error.
#[tokio::test]
async fn work_that_hides_a_failed_statement_is_found_out() {
    let postgres = Postgres::fresh().await;
    let inbox = billing().open(&postgres.pool(1).await).await.unwrap();
    let message = fresh();
    let work = async |tx: &mut PgConnection| {
        enter(tx, &message).await?;
        let _ = sqlx::raw_sql("select 1 / 0").execute(&mut *tx).await;
        Ok::<_, sqlx::Error>(())
    };
    let error = inbox.process(&message, work).await.unwrap_err();
    assert!(error.to_string().contains("nothing was applied"), "{error}");
    assert_eq!(postgres.effects(&message).await, 0);
    assert_eq!(apply(&inbox, &message).await.unwrap(), Outcome::Applied(()));
}

#[tokio::test]
async fn work_that_ends_the_transaction_is_found_out() {
    let postgres = Postgres::fresh().await;
    let inbox = billing().open(&postgres.pool(1).await).await.unwrap();
    let message = fresh();
    let work = async |tx: &mut PgConnection| {
        enter(tx, &message).await?;
        run(tx, "commit").await;
        Ok::<_, sqlx::Error>(())
    };
    let error = inbox.process(&message, work).await.unwrap_err();
    assert!(matches!(error, ProcessError::Unknown(_)), "{error:?}");
    assert_eq!(
        apply(&inbox, &message).await.unwrap(),
        Outcome::Duplicate(None)
    );
}

/// Another transaction is open then, which has not noted the message.
#[tokio::test]
async fn work_that_ends_the_transaction_and_chains_another_is_found_out() {
    let postgres = Postgres::fresh().await;
    let inbox = billing().open(&postgres.pool(1).await).await.unwrap();
    for (end, next) in [
        ("rollback and chain", Outcome::Applied(())),
        ("commit and chain", Outcome::Duplicate(None)),
    ] {
        let message = fresh();
        let work = async |tx: &mut PgConnection| {
            enter(tx, &message).await?;
            run(tx, end).await;
            enter(tx, &message).await
        };
        let error = inbox.process(&message, work).await.unwrap_err();
        match &next {
            Outcome::Applied(()) => assert!(matches!(error, ProcessError::NotApplied(_))),
            _ => assert!(matches!(error, ProcessError::Unknown(_))),
        }
        assert!(error.to_string().contains("itself"), "{error}");
        assert_eq!(apply(&inbox, &message).await.unwrap(), next);
        assert_eq!(postgres.effects(&message).await, 1);
    }
}

/// The driver's commit releases a savepoint then.
#[tokio::test]
async fn work_that_leaks_a_transaction_within_is_found_out() {
    let postgres = Postgres::fresh().await;
    let inbox = billing().open(&postgres.pool(1).await).await.unwrap();
    for fails in [false, true] {
        let message = fresh();
        let work = async |tx: &mut PgConnection| {
            enter(tx, &message).await?;
            let _leaked = ManuallyDrop::new(tx.begin().await?);
            if fails {
                return Err(sqlx::Error::RowNotFound);
            }
            Ok(())
        };
        let error = inbox.process(&message, work).await.unwrap_err();
        match error {
            ProcessError::Work(_) => assert!(fails),
            ProcessError::NotApplied(error) => {
                assert!(!fails && error.to_string().contains("nothing was applied"));
            }
            other => panic!("{other:?}"),
        }
        // The pool has one connection: it is not the one that was in the middle of something.
        assert_eq!(apply(&inbox, &message).await.unwrap(), Outcome::Applied(()));
        assert_eq!(postgres.effects(&message).await, 1);
    }
}

#[tokio::test]
async fn work_may_use_savepoints() {
    let postgres = Postgres::fresh().await;
    let inbox = billing().open(&postgres.pool(1).await).await.unwrap();
    let message = fresh();
    let work = async |tx: &mut PgConnection| {
        let mut inner = tx.begin().await?;
        enter(&mut inner, &message).await?;
        inner.rollback().await?;
        let mut inner = tx.begin().await?;
        enter(&mut inner, &message).await?;
        inner.commit().await
    };
    let outcome = inbox.process(&message, work).await.unwrap();
    assert_eq!(outcome, Outcome::Applied(()));
    assert_eq!(postgres.effects(&message).await, 1);
}

#[tokio::test]
async fn work_that_panics_leaves_nothing() {
    let postgres = Postgres::fresh().await;
    let inbox = billing().open(&postgres.pool(1).await).await.unwrap();
    let message = fresh();
    let panicking = tokio::spawn({
        let (inbox, message) = (inbox.clone(), message.clone());
        async move {
            let work = async |tx: &mut PgConnection| -> Result<(), sqlx::Error> {
                enter(tx, &message).await?;
                panic!("on purpose")
            };
            inbox.process(&message, work).await
        }
    });
    assert!(panicking.await.unwrap_err().is_panic());
    assert_eq!(apply(&inbox, &message).await.unwrap(), Outcome::Applied(()));
    assert_eq!(postgres.effects(&message).await, 1);
}

/// Lost before the server saw it, or after it was done: the caller cannot know, and the next delivery does.
#[tokio::test]
async fn a_commit_without_an_answer_is_its_own_error() {
    let postgres = Postgres::fresh().await;
    let fault = postgres.fault().await;
    let inbox = billing().open(&pool(fault.url(), 1).await).await.unwrap();
    let commit = |sql: &str| sql.trim().eq_ignore_ascii_case("commit");
    for (action, next) in [
        (Action::CutBefore, Outcome::Applied(())),
        (Action::CutAfter, Outcome::Duplicate(None)),
    ] {
        for message in [fresh(), foreign(&fresh().id().to_string()[9..])] {
            let cut = fault.on_next(commit, action.clone());
            let error = apply(&inbox, &message).await.unwrap_err();
            assert!(matches!(error, ProcessError::Unknown(_)), "{error:?}");
            assert_eq!(cut.hits(), 1);
            assert_eq!(apply(&inbox, &message).await.unwrap(), next);
            assert_eq!(postgres.effects(&message).await, 1);
        }
    }
}

/// A constraint that is checked at the commit: the server says no, and that is no doubt.
#[tokio::test]
async fn a_commit_that_is_refused_is_known_to_have_failed() {
    let postgres = Postgres::fresh().await;
    let mut admin = postgres.database.connect().await;
    run(
        &mut admin,
        "alter table ledger add constraint once unique (message) deferrable initially deferred",
    )
    .await;
    let inbox = billing().open(&postgres.pool(1).await).await.unwrap();
    let message = fresh();
    let work = async |tx: &mut PgConnection| {
        enter(tx, &message).await?;
        enter(tx, &message).await
    };
    let error = inbox.process(&message, work).await.unwrap_err();
    assert!(matches!(error, ProcessError::NotApplied(_)), "{error:?}");
    assert_eq!(apply(&inbox, &message).await.unwrap(), Outcome::Applied(()));
    let rows = "select count(*) from onlyonce_inbox_message";
    assert_eq!(value::<i64>(&mut admin, rows).await, 1);
}
