//! What all requests of a layer have in common: the pool, and how it is used.

use std::time::Duration;

use onlyonce_outbox::{Appender, Buffer, Wake};
use onlyonce_sqlx::postgres::transaction::Statements;
use sqlx::PgPool;

/// How far a request's transaction is kept apart from others that run at the same time.
///
/// Above [`ReadCommitted`](Self::ReadCommitted) Postgres ends transactions with serialization failures, by design:
/// see [the crate's documentation](crate#serialization-failures-and-deadlocks).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Isolation {
    /// Each statement sees what was committed before it. Postgres' own default.
    #[default]
    ReadCommitted,
    /// All statements see the same.
    RepeatableRead,
    /// As if the transactions ran one after the other.
    Serializable,
}

impl Isolation {
    pub(crate) const fn begin(self) -> &'static str {
        match self {
            Self::ReadCommitted => "begin isolation level read committed",
            Self::RepeatableRead => "begin isolation level repeatable read",
            Self::Serializable => "begin isolation level serializable",
        }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) pool: PgPool,
    pub(crate) isolation: Isolation,
    pub(crate) pooler: bool,
    pub(crate) wake: Option<Wake>,
    pub(crate) claim_patience: Duration,
    /// How often a request is executed again after a conflict.
    pub(crate) conflict_retries: u32,
}

impl Settings {
    pub(crate) fn statements(&self) -> Statements {
        if self.pooler {
            Statements::Unnamed
        } else {
            Statements::Prepared
        }
    }

    pub(crate) fn events(&self) -> Buffer {
        let appender = Appender::default();
        Buffer::new(if self.pooler {
            appender
        } else {
            appender.prepared()
        })
    }
}
