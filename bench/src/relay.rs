//! How fast `onlyonce relay` drains a backlog into Redis Streams.
//!
//! The backlog is written once. Each round is a relay of its own under a new name, which starts at the oldest
//! event, into an empty Redis.

use std::time::Duration;

use onlyonce_outbox::Event;
use onlyonce_test::postgres::Database;
use onlyonce_test::process::{Launch, Proxy};
use onlyonce_test::redis;
use sqlx::Connection;
use tokio::time::{Instant, sleep};

use crate::Failure;
use crate::cpu;
use crate::results::{Figure, count};
use crate::servers::Servers;
use crate::turns::Effort;

/// The figure that the aim is about.
pub(crate) const RATE: &str = "events a second, from the first to the last in the stream";

/// Each key has so many events, in as many transactions.
const EVENTS_OF_KEY: u64 = 100;
const KEYS: u64 = 1_000;
const KEYS_IN_SMOKE: u64 = 20;

/// The stream, and the events' topic.
pub(crate) const TOPIC: &str = "payments";

/// How often it is asked how far the relay is, and for how long.
const POLL: Duration = Duration::from_millis(20);
const PATIENCE: Duration = Duration::from_secs(60);

/// Writes a backlog and drains it in rounds.
pub(crate) async fn measure(servers: &mut Servers, effort: Effort) -> Result<Vec<Figure>, Failure> {
    let keys = if effort.smoke { KEYS_IN_SMOKE } else { KEYS };
    let events = keys * EVENTS_OF_KEY;
    let database = Database::fresh_at(&servers.postgres.url("postgres")).await;
    fill(&database, keys).await?;
    let redis = redis::Server::start()?;
    let processes = [
        ("postgres", servers.postgres.id().ok_or("Postgres ended")?),
        ("redis", redis.id().ok_or("Redis ended")?),
    ];
    let mut rates = Vec::new();
    let mut spent = [Vec::new(), Vec::new(), Vec::new()];
    for round in 0..effort.rounds {
        servers.settle().await?;
        redis.run("FLUSHALL")?;
        let before = [cpu::of_tree(processes[0].1)?, cpu::of_tree(processes[1].1)?];
        let relay = start(servers, &database, &redis, &format!("round-{round}"));
        drained(&redis, &relay, events, PATIENCE, POLL).await?;
        let relay = relay.id().ok_or("the relay ended")?;
        let after = [
            cpu::of_tree(processes[0].1)? - before[0],
            cpu::of_tree(processes[1].1)? - before[1],
            cpu::of_tree(relay)?,
        ];
        for (values, spent) in spent.iter_mut().zip(after) {
            values.push(spent.as_secs_f64() * 1e6 / count(events));
        }
        rates.push(count(events) / arrivals(&redis)?.as_secs_f64());
    }
    let mut figures = vec![
        Figure::new(RATE, "/s", rates),
        Figure::new("events in the backlog", "", vec![count(events)]),
    ];
    let names = ["postgres", "redis", "onlyonce"];
    figures.extend(
        names.iter().zip(spent).map(|(name, values)| {
            Figure::new(&format!("CPU for each event, {name}"), "µs", values)
        }),
    );
    Ok(figures)
}

/// A relay, logging as the proxy does when it is measured.
pub(crate) fn start(
    servers: &Servers,
    database: &Database,
    redis: &redis::Server,
    name: &str,
) -> Proxy {
    Launch::of([
        "relay",
        "--database",
        &database.url(),
        "--sink",
        &redis.url(),
    ])
    .arg("--name")
    .arg(name)
    .program(servers.program.clone())
    .env("ONLYONCE__LOG__LEVEL", "warn")
    .spawn()
}

/// An event of about 300 bytes, as the requests elsewhere.
pub(crate) fn event(key: u64, number: u64) -> Result<Event, onlyonce_outbox::Error> {
    let note = "x".repeat(240);
    Event::new(TOPIC, key)
        .kind("charged")
        .json(&serde_json::json!({ "amount": 1250, "number": number, "note": note }))
}

/// One event for each key in each transaction.
async fn fill(database: &Database, keys: u64) -> Result<(), Failure> {
    let mut session = database.connect().await;
    onlyonce_outbox::migrate(&mut session).await?;
    for number in 0..EVENTS_OF_KEY {
        let events: Result<Vec<_>, _> = (0..keys).map(|key| event(key, number)).collect();
        let mut transaction = session.begin().await?;
        onlyonce_outbox::append(&mut transaction, &events?, None).await?;
        transaction.commit().await?;
    }
    Ok(())
}

/// Waits until all are in the stream, and sees that none came twice. Looks with `poll` in between.
pub(crate) async fn drained(
    redis: &redis::Server,
    publisher: &Proxy,
    events: u64,
    patience: Duration,
    poll: Duration,
) -> Result<(), Failure> {
    let until = Instant::now() + patience;
    loop {
        let length = length(redis)?;
        if length == events {
            return Ok(());
        }
        if length > events || Instant::now() > until {
            let log = publisher.log().join("\n");
            return Err(format!("{length} entries of {events} events; it said:\n{log}").into());
        }
        sleep(poll).await;
    }
}

/// How many entries the stream has.
pub(crate) fn length(redis: &redis::Server) -> Result<u64, Failure> {
    let answer = redis.run(&format!("XLEN {TOPIC}"))?;
    let number = answer
        .lines()
        .next()
        .and_then(|line| line.strip_prefix(':'));
    Ok(number
        .ok_or("Redis does not say how long a stream is")?
        .parse()?)
}

/// From the first entry to the last, by Redis's clock: it names entries by the millisecond.
fn arrivals(redis: &redis::Server) -> Result<Duration, Failure> {
    let millis = |command: &str| -> Result<u64, Failure> {
        let answer = redis.run(command)?;
        let id = answer.lines().find_map(|line| line.split_once('-'));
        let (millis, _) = id.ok_or("Redis does not say when an entry came")?;
        Ok(millis.parse()?)
    };
    let first = millis(&format!("XRANGE {TOPIC} - + COUNT 1"))?;
    let last = millis(&format!("XREVRANGE {TOPIC} + - COUNT 1"))?;
    Ok(Duration::from_millis((last - first).max(1)))
}
