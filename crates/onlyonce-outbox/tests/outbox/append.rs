//! Writing events: with their transaction or not at all, and numbered in the order of the commits.

use onlyonce_outbox::{Appender, Buffer, Error, Event, Origin, append};
use onlyonce_test::event::within;

use crate::fixture::{Postgres, eventually, run, value, waiting};

const ALL: &str = "select count(*) from onlyonce_outbox_event";

fn payment(key: u32) -> Event {
    Event::new("payments", key).kind("charged")
}

#[tokio::test]
async fn events_go_with_their_transaction() {
    for postgres in [Postgres::fresh().await, Postgres::behind_pgbouncer().await] {
        let mut connection = postgres.connect().await;
        let mut outbox = Buffer::default();
        for end in ["rollback", "commit"] {
            run(&mut connection, "begin").await;
            outbox.emit(payment(1).json(&12).unwrap().header("tenant", "acme"));
            outbox.emit(Event::unordered("audit").bytes("image/png", vec![0, 255]));
            let origin = Origin::new("scope", "key-1");
            let appended = outbox.flush(&mut connection, Some(&origin)).await.unwrap();
            assert_eq!(appended.events(), 2);
            assert!(outbox.events().is_empty());
            run(&mut connection, end).await;
            let committed = if end == "commit" { 2 } else { 0 };
            assert_eq!(value::<i64>(&mut connection, ALL).await, committed);
        }
        let row = "select string_agg(concat_ws('|', topic, key, kind, content_type, headers->>'tenant', \
             encode(payload, 'hex'), origin_scope, origin_key), ' ' order by id) from onlyonce_outbox_event";
        assert_eq!(
            value::<String>(&mut connection, row).await,
            "payments|1|charged|application/json|acme|3132|scope|key-1 audit|audit|image/png|00ff|scope|key-1"
        );
        let view = "select count(*) from onlyonce_outbox_debezium \
             where (aggregatetype, aggregateid, type, payload) = ('payments', '1', 'charged', '12'::bytea)";
        assert_eq!(value::<i64>(&mut connection, view).await, 1);
    }
}

/// A transaction that got its id first and its event last comes second, also in the numbers.
#[tokio::test]
async fn the_second_to_append_waits_for_the_first_to_commit() {
    let postgres = Postgres::fresh().await;
    let (mut early, mut late) = (postgres.connect().await, postgres.connect().await);
    let mut admin = postgres.database.connect().await;
    run(&mut early, "begin; select pg_current_xact_id()").await;
    run(&mut late, "begin").await;
    append(&mut late, &[payment(1).kind("first")], None)
        .await
        .unwrap();
    let waits = tokio::spawn(async move {
        append(&mut early, &[payment(1).kind("second"), payment(2)], None)
            .await
            .unwrap();
        run(&mut early, "commit").await;
    });
    eventually(
        &mut admin,
        "the second to wait for the key's lock",
        &waiting(1),
    )
    .await;
    // Other keys are free.
    append(&mut admin, &[payment(3)], None).await.unwrap();
    run(&mut late, "commit").await;
    within("the second to commit", waits).await.unwrap();
    let order =
        "select string_agg(kind, ' ' order by id) from onlyonce_outbox_event where key = '1'";
    assert_eq!(value::<String>(&mut admin, order).await, "first second");
}

/// Each takes several keys, all in another order.
#[tokio::test]
async fn transactions_with_several_keys_do_not_deadlock() {
    let postgres = Postgres::behind_pgbouncer().await;
    let mut working = tokio::task::JoinSet::new();
    for worker in 0..8_u32 {
        let mut connection = postgres.connect().await;
        working.spawn(async move {
            for round in 0..25 {
                let mut events: Vec<_> = (0..6).map(payment).collect();
                events.rotate_left(usize::try_from(worker % 6).unwrap());
                if round % 2 == 0 {
                    events.reverse();
                }
                run(&mut connection, "begin").await;
                append(&mut connection, &events, None).await.unwrap();
                run(&mut connection, "commit").await;
            }
        });
    }
    within("all transactions", working.join_all()).await;
    let mut admin = postgres.database.connect().await;
    assert_eq!(value::<i64>(&mut admin, ALL).await, 8 * 25 * 6);
}

#[tokio::test]
async fn events_of_one_append_are_numbered_in_their_order() {
    let postgres = Postgres::fresh().await;
    let mut connection = postgres.connect().await;
    let events: Vec<_> = (0..500).map(payment).collect();
    let prepared = Appender::default().prepared();
    let appended = prepared
        .append(&mut connection, &events, None)
        .await
        .unwrap();
    assert_eq!(appended.events(), 500);
    let order = "select array_agg(key::int order by id) = array(select generate_series(0, 499)) \
         from onlyonce_outbox_event";
    assert!(value::<bool>(&mut connection, order).await);
}

#[tokio::test]
async fn what_cannot_be_appended_is_said_before_anything_is_sent() {
    let postgres = Postgres::fresh().await;
    let mut connection = postgres.connect().await;
    run(&mut connection, "begin").await;
    let bad = Event::new("pay\0ments", 1);
    let error = append(&mut connection, &[payment(1), bad], None)
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Invalid { .. }), "{error:?}");
    let many: Vec<_> = (0..1_001).map(payment).collect();
    let error = append(&mut connection, &many, None).await.unwrap_err();
    assert!(matches!(error, Error::TooManyKeys { .. }), "{error:?}");
    // The transaction is as good as before.
    assert!(append(&mut connection, &[], None).await.unwrap().is_empty());
    let unordered: Vec<_> = (0..2_000).map(|_| Event::unordered("audit")).collect();
    let appended = append(&mut connection, &unordered, None).await.unwrap();
    assert_eq!(appended.events(), 2_000);
    run(&mut connection, "commit").await;
}
