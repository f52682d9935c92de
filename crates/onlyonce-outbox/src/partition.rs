//! The partitions of events, one for each day (UTC), made a week ahead.
//!
//! A partition is made as a table of its own and then attached, which lets insertions go on.

use sqlx::Row;
use sqlx::postgres::PgConnection;

use crate::error::Error;
use crate::transaction::{end, run};

/// Takes its turn among all processes, until its transaction ends. The number is arbitrary, and ours.
const BEGIN: &str = "begin isolation level read committed; set local lock_timeout = '1s'; \
     set local statement_timeout = '30s'; select pg_advisory_xact_lock(6032170923155741031)";

/// Read from the catalog's tables: `to_regclass` may answer from before it was our turn. Times are written
/// with their zone: the session's may be any.
const MISSING: &str = "select ( \
         select quote_ident(nspname) from pg_class c join pg_namespace n on n.oid = c.relnamespace \
         where c.oid = 'onlyonce_outbox_event'::regclass) as schema, \
     to_char(day, 'YYYYMMDD') as name, \
     to_char(day, 'YYYY-MM-DD') as first, to_char(day + interval '1 day', 'YYYY-MM-DD') as last \
     from generate_series( \
         (statement_timestamp() at time zone 'UTC')::date::timestamp, \
         (statement_timestamp() at time zone 'UTC')::date + interval '7 days', \
         interval '1 day') as day \
     where not exists ( \
         select from pg_inherits i join pg_class c on c.oid = i.inhrelid \
         where i.inhparent = 'onlyonce_outbox_event'::regclass \
         and c.relname = 'onlyonce_outbox_event_' || to_char(day, 'YYYYMMDD')) \
     order by day";

/// Makes the partitions of today and the seven days ahead, where they are missing. Relays do this every hour,
/// and [`migrate`](crate::migrate) does: where neither runs for a week, appending fails.
///
/// # Errors
/// [`Error::Database`]: the account is not the tables' owner, or somebody holds a lock on them.
pub async fn prepare(connection: &mut PgConnection) -> Result<(), Error> {
    if run(connection, MISSING).await?.is_empty() {
        return Ok(());
    }
    let attached = attach_missing(connection).await;
    end(connection, attached).await
}

/// Begins a transaction, which the caller ends also where this fails: it may be open by then.
async fn attach_missing(connection: &mut PgConnection) -> Result<(), Error> {
    run(connection, BEGIN).await?;
    // Once more, now that it is our turn.
    for day in run(connection, MISSING).await? {
        let (schema, name): (&str, &str) = (day.try_get("schema")?, day.try_get("name")?);
        let (first, last): (&str, &str) = (day.try_get("first")?, day.try_get("last")?);
        // Beside its parent, whatever else this account would look at first.
        let table = format!("{schema}.onlyonce_outbox_event_{name}");
        run(
            connection,
            &format!(
                "create table {table} (like onlyonce_outbox_event including all); \
                 alter table onlyonce_outbox_event attach partition {table} \
                 for values from ('{first} 00:00:00+00') to ('{last} 00:00:00+00')"
            ),
        )
        .await?;
    }
    Ok(())
}
