//! What can go wrong with an outbox, in the words of whoever has to do something about it.

/// Why an operation on the outbox failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An event that could not be delivered by any sink, or a filter that means nothing. Nothing was sent to
    /// the database.
    #[error("{what} {reason}")]
    Invalid {
        /// Which part: `topic`, `key`, `kind`, `header "x"`, …
        what: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A payload that is no JSON.
    #[error("the payload cannot be written as JSON")]
    Json(#[source] serde_json::Error),
    /// More keys in one transaction than it may lock.
    #[error(
        "{keys} different keys in one append, and at most {max} can be locked: append them in several transactions"
    )]
    TooManyKeys {
        /// How many there were.
        keys: usize,
        /// How many there may be.
        max: usize,
    },
    /// Settings that contradict each other.
    #[error("{0}")]
    Settings(String),
    /// The tables are missing, or of a version that this program cannot use.
    #[error("{0}")]
    Schema(String),
    /// The inbox's transaction is not as it was when the work got it.
    #[error("{0}")]
    Transaction(&'static str),
    /// The database failed. Inside a transaction it can only be rolled back.
    #[error("{advice}")]
    Database {
        /// What to do about it, where that is known.
        advice: &'static str,
        /// What the driver said.
        #[source]
        source: sqlx::Error,
    },
    /// Waited too long for the database.
    #[error("the database did not answer within {0:?}")]
    Timeout(std::time::Duration),
}

impl Error {
    pub(crate) fn invalid(what: impl Into<String>, reason: &'static str) -> Self {
        Self::Invalid {
            what: what.into(),
            reason,
        }
    }

    /// What the server called it, where it was the server that failed: five characters.
    pub fn sqlstate(&self) -> Option<String> {
        let Self::Database { source, .. } = self else {
            return None;
        };
        sqlstate(source)
    }

    /// Whether the server does not let us in, or not do what we have to: the role, its password, the database's
    /// name, its rights. Waiting changes none of them.
    pub(crate) fn is_refusal(&self) -> bool {
        self.sqlstate()
            .is_some_and(|code| code.starts_with("28") || code == "3D000" || code == "42501")
    }

    /// Whether the same transaction, begun again, may succeed: a deadlock, a serialization failure, a lock
    /// that was not had in time.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Database { source, .. } if is_transient(source))
    }
}

/// Whether the same transaction, begun again, may succeed where the driver failed with this: a deadlock, a
/// serialization failure, a lock that was not had in time.
pub fn is_transient(error: &sqlx::Error) -> bool {
    matches!(
        sqlstate(error).as_deref(),
        Some("40001" | "40P01" | "55P03")
    )
}

fn sqlstate(error: &sqlx::Error) -> Option<String> {
    let code = error.as_database_error()?.code()?;
    Some(code.into_owned())
}

impl From<sqlx::Error> for Error {
    fn from(source: sqlx::Error) -> Self {
        let sqlstate = match &source {
            sqlx::Error::Database(error) => error.code(),
            _ => None,
        };
        let advice = match sqlstate.as_deref() {
            Some("42P01" | "42703") => "the outbox's tables are missing: run its migrations",
            Some("23514") => {
                "there is no partition for today: a relay makes them ahead, and so do the outbox's migrations"
            }
            Some("26000" | "42P05" | "08P01") => {
                "behind a pooler in transaction mode statements cannot be prepared: say that there is one"
            }
            Some("42501") => {
                "the account lacks rights: it needs select, insert, update and delete on the onlyonce_outbox_ \
                 tables, and usage on their sequence"
            }
            Some("3D000") => "there is no such database: look at its name in the URL",
            Some(code) if code.starts_with("28") => {
                "the server does not let this role in: look at the role, its password, and the server's pg_hba.conf"
            }
            _ => "the database failed",
        };
        Self::Database { advice, source }
    }
}
