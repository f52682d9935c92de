//! Messages of one key, of which only what is later than the last one counts.

use onlyonce_outbox::inbox::{Inbox, Outcome};
use onlyonce_test::event::within;

use crate::fixture::{Postgres, apply, billing, foreign, fresh};

#[tokio::test]
async fn what_comes_after_a_later_one_is_not_applied() {
    for postgres in [Postgres::fresh().await, Postgres::behind_pgbouncer().await] {
        let pool = postgres.pool(1).await;
        let inbox = billing().open(&pool).await.unwrap();
        let earlier = fresh().ordered_by("account-1", 1);
        for (message, outcome) in [
            (
                foreign("evt").ordered_by("account-1", 2),
                Outcome::Applied(()),
            ),
            (earlier.clone(), Outcome::Overtaken),
            (earlier.clone(), Outcome::Overtaken),
            (
                foreign("evt").ordered_by("account-1", 2),
                Outcome::Duplicate(None),
            ),
            (fresh().ordered_by("account-1", 2), Outcome::Overtaken),
            (fresh().ordered_by("account-1", 3), Outcome::Applied(())),
            (fresh().ordered_by("account-2", 1), Outcome::Applied(())),
            (fresh(), Outcome::Applied(())),
        ] {
            let got = apply(&inbox, &message).await.unwrap();
            assert_eq!(got, outcome, "{message:?}");
            assert!(got.is_done());
        }
        assert_eq!(postgres.effects(&earlier).await, 0);
        // Each consumer is where it is.
        let mails = Inbox::consumer("mails").open(&pool).await.unwrap();
        let outcome = apply(&mails, &earlier).await.unwrap();
        assert_eq!(outcome, Outcome::Applied(()));
    }
}

/// In whatever order they are begun, the last one applied is the latest.
#[tokio::test]
async fn messages_of_one_key_go_one_by_one() {
    let postgres = Postgres::fresh().await;
    let inbox = billing().open(&postgres.pool(8).await).await.unwrap();
    let mut applying = tokio::task::JoinSet::new();
    for sequence in [5, 3, 8, 1, 7, 2, 6, 4] {
        let inbox = inbox.clone();
        applying.spawn(async move {
            let message = foreign(&format!("evt_{sequence}")).ordered_by("account", sequence);
            apply(&inbox, &message).await
        });
    }
    let outcomes = within("all of them", applying.join_all()).await;
    assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
    assert_eq!(postgres.effects(&foreign("evt_8")).await, 1);
    let rising = "select bool_and(rising) from ( \
         select message > coalesce(lag(message) over (order by ctid), '') as rising from ledger) rows";
    assert!(postgres.value::<bool>(rising).await);
}
