//! What operators do: look, redrive, discard, replay.

use std::time::Duration;

use onlyonce_outbox::dead::{self, Filter, Parked};
use onlyonce_outbox::replay::{From, replay};
use onlyonce_outbox::sinks::Memory;
use onlyonce_outbox::status::status;
use onlyonce_outbox::{Ack, Error, Event, SinkError, append};
use onlyonce_test::event::within;
use sqlx::postgres::PgConnection;

use crate::fixture::{Postgres, eventually, run, value};
use crate::relay::{Running, commit, first_deliveries, payment, quick};

const ALL_PARKED: &str = "select count(*) = 7 from onlyonce_outbox_parked";

/// Keys `a` and `b` have a dead letter with two events behind it each; an unordered one is dead too.
async fn dead_letters(postgres: &Postgres, sink: &Memory) -> Running {
    sink.judge(|envelope| match &*envelope.payload {
        b"1" => Err(SinkError::dead("malformed")),
        _ => Ok(Ack::default()),
    });
    let relay = Running::start(postgres, sink, quick());
    let mut connection = postgres.connect().await;
    for number in 1..=3 {
        commit(
            &mut connection,
            &[payment("a", number), payment("b", number)],
        )
        .await;
    }
    let unordered = Event::unordered("audit")
        .json(&1)
        .unwrap()
        .header("tenant", "acme");
    commit(&mut connection, &[unordered]).await;
    eventually(&mut connection, "all to be parked", ALL_PARKED).await;
    relay
}

/// Waits until the cursors are where the deliveries are.
async fn level(connection: &mut PgConnection) {
    let level = async {
        while status(connection).await.unwrap().sinks[0].undelivered() > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    within("the cursors to move", level).await;
}

#[tokio::test]
async fn dead_letters_are_listed_and_shown() {
    let postgres = Postgres::behind_pgbouncer().await;
    let sink = Memory::new("sink");
    let relay = dead_letters(&postgres, &sink).await;
    let mut connection = postgres.connect().await;

    let dead = dead::list(&mut connection, &Filter::sink("sink"))
        .await
        .unwrap();
    let keys: Vec<_> = dead
        .iter()
        .map(|letter| (letter.key.as_deref(), letter.parked))
        .collect();
    assert_eq!(
        keys,
        [
            (Some("a"), Parked::Dead),
            (Some("b"), Parked::Dead),
            (None, Parked::PassedOver)
        ]
    );
    assert_eq!(dead[0].attempts, 1);
    assert_eq!(dead[0].payload_len, 1);
    assert!(dead[0].last_error.as_deref().unwrap().contains("malformed"));
    assert!(dead[0].first_failed_at.unwrap().elapsed().unwrap() < Duration::from_secs(60));
    let all = dead::list(&mut connection, &Filter::sink("sink").alive_too())
        .await
        .unwrap();
    assert_eq!(
        all.iter()
            .filter(|letter| letter.parked == Parked::Behind)
            .count(),
        4
    );
    for none in [
        Filter::sink("other"),
        Filter::sink("sink").topic("other"),
        Filter::sink("sink").key("c"),
        Filter::sink("sink").event(all[2].event_id),
    ] {
        assert!(dead::list(&mut connection, &none).await.unwrap().is_empty());
    }
    assert_eq!(
        dead::list(&mut connection, &Filter::sink("sink").limit(1))
            .await
            .unwrap()
            .len(),
        1
    );

    let shown = dead::show(&mut connection, "sink", dead[2].event_id)
        .await
        .unwrap()
        .unwrap();
    assert_eq!((&*shown.payload, shown.attempt), (&b"1"[..], 1));
    assert_eq!(shown.headers.get("tenant").unwrap(), "acme");
    assert_eq!(
        dead::show(&mut connection, "other", dead[2].event_id)
            .await
            .unwrap(),
        None
    );
    relay.stop().await;
}

#[tokio::test]
async fn dead_letters_are_redriven_and_discarded() {
    let postgres = Postgres::behind_pgbouncer().await;
    let sink = Memory::new("sink");
    let relay = dead_letters(&postgres, &sink).await;
    let mut connection = postgres.connect().await;
    // Redriven too early, it dies again, and nothing overtakes it.
    let a = Filter::sink("sink").topic("payments").key("a");
    assert_eq!(dead::redrive(&mut connection, &a).await.unwrap(), 1);
    let again = "select attempts = 1 and state = 2 and first_failed_at is not null \
         from onlyonce_outbox_parked where key = 'a' order by id limit 1";
    eventually(&mut connection, "it to die again", again).await;
    assert!(sink.taken().is_empty());

    sink.judge(|_| Ok(Ack::default()));
    assert_eq!(dead::redrive(&mut connection, &a).await.unwrap(), 1);
    let taken = within("key a's events", sink.reached(3)).await;
    assert_eq!(first_deliveries(&taken)["a"], [1, 2, 3]);
    let b = Filter::sink("sink").key("b");
    assert_eq!(dead::discard(&mut connection, &b).await.unwrap(), 1);
    let taken = within("the others of key b", sink.reached(5)).await;
    assert_eq!(first_deliveries(&taken)["b"], [2, 3]);
    assert_eq!(
        dead::redrive(&mut connection, &Filter::sink("sink"))
            .await
            .unwrap(),
        1
    );
    within("the unordered one", sink.reached(6)).await;
    // Keys that are free again flow as ever.
    commit(&mut connection, &[payment("a", 4), payment("b", 4)]).await;
    within("later events", sink.reached(8)).await;
    relay.stop().await;
}

#[tokio::test]
async fn a_replay_delivers_again_from_a_number_or_a_time() {
    let postgres = Postgres::fresh().await;
    let sink = Memory::new("sink");
    let mut connection = postgres.connect().await;
    let error = replay(&mut connection, "sink", From::Sequence(1))
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Invalid { .. }), "{error:?}");
    let relay = Running::start(&postgres, &sink, quick().page(3));
    for number in 1..=10 {
        commit(&mut connection, &[payment(number % 2, number)]).await;
    }
    let taken = within("all", sink.reached(10)).await;
    let fifth = taken
        .iter()
        .find(|envelope| &*envelope.payload == b"5")
        .unwrap();

    level(&mut connection).await;
    let replayed = replay(&mut connection, "sink", From::Sequence(fifth.sequence))
        .await
        .unwrap();
    assert_eq!(replayed.unwrap().events, 6);
    let taken = within("six again", sink.reached(16)).await;
    let mut again = first_deliveries(&taken[10..])
        .into_values()
        .flatten()
        .collect::<Vec<_>>();
    again.sort_unstable();
    assert_eq!(again, [5, 6, 7, 8, 9, 10]);

    level(&mut connection).await;
    let replayed = replay(&mut connection, "sink", From::Time(fifth.created_at))
        .await
        .unwrap();
    assert_eq!(replayed.unwrap().first, fifth.sequence);
    within("six once more", sink.reached(22)).await;
    for later in [3_600, 300_000 * 365 * 86_400] {
        let nothing = From::Time(fifth.created_at + Duration::from_secs(later));
        let replayed = replay(&mut connection, "sink", nothing).await.unwrap();
        assert_eq!(replayed, None);
    }
    // Each replay raises them.
    let cursors = "select string_agg(epoch::text, ',' order by shard) from onlyonce_outbox_cursor";
    let before: String = value(&mut connection, cursors).await;
    let beyond = replay(&mut connection, "sink", From::Sequence(i64::MAX));
    assert_eq!(beyond.await.unwrap(), None);
    assert_eq!(value::<String>(&mut connection, cursors).await, before);
    commit(&mut connection, &[payment(1, 11)]).await;
    within("a new one", sink.reached(23)).await;
    relay.stop().await;
    assert_eq!(sink.taken().len(), 23);
}

/// What the cursor has not passed, and what is still open, is delivered whatever the replay begins with.
#[tokio::test]
async fn a_replay_forgets_nothing_that_is_undelivered() {
    let postgres = Postgres::fresh().await;
    let sink = Memory::new("sink");
    let mut connection = postgres.connect().await;
    let relay = Running::start(&postgres, &sink, quick());
    commit(&mut connection, &[payment(1, 1)]).await;
    within("the first", sink.reached(1)).await;
    relay.stop().await;
    let mut open = postgres.connect().await;
    run(&mut open, "begin").await;
    append(&mut open, &[payment(2, 2)], None).await.unwrap();
    commit(&mut connection, &[payment(3, 3)]).await;
    commit(&mut connection, &[payment(4, 4)]).await;
    let last: i64 = value(&mut connection, "select max(id) from onlyonce_outbox_event").await;
    let replayed = replay(&mut connection, "sink", From::Sequence(last))
        .await
        .unwrap()
        .unwrap();
    assert!(replayed.first < last);
    let relay = Running::start(&postgres, &sink, quick());
    within("what was undelivered", sink.reached(3)).await;
    run(&mut open, "commit").await;
    let taken = within("what was open", sink.reached(4)).await;
    assert_eq!(first_deliveries(&taken).len(), 4);
    relay.stop().await;
}

#[tokio::test]
async fn the_status_tells_what_is_before_each_sink() {
    let postgres = Postgres::behind_pgbouncer().await;
    let sink = Memory::new("sink");
    let relay = dead_letters(&postgres, &sink).await;
    let mut connection = postgres.connect().await;
    let told = status(&mut connection).await.unwrap();
    assert_eq!(told.sinks.len(), 1);
    let of_sink = &told.sinks[0];
    assert_eq!(
        (of_sink.name.as_str(), of_sink.relays, of_sink.shards.len()),
        ("sink", 1, 64)
    );
    assert_eq!(of_sink.dead(), 3);
    assert_eq!(
        of_sink.shards.iter().map(|shard| shard.behind).sum::<u64>(),
        4
    );
    assert!(of_sink.shards.iter().all(|shard| shard.owner.is_some()));
    assert_eq!(told.days.len(), 8);
    relay.stop().await;

    let told = status(&mut connection).await.unwrap();
    assert_eq!((told.sinks[0].relays, told.sinks[0].undelivered()), (0, 0));
    assert!(
        told.sinks[0]
            .shards
            .iter()
            .all(|shard| shard.owner.is_none())
    );
    assert!(told.days.iter().all(|day| day.pinned_by.is_empty()));
    commit(
        &mut connection,
        &[payment(1, 1), payment(2, 2), payment(1, 3)],
    )
    .await;
    let mut open = postgres.database.connect().await;
    run(&mut open, "begin; select pg_current_xact_id()").await;
    let told = status(&mut connection).await.unwrap();
    assert_eq!(told.sinks[0].undelivered(), 3);
    assert!(told.sinks[0].oldest_undelivered().is_some());
    assert!(told.days.iter().any(|day| day.pinned_by == ["sink"]));
    assert!(told.open_transactions >= 1);
    assert!(told.oldest_transaction.is_some());
}
