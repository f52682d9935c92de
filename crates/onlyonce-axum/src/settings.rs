//! What all requests of a layer have in common: the pool, and how it is used.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use onlyonce_outbox::{Appender, Buffer, Wake};
use onlyonce_sqlx::postgres::transaction::Statements;
use sqlx::PgPool;

use crate::line::Line;

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

    /// The end of a transaction that has done nothing, and the next one.
    pub(crate) const fn anew(self) -> &'static str {
        match self {
            Self::ReadCommitted => "rollback;begin isolation level read committed",
            Self::RepeatableRead => "rollback;begin isolation level repeatable read",
            Self::Serializable => "rollback;begin isolation level serializable",
        }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) pool: PgPool,
    pub(crate) line: Arc<Line>,
    /// Whether a handler has made the server forget what was prepared.
    pub(crate) forgetful: Arc<AtomicBool>,
    pub(crate) isolation: Isolation,
    pub(crate) pooler: bool,
    pub(crate) wake: Option<Wake>,
    pub(crate) claim_patience: Duration,
    /// How often a request is executed again after a conflict.
    pub(crate) conflict_retries: u32,
}

impl Settings {
    pub(crate) fn statements(&self) -> Statements {
        if self.may_prepare() {
            Statements::Prepared
        } else {
            Statements::Unnamed
        }
    }

    /// Whether what is prepared on a connection is there for the next statement.
    pub(crate) fn may_prepare(&self) -> bool {
        !self.pooler && !self.forgetful.load(Ordering::Relaxed)
    }

    /// Prepares nothing from now on.
    pub(crate) fn forget(&self) {
        if !self.forgetful.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "prepared statements are gone: a handler says `deallocate` or `discard all`, or there is a pooler \
                 (`with_pooler`); nothing of the layer's own is prepared from now on, which is slower"
            );
        }
    }

    pub(crate) fn events(&self) -> Buffer {
        let appender = Appender::default();
        Buffer::new(match self.statements() {
            Statements::Prepared => appender.prepared(),
            Statements::Unnamed => appender,
        })
    }
}
