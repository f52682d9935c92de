//! Snapshots that are held: a report that runs for hours, a session that somebody forgot.

use std::time::Duration;

use onlyonce_outbox::sinks::Memory;
use onlyonce_test::dice::duration;
use onlyonce_test::event::within;
use sqlx::postgres::PgConnection;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::fixture::{Postgres, eventually, run, value};
use crate::relay::{Running, commit, first_deliveries, payment, quick};

const READ: &str = "select coalesce(sum(idx_tup_read), 0)::int8 from pg_stat_user_indexes \
     where relname like 'onlyonce_outbox_event_%'";
const SCANS: &str = "select coalesce(sum(idx_scan), 0)::int8 from pg_stat_user_indexes \
     where relname like 'onlyonce_outbox_event_%' and indexrelname like '%xid%'";
const SEQUENTIAL: &str = "select coalesce(sum(seq_tup_read), 0)::int8 from pg_stat_user_tables \
     where relname like 'onlyonce_outbox_event_%'";

/// 2 000 events are done; a snapshot of before them, and a transaction that has an id since before them, stay
/// open. A look at the table reads none of the 2 000.
#[tokio::test]
async fn a_held_snapshot_makes_no_look_read_more() {
    let postgres = Postgres::fresh().await;
    let mut connection = postgres.connect().await;
    let (mut reader, mut writer) = (postgres.connect().await, postgres.connect().await);
    run(
        &mut reader,
        "begin isolation level repeatable read; select count(*) from onlyonce_outbox_event",
    )
    .await;
    run(&mut writer, "begin; select pg_current_xact_id()").await;
    let sink = Memory::new("sink");
    let relay = Running::start(&postgres, &sink, quick().retention(None));
    for number in 0..20 {
        let events: Vec<_> = (0..100).map(|key| payment(key, number)).collect();
        commit(&mut connection, &events).await;
    }
    within("all events", sink.reached(2_000)).await;
    relay.stop().await;

    let next = Running::start(&postgres, &sink, quick().retention(None));
    while next.monitor.stats().polls < 5 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let mut admin = postgres.database.connect().await;
    // Numbers of other sessions arrive within seconds.
    let more = |than: i64, by: i64| format!("select ({SCANS}) >= {than} + {by}");
    let scans: i64 = value(&mut admin, SCANS).await;
    eventually(&mut admin, "the first looks to be counted", &more(scans, 1)).await;
    let (scans, read): (i64, i64) = (
        value(&mut admin, SCANS).await,
        value(&mut admin, READ).await,
    );
    let sequential: i64 = value(&mut admin, SEQUENTIAL).await;
    eventually(&mut admin, "many looks to be counted", &more(scans, 400)).await;
    let read = value::<i64>(&mut admin, READ).await - read;
    assert!(read < 50, "{read} entries were read where nothing is new");
    assert_eq!(value::<i64>(&mut admin, SEQUENTIAL).await, sequential);
    // Both are still open, and what is new flows.
    commit(&mut connection, &[payment(1, 99)]).await;
    within("a new event", sink.reached(2_001)).await;
    run(&mut writer, "commit").await;
    run(&mut reader, "commit").await;
    next.stop().await;
    assert_eq!(sink.taken().len(), 2_001);
}

/// Of the tables that a look reads: the blocks, and the rows that are dead.
const BLOCKS: &str = "select coalesce(sum(heap_blks_read + heap_blks_hit \
         + coalesce(idx_blks_read + idx_blks_hit, 0)), 0)::int8 from pg_statio_user_tables \
     where relname like 'onlyonce_outbox_event_%' or relname = 'onlyonce_outbox_parked'";
const DEAD: &str = "select coalesce(sum(n_dead_tup), 0)::int8 from pg_stat_user_tables \
     where relname like 'onlyonce_outbox_event_%'";

/// Blocks that are read for each scan of an index while nothing is new, over so many of them.
async fn cost(admin: &mut PgConnection, over: i64) -> f64 {
    let both = format!("select array[({SCANS}), ({BLOCKS})]");
    // A session's numbers of both come at the same moment.
    let before: Vec<i64> = value(admin, &both).await;
    let enough = format!("select ({SCANS}) >= {} + {over}", before[0]);
    eventually(admin, "looks to be counted", &enough).await;
    let after: Vec<i64> = value(admin, &both).await;
    let number = |count: i64| f64::from(u32::try_from(count).unwrap());
    number(after[1] - before[1]) / number(after[0] - before[0])
}

/// The same under load, for as long as it is told: what a look reads is the same after it as before, and nothing
/// that it reads has died meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn looks_stay_flat_while_a_snapshot_is_held_under_load() {
    let postgres = Postgres::fresh().await;
    let mut admin = postgres.database.connect().await;
    let (mut reader, mut open) = (postgres.connect().await, postgres.connect().await);
    run(
        &mut reader,
        "begin isolation level repeatable read; select count(*) from onlyonce_outbox_event",
    )
    .await;
    run(&mut open, "begin; select pg_current_xact_id()").await;
    let sink = Memory::new("sink");
    let relay = Running::start(&postgres, &sink, quick().retention(None));
    commit(&mut admin, &[payment("first", 0)]).await;
    within("the first event", sink.reached(1)).await;
    cost(&mut admin, 100).await;
    let early = cost(&mut admin, 400).await;

    let end = Instant::now() + duration(4);
    let mut writers = JoinSet::new();
    for writer in 0..4_u32 {
        let mut connection = postgres.connect().await;
        writers.spawn(async move {
            let mut number = 0;
            while Instant::now() < end {
                let keys = (0..5).map(|key| format!("{writer}-{key}"));
                let events: Vec<_> = keys.map(|key| payment(key, number)).collect();
                commit(&mut connection, &events).await;
                number += 1;
                tokio::time::sleep(Duration::from_millis(3)).await;
            }
            number
        });
    }
    let rounds: u32 = writers.join_all().await.into_iter().sum();
    let events = 1 + usize::try_from(rounds).unwrap() * 5;
    within("all events", sink.reached(events)).await;
    cost(&mut admin, 100).await;
    let late = cost(&mut admin, 400).await;
    println!("{events} events; blocks for each scan: {early:.1} before them and {late:.1} after");
    assert!(
        late <= early * 1.5 + 1.0,
        "{early} blocks before, {late} after"
    );
    assert_eq!(value::<i64>(&mut admin, DEAD).await, 0);
    for numbers in first_deliveries(&sink.taken()).into_values() {
        assert!(numbers.is_sorted(), "{numbers:?}");
    }
    run(&mut open, "commit").await;
    run(&mut reader, "commit").await;
    relay.stop().await;
    assert_eq!(sink.taken().len(), events);
}
