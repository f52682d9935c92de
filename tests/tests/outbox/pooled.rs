//! All of it behind PgBouncer in transaction mode: migrations, writers, relays, operators, retention, the notice of
//! a restore, and the consumer's inbox, to which everything is delivered twice in any order. Nothing of the outbox
//! needs a connection straight to the server.

use std::time::Duration;

use onlyonce_outbox::inbox::{self, Inbox, Message};
use onlyonce_outbox::retention::sweep;
use onlyonce_test::dice::Dice;
use onlyonce_test::event::within;
use onlyonce_test::postgres::ask::{run, value};
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions};
use sqlx::{AssertSqlSafe, raw_sql};
use tokio::task::JoinSet;

use crate::book::{Book, Entry};
use crate::endpoint::{Endpoint, Verdict};
use crate::shop::{SINK, Shop};
use crate::writers::{Habits, Writers, commit};

const HABITS: Habits = Habits {
    pause: 15,
    favourite: None,
    late: 2,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_pooler_in_transaction_mode_is_in_between_throughout() {
    let mut dice = Dice::seeded();
    let shop = Shop::behind_pgbouncer().await;
    let endpoint = Endpoint::start().await;
    let launch = shop
        .relay(&endpoint.url())
        .arg("--lease")
        .arg("2s")
        .env("ONLYONCE__RELAY__PUBLISH_TIMEOUT", "1s");
    let mut relays = [launch.spawn(), launch.spawn()];
    let writers = Writers::start(&shop, &mut dice, 6, HABITS).await;
    endpoint
        .until("deliveries", |book| book.known.len() > 100)
        .await;
    relays[0].kill().await;
    relays[0] = launch.spawn();
    endpoint.until("more", |book| book.known.len() > 500).await;
    let mut committed = writers.stop().await;
    endpoint.has("everything", &committed).await;
    shop.is_level().await;
    endpoint.book().assert_complete(&committed);

    committed.extend(dead_letters(&shop, &endpoint).await);
    let consumer = Consumer::open(&shop).await;
    consumer.apply_twice(&mut dice, &committed).await;
    assert_eq!(consumer.effects().await, committed.len());

    let before = endpoint.book().taken.len();
    let replayed = shop
        .outbox(&["replay", "--sink", SINK, "--from-sequence", "1"])
        .await;
    assert_eq!(replayed["events"], committed.len());
    let again = |book: &Book| book.taken.len() >= before + committed.len();
    endpoint.until("all of it again", again).await;
    shop.is_level().await;
    discarded(&shop, &endpoint).await;
    retention(&shop).await;
    for relay in &mut relays {
        assert!(relay.terminate().await.success());
    }

    restored(&shop, &endpoint).await;
    consumer.apply_twice(&mut dice, &committed).await;
    assert_eq!(consumer.effects().await, committed.len());
}

/// One event is refused for good, and two wait behind it until somebody has it tried again.
async fn dead_letters(shop: &Shop, endpoint: &Endpoint) -> Vec<Entry> {
    endpoint.judge(|message| match message.entry.key.as_str() {
        "refused" if message.entry.number == 1 => Verdict::Refuse(400),
        _ => Verdict::Take,
    });
    let mut connection = shop.connect().await;
    let mut entries = Vec::new();
    for _ in 0..3 {
        entries.extend(commit(&mut connection, ["refused".to_owned()].into_iter()).await);
    }
    shop.status_is("one to be dead, and two behind it", |sink| {
        sink["dead"] == 1 && sink["behind"] == 2
    })
    .await;
    let dead = shop.outbox(&["dead", "list", "--sink", SINK]).await;
    assert_eq!(dead[0]["event_id"], *entries[0].id);
    let shown = shop
        .outbox(&["dead", "show", "--sink", SINK, "--payload", &entries[0].id])
        .await;
    assert_eq!(shown["payload"], "1");
    endpoint.judge(|_| Verdict::Take);
    shop.outbox(&["dead", "redrive", "--sink", SINK, "--key", "refused"])
        .await;
    endpoint.has("all three", &entries).await;
    shop.is_level().await;
    entries
}

/// An event that nobody wants.
async fn discarded(shop: &Shop, endpoint: &Endpoint) {
    endpoint.judge(|_| Verdict::Refuse(400));
    commit(
        &mut shop.connect().await,
        ["unwanted".to_owned()].into_iter(),
    )
    .await;
    shop.status_is("it to be dead", |sink| sink["dead"] == 1)
        .await;
    shop.outbox(&["dead", "discard", "--sink", SINK, "--all"])
        .await;
    shop.is_level().await;
    endpoint.judge(|_| Verdict::Take);
}

/// A day of long ago goes.
async fn retention(shop: &Shop) {
    let mut connection = shop.connect().await;
    run(
        &mut connection,
        "create table onlyonce_outbox_event_20200203 partition of onlyonce_outbox_event \
         for values from ('2020-02-03 00:00:00+00') to ('2020-02-04 00:00:00+00')",
    )
    .await;
    let a_year = Duration::from_secs(365 * 24 * 3_600);
    let dropped = sweep(&mut connection, a_year).await.expect("swept");
    assert_eq!(dropped, ["public.onlyonce_outbox_event_20200203"]);
}

/// The tables come from another cluster, as far as anybody can see.
async fn restored(shop: &Shop, endpoint: &Endpoint) {
    let mut connection = shop.connect().await;
    run(
        &mut connection,
        "update onlyonce_outbox_cluster set system_identifier = 1",
    )
    .await;
    let events: i64 = value(
        &mut connection,
        "select count(*) from onlyonce_outbox_event",
    )
    .await;
    let all = endpoint.book().taken.len() + usize::try_from(events).expect("a small number");
    let mut relay = shop.relay(&endpoint.url()).spawn();
    relay.logged("the outbox was restored").await;
    endpoint
        .until("all that is there", |book| book.taken.len() >= all)
        .await;
    shop.is_level().await;
    assert!(relay.terminate().await.success());
    assert_eq!(endpoint.book().taken.len(), all);
}

/// Applies messages: a row in a ledger for each, which nothing but the inbox keeps from being entered twice.
struct Consumer {
    inbox: Inbox,
    pool: PgPool,
}

impl Consumer {
    async fn open(shop: &Shop) -> Self {
        let mut connection = shop.connect().await;
        inbox::migrate(&mut connection).await.expect("migrated");
        run(
            &mut connection,
            "create table ledger (message uuid not null)",
        )
        .await;
        let options: PgConnectOptions = shop.url().parse().expect("a URL");
        let options = options.statement_cache_capacity(0).extra_float_digits(None);
        let pool = PgPoolOptions::new()
            .max_connections(4)
            .connect_with(options);
        let pool = pool.await.expect("a pool");
        let inbox = Inbox::consumer("ledger").open(&pool).await;
        Self {
            inbox: inbox.expect("an inbox"),
            pool,
        }
    }

    /// Everything comes twice, in any order, four at a time.
    async fn apply_twice(&self, dice: &mut Dice, entries: &[Entry]) {
        let mut deliveries: Vec<_> = [entries, entries].concat();
        dice.shuffle(&mut deliveries);
        let mut working = JoinSet::new();
        for part in deliveries.chunks(deliveries.len().div_ceil(4)) {
            let (inbox, part) = (self.inbox.clone(), part.to_vec());
            working.spawn(async move {
                for entry in part {
                    apply(&inbox, &entry.id).await;
                }
            });
        }
        within("all deliveries", working.join_all()).await;
    }

    async fn effects(&self) -> usize {
        let mut connection = self.pool.acquire().await.expect("a connection");
        let entered = "select count(*) from ledger";
        usize::try_from(value::<i64>(&mut connection, entered).await).expect("a number")
    }
}

async fn apply(inbox: &Inbox, id: &str) {
    let message = Message::new(id.parse::<inbox::MessageId>().expect("an id"));
    let work = async |tx: &mut PgConnection| {
        let enter = format!("insert into ledger (message) values ('{id}')");
        raw_sql(AssertSqlSafe(enter)).execute(tx).await.map(drop)
    };
    let outcome = inbox.process(&message, work).await.expect("processed");
    assert!(outcome.is_done(), "{outcome:?}");
}

/// What a relay says that was not told of the pooler.
#[tokio::test]
async fn a_pooler_that_nobody_mentioned_is_named_as_the_cause() {
    let shop = Shop::behind_pgbouncer().await;
    let relay = shop
        .relay("stdout:")
        .env("ONLYONCE__RELAY__POOLER", "false");
    let mut relay = relay.spawn();
    relay.logged("say that there is one").await;
    relay.kill().await;
    let migration = shop.migrate().env("ONLYONCE__RELAY__POOLER", "false");
    let output = migration.output().await;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("behind a pooler in transaction mode"),
        "{said}"
    );
}
