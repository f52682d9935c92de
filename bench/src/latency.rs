//! How long an event is on its way: from the commit to a consumer that waits at the Redis stream.
//!
//! Events are committed at a modest rate, each in a transaction of its own, while `onlyonce relay` runs in a process
//! of its own: nobody wakes it, it finds them by looking.

use std::collections::HashMap;
use std::time::Duration;

use onlyonce_test::postgres::Database;
use onlyonce_test::redis::Server;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, cmd};
use sqlx::{Connection, PgConnection};
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, timeout};

use crate::Failure;
use crate::relay::{TOPIC, event, start};
use crate::results::{Figure, count};
use crate::servers::Servers;
use crate::turns::Effort;

/// Sessions that commit, and how often each does. A key belongs to one of them.
const SESSIONS: u64 = 8;
const EVERY: Duration = Duration::from_millis(16);
const KEYS_OF_SESSION: u64 = 100;

/// A relay that has started is this far, and the last event has come, within:
const PATIENCE: Duration = Duration::from_secs(20);

/// When each event was committed, or arrived, by the id that it has in both places.
type Times = HashMap<String, Instant>;

/// An answer to `XREAD`: of each stream the entries, with their ids and fields.
type Entries = Option<Vec<(String, Vec<(String, HashMap<String, Vec<u8>>)>)>>;

/// Percentiles of each round, in milliseconds.
pub(crate) async fn measure(servers: &mut Servers, effort: Effort) -> Result<Vec<Figure>, Failure> {
    let database = Database::fresh_at(&servers.postgres.url("postgres")).await;
    onlyonce_outbox::migrate(&mut database.connect().await).await?;
    let server = Server::start()?;
    let relay = start(servers, &database, &server, "latency");
    let mut consumer = Consumer::connect(&server).await?;
    // The first finds the relay still starting.
    round(&database, &mut consumer, Duration::from_millis(200)).await?;
    let (mut p50, mut p99, mut rates) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..effort.rounds {
        servers.settle().await?;
        let length = Duration::from_secs(effort.seconds);
        let measured = round(&database, &mut consumer, length).await;
        let waits = measured
            .map_err(|failure| format!("{failure}; the relay said:\n{}", relay.log().join("\n")))?;
        rates.push(count(waits.len().try_into()?) / length.as_secs_f64());
        p50.push(percentile(&waits, 50)?);
        p99.push(percentile(&waits, 99)?);
    }
    Ok(vec![
        Figure::new("from the commit to the consumer, p50", "ms", p50),
        Figure::new("from the commit to the consumer, p99", "ms", p99),
        Figure::new("events meanwhile", "/s", rates),
    ])
}

/// Commits for so long, waits for all of it, and answers how long each was on its way, in order.
async fn round(
    database: &Database,
    consumer: &mut Consumer,
    length: Duration,
) -> Result<Vec<Duration>, Failure> {
    let mut sessions = JoinSet::new();
    for number in 0..SESSIONS {
        sessions.spawn(commit(database.connect().await, number, length));
    }
    let committing = async {
        let mut committed = Times::new();
        while let Some(times) = sessions.join_next().await {
            committed.extend(times??);
        }
        Ok::<_, Failure>(committed)
    };
    let mut committing = std::pin::pin!(committing);
    let mut arrived = Times::new();
    let committed = loop {
        tokio::select! {
            committed = &mut committing => break committed?,
            came = consumer.next() => came?.into_iter().for_each(|(id, at)| { arrived.entry(id).or_insert(at); }),
        }
    };
    let rest = async {
        while arrived.len() < committed.len() {
            for (id, at) in consumer.next().await? {
                arrived.entry(id).or_insert(at);
            }
        }
        Ok::<_, Failure>(())
    };
    timeout(PATIENCE, rest)
        .await
        .map_err(|_| "events did not arrive")??;
    let wait =
        |(id, at): (&String, &Instant)| Some(arrived.get(id)?.saturating_duration_since(*at));
    let waits: Option<Vec<_>> = committed.iter().map(wait).collect();
    let mut waits = waits.ok_or("other events arrived than were committed")?;
    waits.sort_unstable();
    Ok(waits)
}

/// An event now and then; says when the server had confirmed each.
async fn commit(
    mut session: PgConnection,
    number: u64,
    length: Duration,
) -> Result<Times, onlyonce_outbox::Error> {
    let mut times = Times::new();
    let mut ticks = interval(EVERY);
    let until = Instant::now() + length;
    for tick in 0.. {
        ticks.tick().await;
        if Instant::now() >= until {
            break;
        }
        let event = event(number * KEYS_OF_SESSION + tick % KEYS_OF_SESSION, tick)?;
        let id = event.event_id().to_string();
        let mut transaction = session.begin().await?;
        onlyonce_outbox::append(&mut transaction, &[event], None).await?;
        transaction.commit().await?;
        times.insert(id, Instant::now());
    }
    Ok(times)
}

/// Who waits at the stream.
struct Consumer {
    connection: MultiplexedConnection,
    last: String,
}

impl Consumer {
    async fn connect(server: &Server) -> Result<Self, Failure> {
        let config = AsyncConnectionConfig::new().set_response_timeout(None);
        let client = Client::open(server.url())?;
        Ok(Self {
            connection: client
                .get_multiplexed_async_connection_with_config(&config)
                .await?,
            last: "0".to_owned(),
        })
    }

    /// What has come, once something has. Cancelled, it misses nothing: the next call begins where the last
    /// that returned had ended.
    async fn next(&mut self) -> Result<Vec<(String, Instant)>, Failure> {
        let mut read = cmd("XREAD");
        read.arg("BLOCK")
            .arg(0)
            .arg("STREAMS")
            .arg(TOPIC)
            .arg(&self.last);
        let entries: Entries = read.query_async(&mut self.connection).await?;
        let at = Instant::now();
        let mut came = Vec::new();
        for (entry, fields) in entries
            .into_iter()
            .flatten()
            .flat_map(|(_, entries)| entries)
        {
            let id = fields.get("event_id").ok_or("an entry without an id")?;
            came.push((String::from_utf8(id.clone())?, at));
            self.last = entry;
        }
        Ok(came)
    }
}

fn percentile(sorted: &[Duration], percent: usize) -> Result<f64, Failure> {
    let at = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
    let wait = sorted.get(at).ok_or("nothing was committed")?;
    Ok(wait.as_secs_f64() * 1e3)
}
