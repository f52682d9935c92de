//! A database that goes away, sinks that break their contract, keys with too many events.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use onlyonce_outbox::dead::{self, Filter};
use onlyonce_outbox::sinks::Memory;
use onlyonce_outbox::{
    Ack, Connector, Envelope, Error, Relay, RelayOptions, Sink, SinkError, append, migrate,
};
use onlyonce_test::event::within;
use onlyonce_test::postgres::{Database, Options, find_bin_dirs};
use sqlx::ConnectOptions;
use sqlx::postgres::PgConnectOptions;

use crate::fixture::{Postgres, eventually, run, value};
use crate::relay::{Running, commit, first_deliveries, payment, quick};

/// The server crashes twice while the relay works.
#[tokio::test]
async fn a_relay_outlives_its_database() {
    let bin = find_bin_dirs()
        .into_iter()
        .next()
        .expect("a Postgres is installed");
    let mut cluster = Options::default().fsync(false).start(&bin).unwrap();
    let options: PgConnectOptions = cluster.url("postgres").parse().unwrap();
    migrate(&mut options.connect().await.unwrap())
        .await
        .unwrap();
    let sink = Memory::new("sink");
    let relay = Running::connected(Connector::from(options.clone()), &sink, quick());
    for round in 0..3_u32 {
        let mut connection = options.connect().await.unwrap();
        for number in 0..20 {
            commit(&mut connection, &[payment(number % 3, round * 20 + number)]).await;
        }
        if round < 2 {
            cluster.stop_immediate().unwrap();
            cluster.start_again().unwrap();
        }
    }
    let all = |taken: &std::collections::VecDeque<Envelope>| {
        let ids: std::collections::HashSet<_> =
            taken.iter().map(|envelope| envelope.event_id).collect();
        ids.len() == 60
    };
    let taken = within("all events", sink.until(all)).await;
    for numbers in first_deliveries(&taken).values() {
        assert!(numbers.is_sorted(), "{numbers:?}");
    }
    assert!(relay.monitor.stats().database_failures > 0);
    relay.stop().await;
}

#[tokio::test]
async fn a_relay_without_tables_says_what_to_do() {
    let database = Database::fresh().await;
    let connector: Connector = database.url().parse().unwrap();
    let relay = Relay::new(connector, Memory::new("sink"), quick()).unwrap();
    let error = within("the relay to give up", relay.run(std::future::pending()))
        .await
        .unwrap_err();
    assert!(
        matches!(&error, Error::Schema(text) if text.contains("migrations")),
        "{error:?}"
    );
    let contradictory = RelayOptions::default().publish_timeout(Duration::from_secs(60));
    let connector: Connector = database.url().parse().unwrap();
    assert!(Relay::new(connector, Memory::new("sink"), contradictory).is_err());
}

/// Breaks the contract in another way each time, and then keeps it.
struct Unruly {
    memory: Memory,
    calls: AtomicUsize,
}

impl Sink for Unruly {
    fn name(&self) -> &str {
        self.memory.name()
    }

    async fn publish(&self, batch: &[Envelope]) -> Vec<Result<Ack, SinkError>> {
        match self.calls.fetch_add(1, Ordering::Relaxed) {
            0 => Vec::new(),
            1 => std::iter::repeat_with(|| Ok(Ack::default()))
                .take(batch.len() + 1)
                .collect(),
            2 => panic!("as some sinks do"),
            3 => std::future::pending().await,
            _ => self.memory.publish(batch).await,
        }
    }
}

#[tokio::test]
async fn a_sink_that_breaks_its_contract_has_taken_nothing() {
    let postgres = Postgres::fresh().await;
    let memory = Memory::new("sink");
    let sink = Unruly {
        memory: memory.clone(),
        calls: AtomicUsize::new(0),
    };
    let relay = Relay::new(
        postgres.connector(),
        sink,
        quick().publish_timeout(Duration::from_millis(300)),
    )
    .unwrap();
    let monitor = relay.monitor();
    let running = tokio::spawn(relay.run(std::future::pending()));
    let mut connection = postgres.connect().await;
    commit(&mut connection, &[payment("a", 1), payment("a", 2)]).await;
    let taken = within("both events", memory.reached(2)).await;
    assert_eq!(first_deliveries(&taken)["a"], [1, 2]);
    assert_eq!(taken[0].attempt, 5);
    assert_eq!(monitor.stats().failures, 4);
    assert!(!running.is_finished());
    running.abort();
}

/// No more than four of a key may be parked: the shard stops, and goes on when there is room. Others flow.
#[tokio::test]
async fn a_key_with_too_many_waiting_pauses_its_shard() {
    let postgres = Postgres::fresh().await;
    let sink = Memory::new("sink");
    sink.judge(|envelope| match &*envelope.payload {
        b"0" => Err(SinkError::dead("poison")),
        _ => Ok(Ack::default()),
    });
    let relay = Running::start(&postgres, &sink, quick().waiting_max(4).page(1));
    let mut connection = postgres.connect().await;
    commit(&mut connection, &[payment("a", 0)]).await;
    let dead = "select count(*) = 1 from onlyonce_outbox_parked where state = 2";
    eventually(&mut connection, "the first to die", dead).await;
    for number in 1..10 {
        commit(&mut connection, &[payment("a", number)]).await;
    }
    eventually(
        &mut connection,
        "the queue to be full",
        "select count(*) = 4 from onlyonce_outbox_parked",
    )
    .await;
    let others: Vec<_> = (0..200).map(|key| payment(key, 1)).collect();
    commit(&mut connection, &others).await;
    // All but those of the same shard.
    let same: i64 = value(
        &mut connection,
        "select count(*) from onlyonce_outbox_event where key <> 'a' and shard = \
             (select shard from onlyonce_outbox_event where key = 'a' limit 1)",
    )
    .await;
    let flows = 200 - usize::try_from(same).unwrap();
    within("other shards", sink.reached(flows)).await;
    sink.judge(|_| Ok(Ack::default()));
    let parked = "select count(*) from onlyonce_outbox_parked";
    assert_eq!(value::<i64>(&mut connection, parked).await, 4);
    let redriven = dead::redrive(&mut connection, &Filter::sink("sink"))
        .await
        .unwrap();
    assert_eq!(redriven, 1);
    let taken = within("everything", sink.reached(210)).await;
    let in_order: Vec<u32> = (0..10).collect();
    assert_eq!(first_deliveries(&taken)["a"], in_order);
    relay.stop().await;
}

/// A transaction that is open all the while is delivered when it commits, though later numbers are long done.
#[tokio::test]
async fn a_late_commit_is_not_missed() {
    let postgres = Postgres::behind_pgbouncer().await;
    let sink = Memory::new("sink");
    let relay = Running::start(&postgres, &sink, quick());
    let mut late = postgres.connect().await;
    run(&mut late, "begin").await;
    append(&mut late, &[payment("late", 0)], None)
        .await
        .unwrap();
    let mut connection = postgres.connect().await;
    for number in 1..=20 {
        commit(&mut connection, &[payment("other", number)]).await;
    }
    within("the others, which wait for nobody", sink.reached(20)).await;
    let mut admin = postgres.database.connect().await;
    let passed = "select bool_and(last_id = 0 and open is null) and bool_or(array(select pg_snapshot_xip(done)) <> '{}') \
         from onlyonce_outbox_cursor";
    eventually(&mut admin, "the cursors to pass it", passed).await;
    run(&mut late, "commit").await;
    let taken = within("the late one", sink.reached(21)).await;
    assert_eq!(taken[20].key.as_deref(), Some("late"));
    relay.stop().await;
}

/// A snapshot's upper end is the last transaction that ended, so one that is open can lie above it, with its
/// events' numbers drawn long before. The relay looks meanwhile, and writes nothing itself.
#[tokio::test]
async fn an_open_transaction_above_the_snapshot_is_not_missed() {
    let postgres = Postgres::fresh().await;
    let sink = Memory::new("sink");
    let an_hour = Duration::from_secs(3_600);
    let options = quick()
        .lease(an_hour)
        .persist(1_000_000, an_hour)
        .retention(None);
    let relay = Running::start(&postgres, &sink, options);
    let mut connection = postgres.connect().await;
    for number in 0..30_u32 {
        run(&mut connection, "begin").await;
        append(&mut connection, &[payment("a", number)], None)
            .await
            .unwrap();
        let polls = relay.monitor.stats().polls;
        while relay.monitor.stats().polls < polls + 3 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        run(&mut connection, "commit").await;
        within(
            "the event",
            sink.reached(usize::try_from(number).unwrap() + 1),
        )
        .await;
    }
    relay.stop().await;
}
