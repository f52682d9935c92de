//! Statements that the server keeps under a name, so that they share a message, and a round trip, with what begins a
//! transaction or ends it.
//!
//! The driver sends one prepared statement at a time and waits for its answer. A message without parameters may hold
//! several, and `execute` with the values written out runs one that was prepared. So a request needs two messages of
//! ours, where it needs four otherwise.
//!
//! Hazards:
//! - [`prepare`] comes first, once for each connection. Where the work says `deallocate all` the names are gone, and so
//!   are those of the driver: [`is_forgotten`] tells.
//! - The values are in the statement's text. The response is, too: a server that logs statements, those that fail
//!   included, logs it.
//! - Not behind a pooler in transaction mode, where a name is another connection's in the next transaction.

use std::error::Error;
use std::fmt::Write;

use onlyonce::store::{Claim, StoreError};
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{AssertSqlSafe, Row, raw_sql};

use super::super::failure::Failure;
use super::super::row::micros;
use super::claim::TAKE;
use super::lock_of;

/// The number is raised with each change of a text: a server's session may outlive this program, behind a proxy.
const TAKE_NAME: &str = "onlyonce_take_1";
const RESPOND_NAME: &str = "onlyonce_respond_1";

const TAKE_TYPES: &str = "uuid, uuid, bytea, bytea, bigint, bigint, bigint";
const RESPOND_TYPES: &str = "text, integer, bigint, bytea, text";

/// What the server quotes where the work has ended the transaction itself.
const ENDED: &str = "the request ended its transaction by itself";

/// A commit follows it in the same message, which must not be reached where nothing is inserted: then it fails, by
/// reading a token that says why.
const RESPOND: &str = "insert into onlyonce_responses (day, token, epoch, expires_at, response) \
     select (now() at time zone 'UTC')::date, \
     case when pg_current_xact_id_if_assigned()::text = $5 then $1 \
     else 'the request ended its transaction by itself' end::uuid, \
     $2, now() + $3 * interval '1 microsecond', $4";

/// Prepares what [`begin_and_claim`](super::begin_and_claim) and
/// [`Taken::complete_and_commit`](super::Taken::complete_and_commit) execute, where the server does not know it yet. A
/// transaction may be open, and may be rolled back: what is prepared stays.
///
/// # Errors
/// Where the database fails, or its tables are missing.
pub async fn prepare(connection: &mut PgConnection) -> Result<(), StoreError> {
    let error = |error: sqlx::Error| Failure::from(error).uncommitted().into_error();
    try_prepare(connection).await.map_err(error)
}

async fn try_prepare(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    // Asked, and not tried: an error would end the transaction, and stand in the server's log. Not through the
    // driver's own statements, which may have been forgotten as well.
    let known = raw_sql("select name from pg_prepared_statements where name like 'onlyonce\\_%'")
        .fetch_all(&mut *connection)
        .await?;
    let known: Vec<&str> = known.iter().filter_map(|row| row.try_get(0).ok()).collect();
    let mut missing = String::new();
    for (name, types, text) in [
        (TAKE_NAME, TAKE_TYPES, TAKE),
        (RESPOND_NAME, RESPOND_TYPES, RESPOND),
    ] {
        if !known.contains(&name) {
            missing.push_str(&format!("prepare {name} ({types}) as {text};"));
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    // Constants.
    raw_sql(AssertSqlSafe(missing)).execute(connection).await?;
    Ok(())
}

/// Whether something failed because the server does not know a prepared statement any more: the work has said
/// `deallocate all` or `discard all`, or the other end is a pooler.
pub fn is_forgotten(error: &(dyn Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<sqlx::Error>() {
            let code = error.as_database_error().and_then(|error| error.code());
            return code.is_some_and(|code| code == "26000");
        }
        cause = error.source();
    }
    false
}

/// Takes a record, in a transaction that the same message begins.
pub(super) async fn take(
    connection: &mut PgConnection,
    begin: &str,
    claim: &Claim,
) -> Result<Option<PgRow>, sqlx::Error> {
    let mut text = String::with_capacity(384);
    text.push_str(begin);
    text.push_str(";execute ");
    text.push_str(TAKE_NAME);
    text.push_str("('");
    hex(&mut text, claim.id.as_bytes());
    text.push_str("','");
    hex(&mut text, claim.token.as_bytes());
    text.push_str("',");
    bytea(&mut text, claim.fingerprint.as_bytes());
    text.push(',');
    bytea(&mut text, claim.credential.as_bytes());
    let (lease, retention) = (micros(claim.lease), micros(claim.retention));
    let _ = write!(text, ",{lease},{retention},{})", lock_of(&claim.id));
    // Digits of ours, and what the caller begins with.
    raw_sql(AssertSqlSafe(text))
        .fetch_optional(connection)
        .await
}

/// Writes the response and commits; begins the next transaction. `false` where nothing was written or committed since
/// the record's transaction is over.
pub(super) async fn respond(
    connection: &mut PgConnection,
    taken: &super::Taken,
    epoch: i32,
    response: &[u8],
) -> Result<bool, sqlx::Error> {
    let mut text = String::with_capacity(160 + 2 * response.len());
    text.push_str("execute ");
    text.push_str(RESPOND_NAME);
    text.push_str("('");
    hex(&mut text, taken.token.as_bytes());
    let _ = write!(text, "',{epoch},{},", taken.retention);
    bytea(&mut text, response);
    text.push_str(",'");
    text.extend(taken.xid.chars().filter(char::is_ascii_digit));
    text.push_str("');commit and chain");
    // Digits of ours.
    match raw_sql(AssertSqlSafe(text)).execute(connection).await {
        Ok(_) => Ok(true),
        Err(error) if has_ended(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

/// The message's language is the server's; what it quotes is ours.
fn has_ended(error: &sqlx::Error) -> bool {
    let error = error.as_database_error();
    error.is_some_and(|error| {
        error.code().is_some_and(|code| code == "22P02") && error.message().contains(ENDED)
    })
}

/// A literal that reads the same whatever `standard_conforming_strings` the work has set.
fn bytea(text: &mut String, bytes: &[u8]) {
    text.push_str("e'\\\\x");
    hex(text, bytes);
    text.push('\'');
}

fn hex(text: &mut String, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for byte in bytes {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_quoted_is_what_is_looked_for() {
        assert!(RESPOND.contains(ENDED));
    }

    #[test]
    fn bytes_are_written_as_both_kinds_of_strings_read_them() {
        let mut text = String::new();
        bytea(&mut text, &[0, 0x27, 0x5c, 0xff]);
        assert_eq!(text, r"e'\\x00275cff'");
    }
}
