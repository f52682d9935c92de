//! What the database's errors mean for an inbox.

use crate::error::Error;

/// An error of the driver, with what to do about it.
pub(super) fn of_database(source: sqlx::Error) -> Error {
    let sqlstate = match &source {
        sqlx::Error::Database(error) => error.code(),
        _ => None,
    };
    let advice = match sqlstate.as_deref() {
        Some("42P01" | "42703") => "the inbox's tables are missing: run its migrations",
        Some("23514") => {
            "there is no partition for the day in the message's id: sweeping the inbox makes them"
        }
        Some("25P02") => {
            "the work's transaction had failed, though the work said that it succeeded: nothing was applied"
        }
        Some("42501") => {
            "the account lacks rights: it needs select, insert, update and delete on the onlyonce_inbox_ tables"
        }
        _ => return Error::from(source),
    };
    Error::Database { advice, source }
}

/// Whether a partition is missing.
pub(super) fn lacks_day(error: &Error) -> bool {
    error.sqlstate().as_deref() == Some("23514")
}

/// Whether the server said that the transaction has failed. If it was not the server who said it, or if it was
/// on its way down, the commit may have happened all the same. A pooler whose server went away says `08…`.
pub(super) fn is_refusal(error: &sqlx::Error) -> bool {
    let sqlx::Error::Database(error) = error else {
        return false;
    };
    let code = error.code().unwrap_or_default();
    !(code.is_empty() || code.starts_with("08") || code.starts_with("57P"))
}
