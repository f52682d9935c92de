//! Everything comes several times, in random order and at once: one effect each.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use onlyonce_outbox::inbox::{Inbox, Message, Outcome};
use onlyonce_test::event::within;
use proptest::prelude::*;
use proptest::sample::subsequence;
use proptest::test_runner::{Config, TestRunner};
use sqlx::postgres::PgConnection;
use tokio::task::JoinSet;

use crate::fixture::{Postgres, apply, billing, enter, foreign, fresh, run};

#[tokio::test]
async fn a_message_is_applied_once() {
    for postgres in [Postgres::fresh().await, Postgres::behind_pgbouncer().await] {
        let inbox = billing().open(&postgres.pool(2).await).await.unwrap();
        for message in [fresh(), foreign("evt_1")] {
            let first = apply(&inbox, &message).await.unwrap();
            assert_eq!(first, Outcome::Applied(()));
            for _ in 0..3 {
                let again = apply(&inbox, &message).await.unwrap();
                assert_eq!(again, Outcome::Duplicate(None));
                assert!(again.is_done());
            }
            assert_eq!(postgres.effects(&message).await, 1);
        }
    }
}

/// Another consumer applies it too; another inbox of the same consumer does not.
#[tokio::test]
async fn consumers_do_not_know_of_each_other() {
    let postgres = Postgres::fresh().await;
    let pool = postgres.pool(2).await;
    let (billing, mails) = (billing().open(&pool), Inbox::consumer("mails").open(&pool));
    let (billing, mails) = (billing.await.unwrap(), mails.await.unwrap());
    let message = fresh();
    for (inbox, effects) in [(&billing, 1), (&mails, 2), (&billing, 2)] {
        apply(inbox, &message).await.unwrap();
        assert_eq!(postgres.effects(&message).await, effects);
    }
    let other = crate::fixture::billing().open(&pool).await.unwrap();
    let outcome = apply(&other, &message).await.unwrap();
    assert_eq!(outcome, Outcome::Duplicate(None));
}

#[tokio::test]
async fn what_applying_came_to_can_be_kept() {
    for postgres in [Postgres::fresh().await, Postgres::behind_pgbouncer().await] {
        let inbox = billing().open(&postgres.pool(2).await).await.unwrap();
        for message in [fresh(), foreign("evt_1")] {
            let keep = |answer: u32| {
                let (inbox, message) = (inbox.clone(), message.clone());
                tokio::spawn(async move {
                    let work = async |tx: &mut PgConnection| {
                        enter(tx, &message).await?;
                        Ok::<_, sqlx::Error>(vec![answer])
                    };
                    inbox.process_keeping(&message, work).await.unwrap()
                })
            };
            assert_eq!(keep(1).await.unwrap(), Outcome::Applied(vec![1]));
            assert_eq!(keep(2).await.unwrap(), Outcome::Duplicate(Some(vec![1])));
            assert_eq!(postgres.effects(&message).await, 1);
        }
        let message = fresh();
        apply(&inbox, &message).await.unwrap();
        let kept = inbox.process_keeping(&message, async |_| Ok::<_, sqlx::Error>(1));
        assert_eq!(kept.await.unwrap(), Outcome::Duplicate(None));
    }
}

#[tokio::test]
async fn a_transaction_of_the_callers_own_admits_a_message_once() {
    use onlyonce_outbox::inbox::Admission;

    let postgres = Postgres::behind_pgbouncer().await;
    let pool = postgres.pool(1).await;
    let inbox = billing().open(&pool).await.unwrap();
    let message = fresh();
    for (end, admission) in [
        ("rollback", Admission::New),
        ("commit", Admission::New),
        ("commit", Admission::Duplicate),
    ] {
        let mut connection = pool.acquire().await.unwrap();
        run(&mut connection, "begin").await;
        let admitted = inbox.admit(&mut connection, &message).await.unwrap();
        assert_eq!(admitted, admission);
        if admitted == Admission::New {
            enter(&mut connection, &message).await.unwrap();
        }
        run(&mut connection, end).await;
    }
    assert_eq!(postgres.effects(&message).await, 1);
}

/// One delivery: of which message, and whether the work fails.
type Delivery = (usize, bool);

fn deliveries() -> impl Strategy<Value = Vec<Delivery>> {
    let all: Vec<usize> = (0..12).flat_map(|message| [message; 4]).collect();
    let most = all.len();
    subsequence(all, most / 2..=most)
        .prop_shuffle()
        .prop_flat_map(|order| {
            let failing = prop::collection::vec(prop::bool::weighted(0.3), order.len());
            (Just(order), failing)
        })
        .prop_map(|(order, failing)| order.into_iter().zip(failing).collect())
}

/// Each message of a schedule that is delivered at least once without failing has one effect; all others have
/// none. Four deliver at once.
#[test]
fn random_redelivery_has_one_effect() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (postgres, inbox) = runtime.block_on(async {
        let postgres = Postgres::behind_pgbouncer().await;
        let inbox = billing().open(&postgres.pool(4).await).await.unwrap();
        (postgres, inbox)
    });
    let config = Config {
        cases: 20,
        failure_persistence: None,
        ..Config::default()
    };
    let outcome = TestRunner::new(config).run(&deliveries(), |schedule| {
        runtime.block_on(one_effect(&postgres, &inbox, &schedule));
        Ok(())
    });
    runtime.block_on(async { drop(postgres) });
    outcome.unwrap();
}

async fn one_effect(postgres: &Postgres, inbox: &Inbox, schedule: &[Delivery]) {
    let messages: Vec<_> = (0..12)
        .map(|n| match n % 3 {
            0 => foreign(&format!("evt_{}", fresh().id())),
            _ => fresh(),
        })
        .collect();
    let delivered: Arc<Vec<(Message, bool)>> = Arc::new(
        schedule
            .iter()
            .map(|(message, fails)| (messages[*message].clone(), *fails))
            .collect(),
    );
    let next = Arc::new(AtomicUsize::new(0));
    let mut delivering = JoinSet::new();
    for _ in 0..4 {
        let (inbox, delivered, next) = (inbox.clone(), Arc::clone(&delivered), Arc::clone(&next));
        delivering.spawn(async move {
            while let Some((message, fails)) = delivered.get(next.fetch_add(1, Ordering::Relaxed)) {
                let work = inbox.process(message, async |tx| {
                    enter(tx, message)
                        .await
                        .map_err(|error| error.to_string())?;
                    if *fails {
                        Err("failed".to_owned())
                    } else {
                        Ok(())
                    }
                });
                // Whatever came of it: what failed is delivered again, or was not meant to be applied.
                let _ = work.await;
            }
        });
    }
    within("all deliveries", delivering.join_all()).await;
    for (n, message) in messages.iter().enumerate() {
        let succeeds = schedule.iter().any(|(m, fails)| *m == n && !fails);
        let effects = postgres.effects(message).await;
        assert_eq!(effects, i64::from(succeeds), "message {n} of {schedule:?}");
    }
}
