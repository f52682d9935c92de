//! What is measured: a way from the load generator to the upstream, and the requests that go along it.

use serde::{Deserialize, Serialize};

use crate::peer;

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
    /// As [`Self::Postgres`], with tables that hold millions of records.
    Preloaded,
    /// As [`Self::Postgres`], while expired records are swept.
    SweptPostgres,
    /// As [`Self::Sqlite`], while expired records are swept.
    SweptSqlite,
    /// Fresh keys through `idempotent-proxy-server`, records in Redis.
    Peer,
    /// Keys that were all executed before, read from the process's memory.
    ReplayProcess,
    /// The same, read from Redis each time, as by a process that has just started.
    ReplayRedis,
    /// The same, read from Postgres each time.
    ReplayPostgres,
    /// Nine requests in ten repeat a key, records in Postgres.
    Storm,
    /// A service of ours, whose handler writes in one transaction: no guard.
    BareTransaction,
    /// The same handler under `TransactionalLayer`, fresh keys.
    SameTransaction,
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
            Self::Preloaded => "guarded, Postgres, full tables",
            Self::SweptPostgres => "guarded, Postgres, while sweeping",
            Self::SweptSqlite => "guarded, SQLite, while sweeping",
            Self::Peer => "idempotent-proxy-server",
            Self::ReplayProcess => "replay, process cache",
            Self::ReplayRedis => "replay, Redis",
            Self::ReplayPostgres => "replay, Postgres",
            Self::Storm => "storm, 90 % duplicates",
            Self::BareTransaction => "handler's transaction, bare",
            Self::SameTransaction => "the same, with the layer",
        }
    }

    /// What is sent to it.
    pub(crate) fn traffic(self) -> Traffic {
        match self {
            Self::Nginx | Self::PassThrough => Traffic::Plain,
            Self::ReplayProcess | Self::ReplayRedis | Self::ReplayPostgres => Traffic::Replays,
            Self::Storm => Traffic::Storm,
            Self::Postgres
            | Self::OneByOne
            | Self::Sqlite
            | Self::Memory
            | Self::Preloaded
            | Self::SweptPostgres
            | Self::SweptSqlite
            | Self::Peer
            | Self::BareTransaction
            | Self::SameTransaction => Traffic::Fresh,
        }
    }

    /// The path that requests ask for.
    pub(crate) fn target(self) -> &'static str {
        match self {
            Self::Peer => peer::TARGET,
            Self::BareTransaction => "/bare",
            _ => "/charges",
        }
    }

    /// Whether Postgres holds its records.
    pub(crate) fn is_on_postgres(self) -> bool {
        match self {
            Self::Postgres
            | Self::OneByOne
            | Self::Preloaded
            | Self::SweptPostgres
            | Self::ReplayProcess
            | Self::ReplayRedis
            | Self::ReplayPostgres
            | Self::Storm
            | Self::BareTransaction
            | Self::SameTransaction => true,
            Self::Nginx
            | Self::PassThrough
            | Self::Sqlite
            | Self::SweptSqlite
            | Self::Memory
            | Self::Peer => false,
        }
    }

    /// Whether it is the service itself, and has no other behind it.
    pub(crate) fn is_the_service(self) -> bool {
        matches!(self, Self::BareTransaction | Self::SameTransaction)
    }

    /// Whether records expire in its store while it is measured.
    pub(crate) fn is_swept(self) -> bool {
        matches!(self, Self::SweptPostgres | Self::SweptSqlite)
    }
}
