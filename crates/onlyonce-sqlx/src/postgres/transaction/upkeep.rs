//! What the tables need now and then, on a connection of the caller's. No transaction may be open on it.
//!
//! Dropping one of these futures can leave a transaction open: close the connection then.

use onlyonce::store::StoreError;
use sqlx::postgres::PgConnection;

use super::super::call::Call;
use super::super::days::Upkeep;
use super::super::failure::Failure;
use super::super::schema::Migrate;
use super::super::session::Session;
use super::super::sweep::SweepRecords;

/// Makes the tables, or brings them up to date: [`PostgresStore::migrate`](super::super::PostgresStore::migrate).
///
/// # Errors
/// As there.
pub async fn migrate(connection: &mut PgConnection) -> Result<(), StoreError> {
    run(connection, &Migrate::default()).await
}

/// Makes the partitions of the days ahead, and drops those that are over.
///
/// # Errors
/// Where the database fails, or the account does not own the tables.
pub async fn upkeep(connection: &mut PgConnection) -> Result<(), StoreError> {
    run(connection, &Upkeep).await
}

/// Deletes at most `limit` records past their retention; answers how many.
///
/// # Errors
/// Where the database fails.
pub async fn sweep(connection: &mut PgConnection, limit: u32) -> Result<u64, StoreError> {
    run(connection, &SweepRecords(limit)).await
}

async fn run<C: Call>(connection: &mut PgConnection, call: &C) -> Result<C::Output, StoreError> {
    call.run(&mut Session::lent(connection))
        .await
        .map_err(Failure::into_error)
}
