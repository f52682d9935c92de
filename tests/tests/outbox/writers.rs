//! Writers: random transactions that number the events of each key in the order of their commits.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use onlyonce_outbox::{Event, append};
use onlyonce_test::dice::Dice;
use onlyonce_test::postgres::ask::{run, value};
use sqlx::postgres::PgConnection;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::book::Entry;
use crate::shop::Shop;

pub(crate) const KEYS: u64 = 1_000;
pub(crate) const TOPIC: &str = "payments";

/// How transactions are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Habits {
    /// The longest pause between two, in milliseconds.
    pub(crate) pause: u64,
    /// A key that has more events than others.
    pub(crate) favourite: Option<u64>,
    /// Of a hundred transactions, so many stay open for long after they have numbered their events.
    pub(crate) late: u64,
}

/// Running writers.
pub(crate) struct Writers {
    tasks: JoinSet<()>,
    stop: Arc<AtomicBool>,
    committed: Arc<watch::Sender<Vec<Entry>>>,
}

impl Writers {
    /// So many at once.
    pub(crate) async fn start(shop: &Shop, dice: &mut Dice, count: usize, habits: Habits) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let committed = Arc::new(watch::Sender::new(Vec::new()));
        let mut tasks = JoinSet::new();
        for _ in 0..count {
            let (mut connection, mut dice) = (shop.connect().await, dice.split());
            let (stop, committed) = (Arc::clone(&stop), Arc::clone(&committed));
            tasks.spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let entries = transaction(&mut connection, &mut dice, habits).await;
                    committed.send_modify(|all: &mut Vec<Entry>| all.extend(entries));
                    dice.pause(habits.pause).await;
                }
            });
        }
        Self {
            tasks,
            stop,
            committed,
        }
    }

    /// What is committed so far; more may be, for a moment.
    pub(crate) fn committed(&self) -> watch::Receiver<Vec<Entry>> {
        self.committed.subscribe()
    }

    /// Lets everybody finish; answers all that was committed.
    pub(crate) async fn stop(self) -> Vec<Entry> {
        self.stop.store(true, Ordering::Relaxed);
        self.tasks.join_all().await;
        self.committed.send_replace(Vec::new())
    }
}

async fn transaction(connection: &mut PgConnection, dice: &mut Dice, habits: Habits) -> Vec<Entry> {
    run(connection, "begin").await;
    if dice.percent(40) {
        // Its id is early, and its commit need not be.
        run(connection, "select pg_current_xact_id()").await;
        dice.pause(habits.pause).await;
    }
    // In one order for all, or they would wait for each other.
    let mut keys: BTreeSet<_> = (0..=dice.below(3)).map(|_| dice.below(KEYS)).collect();
    let is_late = dice.percent(habits.late);
    if !is_late && dice.percent(5) {
        keys.extend(habits.favourite);
    }
    let entries = emit(connection, keys.iter().map(u64::to_string)).await;
    if is_late {
        dice.pause(1_000).await;
    }
    let ends_well = !dice.percent(10);
    run(connection, if ends_well { "commit" } else { "rollback" }).await;
    if ends_well { entries } else { Vec::new() }
}

/// Numbers and appends an event for each of these keys, inside the open transaction.
pub(crate) async fn emit(
    connection: &mut PgConnection,
    keys: impl Iterator<Item = String>,
) -> Vec<Entry> {
    let (mut events, mut entries) = (Vec::new(), Vec::new());
    for key in keys {
        // The row stays locked until the commit: that is what makes the numbers those of the commits.
        let count = format!(
            "insert into tally as t (key, events) values ('{key}', 1) \
             on conflict (key) do update set events = t.events + 1 returning events"
        );
        let number = value::<i32>(connection, &count).await.unsigned_abs();
        let event = Event::new(TOPIC, &key).kind("charged").json(&number);
        let event = event.expect("a number is JSON");
        entries.push(Entry {
            key,
            number,
            id: event.event_id().to_string(),
        });
        events.push(event);
    }
    append(connection, &events, None).await.expect("appended");
    entries
}

/// An event for each of these keys, in a transaction of their own.
pub(crate) async fn commit(
    connection: &mut PgConnection,
    keys: impl Iterator<Item = String>,
) -> Vec<Entry> {
    run(connection, "begin").await;
    let entries = emit(connection, keys).await;
    run(connection, "commit").await;
    entries
}
