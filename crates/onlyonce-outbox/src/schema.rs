//! The outbox's tables, and their versions.
//!
//! Migrations are part of the crate, numbered, and only ever expand the schema, so that processes of the
//! version before go on working while a new one arrives. Each says which is the oldest program that can still
//! use the schema after it. They run in one transaction, under a lock that lasts as long as it does.
//!
//! The tables are made in the first schema of the search path, beside the application's own, and their names
//! begin with `onlyonce_outbox_`. The inbox has tables of its own ([`inbox::migrate`](crate::inbox::migrate)):
//! who only consumes needs no outbox.

use sqlx::postgres::PgConnection;

use crate::error::Error;
use crate::partition;
use crate::versions::{Migration, Versions};

const OUTBOX: Versions = Versions {
    whose: "outbox",
    table: "onlyonce_outbox_schema",
    migrations: &[
        Migration {
            version: 1,
            min_compatible: 1,
            statements: include_str!("../migrations/0001_outbox.sql"),
        },
        Migration {
            version: 2,
            min_compatible: 1,
            statements: include_str!("../migrations/0002_outbox.sql"),
        },
    ],
};

/// Makes the tables, or brings them up to date, and makes the partitions of the days ahead. Does nothing where
/// nothing is missing; may be called by several processes at once. `connection` must not be in a transaction.
///
/// # Errors
/// [`Error::Schema`] where the database has been migrated by a newer program that this one cannot work with;
/// [`Error::Database`] where the server fails, with nothing changed.
pub async fn migrate(connection: &mut PgConnection) -> Result<(), Error> {
    OUTBOX.migrate(connection).await?;
    partition::prepare(connection).await
}

/// Whether the database's tables can be used by this program.
///
/// # Errors
/// [`Error::Schema`], with what to do about it.
pub async fn check(connection: &mut PgConnection) -> Result<(), Error> {
    OUTBOX.check(connection).await
}
