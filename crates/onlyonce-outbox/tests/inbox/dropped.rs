//! A future that is dropped leaves no transaction in the pool, at whichever await it was (F5).

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;

use onlyonce_outbox::inbox::{Inbox, Message, Outcome};
use onlyonce_test::event::within;
use sqlx::postgres::PgPool;

use crate::fixture::{Postgres, apply, billing, enter, eventually, fresh, run, value};

/// Begins to process a message and drops that after so many polls that made no end of it. Answers whether it
/// came to an end before.
async fn dropped_after(polls: usize, inbox: &Inbox, message: &Message) -> bool {
    let mut processing = pin!(inbox.process(message, async |tx| enter(tx, message).await));
    let mut pending = 0;
    within(
        "the polls",
        poll_fn(|context| {
            if pending == polls {
                return Poll::Ready(false);
            }
            match processing.as_mut().poll(context) {
                Poll::Ready(outcome) => {
                    outcome.unwrap();
                    Poll::Ready(true)
                }
                Poll::Pending => {
                    pending += 1;
                    if pending == polls {
                        return Poll::Ready(false);
                    }
                    Poll::Pending
                }
            }
        }),
    )
    .await
}

/// The only connection of the pool, if it works, and is in no transaction: what it writes commits by itself.
async fn writes_commit_by_themselves(postgres: &Postgres, pool: &PgPool) {
    let mut connection = within("a connection", pool.acquire()).await.unwrap();
    run(&mut connection, "insert into ledger values ('outside')").await;
    let mut admin = postgres.database.connect().await;
    let outside = "select count(*) from ledger where message = 'outside'";
    assert_eq!(value::<i64>(&mut admin, outside).await, 1);
    run(&mut admin, "delete from ledger where message = 'outside'").await;
}

#[tokio::test]
async fn nothing_stays_open() {
    let postgres = Postgres::fresh().await;
    let pool = postgres.pool(1).await;
    let inbox = billing().open(&pool).await.unwrap();
    let mut admin = postgres.database.connect().await;
    let mut ended = 0;
    for polls in 1..100 {
        let message = fresh();
        let end = dropped_after(polls, &inbox, &message).await;
        writes_commit_by_themselves(&postgres, &pool).await;
        // The server notices in its own time that its client has left.
        let idle = "select count(*) = 0 from pg_stat_activity where datname = current_database() \
             and state like 'idle in transaction%'";
        eventually(&mut admin, "all transactions to end", idle).await;
        let before = postgres.effects(&message).await;
        let outcome = apply(&inbox, &message).await.unwrap();
        match before {
            0 => assert_eq!(outcome, Outcome::Applied(())),
            _ => assert_eq!(outcome, Outcome::Duplicate(None)),
        }
        assert_eq!(postgres.effects(&message).await, 1);
        ended += usize::from(end);
        if ended == 3 {
            return;
        }
    }
    panic!("the polls were never enough");
}
