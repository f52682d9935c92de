//! What an old snapshot does to an outbox: the relay's, which only reads its events, against a table as a queue, whose
//! taken rows are deleted.
//!
//! One `repeatable read` transaction stays open in each of two databases, as a long report or a forgotten session
//! would. No deleted row can leave while it is, and every later look for work passes all of them.

use std::time::Duration;

use onlyonce_test::postgres::Database;
use onlyonce_test::process::Launch;
use onlyonce_test::redis;
use sqlx::{Connection, Executor, PgConnection};
use tokio::time::{Instant, sleep};

use crate::Failure;
use crate::relay::{TOPIC, drained, event, start};
use crate::results::{Figure, Spread, count, signed};
use crate::servers::Servers;
use crate::turns::Effort;

const QUEUE: &str = "create table queue (
    id bigint generated always as identity primary key, topic text not null, key text not null, payload bytea not null
)";
const ENQUEUE: &str = "insert into queue (topic, key, payload)
    select $1, (number % 1000)::text, $2 from generate_series(1, $3) as number";
const HOLD: &str = "set transaction isolation level repeatable read; select count(*) from pg_class";
/// Sessions report what they did at most once a second.
const DEAD: &str = "select coalesce(sum(n_dead_tup), 0)::bigint from pg_stat_user_tables";
const REPORTED: Duration = Duration::from_millis(1_500);

/// Events are committed together, so many at a time, and drained before the next.
const EVENTS: u64 = 10_000;
const STEPS: usize = 20;
const EVENTS_IN_SMOKE: u64 = 500;
const STEPS_IN_SMOKE: usize = 2;
/// So many steps are the beginning, and as many the end.
const ENDS: usize = 3;
/// An append takes no more keys.
const KEYS: u64 = 1_000;

const POLL: Duration = Duration::from_millis(5);
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Outbox {
    Relay,
    Queue,
}

/// One outbox after the other, with the same events.
pub(crate) async fn measure(servers: &mut Servers, effort: Effort) -> Result<Vec<Figure>, Failure> {
    let (events, steps) = if effort.smoke {
        (EVENTS_IN_SMOKE, STEPS_IN_SMOKE)
    } else {
        (EVENTS, STEPS)
    };
    let mut figures = Vec::new();
    for (outbox, name) in [(Outbox::Relay, "relay"), (Outbox::Queue, "queue")] {
        servers.settle().await?;
        let (rates, dead) = drain(servers, outbox, events, steps).await?;
        let (first, last) = (&rates[..ENDS.min(steps)], &rates[steps - ENDS.min(steps)..]);
        let figure = |what: &str, values: &[f64]| {
            Figure::new(&format!("{name}, {what}"), "events/s", values.to_vec())
        };
        figures.push(figure("at first", first));
        let after = count(events) * count(steps.try_into()?);
        figures.push(figure(&format!("after {after} events"), last));
        figures.push(Figure::new(
            &format!("{name}, dead rows then"),
            "",
            vec![dead],
        ));
        let median = |values: &[f64]| Spread::of(values.to_vec()).map(|spread| spread.median);
        let left = median(last)
            .zip(median(first))
            .map(|(last, first)| last / first);
        figures.push(Figure::new(
            &format!("{name}, what is left of its speed"),
            "",
            left.into_iter().collect(),
        ));
    }
    Ok(figures)
}

/// Events a second of each step, and the dead rows after the last.
async fn drain(
    servers: &Servers,
    outbox: Outbox,
    events: u64,
    steps: usize,
) -> Result<(Vec<f64>, f64), Failure> {
    let database = Database::fresh_at(&servers.postgres.url("postgres")).await;
    let redis = redis::Server::start()?;
    let mut session = database.connect().await;
    match outbox {
        Outbox::Relay => onlyonce_outbox::migrate(&mut session).await?,
        Outbox::Queue => {
            session.execute(QUEUE).await?;
        }
    }
    let publisher = match outbox {
        Outbox::Relay => start(servers, &database, &redis, "held"),
        Outbox::Queue => Launch::of(["queue", &database.url(), &redis.url()])
            .program(servers.beside()?)
            .spawn(),
    };
    // What a starting program does is not measured, and is over before the snapshot is taken.
    append(&mut session, outbox, 1).await?;
    drained(&redis, &publisher, 1, PATIENCE, POLL).await?;
    let mut holder = database.connect().await;
    let mut snapshot = holder.begin().await?;
    snapshot.execute(HOLD).await?;
    let (mut rates, mut total) = (Vec::new(), 1);
    for _ in 0..steps {
        append(&mut session, outbox, events).await?;
        let committed = Instant::now();
        total += events;
        drained(&redis, &publisher, total, PATIENCE, POLL).await?;
        rates.push(count(events) / committed.elapsed().as_secs_f64());
    }
    sleep(REPORTED).await;
    let dead: i64 = sqlx::query_scalar(DEAD).fetch_one(&mut session).await?;
    snapshot.rollback().await?;
    Ok((rates, signed(dead)))
}

/// In one transaction.
async fn append(session: &mut PgConnection, outbox: Outbox, events: u64) -> Result<(), Failure> {
    let mut transaction = session.begin().await?;
    match outbox {
        Outbox::Relay => {
            let events: Result<Vec<_>, _> = (0..events)
                .map(|number| event(number % KEYS, number))
                .collect();
            for part in events?.chunks(usize::try_from(KEYS)?) {
                onlyonce_outbox::append(&mut transaction, part, None).await?;
            }
        }
        Outbox::Queue => {
            sqlx::query(ENQUEUE)
                .bind(TOPIC)
                .bind(vec![b'x'; 280])
                .bind(i64::try_from(events)?)
                .execute(&mut *transaction)
                .await?;
        }
    }
    Ok(transaction.commit().await?)
}
