//! The tables, and their versions.
//!
//! Migrations are part of the program, numbered, and only ever expand the schema, so that processes of the
//! version before go on working while a new one arrives. Each says which is the oldest program that can
//! still use the schema after it. They run in one transaction, under a lock that lasts as long as it does.

use std::time::Duration;

use onlyonce::store::StoreErrorKind;
use sqlx::Row;

use super::call::Call;
use super::days;
use super::failure::Failure;
use super::session::Session;

/// One step of the schema.
struct Migration {
    version: i32,
    /// The oldest program, by the newest version that it knows, which works on this schema.
    min_compatible: i32,
    statements: &'static str,
}

const MIGRATIONS: [Migration; 3] = [
    Migration {
        version: 1,
        min_compatible: 1,
        statements: include_str!("../../migrations/postgres/0001_records.sql"),
    },
    Migration {
        version: 2,
        // An older program would neither change the generation nor let a freed record rest.
        min_compatible: 2,
        statements: include_str!("../../migrations/postgres/0002_generation.sql"),
    },
    Migration {
        version: 3,
        // An older program names the columns of the primary key that was.
        min_compatible: 3,
        statements: include_str!("../../migrations/postgres/0003_in_order.sql"),
    },
];

/// The newest version that this program knows.
const KNOWN: i32 = MIGRATIONS[MIGRATIONS.len() - 1].version;

/// How long a migration may hold up whoever uses the tables. What takes longer is undone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MigrationLimits {
    /// How long it waits for each table to be let go of. Meanwhile those who come later wait behind it. Default:
    /// one minute.
    pub lock: Duration,
    /// How long each of its statements may take, in which nothing can be claimed. Default: one minute.
    pub statement: Duration,
}

impl Default for MigrationLimits {
    fn default() -> Self {
        Self {
            lock: Duration::from_secs(60),
            statement: Duration::from_secs(60),
        }
    }
}

impl MigrationLimits {
    /// How long all of it may take: few steps have more than one statement that takes long.
    pub(super) fn whole(self) -> Duration {
        self.lock.saturating_add(self.statement).saturating_mul(2)
    }

    /// The number of the lock is arbitrary, and ours.
    fn begin(self) -> String {
        format!(
            "begin isolation level read committed; set local lock_timeout = {}; \
             set local statement_timeout = {}; select pg_advisory_xact_lock(6032170923155741025); \
             create table if not exists onlyonce_schema ( \
                 version        integer     primary key, \
                 min_compatible integer     not null, \
                 applied_at     timestamptz not null default statement_timestamp())",
            millis(self.lock),
            millis(self.statement)
        )
    }
}

/// A time-out as Postgres takes it: at most 24 days, and never 0, which is none.
fn millis(limit: Duration) -> i32 {
    i32::try_from(limit.as_millis()).unwrap_or(i32::MAX).max(1)
}

const VERSION: &str = "select coalesce(max(version), 0) as version, \
     coalesce(max(min_compatible), 0) as min_compatible from onlyonce_schema";

/// What a database's schema is to this program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Schema {
    /// It can be used.
    Usable,
    /// Migrations are missing.
    Behind {
        /// The database's version; 0 for none.
        version: i32,
    },
}

impl Schema {
    /// An error that says what to do about it.
    pub(super) fn required(self) -> Result<(), Failure> {
        match self {
            Self::Usable => Ok(()),
            Self::Behind { version } => Err(Failure::other(
                StoreErrorKind::Incompatible,
                format!(
                    "the database's schema is of version {version} and this program needs {KNOWN}: \
                     run `onlyonce migrate`"
                ),
            )),
        }
    }
}

/// Asks which schema the database has. Fails where it is too new for this program.
#[derive(Debug)]
pub(super) struct Inspect;

impl Call for Inspect {
    type Output = Schema;

    async fn run(&self, session: &mut Session<'_>) -> Result<Schema, Failure> {
        match version(session).await {
            Ok(version) if version >= KNOWN => Ok(Schema::Usable),
            Ok(version) => Ok(Schema::Behind { version }),
            Err(failure) if failure.lacks_table() => Ok(Schema::Behind { version: 0 }),
            Err(failure) => Err(failure),
        }
    }
}

/// Applies the migrations that are missing.
#[derive(Debug, Default)]
pub(super) struct Migrate(pub(super) MigrationLimits);

impl Call for Migrate {
    type Output = ();

    async fn run(&self, session: &mut Session<'_>) -> Result<(), Failure> {
        match apply_missing(session, self.0).await {
            Ok(()) => session.run("commit").await?,
            Err(failure) => return Err(session.roll_back(failure).await),
        };
        days::prepare(session).await
    }
}

/// Begins a transaction, which the caller ends also where this fails: it may be open by then.
async fn apply_missing(session: &mut Session<'_>, limits: MigrationLimits) -> Result<(), Failure> {
    session.run(&limits.begin()).await?;
    let present = version(session).await?;
    for migration in MIGRATIONS.iter().filter(|step| step.version > present) {
        session.run(migration.statements).await?;
        session
            .run(&format!(
                "insert into onlyonce_schema (version, min_compatible) values ({}, {})",
                migration.version, migration.min_compatible
            ))
            .await?;
        tracing::info!(version = migration.version, "postgres schema migrated");
    }
    Ok(())
}

/// The version of the database's schema; an error where this program is too old for it.
async fn version(session: &mut Session<'_>) -> Result<i32, Failure> {
    let rows = session.run(VERSION).await?;
    let Some(row) = rows.first() else {
        return Ok(0);
    };
    let (version, min_compatible): (i32, i32) =
        (row.try_get("version")?, row.try_get("min_compatible")?);
    if min_compatible > KNOWN {
        return Err(Failure::other(
            StoreErrorKind::Incompatible,
            format!(
                "the database's schema is of version {version}, which needs a newer program than \
                 this one (it knows {KNOWN})"
            ),
        ));
    }
    Ok(version)
}
