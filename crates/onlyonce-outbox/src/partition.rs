//! The partitions of events, one for each day (UTC), made a week ahead.
//!
//! A partition is made as a table of its own and then attached, which lets insertions go on. `create table … partition
//! of` would keep everybody out meanwhile, and a default partition would be scanned for each new one.
//!
//! Hazard: an event whose day has no partition cannot be appended, and its transaction fails. Relays and
//! [`migrate`](crate::migrate) make days ahead, as the tables' owner. Where neither runs as the owner:
//!
//! ```no_run
//! # async fn every_day(owner: &mut sqlx::PgConnection) -> Result<(), onlyonce_outbox::Error> {
//! onlyonce_outbox::partition::prepare(owner).await
//! # }
//! ```

use sqlx::Row;
use sqlx::postgres::PgConnection;

use crate::error::Error;
use crate::transaction::{end, run};

/// Takes its turn among all processes, until its transaction ends. The number is arbitrary, and ours.
const BEGIN: &str = "begin isolation level read committed; set local lock_timeout = '30s'; \
     set local statement_timeout = '30s'; select pg_advisory_xact_lock(6032170923155741031); \
     set local lock_timeout = '1s'";

/// Today by the database's clock, as SQL.
pub(crate) const TODAY: &str = "(statement_timestamp() at time zone 'UTC')::date";

/// Makes the partitions of today and the seven days ahead, where they are missing. Relays do this every hour,
/// and [`migrate`](crate::migrate) does: where neither runs for a week, appending fails. `connection` must not be in a
/// transaction.
///
/// # Errors
/// [`Error::Database`]: the account is not the tables' owner, or somebody holds a lock on them.
pub async fn prepare(connection: &mut PgConnection) -> Result<(), Error> {
    let last = format!("{TODAY} + 7");
    make(connection, "onlyonce_outbox_event", TODAY, &last).await
}

/// Makes the partitions of a table for these days, both included, where they are missing. The days are SQL,
/// of the type `date`; the table is partitioned by a `date` or a `timestamptz`.
pub(crate) async fn make(
    connection: &mut PgConnection,
    table: &str,
    first: &str,
    last: &str,
) -> Result<(), Error> {
    let missing = missing(table, first, last);
    if run(connection, &missing).await?.is_empty() {
        return Ok(());
    }
    let attached = attach(connection, table, &missing).await;
    end(connection, attached).await
}

/// Read from the catalog's tables: `to_regclass` may answer from before it was our turn. Times are written
/// with their zone: the session's may be any.
fn missing(table: &str, first: &str, last: &str) -> String {
    format!(
        "select ( \
             select quote_ident(nspname) from pg_class c join pg_namespace n on n.oid = c.relnamespace \
             where c.oid = '{table}'::regclass) as schema, \
         to_char(day, 'YYYYMMDD') as name, \
         to_char(day, 'YYYY-MM-DD') as first, to_char(day + interval '1 day', 'YYYY-MM-DD') as last \
         from generate_series(({first})::timestamp, ({last})::timestamp, interval '1 day') as day \
         where not exists ( \
             select from pg_inherits i join pg_class c on c.oid = i.inhrelid \
             where i.inhparent = '{table}'::regclass \
             and c.relname = '{table}_' || to_char(day, 'YYYYMMDD')) \
         order by day"
    )
}

/// Begins a transaction, which the caller ends also where this fails: it may be open by then.
async fn attach(connection: &mut PgConnection, table: &str, missing: &str) -> Result<(), Error> {
    run(connection, BEGIN).await?;
    // Once more, now that it is our turn.
    for day in run(connection, missing).await? {
        let (schema, name): (&str, &str) = (day.try_get("schema")?, day.try_get("name")?);
        let (first, last): (&str, &str) = (day.try_get("first")?, day.try_get("last")?);
        // Beside its parent, whatever else this account would look at first.
        let partition = format!("{schema}.{table}_{name}");
        let statements = format!(
            "create table {partition} (like {table} including all); \
             alter table {table} attach partition {partition} \
             for values from ('{first} 00:00:00+00') to ('{last} 00:00:00+00')"
        );
        run(connection, &statements).await?;
    }
    Ok(())
}
