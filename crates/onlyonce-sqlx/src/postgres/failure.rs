//! What a server's error means for the call that met it: may it be repeated, is the connection still good,
//! and could the write have happened?

use onlyonce::BoxError;
use onlyonce::store::{StoreError, StoreErrorKind};
use sqlx::postgres::{PgDatabaseError, PgSeverity};

/// The SQLSTATE: of the server, the database or the account.
pub(super) const TOO_MANY_CONNECTIONS: &str = "53300";

/// A failed try of a call.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) kind: StoreErrorKind,
    /// Whether the write may have happened all the same.
    pub(super) may_have_applied: bool,
    /// Whether the connection can be used again.
    pub(super) connection: Condition,
    /// Whether another try is worth it.
    pub(super) retry: bool,
    /// What the server called it, where it was the server that failed.
    sqlstate: Option<String>,
    source: BoxError,
}

/// What state a connection is in after a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Condition {
    /// As good as before.
    Good,
    /// To be closed.
    Broken,
    /// To be closed, and all others with it: the server went away, or is no longer the primary.
    ServerGone,
}

impl Failure {
    /// The caller's own data, or something that it read, makes no sense; nothing was written.
    pub(super) fn other(kind: StoreErrorKind, source: impl Into<BoxError>) -> Self {
        Self {
            kind,
            may_have_applied: false,
            connection: Condition::Good,
            retry: false,
            sqlstate: None,
            source: source.into(),
        }
    }

    /// The server has no connection to spare; nothing was sent.
    pub(super) fn crowded(error: sqlx::Error) -> Self {
        Self {
            sqlstate: Some(TOO_MANY_CONNECTIONS.to_owned()),
            ..Self::other(StoreErrorKind::Unavailable, error)
        }
    }

    /// Whether the server has no connection to spare.
    pub(super) fn is_crowded(&self) -> bool {
        self.sqlstate.as_deref() == Some(TOO_MANY_CONNECTIONS)
    }

    /// The row changed hands too often while we looked; nothing was written.
    pub(super) fn contended() -> Self {
        Self {
            retry: true,
            ..Self::other(
                StoreErrorKind::Timeout,
                "the record changed with every look at it",
            )
        }
    }

    /// The server takes no writes any more, so what it shows may be the past; nothing was written.
    pub(super) fn demoted() -> Self {
        Self {
            connection: Condition::ServerGone,
            retry: true,
            ..Self::other(
                StoreErrorKind::Unavailable,
                "the server has become a standby or read-only",
            )
        }
    }

    /// Whether the day's partition of responses is missing.
    pub(super) fn lacks_partition(&self) -> bool {
        self.sqlstate.as_deref() == Some("23514")
    }

    /// Whether a lock was not had in time.
    pub(super) fn is_lock_timeout(&self) -> bool {
        self.sqlstate.as_deref() == Some("55P03")
    }

    /// Whether a table is missing.
    pub(super) fn lacks_table(&self) -> bool {
        self.sqlstate.as_deref() == Some("42P01")
    }

    /// Whether the account may not do this.
    pub(super) fn lacks_privilege(&self) -> bool {
        self.sqlstate.as_deref() == Some("42501")
    }

    /// The failure of a statement that was not followed by its transaction's commit.
    pub(super) fn uncommitted(mut self) -> Self {
        self.may_have_applied = false;
        self
    }

    pub(super) fn into_error(self) -> StoreError {
        if self.may_have_applied {
            StoreError::new(self.kind, self.source)
        } else {
            StoreError::not_applied(self.kind, self.source)
        }
    }
}

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Self {
        let sqlstate = match &error {
            sqlx::Error::Database(database) => database.code().map(|code| code.into_owned()),
            _ => None,
        };
        let (kind, may_have_applied, connection, retry) = match &error {
            sqlx::Error::Database(database) => {
                let Some(error) = database.try_downcast_ref::<PgDatabaseError>() else {
                    return Self::other(StoreErrorKind::Other, error);
                };
                // A session that is ended says so with FATAL, which can come between a commit and its
                // answer. An ERROR rolled its statement back.
                let fatal = ends_session(error);
                let (kind, retry) = meaning(error.code());
                let gone = fatal || is_server_gone(error.code());
                let connection = if gone {
                    Condition::ServerGone
                } else {
                    Condition::Good
                };
                (kind, fatal, connection, retry)
            }
            // What was read is not what this version writes; the connection is fine.
            sqlx::Error::ColumnDecode { .. }
            | sqlx::Error::Decode(_)
            | sqlx::Error::TypeNotFound { .. }
            | sqlx::Error::ColumnNotFound(_)
            | sqlx::Error::ColumnIndexOutOfBounds { .. } => {
                (StoreErrorKind::Incompatible, true, Condition::Broken, false)
            }
            sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::Protocol(_) => (
                StoreErrorKind::Unavailable,
                true,
                Condition::ServerGone,
                true,
            ),
            _ => (StoreErrorKind::Other, true, Condition::Broken, false),
        };
        Self {
            kind,
            may_have_applied,
            connection,
            retry,
            source: explained(error, sqlstate.as_deref()),
            sqlstate,
        }
    }
}

/// SQLSTATEs: what sort of failure, and whether another try is worth it.
fn meaning(code: &str) -> (StoreErrorKind, bool) {
    match code {
        // Serialization failure, deadlock: another try, by design.
        "40001" | "40P01" => (StoreErrorKind::Unavailable, true),
        // Lock not had in time: its holder may be done now.
        "55P03" => (StoreErrorKind::Timeout, true),
        "57014" => (StoreErrorKind::Timeout, false),
        // Shutting down, starting up, too many connections, read-only because it is a standby by now.
        "57P01" | "57P02" | "57P03" | "57P05" | "25006" | "25P03" => {
            (StoreErrorKind::Unavailable, true)
        }
        TOO_MANY_CONNECTIONS | "58000" | "58030" => (StoreErrorKind::Unavailable, false),
        // Disk full, out of memory, a limit of the configuration.
        "53000" | "53100" | "53200" | "53400" => (StoreErrorKind::Full, false),
        // Tables, columns or functions that are not there: a schema of another version, or none.
        "42P01" | "42703" | "42883" | "3F000" => (StoreErrorKind::Incompatible, false),
        code if code.starts_with("08") => (StoreErrorKind::Unavailable, true),
        _ => (StoreErrorKind::Other, false),
    }
}

fn ends_session(error: &PgDatabaseError) -> bool {
    matches!(error.severity(), PgSeverity::Fatal | PgSeverity::Panic)
}

fn is_fatal(error: &sqlx::Error) -> bool {
    let error = error.as_database_error();
    error
        .and_then(|error| error.try_downcast_ref::<PgDatabaseError>())
        .is_some_and(ends_session)
}

fn is_server_gone(code: &str) -> bool {
    code.starts_with("08") || code.starts_with("57P") || code == "25006"
}

/// Says what to do, where we know.
fn explained(error: sqlx::Error, sqlstate: Option<&str>) -> BoxError {
    let advice = match sqlstate {
        // A statement that was prepared on one server connection and used on another. As FATAL 08P01 is
        // whatever PgBouncer cannot do.
        Some("26000" | "42P05" | "08P01") if !is_fatal(&error) => {
            "behind a pooler in transaction mode, the store's URL needs `pooler=transaction`"
        }
        Some("42P01") => "the store's tables are missing: run `onlyonce migrate`",
        Some("42501") => {
            "the account lacks rights: grant it select, insert, update and delete on the onlyonce_ \
             tables; what only their owner may do, `onlyonce migrate` does as the owner, once a week \
             at least"
        }
        _ => return error.into(),
    };
    Advised { advice, error }.into()
}

/// A driver's error with advice.
#[derive(Debug, thiserror::Error)]
#[error("{advice}")]
struct Advised {
    advice: &'static str,
    #[source]
    error: sqlx::Error,
}
