//! Keys of which nothing comes any more are forgotten, and nothing that was overtaken comes through by that.

use onlyonce_outbox::inbox::Outcome;
use onlyonce_test::event::{Gate, within};
use sqlx::postgres::PgConnection;

use crate::fixture::{DAY, Postgres, apply, billing, enter, foreign, fresh, made_ago, run};

const AGE: &str = "update onlyonce_inbox_order set seen_on = seen_on - 9";
const KEYS: &str =
    "select coalesce(string_agg(key, ',' order by key), '') from onlyonce_inbox_order";

#[tokio::test]
async fn a_key_is_forgotten_when_what_it_overtook_is_too_old() {
    for postgres in [Postgres::fresh().await, Postgres::behind_pgbouncer().await] {
        let inbox = billing().open(&postgres.pool(1).await).await.unwrap();
        for key in ["busy", "silent"] {
            let message = fresh().ordered_by(key, 5);
            assert_eq!(apply(&inbox, &message).await.unwrap(), Outcome::Applied(()));
        }
        assert_eq!(inbox.sweep().await.unwrap().keys, 0);
        let mut admin = postgres.database.connect().await;
        run(&mut admin, AGE).await;
        let next = fresh().ordered_by("busy", 6);
        assert_eq!(apply(&inbox, &next).await.unwrap(), Outcome::Applied(()));
        assert_eq!(inbox.sweep().await.unwrap().keys, 1);
        assert_eq!(postgres.value::<String>(KEYS).await, "busy");
        for (message, outcome) in [
            (fresh().ordered_by("busy", 5), Outcome::Overtaken),
            // Sent before the last one that the key had, and delivered only now.
            (made_ago(DAY * 10).ordered_by("silent", 4), Outcome::TooOld),
            (fresh().ordered_by("silent", 1), Outcome::Applied(())),
        ] {
            assert_eq!(
                apply(&inbox, &message).await.unwrap(),
                outcome,
                "{message:?}"
            );
        }
    }
}

/// A window of 7 days and the day more: neither a day too early nor one at a time.
#[tokio::test]
async fn many_keys_go_and_none_too_early() {
    let postgres = Postgres::fresh().await;
    let inbox = billing().open(&postgres.pool(1).await).await.unwrap();
    let mut admin = postgres.database.connect().await;
    run(
        &mut admin,
        "insert into onlyonce_inbox_order (consumer, key, sequence, seen_on) \
         select 'billing', 'k' || n, 1, (statement_timestamp() at time zone 'UTC')::date - 10 \
         from generate_series(1, 2500) n \
         union all select 'billing', 'recent', 1, (statement_timestamp() at time zone 'UTC')::date - 8 \
         union all select 'elsewhere', 'k', 1, '2020-01-01'",
    )
    .await;
    assert_eq!(inbox.sweep().await.unwrap().keys, 2_500);
    assert_eq!(postgres.value::<String>(KEYS).await, "k,recent");
}

#[tokio::test]
async fn a_key_with_a_message_under_way_stays_and_nobody_waits() {
    let postgres = Postgres::fresh().await;
    let inbox = billing().open(&postgres.pool(3).await).await.unwrap();
    apply(&inbox, &fresh().ordered_by("key", 1)).await.unwrap();
    run(&mut postgres.database.connect().await, AGE).await;
    let gate = Gate::default();
    let working = tokio::spawn({
        let (inbox, gate) = (inbox.clone(), gate.clone());
        async move {
            let message = foreign("second").ordered_by("key", 2);
            let work = async |tx: &mut PgConnection| {
                enter(tx, &message).await?;
                gate.pass().await;
                Ok::<_, sqlx::Error>(())
            };
            inbox.process(&message, work).await
        }
    });
    gate.reached(1).await;
    assert_eq!(within("the sweep", inbox.sweep()).await.unwrap().keys, 0);
    gate.open();
    let worked = within("the work", working).await.unwrap().unwrap();
    assert_eq!(worked, Outcome::Applied(()));
    assert_eq!(inbox.sweep().await.unwrap().keys, 0);
    let earlier = foreign("first").ordered_by("key", 1);
    assert_eq!(apply(&inbox, &earlier).await.unwrap(), Outcome::Overtaken);
}
