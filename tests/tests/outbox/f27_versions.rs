//! F27: programs and tables of different versions under load. The order of an upgrade is: first the tables, then
//! the programs, one after the other.
//!
//! What this build can show by itself: it refuses tables that are older than it needs, and says what to do; a
//! migration goes through under load; and it works on tables of a version that it does not know, as long as they
//! allow it. `ONLYONCE_TEST_PREVIOUS` names the `onlyonce` of an earlier build, whose relays then take part.

use std::path::PathBuf;

use onlyonce_outbox::migrate;
use onlyonce_test::dice::Dice;
use onlyonce_test::postgres::ask::{run, value};
use onlyonce_test::process::{Launch, Proxy};

use crate::endpoint::Endpoint;
use crate::shop::{Shop, number};
use crate::writers::{Habits, Writers};

const HABITS: Habits = Habits {
    pause: 30,
    favourite: None,
    late: 2,
};

/// The first version of the tables, with two days to write to.
const FIRST: &str = concat!(
    include_str!("../../../crates/onlyonce-outbox/migrations/0001_outbox.sql"),
    "create table onlyonce_outbox_schema (version integer primary key, min_compatible integer not null, \
         applied_at timestamptz not null default statement_timestamp()); \
     insert into onlyonce_outbox_schema (version, min_compatible) values (1, 1); \
     do $$ declare day timestamp; begin \
         for ahead in 0..1 loop \
             day := date_trunc('day', now() at time zone 'UTC') + ahead * interval '1 day'; \
             execute format('create table onlyonce_outbox_event_%s partition of onlyonce_outbox_event \
                 for values from (%L) to (%L)', to_char(day, 'YYYYMMDD'), to_char(day, 'YYYY-MM-DD') || ' 00:00:00+00', \
                 to_char(day + interval '1 day', 'YYYY-MM-DD') || ' 00:00:00+00'); \
         end loop; end $$"
);

/// As a later program would migrate: in one transaction, and only more.
const NEXT: &str = "begin; set local lock_timeout = '60s'; \
     alter table onlyonce_outbox_event add column added text not null default 'x'; \
     alter table onlyonce_outbox_cursor add column added integer; \
     create index onlyonce_outbox_parked_added on onlyonce_outbox_parked (sink, first_failed_at); \
     create table onlyonce_outbox_added (n integer); \
     insert into onlyonce_outbox_schema (version, min_compatible) select 1000, max(version) from onlyonce_outbox_schema; \
     commit";

/// One that older programs cannot work with takes their shards from them, so that they look.
const BREAKING: &str = "begin; \
     update onlyonce_outbox_schema set min_compatible = 1000 where version = 1000; \
     update onlyonce_outbox_cursor set owner = null, lease_until = '-infinity', epoch = epoch + 1; \
     commit";

async fn ended(mut relay: Proxy, said: &str) {
    assert_eq!(relay.exited().await.code(), Some(1));
    relay.logged(said).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f27_relays_of_two_versions_while_the_tables_change_under_load() {
    let mut dice = Dice::seeded();
    let shop = Shop::without_tables().await;
    let endpoint = Endpoint::start().await;
    let mut admin = shop.database.connect().await;
    run(&mut admin, FIRST).await;
    number(&mut admin).await;
    let launch = shop
        .relay(&endpoint.url())
        .arg("--lease")
        .arg("2s")
        .env("ONLYONCE__RELAY__PUBLISH_TIMEOUT", "1s");
    let previous = std::env::var_os("ONLYONCE_TEST_PREVIOUS").map(PathBuf::from);
    let previous = previous.map(|program| launch.clone().program(program));
    let writers = Writers::start(&shop, &mut dice, 4, HABITS).await;
    let mut old: Vec<Proxy> = previous.iter().map(Launch::spawn).collect();
    if previous.is_some() {
        endpoint
            .until("the previous version to deliver", |book| {
                book.known.len() > 50
            })
            .await;
    }

    if newest().await > 1 {
        // It neither works wrongly nor waits for what does not come by itself.
        ended(launch.spawn(), "`onlyonce migrate --outbox`").await;
    }
    let output = shop.migrate().output().await;
    assert!(output.status.success(), "{output:?}");
    let mut new = vec![launch.spawn(), launch.spawn()];
    shop.is_shared_by(new.len() + old.len()).await;
    // Back and forth, as in a rolling upgrade that somebody stops half-way.
    if let Some(previous) = &previous {
        new[0].kill().await;
        new[0] = previous.spawn();
        old[0].kill().await;
        old[0] = launch.spawn();
    }

    // From here on this build is the previous one.
    run(&mut admin, NEXT).await;
    new[1].kill().await;
    new[1] = launch.spawn();
    let output = shop.migrate().output().await;
    assert!(output.status.success(), "{output:?}");
    let taken = endpoint.book().known.len();
    endpoint
        .until("deliveries", |book| book.known.len() > taken + 100)
        .await;
    run(&mut admin, BREAKING).await;
    for relay in new.into_iter().chain(old) {
        ended(relay, "needs a newer program").await;
    }
    for refused in [launch.clone(), shop.migrate()] {
        ended(refused.spawn(), "needs a newer program").await;
    }
    let committed = writers.stop().await;
    run(
        &mut admin,
        "delete from onlyonce_outbox_schema where version = 1000",
    )
    .await;
    let mut relay = launch.spawn();
    endpoint.has("everything", &committed).await;
    shop.is_level().await;
    println!(
        "{} events, {} came again",
        committed.len(),
        endpoint.book().repetitions()
    );
    endpoint.book().assert_complete(&committed);
    assert!(relay.terminate().await.success());
}

/// The newest version that this build knows.
async fn newest() -> i32 {
    let scratch = Shop::without_tables().await;
    let mut connection = scratch.database.connect().await;
    migrate(&mut connection).await.expect("migrated");
    value(
        &mut connection,
        "select max(version) from onlyonce_outbox_schema",
    )
    .await
}

/// Days ahead are made again and again, and each time a relay of the process has to do without one.
#[tokio::test(flavor = "multi_thread")]
async fn f27_days_are_made_under_load() {
    let mut dice = Dice::seeded();
    let shop = Shop::new().await;
    let endpoint = Endpoint::start().await;
    let mut relays = [(); 2].map(|()| shop.relay(&endpoint.url()).spawn());
    let writers = Writers::start(&shop, &mut dice, 4, HABITS).await;
    let mut admin = shop.database.connect().await;
    let days =
        "select count(*) from pg_inherits where inhparent = 'onlyonce_outbox_event'::regclass";
    for _ in 0..5 {
        run(
            &mut admin,
            "do $$ begin execute 'drop table onlyonce_outbox_event_' || \
             to_char((now() at time zone 'UTC')::date + 7, 'YYYYMMDD'); end $$",
        )
        .await;
        let migrations = [(); 2].map(|()| shop.migrate());
        let [one, other] = &migrations;
        let (one, other) = tokio::join!(one.output(), other.output());
        assert!(
            one.status.success() && other.status.success(),
            "{one:?} {other:?}"
        );
        assert!(value::<i64>(&mut admin, days).await >= 8);
    }
    let committed = writers.stop().await;
    endpoint.has("everything", &committed).await;
    shop.is_level().await;
    endpoint.book().assert_complete(&committed);
    for relay in &mut relays {
        assert!(relay.terminate().await.success());
    }
}
