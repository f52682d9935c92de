//! The tables, and which versions of them this program can use.
//!
//! `user_version` holds `1000 × major + number of the last migration`. Within a major version migrations
//! only add, so that an older program goes on working on a newer file. One that changes what a program must
//! do raises the major: a file of an older major is migrated, of a newer one refused.

use onlyonce::store::{StoreError, StoreErrorKind};
use rusqlite::{Connection, TransactionBehavior};

use super::fault::Fault;

const MAJOR: u32 = 2;
const MAJOR_STEP: u32 = 1000;

/// Each runs once, in order, in one transaction with its number. Never change one that was released.
const MIGRATIONS: [&str; 2] = [
    include_str!("../../migrations/sqlite/0001_record.sql"),
    include_str!("../../migrations/sqlite/0002_generation.sql"),
];

/// "only" in ASCII: tells our files from other programs'.
const APPLICATION_ID: i32 = 0x6F6E_6C79;

/// Brings the tables up to date, or says why this program must not touch the file.
pub(super) fn migrate(connection: &mut Connection) -> Result<(), StoreError> {
    // Without a write where there is nothing to do: another process may be at work. In one snapshot,
    // since that other one may be creating the tables at this moment.
    let snapshot = connection.transaction().map_err(refused)?;
    if missing(&snapshot)?.is_empty() {
        return Ok(());
    }
    snapshot.rollback().map_err(refused)?;
    let transaction = connection
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .map_err(refused)?;
    let missing = missing(&transaction)?;
    for migration in missing {
        transaction.execute_batch(migration).map_err(refused)?;
    }
    transaction
        .pragma_update(None, "application_id", APPLICATION_ID)
        .map_err(refused)?;
    transaction
        .pragma_update(None, "user_version", newest())
        .map_err(refused)?;
    transaction
        .commit()
        .map_err(|error| Fault::from(error).uncertain())
}

/// The migrations that the file lacks.
fn missing(connection: &Connection) -> Result<&'static [&'static str], StoreError> {
    let number = |pragma| connection.pragma_query_value(None, pragma, |row| row.get::<_, i64>(0));
    let application = number("application_id").map_err(refused)?;
    let version = number("user_version").map_err(refused)?;
    if application != i64::from(APPLICATION_ID) {
        let tables: i64 = connection
            .query_row("select count(*) from sqlite_schema", [], |row| row.get(0))
            .map_err(refused)?;
        if application != 0 || version != 0 || tables != 0 {
            return Err(incompatible(
                "the file is a SQLite database of another program".into(),
            ));
        }
        return Ok(&MIGRATIONS);
    }
    let version = u32::try_from(version).unwrap_or(0);
    if !(1..=MAJOR).contains(&(version / MAJOR_STEP)) {
        return Err(incompatible(format!(
            "the file has tables of version {version}; this program can use {}: \
             use the program that wrote it, or another file",
            newest()
        )));
    }
    let applied = usize::try_from(version % MAJOR_STEP).unwrap_or(usize::MAX);
    Ok(MIGRATIONS.get(applied..).unwrap_or_default())
}

fn newest() -> u32 {
    MAJOR * MAJOR_STEP + u32::try_from(MIGRATIONS.len()).unwrap_or(MAJOR_STEP - 1)
}

fn refused(error: rusqlite::Error) -> StoreError {
    Fault::from(error).not_applied()
}

fn incompatible(why: String) -> StoreError {
    StoreError::not_applied(StoreErrorKind::Incompatible, why)
}
