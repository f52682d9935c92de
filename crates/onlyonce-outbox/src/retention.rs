//! Dropping days of events that every sink has passed.
//!
//! A day is kept for replays as long as the retention says, and then goes only if no sink's cursor has an event
//! of it still before it. What waits for a retry has a copy elsewhere and holds nothing up.
//!
//! A plain `DROP` would need the parent table for itself, and everybody would queue behind it as long as one
//! long reader keeps it waiting. So the day is detached concurrently, which waits alone, and then dropped as
//! the table of its own that it is by then.
//!
//! Relays do all this, as the tables' owner. Where none is:
//!
//! ```no_run
//! use std::time::Duration;
//!
//! # async fn every_day(owner: &mut sqlx::PgConnection) -> Result<(), onlyonce_outbox::Error> {
//! let week = Duration::from_secs(7 * 86_400);
//! let dropped = onlyonce_outbox::retention::sweep(owner, week).await?; // onlyonce_outbox_event_20261117, …
//! # Ok(()) }
//! ```

use std::time::Duration;

use sqlx::Row;
use sqlx::postgres::PgConnection;

use crate::error::Error;
use crate::transaction::{end, run};

/// Days that are older than so many seconds: attached ones, some of which are being detached, and those
/// that were detached and not dropped.
const DAYS: &str = "select quote_ident(n.nspname) || '.' || quote_ident(c.relname) as table, \
         c.relispartition as attached, coalesce(i.inhdetachpending, false) as pending, \
         to_char(to_date(right(c.relname, 8), 'YYYYMMDD'), 'YYYY-MM-DD') as first, \
         to_char(to_date(right(c.relname, 8), 'YYYYMMDD') + 1, 'YYYY-MM-DD') as last \
     from pg_class parent join pg_class c on c.relnamespace = parent.relnamespace \
         join pg_namespace n on n.oid = c.relnamespace \
         left join pg_inherits i on i.inhrelid = c.oid \
     where parent.oid = 'onlyonce_outbox_event'::regclass and c.relkind = 'r' \
         and c.relname ~ '^onlyonce_outbox_event_[0-9]{8}$' \
         and (to_date(right(c.relname, 8), 'YYYYMMDD') + 1)::timestamp at time zone 'UTC' \
             <= statement_timestamp() - interval '1 second' * ";

/// A day.
struct Day {
    table: String,
    attached: bool,
    pending: bool,
    bounds: String,
}

/// Drops the days that ended `keep` ago or before, that every sink has passed; answers the names of their tables.
/// Without any sink nothing is dropped. Relays do this every hour.
///
/// `connection` must not be in a transaction. It waits for whoever reads a day that is to go; nobody waits for
/// it. Where it is interrupted, the next sweep goes on.
///
/// # Errors
/// [`Error::Database`]: somebody holds a day for too long, or the account is not the tables' owner.
pub async fn sweep(connection: &mut PgConnection, keep: Duration) -> Result<Vec<String>, Error> {
    let mut dropped = Vec::new();
    for day in days(connection, keep).await? {
        if !pinned_by(connection, &day.table).await?.is_empty() || !has_sinks(connection).await? {
            tracing::debug!(
                day = day.table,
                "a day of events is kept: not every sink has passed it"
            );
            continue;
        }
        if day.attached {
            detach(connection, &day).await?;
        }
        // What a transaction left there that was open for as long as the retention.
        if !pinned_by(connection, &day.table).await?.is_empty() {
            let (table, bounds) = (&day.table, &day.bounds);
            let attach =
                format!("alter table onlyonce_outbox_event attach partition {table} {bounds}");
            run(connection, &attach).await?;
            continue;
        }
        let dropping = drop_table(connection, &day.table).await;
        end(connection, dropping).await?;
        tracing::info!(
            day = day.table,
            "a day of events is past retention, and was dropped"
        );
        dropped.push(day.table);
    }
    Ok(dropped)
}

async fn days(connection: &mut PgConnection, keep: Duration) -> Result<Vec<Day>, Error> {
    let statement = format!("{DAYS}{} order by c.relname", keep.as_secs());
    let rows = run(connection, &statement).await?;
    let day = |row: &sqlx::postgres::PgRow| {
        let (first, last): (&str, &str) = (row.try_get("first")?, row.try_get("last")?);
        Ok(Day {
            table: row.try_get("table")?,
            attached: row.try_get("attached")?,
            pending: row.try_get("pending")?,
            bounds: format!("for values from ('{first} 00:00:00+00') to ('{last} 00:00:00+00')"),
        })
    };
    let days: Result<Vec<_>, sqlx::Error> = rows.iter().map(day).collect();
    Ok(days?)
}

/// The sinks that have not passed a table's events yet.
pub(crate) async fn pinned_by(
    connection: &mut PgConnection,
    table: &str,
) -> Result<Vec<String>, Error> {
    let statement = format!(
        "select distinct c.sink from (select distinct sink, done::text as done from onlyonce_outbox_cursor) as c \
         where exists (select from {table} e where e.xid >= pg_snapshot_xmin(c.done::pg_snapshot) \
             and not pg_visible_in_snapshot(e.xid, c.done::pg_snapshot)) order by c.sink"
    );
    let rows = run(connection, &statement).await?;
    let sinks: Result<_, sqlx::Error> = rows.iter().map(|row| row.try_get(0)).collect();
    Ok(sinks?)
}

async fn has_sinks(connection: &mut PgConnection) -> Result<bool, Error> {
    let rows = run(connection, "select from onlyonce_outbox_cursor limit 1").await?;
    Ok(!rows.is_empty())
}

/// Not inside a transaction, and by itself: Postgres wants it so.
async fn detach(connection: &mut PgConnection, day: &Day) -> Result<(), Error> {
    let how = if day.pending {
        "finalize"
    } else {
        "concurrently"
    };
    let table = &day.table;
    let detach = format!("alter table onlyonce_outbox_event detach partition {table} {how}");
    run(connection, &detach).await.map(drop)
}

/// Begins a transaction, which the caller ends also where this fails.
async fn drop_table(connection: &mut PgConnection, table: &str) -> Result<(), Error> {
    let statements = format!(
        "begin isolation level read committed; set local lock_timeout = '1s'; drop table if exists {table}"
    );
    run(connection, &statements).await.map(drop)
}
