//! How an outbox is: what every sink still has before it, who works on it, and what holds the table up.
//!
//! All of it is read from the database, so anybody can ask, whether a relay runs or not. That none runs is the
//! one thing a relay's own numbers never say.
//!
//! ```no_run
//! use std::time::Duration;
//! use onlyonce_outbox::status::status;
//!
//! # async fn alarm(connection: &mut sqlx::PgConnection) -> Result<(), onlyonce_outbox::Error> {
//! for sink in status(connection).await?.sinks {
//!     let late = sink.oldest_undelivered() > Some(Duration::from_secs(60));
//!     if late || sink.relays == 0 || sink.dead() > 0 {
//!         println!("{}: {} undelivered, {} dead", sink.name, sink.undelivered(), sink.dead());
//!     }
//! }
//! # Ok(()) }
//! ```

use std::time::Duration;

use sqlx::Row;
use sqlx::postgres::{PgConnection, PgRow};
use uuid::Uuid;

use crate::error::Error;
use crate::retention;
use crate::sql;
use crate::transaction::{BEGIN, end, fetch, run};

/// The state of an outbox.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Status {
    /// Its sinks, by name.
    pub sinks: Vec<SinkStatus>,
    /// Its days, the oldest first.
    pub days: Vec<DayStatus>,
    /// How many transactions with an id are open in the cluster.
    pub open_transactions: u64,
    /// The age of the oldest of them. It delays nothing, but makes every look at the table a little dearer, and
    /// keeps the database from clearing up.
    pub oldest_transaction: Option<Duration>,
}

/// The state of a sink.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SinkStatus {
    /// Its name.
    pub name: String,
    /// How many relays live.
    pub relays: u64,
    /// For how long its receivers know repetitions, as its relays were told
    /// ([`RelayOptions::receivers_remember`](crate::RelayOptions::receivers_remember)); `None` for ever.
    pub dedupe_window: Option<Duration>,
    /// Keys of which an event is parked, unordered events not counted.
    pub parked_keys: u64,
    /// Its shards.
    pub shards: Vec<ShardStatus>,
}

impl SinkStatus {
    /// Events that were neither delivered nor parked.
    pub fn undelivered(&self) -> u64 {
        self.shards.iter().map(|shard| shard.undelivered).sum()
    }

    /// The age of the oldest of them.
    pub fn oldest_undelivered(&self) -> Option<Duration> {
        self.shards
            .iter()
            .filter_map(|shard| shard.oldest_undelivered)
            .max()
    }

    /// The age of the oldest event that failed and is tried again, or waits behind one of its key.
    pub fn oldest_parked(&self) -> Option<Duration> {
        self.shards
            .iter()
            .filter_map(|shard| shard.oldest_parked)
            .max()
    }

    /// The age of the oldest event that waits to be delivered. The dead do not wait.
    pub fn oldest(&self) -> Option<Duration> {
        self.oldest_undelivered().max(self.oldest_parked())
    }

    /// Whether that is more than half of the receivers' dedupe window: past it they refuse the event, or take a
    /// repetition for new.
    pub fn is_late(&self) -> bool {
        match (self.oldest(), self.dedupe_window) {
            (Some(age), Some(window)) => age > window / 2,
            _ => false,
        }
    }

    /// When the cursor that has not moved for the longest time did.
    pub fn cursor_age(&self) -> Duration {
        let ages = self.shards.iter().map(|shard| shard.cursor_age);
        ages.max().unwrap_or_default()
    }

    /// Dead letters.
    pub fn dead(&self) -> u64 {
        self.shards.iter().map(|shard| shard.dead).sum()
    }
}

/// The state of a sink's shard.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ShardStatus {
    /// From 0 to 63.
    pub shard: u16,
    /// Events that were neither delivered nor parked, as far as the cursor says: what was delivered within the
    /// last second is among them.
    pub undelivered: u64,
    /// The age of the oldest of them.
    pub oldest_undelivered: Option<Duration>,
    /// Events that failed and will be tried again.
    pub retrying: u64,
    /// Events that wait behind one of their key.
    pub behind: u64,
    /// The age of the oldest of those two.
    pub oldest_parked: Option<Duration>,
    /// Dead letters.
    pub dead: u64,
    /// The relay that works on it, if one does.
    pub owner: Option<Uuid>,
    /// When its cursor last moved. While nothing is new it moves once a minute.
    pub cursor_age: Duration,
}

/// A day of events.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DayStatus {
    /// The name of its table.
    pub table: String,
    /// The sinks that have not passed all of it, and so keep it from being dropped.
    pub pinned_by: Vec<String>,
}

/// Sinks that are at the same place are counted together.
const SHARDS: &str = "with cursor as materialized ( \
         select sink, shard, done::text as done, open::text as open, last_id, owner, lease_until, moved_at \
         from onlyonce_outbox_cursor \
     ), place as (select distinct sink, done, open, last_id from cursor), \
     pending as materialized ( \
         select p.sink, p.done, p.open, p.last_id, e.shard, count(*) as events, min(e.created_at) as oldest \
         from place p join onlyonce_outbox_event e on e.xid >= pg_snapshot_xmin(p.done::pg_snapshot) \
             and not pg_visible_in_snapshot(e.xid, p.done::pg_snapshot) \
             and (p.open is null or e.id > p.last_id \
                  or not pg_visible_in_snapshot(e.xid, p.open::pg_snapshot)) \
         group by p.sink, p.done, p.open, p.last_id, e.shard \
     ), parked as materialized ( \
         select sink, shard, count(*) filter (where state = 0) as retrying, \
             count(*) filter (where state = 1) as behind, count(*) filter (where state > 1) as dead, \
             min(created_at) filter (where state < 2) as oldest, \
             count(*) filter (where key is not null and state in (0, 2)) as keys \
         from onlyonce_outbox_parked group by sink, shard \
     ), alive as ( \
         select sink, count(*) as relays from onlyonce_outbox_relay \
         where alive_until >= statement_timestamp() group by sink \
     ) select c.sink, c.shard, coalesce(e.events, 0) as undelivered, \
         (extract(epoch from statement_timestamp() - e.oldest))::float8 as oldest, \
         coalesce(p.retrying, 0) as retrying, coalesce(p.behind, 0) as behind, coalesce(p.dead, 0) as dead, \
         (extract(epoch from statement_timestamp() - p.oldest))::float8 as oldest_parked, \
         sum(coalesce(p.keys, 0)) over (partition by c.sink)::int8 as keys, \
         (extract(epoch from s.dedupe_window))::float8 as dedupe_window, \
         case when c.lease_until >= statement_timestamp() then c.owner end as owner, \
         (extract(epoch from statement_timestamp() - c.moved_at))::float8 as moved, \
         coalesce(a.relays, 0) as relays \
     from cursor c left join pending e on e.sink = c.sink and e.shard = c.shard and e.done = c.done \
             and e.open is not distinct from c.open and e.last_id = c.last_id \
         left join parked p on p.sink = c.sink and p.shard = c.shard \
         left join alive a on a.sink = c.sink \
         left join onlyonce_outbox_sink s on s.sink = c.sink \
     order by c.sink, c.shard";

const OPEN: &str = "select count(*), (extract(epoch from clock_timestamp() - min(xact_start)))::float8 \
     from pg_stat_activity where backend_xid is not null and pid <> pg_backend_pid()";

const SINKS: &str = "select distinct sink from onlyonce_outbox_cursor order by sink";

const DAYS: &str = "select inhrelid::regclass::text from pg_inherits \
     where inhparent = 'onlyonce_outbox_event'::regclass order by 1";

/// Reads the state of the outbox. It counts all that is undelivered: with a backlog of millions that takes
/// seconds. The age of other accounts' transactions needs the right `pg_read_all_stats`. `connection` must not be in a
/// transaction.
///
/// # Errors
/// [`Error::Database`].
pub async fn status(connection: &mut PgConnection) -> Result<Status, Error> {
    run(connection, BEGIN).await?;
    let status = read(connection).await;
    end(connection, status).await
}

/// The names of the sinks that the database knows, without counting anything.
///
/// # Errors
/// [`Error::Database`].
pub async fn sinks(connection: &mut PgConnection) -> Result<Vec<String>, Error> {
    let rows = run(connection, SINKS).await?;
    let names: Result<_, sqlx::Error> = rows.iter().map(|row| row.try_get(0)).collect();
    Ok(names?)
}

async fn read(connection: &mut PgConnection) -> Result<Status, Error> {
    let mut sinks: Vec<SinkStatus> = Vec::new();
    for row in fetch(connection, sqlx::query(SHARDS)).await? {
        let name: String = row.try_get("sink")?;
        let shard = shard(&row)?;
        match sinks.last_mut().filter(|sink| sink.name == name) {
            Some(sink) => sink.shards.push(shard),
            None => sinks.push(SinkStatus {
                name,
                relays: number(&row, "relays")?,
                dedupe_window: age(&row, "dedupe_window")?,
                parked_keys: number(&row, "keys")?,
                shards: vec![shard],
            }),
        }
    }
    let mut days = Vec::new();
    for row in fetch(connection, sqlx::query(DAYS)).await? {
        let table: String = row.try_get(0)?;
        let pinned_by = retention::pinned_by(connection, &table).await?;
        days.push(DayStatus { table, pinned_by });
    }
    let open = fetch(connection, sqlx::query(OPEN)).await?;
    let (count, oldest): (i64, Option<f64>) = match open.first() {
        Some(row) => (row.try_get(0)?, row.try_get(1)?),
        None => (0, None),
    };
    Ok(Status {
        sinks,
        days,
        open_transactions: count.unsigned_abs(),
        oldest_transaction: oldest.map(seconds),
    })
}

fn shard(row: &PgRow) -> Result<ShardStatus, Error> {
    Ok(ShardStatus {
        shard: row.try_get::<i16, _>("shard")?.unsigned_abs(),
        undelivered: number(row, "undelivered")?,
        oldest_undelivered: age(row, "oldest")?,
        retrying: number(row, "retrying")?,
        behind: number(row, "behind")?,
        oldest_parked: age(row, "oldest_parked")?,
        dead: number(row, "dead")?,
        owner: row
            .try_get::<Option<sql::Uuid>, _>("owner")?
            .map(|owner| owner.0),
        cursor_age: seconds(row.try_get("moved")?),
    })
}

fn number(row: &PgRow, column: &str) -> Result<u64, Error> {
    Ok(row.try_get::<i64, _>(column)?.unsigned_abs())
}

fn age(row: &PgRow, column: &str) -> Result<Option<Duration>, Error> {
    let age: Option<f64> = row.try_get(column)?;
    Ok(age.map(seconds))
}

/// The database's clock may go back a little; an age does not.
fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or_default()
}
