//! Delivering again what a sink has had: because it lost it.
//!
//! Brokers that confirm before their disks do can lose what they confirmed. As long as the days are kept, a
//! sink's cursors can be set back. What was not delivered yet is not forgotten by it.
//!
//! Unlike sending the events of a query once more, this keeps the order within a key, and goes through the same relays,
//! retries and dead letters. Hazard: every receiver behind the sink gets them again, and an inbox refuses what is older
//! than its window.
//!
//! ```no_run
//! use std::time::{Duration, SystemTime};
//! use onlyonce_outbox::replay::{From, replay};
//!
//! # async fn operator(connection: &mut sqlx::PgConnection, now: SystemTime) -> Result<(), onlyonce_outbox::Error> {
//! let lost = From::Time(now - Duration::from_secs(600));
//! match replay(connection, "accounting", lost).await? {
//!     Some(replay) => println!("{} events are delivered again, from number {}", replay.events, replay.first),
//!     None => println!("there is nothing from there on"),
//! }
//! # Ok(()) }
//! ```

use std::time::SystemTime;

use sqlx::Row;
use sqlx::postgres::PgConnection;

use crate::error::Error;
use crate::relay::SEQUENCE;
use crate::transaction::{BEGIN, end, fetch, run};

/// From where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum From {
    /// From the event of this number ([`Envelope::sequence`](crate::Envelope::sequence)) on.
    Sequence(i64),
    /// From the first event that was appended at that time or later. Some that were appended earlier, and
    /// numbered later, come too.
    Time(SystemTime),
}

/// What will be delivered again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Replay {
    /// The first event's number.
    pub first: i64,
    /// How many events, new ones not counted.
    pub events: u64,
}

const LOCK: &str =
    "select shard from onlyonce_outbox_cursor where sink = $1 order by shard for update";

/// A time before all days is the first day's.
const FIRST: &str = "select min(id) from onlyonce_outbox_event \
     where created_at >= timestamptz 'epoch' + $1 * interval '1 microsecond'";

/// The end of the year 9999, in microseconds since 1970. No event is later, and the database cannot multiply by much more.
const LATEST: i64 = 253_402_300_800_000_000;

const ANY: &str = "select min(id) from onlyonce_outbox_event where id >= $1";

/// What is not delivered yet, by the cursors as they are, may lie before.
const SET_BACK: &str = "with present as materialized (select pg_current_snapshot() as open), \
     place as (select distinct done::text as done, open::text as open, last_id \
         from onlyonce_outbox_cursor where sink = $1), \
     pending as materialized (select min(e.id) as id from place p join onlyonce_outbox_event e \
         on e.xid >= pg_snapshot_xmin(p.done::pg_snapshot) \
         and not pg_visible_in_snapshot(e.xid, p.done::pg_snapshot) \
         and (p.open is null or e.id > p.last_id or not pg_visible_in_snapshot(e.xid, p.open::pg_snapshot))), \
     first as materialized (select least($2, (select id from pending)) as id), \
     moved as (update onlyonce_outbox_cursor c set done = '3:3:', done_floor = greatest(first.id - 1, 0), \
         open = present.open, open_floor = $3, last_id = greatest(first.id - 1, 0), epoch = c.epoch + 1, owner = null, lease_until = '-infinity', \
         moved_at = statement_timestamp() \
         from present, first where c.sink = $1) \
     select first.id, (select count(*) from onlyonce_outbox_event e where e.id >= first.id) \
     from first";

/// Sets a sink back, so that its relays deliver everything from there again. `None` where there is nothing from
/// there on; then nothing changes.
///
/// Relays notice with their next write, within a fifth of their lease when idle. Order within a key holds among
/// what is delivered again; but where an event of the key has failed and is still undelivered, the earlier ones wait behind
/// it: decide about dead letters first. `connection` must not be in a transaction.
///
/// # Errors
/// [`Error::Invalid`] where the database does not know the sink; [`Error::Database`], with nothing changed.
pub async fn replay(
    connection: &mut PgConnection,
    sink: &str,
    from: From,
) -> Result<Option<Replay>, Error> {
    // Before that the sequence was where it is now; transactions with ids above have their numbers above.
    let sequence = run(connection, SEQUENCE).await?;
    let floor: i64 = sequence.first().map_or(Ok(0), |row| row.try_get(0))?;
    run(connection, "select pg_current_xact_id()").await?;
    run(connection, BEGIN).await?;
    let set_back = set_back(connection, sink, from, floor).await;
    end(connection, set_back).await
}

async fn set_back(
    connection: &mut PgConnection,
    sink: &str,
    from: From,
    floor: i64,
) -> Result<Option<Replay>, Error> {
    let cursors = fetch(connection, sqlx::query(LOCK).bind(sink)).await?;
    if cursors.is_empty() {
        return Err(Error::invalid(
            format!("sink {sink:?}"),
            "has never had a relay",
        ));
    }
    let first = match from {
        From::Sequence(first) => {
            let first = first.max(1);
            let rows = fetch(connection, sqlx::query(ANY).bind(first)).await?;
            let any: Option<i64> = rows.first().map_or(Ok(None), |row| row.try_get(0))?;
            // From the number itself: others above it may not have committed yet.
            any.map(|_| first)
        }
        From::Time(time) => {
            let since = time
                .duration_since(SystemTime::UNIX_EPOCH)
                .unwrap_or_default();
            let micros =
                i64::try_from(since.as_micros()).map_or(LATEST, |micros| micros.min(LATEST));
            let rows = fetch(connection, sqlx::query(FIRST).bind(micros)).await?;
            rows.first().map_or(Ok(None), |row| row.try_get(0))?
        }
    };
    let Some(first) = first else {
        return Ok(None);
    };
    let query = sqlx::query(SET_BACK).bind(sink).bind(first).bind(floor);
    let rows = fetch(connection, query).await?;
    let Some(row) = rows.first() else {
        return Ok(None);
    };
    let events: i64 = row.try_get(1)?;
    Ok(Some(Replay {
        first: row.try_get(0)?,
        events: events.unsigned_abs(),
    }))
}
