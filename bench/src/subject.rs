//! What is measured: a way from the load generator to the upstream, and the requests that go along it.

use serde::{Deserialize, Serialize};

/// Something that stands between the load generator and the upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Subject {
    /// nginx as a plain reverse proxy: what one has without a guard.
    Nginx,
    /// onlyonce, requests without a key.
    PassThrough,
    /// Fresh keys, records in Postgres.
    Postgres,
    /// The same with a statement and a commit for each claim and each settlement: the naive way.
    OneByOne,
    /// Fresh keys, records in SQLite.
    Sqlite,
    /// Fresh keys, records in the process's memory.
    Memory,
    /// Keys that were all executed before, read from Postgres.
    ReplayPostgres,
    /// Nine requests in ten repeat a key, records in Postgres.
    Storm,
}

/// The requests that a subject gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Traffic {
    /// No key: each is executed.
    Plain,
    /// A key that nobody has used before: each is executed.
    Fresh,
    /// A few keys, each executed before the measurement: nothing is.
    Replays,
    /// One fresh key in ten requests; the others repeat one, while it is in flight or later.
    Storm,
}

impl Subject {
    /// As tables and plots name it.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Nginx => "nginx pass-through",
            Self::PassThrough => "pass-through",
            Self::Postgres => "guarded, Postgres",
            Self::OneByOne => "guarded, Postgres, one by one",
            Self::Sqlite => "guarded, SQLite",
            Self::Memory => "guarded, memory",
            Self::ReplayPostgres => "replay, Postgres",
            Self::Storm => "storm, 90 % duplicates",
        }
    }

    /// What is sent to it.
    pub(crate) fn traffic(self) -> Traffic {
        match self {
            Self::Nginx | Self::PassThrough => Traffic::Plain,
            Self::Postgres | Self::OneByOne | Self::Sqlite | Self::Memory => Traffic::Fresh,
            Self::ReplayPostgres => Traffic::Replays,
            Self::Storm => Traffic::Storm,
        }
    }

    /// Whether Postgres holds its records.
    pub(crate) fn is_on_postgres(self) -> bool {
        matches!(
            self,
            Self::Postgres | Self::OneByOne | Self::ReplayPostgres | Self::Storm
        )
    }
}
