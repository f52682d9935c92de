//! The partitions that responses are kept in, one for each day (UTC): made ahead, dropped afterwards.
//!
//! A partition is made as a table of its own and then attached, which lets insertions go on. Dropping one
//! needs the parent for itself; while it waits for a reader, everybody waits behind it (P9), so it waits a
//! tenth of a second at the most and otherwise tries again with a later sweep.

use onlyonce::store::StoreErrorKind;
use sqlx::Row;
use sqlx::postgres::PgRow;

use super::call::Call;
use super::failure::Failure;
use super::session::Session;

/// Takes its turn among all processes, until its transaction ends. The number is arbitrary, and ours.
const BEGIN: &str = "begin isolation level read committed; set local lock_timeout = '1s'; \
     set local statement_timeout = '30s'; select pg_advisory_xact_lock(6032170923155741026)";

/// Read from the catalog's tables: `to_regclass` may answer from before it was our turn.
const MISSING: &str = "select ( \
         select relnamespace::regnamespace::text from pg_class \
         where oid = 'onlyonce_responses'::regclass) as schema, \
     to_char(day, 'YYYYMMDD') as name, \
     day::date::text as first, (day + interval '1 day')::date::text as last \
     from generate_series( \
         (statement_timestamp() at time zone 'UTC')::date::timestamp, \
         (statement_timestamp() at time zone 'UTC')::date + interval '7 days', \
         interval '1 day') as day \
     where not exists ( \
         select from pg_inherits i join pg_class c on c.oid = i.inhrelid \
         where i.inhparent = 'onlyonce_responses'::regclass \
         and c.relname = 'onlyonce_responses_' || to_char(day, 'YYYYMMDD')) \
     order by day";

/// Makes the partitions of today and the seven days ahead, where they are missing.
pub(super) async fn prepare(session: &mut Session<'_>) -> Result<(), Failure> {
    if session.run(MISSING).await?.is_empty() {
        return Ok(());
    }
    match attach_missing(session).await {
        Ok(()) => session.run("commit").await.map(drop),
        Err(failure) => Err(session.roll_back(failure).await),
    }
}

/// Begins a transaction, which the caller ends also where this fails: it may be open by then.
async fn attach_missing(session: &mut Session<'_>) -> Result<(), Failure> {
    session.run(BEGIN).await?;
    // Once more, now that it is our turn.
    for day in session.run(MISSING).await? {
        let (schema, name, first, last) = (
            text(&day, "schema")?,
            text(&day, "name")?,
            text(&day, "first")?,
            text(&day, "last")?,
        );
        // Beside its parent: where both are searched for, whatever else this account would look at first.
        session
            .run(&format!(
                "create table {schema}.onlyonce_responses_{name} \
                     (like onlyonce_responses including all); \
                 alter table onlyonce_responses \
                 attach partition {schema}.onlyonce_responses_{name} for values from ('{first}') to ('{last}')"
            ))
            .await?;
    }
    Ok(())
}

/// Partitions of days that are over for a day at least: nothing is inserted there any more.
const PAST: &str = "select to_char(day, 'YYYYMMDD') as name, day::text as day, \
     keep_until is null as unmeasured, keep_until <= statement_timestamp() as over \
     from ( \
         select to_date(right(c.relname, 8), 'YYYYMMDD') as day \
         from pg_inherits i join pg_class c on c.oid = i.inhrelid \
         where i.inhparent = 'onlyonce_responses'::regclass \
     ) partitions left join onlyonce_response_days using (day) \
     where day < (statement_timestamp() at time zone 'UTC')::date - 1 \
     order by day";

/// Drops the partitions whose records are all past retention.
#[derive(Debug)]
pub(super) struct Upkeep;

impl Call for Upkeep {
    type Output = ();

    async fn run(&self, session: &mut Session<'_>) -> Result<(), Failure> {
        prepare(session).await?;
        for day in session.run(PAST).await? {
            let (name, date) = (text(&day, "name")?, text(&day, "day")?);
            if day.try_get("unmeasured")? {
                measure(session, name, date).await?;
            } else if day.try_get("over")? {
                drop_day(session, name, date).await?;
            }
        }
        Ok(())
    }
}

/// Finds out, once, until when a day's responses are needed: the last entry of the primary key's index.
async fn measure(session: &mut Session<'_>, name: &str, date: &str) -> Result<(), Failure> {
    let statements = format!(
        "begin isolation level read committed; set local statement_timeout = '30s'; \
         insert into onlyonce_response_days (day, keep_until) \
         select '{date}', coalesce(max(expires_at), '-infinity') from onlyonce_responses_{name} \
         on conflict do nothing; commit"
    );
    match in_order(session, &statements).await {
        // Another process measured and dropped it meanwhile.
        Err(failure) if failure.lacks_table() => Ok(()),
        result => result,
    }
}

async fn drop_day(session: &mut Session<'_>, name: &str, date: &str) -> Result<(), Failure> {
    let statements = format!(
        "begin isolation level read committed; set local lock_timeout = '100ms'; \
         drop table if exists onlyonce_responses_{name}; \
         delete from onlyonce_response_days where day = '{date}'; commit"
    );
    match in_order(session, &statements).await {
        Err(failure) if failure.is_lock_timeout() => {
            tracing::info!(
                day = date,
                "responses are being read: dropped by a later sweep"
            );
            Ok(())
        }
        result => result,
    }
}

async fn in_order(session: &mut Session<'_>, statements: &str) -> Result<(), Failure> {
    match session.run(statements).await {
        Ok(_) => Ok(()),
        Err(failure) => Err(session.roll_back(failure).await),
    }
}

fn text<'r>(row: &'r PgRow, column: &str) -> Result<&'r str, Failure> {
    row.try_get(column)
        .map_err(|error| Failure::other(StoreErrorKind::Incompatible, error))
}
