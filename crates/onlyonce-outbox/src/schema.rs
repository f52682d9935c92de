//! The outbox's tables, and their versions.
//!
//! Migrations are part of the crate, numbered, and only ever expand the schema, so that processes of the
//! version before go on working while a new one arrives. Each says which is the oldest program that can still
//! use the schema after it. They run in one transaction, under a lock that lasts as long as it does. A relay looks
//! at the version when it begins, not later: a migration that older relays cannot bear has to raise the epochs of all
//! cursors too, so that they begin anew and see it.
//!
//! The tables are made in the first schema of the search path, beside the application's own, and their names
//! begin with `onlyonce_outbox_`. The inbox has tables of its own ([`inbox::migrate`](crate::inbox::migrate)):
//! who only consumes needs no outbox.
//!
//! ```no_run
//! use onlyonce_outbox::{Error, schema};
//!
//! # async fn start(connection: &mut sqlx::PgConnection, may_create: bool) -> Result<(), Error> {
//! if may_create {
//!     schema::migrate(connection).await?;
//! } else {
//!     schema::check(connection).await?; // says what to do where a table is missing
//! }
//! # Ok(()) }
//! ```

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
/// [`Error::Schema`], with what to do about it; [`Error::Database`] where the server fails.
pub async fn check(connection: &mut PgConnection) -> Result<(), Error> {
    OUTBOX.check(connection).await
}
