//! How fast a relay catches up once its sink is back, while events go on arriving.
//!
//! Redis is stopped for as long as a round lasts, and events are committed all the while and afterwards at the same
//! pace. What is measured lies between the first entry after Redis is back and the moment at which the stream has
//! all that was committed. The wait before that first entry is the relay's, which asks ever more seldom.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use onlyonce_test::postgres::Database;
use onlyonce_test::redis::Server;
use sqlx::{Connection, PgConnection};
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, sleep};

use crate::Failure;
use crate::relay::{event, length, start};
use crate::results::{Figure, count};
use crate::servers::Servers;
use crate::turns::Effort;

/// The figure that the aim is about.
pub(crate) const RATIO: &str = "deliveries while the backlog drains, for each arrival meanwhile";

/// Sessions that commit, so many events at a time, each on keys of its own in turn: so many times as many.
const SESSIONS: u64 = 8;
const EVENTS: u64 = 10;
const KEYS: u64 = 100;
const EVERY: Duration = Duration::from_millis(16);

const POLL: Duration = Duration::from_millis(2);
/// The relay asks again after 30 s at the latest.
const PATIENCE: Duration = Duration::from_secs(60);

/// What writers and the measurement share.
#[derive(Debug, Default)]
struct Shared {
    committed: AtomicU64,
    stop: AtomicBool,
}

/// How far everything is.
#[derive(Debug, Clone, Copy)]
struct Sample {
    at: Instant,
    arrived: u64,
    delivered: u64,
}

/// The sink goes and comes back in each round.
pub(crate) async fn measure(servers: &mut Servers, effort: Effort) -> Result<Vec<Figure>, Failure> {
    let (mut ratios, mut arrivals, mut deliveries, mut backlogs) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..effort.rounds {
        servers.settle().await?;
        let (first, level) = round(servers, Duration::from_secs(effort.seconds)).await?;
        let seconds = (level.at - first.at).as_secs_f64();
        let arrived = count(level.arrived - first.arrived);
        let delivered = count(level.delivered - first.delivered);
        backlogs.push(count(first.arrived - first.delivered));
        ratios.push(delivered / arrived.max(1.0));
        arrivals.push(arrived / seconds);
        deliveries.push(delivered / seconds);
    }
    Ok(vec![
        Figure::new(RATIO, "", ratios),
        Figure::new("deliveries meanwhile", "events/s", deliveries),
        Figure::new("arrivals meanwhile", "events/s", arrivals),
        Figure::new("events in the backlog", "", backlogs),
    ])
}

async fn round(servers: &Servers, outage: Duration) -> Result<(Sample, Sample), Failure> {
    let database = Database::fresh_at(&servers.postgres.url("postgres")).await;
    onlyonce_outbox::migrate(&mut database.connect().await).await?;
    let mut redis = Server::start()?;
    let relay = start(servers, &database, &redis, "down");
    let shared = Arc::new(Shared::default());
    let mut sessions = JoinSet::new();
    redis.stop();
    for number in 0..SESSIONS {
        sessions.spawn(commit(
            database.connect().await,
            number,
            Arc::clone(&shared),
        ));
    }
    sleep(outage).await;
    redis.launch()?;
    let drained = async {
        let first = until(&redis, &shared, |sample| sample.delivered > 0).await?;
        let level = |sample: &Sample| sample.delivered >= sample.arrived;
        Ok::<_, Failure>((first, until(&redis, &shared, level).await?))
    };
    let drained = drained
        .await
        .map_err(|failure| format!("{failure}; the relay said:\n{}", relay.log().join("\n")));
    shared.stop.store(true, Ordering::Relaxed);
    while let Some(ended) = sessions.join_next().await {
        ended??;
    }
    Ok(drained?)
}

/// The first sample that is as `is` wants it.
async fn until(
    redis: &Server,
    shared: &Shared,
    is: impl Fn(&Sample) -> bool,
) -> Result<Sample, Failure> {
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        // In this order: what is committed in between is not missing from the stream.
        let arrived = shared.committed.load(Ordering::Relaxed);
        let sample = Sample {
            arrived,
            delivered: length(redis)?,
            at: Instant::now(),
        };
        if is(&sample) {
            return Ok(sample);
        }
        sleep(POLL).await;
    }
    Err("the backlog did not drain".into())
}

/// Events at an even pace.
async fn commit(
    mut session: PgConnection,
    number: u64,
    shared: Arc<Shared>,
) -> Result<(), onlyonce_outbox::Error> {
    let mut ticks = interval(EVERY);
    for tick in 0.. {
        ticks.tick().await;
        if shared.stop.load(Ordering::Relaxed) {
            break;
        }
        let key = |place: u64| (number * KEYS + tick % KEYS) * EVENTS + place;
        let events: Result<Vec<_>, _> = (0..EVENTS).map(|place| event(key(place), tick)).collect();
        let mut transaction = session.begin().await?;
        onlyonce_outbox::append(&mut transaction, &events?, None).await?;
        transaction.commit().await?;
        shared.committed.fetch_add(EVENTS, Ordering::Relaxed);
    }
    Ok(())
}
