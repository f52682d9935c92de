//! Random transactions, random crashes, a sink that fails at random and loses acknowledgements: nothing is
//! lost, nothing comes that was not committed, each key's events first come in the order of their commits, and
//! what comes twice is bounded.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use onlyonce_outbox::sinks::Memory;
use onlyonce_outbox::status::status;
use onlyonce_outbox::{
    Ack, Connector, Envelope, Error, Event, Relay, RelayOptions, Sink, SinkError, append,
};
use onlyonce_test::dice::Dice;
use onlyonce_test::event::within;
use onlyonce_test::postgres::{Cluster, Database, Options, find_bin_dirs};
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Row, raw_sql};
use tokio::task::{JoinHandle, JoinSet};
use uuid::Uuid;

use crate::fixture::{Postgres, run, value};

const WRITERS: usize = 8;
const TRANSACTIONS: usize = 120;
const KEYS: u64 = 6;
const PERSIST: usize = 100;
const PAGE: u32 = 50;

/// Refuses some messages, and takes some without saying so.
struct Unreliable {
    memory: Memory,
    dice: Mutex<Dice>,
    unsaid: Arc<AtomicUsize>,
}

impl Sink for Unreliable {
    fn name(&self) -> &str {
        "unreliable"
    }

    fn batch_max(&self) -> usize {
        7
    }

    async fn publish(&self, batch: &[Envelope]) -> Vec<Result<Ack, SinkError>> {
        let mut results = Vec::new();
        for envelope in batch {
            let pause = self.dice.lock().unwrap().percent(3);
            if pause {
                // A crash can come here, with half of the batch taken.
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            let (refuses, forgets) = {
                let mut dice = self.dice.lock().unwrap();
                (dice.percent(3), dice.percent(2))
            };
            if refuses {
                results.push(Err(SinkError::retryable("not now")));
                continue;
            }
            self.memory.publish(std::slice::from_ref(envelope)).await;
            if forgets {
                self.unsaid.fetch_add(1, Ordering::Relaxed);
                results.push(Err(SinkError::retryable("taken, but the answer was lost")));
            } else {
                results.push(Ok(Ack::default()));
            }
        }
        results
    }
}

struct World {
    postgres: Postgres,
    memory: Memory,
    unsaid: Arc<AtomicUsize>,
    _cluster: Cluster,
}

impl World {
    /// A server that remembers when each transaction committed, behind a pooler.
    async fn new() -> Self {
        let bin = find_bin_dirs()
            .into_iter()
            .next()
            .expect("a Postgres is installed");
        let options = Options::default()
            .fsync(false)
            .set("track_commit_timestamp", "on");
        let cluster = options.start(&bin).unwrap();
        let database = Database::fresh_at(&cluster.url("postgres")).await;
        Self {
            postgres: Postgres::pooled(database, 12).await,
            memory: Memory::new("all"),
            unsaid: Arc::default(),
            _cluster: cluster,
        }
    }

    fn relay(&self, dice: &mut Dice) -> JoinHandle<Result<(), Error>> {
        let sink = Unreliable {
            memory: self.memory.clone(),
            dice: Mutex::new(dice.split()),
            unsaid: Arc::clone(&self.unsaid),
        };
        let connector: Connector = self.postgres.connector();
        let relay = Relay::new(connector, sink, options()).unwrap();
        tokio::spawn(relay.run(std::future::pending()))
    }
}

fn options() -> RelayOptions {
    RelayOptions::default()
        .lease(Duration::from_millis(400))
        .publish_timeout(Duration::from_millis(150))
        .persist(PERSIST, Duration::from_millis(100))
        .page(PAGE)
        .retry(Duration::from_millis(2), Duration::from_millis(20))
        .breaker(Duration::from_millis(2), Duration::from_millis(20))
        .poll(Duration::from_millis(2), Duration::from_millis(20))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_and_each_key_is_in_order() {
    let mut dice = Dice::seeded();
    let world = World::new().await;
    let mut writers = JoinSet::new();
    for _ in 0..WRITERS {
        let connection = world.postgres.connect().await;
        writers.spawn(write(connection, dice.split()));
    }
    let mut relays = [world.relay(&mut dice), world.relay(&mut dice)];
    let mut crashes = 0;
    let mut committed: HashMap<Uuid, String> = HashMap::new();
    while !writers.is_empty() {
        tokio::select! {
            Some(written) = writers.join_next() => committed.extend(written.unwrap()),
            () = dice.pause(80) => {
                let number = usize::from(dice.percent(50));
                relays[number].abort();
                relays[number] = world.relay(&mut dice);
                crashes += 1;
            }
        }
    }
    let all = |taken: &VecDeque<Envelope>| {
        let ids: HashSet<_> = taken.iter().map(|envelope| envelope.event_id).collect();
        committed.keys().all(|id| ids.contains(id))
    };
    let taken = within("everything that was committed", world.memory.until(all)).await;
    nothing_else_came(&taken, &committed);
    let mut connection = world.postgres.connect().await;
    in_order_of_commit(&mut connection, &taken).await;
    redelivery_is_bounded(
        &taken,
        committed.len(),
        crashes,
        world.unsaid.load(Ordering::Relaxed),
    );
    nothing_is_left(&mut connection).await;
    println!(
        "{} committed, {} delivered, {crashes} crashes",
        committed.len(),
        taken.len()
    );
    relays.iter().for_each(JoinHandle::abort);
}

/// Random transactions; answers the ids of the events that were committed, each with its key.
async fn write(mut connection: PgConnection, mut dice: Dice) -> HashMap<Uuid, String> {
    let mut committed = HashMap::new();
    for _ in 0..TRANSACTIONS {
        run(&mut connection, "begin").await;
        if dice.percent(40) {
            run(&mut connection, "select pg_current_xact_id()").await;
        }
        dice.pause(6).await;
        if dice.percent(10) {
            run(&mut connection, "savepoint undone").await;
            let ghost = Event::new("orders", dice.below(KEYS))
                .json(&"ghost")
                .unwrap();
            append(&mut connection, &[ghost], None).await.unwrap();
            run(&mut connection, "rollback to undone").await;
        }
        let events = events(&mut dice);
        append(&mut connection, &events, None).await.unwrap();
        if dice.percent(30) {
            dice.pause(4).await;
        }
        if dice.percent(15) {
            run(&mut connection, "rollback").await;
            continue;
        }
        run(&mut connection, "commit").await;
        let ids = events
            .iter()
            .map(|event| (event.event_id(), event.key().unwrap_or("").to_owned()));
        committed.extend(ids);
    }
    committed
}

fn events(dice: &mut Dice) -> Vec<Event> {
    let mut events = Vec::new();
    for _ in 0..=dice.below(3) {
        let key = dice.below(KEYS);
        for number in 0..=dice.below(2) {
            let topic = if dice.percent(50) {
                "orders"
            } else {
                "payments"
            };
            events.push(Event::new(topic, key).json(&number).unwrap());
        }
    }
    if dice.percent(10) {
        events.push(Event::unordered("audit").json(&0).unwrap());
    }
    events
}

fn nothing_else_came(taken: &[Envelope], committed: &HashMap<Uuid, String>) {
    let phantoms = taken
        .iter()
        .filter(|envelope| !committed.contains_key(&envelope.event_id));
    assert_eq!(phantoms.count(), 0, "events came that were never committed");
}

/// By the server's own word of when each transaction committed.
async fn in_order_of_commit(connection: &mut PgConnection, taken: &[Envelope]) {
    let statement = "select event_id::text, pg_xact_commit_timestamp(xid::text::xid)::text || ' ' || lpad(id::text, 20, '0') \
         from onlyonce_outbox_event";
    let rows = raw_sql(AssertSqlSafe(statement))
        .fetch_all(connection)
        .await
        .unwrap();
    let places: HashMap<String, String> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    let mut seen = HashSet::new();
    let mut last: BTreeMap<(String, String), String> = BTreeMap::new();
    for envelope in taken
        .iter()
        .filter(|envelope| seen.insert(envelope.event_id))
    {
        let Some(key) = envelope.key.clone() else {
            continue;
        };
        let place = &places[&envelope.event_id.to_string()];
        let before = last.insert((envelope.topic.clone(), key), place.clone());
        if let Some(before) = before {
            assert!(before < *place, "{} came before {before}", place);
        }
    }
}

/// A crash costs what was delivered since the cursors moved last, and what was under way.
fn redelivery_is_bounded(taken: &[Envelope], committed: usize, crashes: usize, unsaid: usize) {
    let page = usize::try_from(PAGE).unwrap();
    let bound = crashes * (PERSIST + 2 * page) + unsaid;
    let again = taken.len() - committed;
    assert!(
        again <= bound,
        "{again} came again, with {crashes} crashes and {unsaid} lost answers"
    );
}

async fn nothing_is_left(connection: &mut PgConnection) {
    let left = async {
        loop {
            let told = status(connection).await.unwrap();
            let parked = "select count(*) from onlyonce_outbox_parked";
            if told.sinks[0].undelivered() == 0 && value::<i64>(connection, parked).await == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within("cursors to move and nothing to be parked", left).await;
}
