//! The tables, and their versions.
//!
//! Migrations are part of the crate, numbered, and only ever expand the schema, so that processes of the
//! version before go on working while a new one arrives. Each says which is the oldest program that can still
//! use the schema after it. They run in one transaction, under a lock that lasts as long as it does.
//!
//! The tables are made in the first schema of the search path, beside the application's own, and their names
//! begin with `onlyonce_outbox_`.

use sqlx::Row;
use sqlx::postgres::PgConnection;

use crate::error::Error;
use crate::partition;
use crate::transaction::{end, run};

struct Migration {
    version: i32,
    /// The oldest program, by the newest version that it knows, which works on this schema.
    min_compatible: i32,
    statements: &'static str,
}

const MIGRATIONS: [Migration; 1] = [Migration {
    version: 1,
    min_compatible: 1,
    statements: include_str!("../migrations/0001_outbox.sql"),
}];

/// The newest version that this program knows.
const KNOWN: i32 = MIGRATIONS[MIGRATIONS.len() - 1].version;

/// The number is arbitrary, and ours.
const BEGIN: &str = "begin isolation level read committed; set local lock_timeout = '60s'; \
     set local statement_timeout = '60s'; select pg_advisory_xact_lock(6032170923155741030); \
     create table if not exists onlyonce_outbox_schema ( \
         version        integer     primary key, \
         min_compatible integer     not null, \
         applied_at     timestamptz not null default statement_timestamp())";

const VERSION: &str = "select coalesce(max(version), 0) as version, \
     coalesce(max(min_compatible), 0) as min_compatible from onlyonce_outbox_schema";

/// Makes the tables, or brings them up to date, and makes the partitions of the days ahead. Does nothing where
/// nothing is missing; may be called by several processes at once. `connection` must not be in a transaction.
///
/// # Errors
/// [`Error::Schema`] where the database has been migrated by a newer program that this one cannot work with;
/// [`Error::Database`] where the server fails, with nothing changed.
pub async fn migrate(connection: &mut PgConnection) -> Result<(), Error> {
    let applied = apply_missing(connection).await;
    end(connection, applied).await?;
    partition::prepare(connection).await
}

/// Whether the database's tables can be used by this program.
///
/// # Errors
/// [`Error::Schema`], with what to do about it.
pub async fn check(connection: &mut PgConnection) -> Result<(), Error> {
    let version = match version(connection).await {
        Ok(version) if version >= KNOWN => return Ok(()),
        Ok(version) => version,
        Err(error) if error.sqlstate().as_deref() == Some("42P01") => 0,
        Err(error) => return Err(error),
    };
    Err(Error::Schema(format!(
        "the outbox's tables are of version {version} and this program needs {KNOWN}: run its migrations"
    )))
}

/// Begins a transaction, which the caller ends also where this fails: it may be open by then.
async fn apply_missing(connection: &mut PgConnection) -> Result<(), Error> {
    run(connection, BEGIN).await?;
    let present = version(connection).await?;
    for migration in MIGRATIONS.iter().filter(|step| step.version > present) {
        run(connection, migration.statements).await?;
        let (version, min_compatible) = (migration.version, migration.min_compatible);
        run(
            connection,
            &format!(
                "insert into onlyonce_outbox_schema (version, min_compatible) values ({version}, {min_compatible})"
            ),
        )
        .await?;
        tracing::info!(version, "outbox schema migrated");
    }
    Ok(())
}

/// The version of the database's schema; an error where this program is too old for it.
async fn version(connection: &mut PgConnection) -> Result<i32, Error> {
    let rows = run(connection, VERSION).await?;
    let Some(row) = rows.first() else {
        return Ok(0);
    };
    let (version, min_compatible): (i32, i32) = (row.try_get(0)?, row.try_get(1)?);
    if min_compatible > KNOWN {
        return Err(Error::Schema(format!(
            "the outbox's tables are of version {version}, which needs a newer program than this one (it knows {KNOWN})"
        )));
    }
    Ok(version)
}
