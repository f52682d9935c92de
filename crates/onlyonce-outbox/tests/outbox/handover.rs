//! Relays that come and go in order: nobody waits for a lease, nor for the next time that one is renewed.

use std::time::Duration;

use onlyonce_outbox::sinks::Memory;
use onlyonce_test::event::within;
use onlyonce_test::fault::{Action, PgFault};
use sqlx::postgres::PgConnectOptions;

use crate::fixture::{Postgres, eventually, run};
use crate::owners::shards;
use crate::relay::{Running, commit, payment, quick};

/// Renewed each twelve minutes, which nobody here lives to see.
fn patient() -> onlyonce_outbox::RelayOptions {
    quick().lease(Duration::from_secs(3_600))
}

#[tokio::test]
async fn shards_change_hands_when_a_relay_comes_or_goes() {
    for postgres in [Postgres::fresh().await, Postgres::behind_pgbouncer().await] {
        let sink = Memory::new("sink");
        let first = Running::start(&postgres, &sink, patient());
        shards(&first.monitor, 64).await;
        let second = Running::start(&postgres, &sink, patient());
        shards(&first.monitor, 32).await;
        shards(&second.monitor, 32).await;
        let third = Running::start(&postgres, &sink, patient());
        shards(&third.monitor, 20).await;
        first.stop().await;
        shards(&second.monitor, 32).await;
        shards(&third.monitor, 32).await;
        third.stop().await;
        shards(&second.monitor, 64).await;
        let mut connection = postgres.connect().await;
        let events: Vec<_> = (0..100).map(|key| payment(key, 1)).collect();
        commit(&mut connection, &events).await;
        within("events of all shards", sink.reached(100)).await;
        second.stop().await;
    }
}

/// The database fails when a relay first looks after the days.
#[tokio::test]
async fn days_that_could_not_be_made_are_made_soon() {
    let postgres = Postgres::fresh().await;
    let mut connection = postgres.connect().await;
    run(
        &mut connection,
        "do $$ begin execute (select 'drop table ' || string_agg(inhrelid::regclass::text, ', ') \
         from pg_inherits where inhparent = 'onlyonce_outbox_event'::regclass); end $$",
    )
    .await;
    let fault = PgFault::start(&postgres.database.url()).await;
    let cut = fault.on_next(|sql| sql.contains("pg_inherits"), Action::CutBefore);
    let options: PgConnectOptions = fault.url().parse().unwrap();
    let relay = Running::connected(options.into(), &Memory::new("sink"), quick());
    within("the failure", cut.happened(1)).await;
    let days =
        "select count(*) = 8 from pg_inherits where inhparent = 'onlyonce_outbox_event'::regclass";
    eventually(&mut connection, "the days to be there", days).await;
    relay.stop().await;
}
