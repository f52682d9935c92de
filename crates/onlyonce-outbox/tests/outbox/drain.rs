//! A key that was held back goes again: its queue drains in runs, in order, and stops at the first failure.

use std::time::Duration;

use onlyonce_outbox::sinks::Memory;
use onlyonce_outbox::{Ack, Connector, Envelope, RelayOptions, SinkError};
use onlyonce_test::event::within;
use onlyonce_test::fault::PgFault;
use sqlx::postgres::{PgConnectOptions, PgConnection};

use crate::fixture::{Postgres, eventually, value};
use crate::relay::{Running, commit, first_deliveries, payment, quick};

const EVENTS: u32 = 600;
const NOTHING: &str = "select count(*) = 0 from onlyonce_outbox_parked";

/// The first event of the key is refused, and all others wait behind it.
async fn held_back(connector: Connector, connection: &mut PgConnection, sink: &Memory) -> Running {
    sink.judge(|_| Err(SinkError::retryable("closed")));
    let relay = Running::connected(connector, sink, patient());
    commit(connection, &[payment("a", 1)]).await;
    let first = "select count(*) = 1 from onlyonce_outbox_parked";
    eventually(connection, "the first to be parked", first).await;
    let others: Vec<_> = (2..=EVENTS).map(|number| payment("a", number)).collect();
    commit(connection, &others).await;
    let all = format!("select count(*) = {EVENTS} from onlyonce_outbox_parked");
    eventually(connection, "all to be parked", &all).await;
    relay
}

fn patient() -> RelayOptions {
    quick().lease(Duration::from_secs(10))
}

fn numbers(taken: &[Envelope]) -> Vec<u32> {
    first_deliveries(taken).remove("a").unwrap_or_default()
}

#[tokio::test]
async fn a_long_queue_takes_few_transactions() {
    let postgres = Postgres::fresh().await;
    let sink = Memory::new("sink");
    let mut connection = postgres.connect().await;
    let fault = PgFault::start(&postgres.database.url()).await;
    let options: PgConnectOptions = fault.url().parse().unwrap();
    let relay = held_back(options.into(), &mut connection, &sink).await;
    let writes = || {
        let statements = fault.statements();
        let begun = statements.iter().filter(|sql| sql.starts_with("begin"));
        begun.count()
    };
    let before = writes();
    sink.judge(|_| Ok(Ack::default()));
    let taken = within("all of them", sink.reached(600)).await;
    eventually(&mut connection, "nothing to be parked", NOTHING).await;
    assert!(numbers(&taken).into_iter().eq(1..=EVENTS));
    let writes = writes() - before;
    assert!(writes < 60, "{writes} transactions for 600 events");
    commit(&mut connection, &[payment("a", EVENTS + 1)]).await;
    within("a new one", sink.reached(601)).await;
    relay.stop().await;
    assert_eq!(sink.taken().len(), 601, "and none twice");
}

/// Nothing overtakes the one that fails half-way, and its followers' tries are not counted.
#[tokio::test]
async fn the_first_failure_parks_again() {
    for postgres in [Postgres::fresh().await, Postgres::behind_pgbouncer().await] {
        let sink = Memory::new("sink");
        let mut connection = postgres.connect().await;
        let relay = held_back(postgres.connector(), &mut connection, &sink).await;
        sink.judge(|envelope| match &*envelope.payload {
            b"250" => Err(SinkError::retryable("not this one")),
            _ => Ok(Ack::default()),
        });
        let stands = "select count(*) = 351 and min(id) filter (where state = 0) = min(id) \
             and count(*) filter (where state = 0) = 1 and max(attempts) > 2 \
             and max(attempts) filter (where state = 1) = 0 from onlyonce_outbox_parked";
        eventually(&mut connection, "the key to stand", stands).await;
        assert!(numbers(&sink.taken()).into_iter().eq(1..250));
        sink.judge(|_| Ok(Ack::default()));
        let taken = within("the others", sink.reached(600)).await;
        assert!(numbers(&taken).into_iter().eq(1..=EVENTS));
        eventually(&mut connection, "nothing to be parked", NOTHING).await;
        relay.stop().await;
        assert_eq!(sink.taken().len(), 600, "and none twice");
    }
}

/// One that dies half-way is passed over in order, or holds back what is behind it.
#[tokio::test]
async fn one_that_dies_on_the_way_holds_back_the_rest() {
    let postgres = Postgres::fresh().await;
    let sink = Memory::new("sink");
    let mut connection = postgres.connect().await;
    let relay = held_back(postgres.connector(), &mut connection, &sink).await;
    sink.judge(|envelope| match &*envelope.payload {
        b"250" => Err(SinkError::dead("malformed")),
        _ => Ok(Ack::default()),
    });
    let stands = "select string_agg(distinct state::text, '' order by state::text) = '12' and count(*) = 351 \
         from onlyonce_outbox_parked";
    eventually(&mut connection, "the key to be blocked", stands).await;
    assert!(numbers(&sink.taken()).into_iter().eq(1..250));
    relay.stop().await;
}

/// A relay that ends in the middle of a queue: the next one goes on, in order, and few come twice.
#[tokio::test]
async fn a_queue_outlives_its_relay() {
    let postgres = Postgres::fresh().await;
    let sink = Memory::new("sink");
    let mut connection = postgres.connect().await;
    let relay = held_back(postgres.connector(), &mut connection, &sink).await;
    sink.judge(|_| Ok(Ack::default()));
    within("some of them", sink.reached(150)).await;
    relay.task.abort();
    let _ = relay.task.await;
    let left: i64 = value(
        &mut connection,
        "select count(*) from onlyonce_outbox_parked",
    )
    .await;
    assert!(left > 0, "it was too quick for the test");
    // As if its leases had lapsed, and the time of its tries.
    crate::fixture::run(
        &mut connection,
        "update onlyonce_outbox_cursor set lease_until = '-infinity'; \
         update onlyonce_outbox_parked set next_at = statement_timestamp()",
    )
    .await;
    let relay = Running::start(&postgres, &sink, patient());
    eventually(&mut connection, "nothing to be parked", NOTHING).await;
    relay.stop().await;
    let taken = sink.taken();
    assert!(numbers(&taken).into_iter().eq(1..=EVENTS));
    let twice = taken.len() - 600;
    assert!(twice <= 101, "{twice} came twice");
}

/// Times that no calendar holds: what has failed twice is tried again all the same, and others go on meanwhile.
#[tokio::test]
async fn an_event_may_be_tried_for_ever() {
    let postgres = Postgres::fresh().await;
    let sink = Memory::new("sink");
    let mut connection = postgres.connect().await;
    sink.judge(|envelope| match envelope.attempt {
        1..4 if envelope.key.as_deref() == Some("a") => Err(SinkError::retryable("not yet")),
        _ => Ok(Ack::default()),
    });
    let options = quick().receivers_remember(None).max_age(Duration::MAX);
    let relay = Running::start(&postgres, &sink, options);
    commit(&mut connection, &[payment("a", 1), payment("b", 1)]).await;
    within("both", sink.reached(2)).await;
    eventually(&mut connection, "nothing to be parked", NOTHING).await;
    assert_eq!(relay.monitor.stats().database_failures, 0);
    relay.stop().await;
}
