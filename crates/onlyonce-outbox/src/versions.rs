//! Tables that are versioned together, and their migrations.

use sqlx::Row;
use sqlx::postgres::PgConnection;

use crate::error::Error;
use crate::transaction::{end, run};

/// A step from one version to the next.
pub(crate) struct Migration {
    pub(crate) version: i32,
    /// The oldest program, by the newest version that it knows, which works on this schema.
    pub(crate) min_compatible: i32,
    pub(crate) statements: &'static str,
}

/// The tables of the outbox, or those of the inbox: a database may have only one of them.
pub(crate) struct Versions {
    /// Whose they are, in messages.
    pub(crate) whose: &'static str,
    /// Where the versions are noted.
    pub(crate) table: &'static str,
    /// In the order of their versions; at least one.
    pub(crate) migrations: &'static [Migration],
}

impl Versions {
    /// Makes the tables, or brings them up to date. `connection` must not be in a transaction.
    pub(crate) async fn migrate(&self, connection: &mut PgConnection) -> Result<(), Error> {
        let applied = self.apply_missing(connection).await;
        end(connection, applied).await
    }

    /// Whether the database's tables can be used by this program.
    pub(crate) async fn check(&self, connection: &mut PgConnection) -> Result<(), Error> {
        let (whose, known) = (self.whose, self.known());
        let version = match self.version(connection).await {
            Ok(version) if version >= known => return Ok(()),
            Ok(version) => version,
            Err(error) if error.sqlstate().as_deref() == Some("42P01") => 0,
            Err(error) => return Err(error),
        };
        Err(Error::Schema(format!(
            "the {whose}'s tables are of version {version} and this program needs {known}: run its migrations"
        )))
    }

    /// The newest version that this program knows.
    fn known(&self) -> i32 {
        self.migrations.last().map_or(0, |newest| newest.version)
    }

    /// Begins a transaction, which the caller ends also where this fails: it may be open by then. The lock's
    /// number is arbitrary, and ours.
    async fn apply_missing(&self, connection: &mut PgConnection) -> Result<(), Error> {
        let (whose, table) = (self.whose, self.table);
        let begin = format!(
            "begin isolation level read committed; set local lock_timeout = '60s'; \
             set local statement_timeout = '60s'; select pg_advisory_xact_lock(6032170923155741030); \
             create table if not exists {table} ( \
                 version        integer     primary key, \
                 min_compatible integer     not null, \
                 applied_at     timestamptz not null default statement_timestamp())"
        );
        run(connection, &begin).await?;
        let present = self.version(connection).await?;
        for migration in self.migrations.iter().filter(|step| step.version > present) {
            run(connection, migration.statements).await?;
            let (version, min_compatible) = (migration.version, migration.min_compatible);
            let note = format!(
                "insert into {table} (version, min_compatible) values ({version}, {min_compatible})"
            );
            run(connection, &note).await?;
            tracing::info!(version, tables = whose, "schema migrated");
        }
        Ok(())
    }

    /// The version of the database's schema; an error where this program is too old for it.
    async fn version(&self, connection: &mut PgConnection) -> Result<i32, Error> {
        let (whose, table, known) = (self.whose, self.table, self.known());
        let query = format!(
            "select coalesce(max(version), 0) as version, \
             coalesce(max(min_compatible), 0) as min_compatible from {table}"
        );
        let rows = run(connection, &query).await?;
        let Some(row) = rows.first() else {
            return Ok(0);
        };
        let (version, min_compatible): (i32, i32) = (row.try_get(0)?, row.try_get(1)?);
        if min_compatible > known {
            return Err(Error::Schema(format!(
                "the {whose}'s tables are of version {version}, which needs a newer program than this one (it knows {known})"
            )));
        }
        Ok(version)
    }
}
