//! [`Options`]: how an inbox is opened, and what contradicts itself is refused.

use std::time::Duration;

use sqlx::Connection;
use sqlx::postgres::{PgConnection, PgPool};

use super::fault::of_database;
use super::held::Held;
use super::{Inbox, TABLES, sweep};
use crate::error::Error;

const DAY: Duration = Duration::from_secs(86_400);
/// A table for each day.
const WINDOW_MAX_DAYS: u32 = 366;

/// `$1` the consumer, `$2` its window in milliseconds. The floor stays where it is.
const REGISTER: &str = "insert into onlyonce_inbox_consumer as known (consumer, keep) \
     values ($1, $2::int8 * interval '1 millisecond') \
     on conflict (consumer) do update set keep = excluded.keep where known.keep <> excluded.keep";

/// At which isolation level messages are applied.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Isolation {
    /// Postgres's usual one. A message that comes twice at once waits for its twin.
    #[default]
    ReadCommitted,
    /// Twins, and whatever else the work collides with, fail with `40001`
    /// ([`Error::is_transient`]).
    RepeatableRead,
    /// As repeatable read, and the commit may fail so too.
    Serializable,
}

impl Isolation {
    /// Said each time: the session's default may be any.
    fn begin(self) -> &'static str {
        match self {
            Self::ReadCommitted => "begin isolation level read committed",
            Self::RepeatableRead => "begin isolation level repeatable read",
            Self::Serializable => "begin isolation level serializable",
        }
    }
}

/// How to open an [`Inbox`].
#[derive(Debug, Clone)]
#[must_use = "an inbox is opened by `open`"]
pub struct Options {
    consumer: String,
    window: Duration,
    max_delivery_age: Duration,
    max_lease: Duration,
    twin_wait: Duration,
    isolation: Isolation,
    prepared: bool,
}

/// What was agreed when the inbox was opened.
#[derive(Debug)]
pub(super) struct Terms {
    pub(super) consumer: String,
    pub(super) window_ms: i64,
    pub(super) twin_wait_ms: u128,
    pub(super) begin: &'static str,
    pub(super) prepared: bool,
}

impl Options {
    pub(super) fn new(consumer: String) -> Self {
        Self {
            consumer,
            window: 7 * DAY,
            max_delivery_age: DAY,
            max_lease: Duration::from_secs(60),
            twin_wait: Duration::from_secs(2),
            isolation: Isolation::default(),
            prepared: false,
        }
    }

    /// How long a message is known after it was made; for an id without a time in it, after it was applied. 7
    /// days by default, 366 at the most. A message that is older is not applied
    /// ([`Outcome::TooOld`](super::Outcome::TooOld)). A shorter window than before cannot be undone: what was
    /// forgotten stays so.
    pub fn dedupe_window(mut self, window: Duration) -> Self {
        self.window = window;
        self
    }

    /// For how long whoever sends them goes on delivering messages, from the moment they were made, and how
    /// long a relay that was frozen may take to notice. 24 hours and a minute by default. Together they must
    /// be shorter than the dedupe window: otherwise a message could come when it was forgotten.
    ///
    /// Nobody holds senders to it. A relay's `max_age` counts from an event's first failure, and what waits in its
    /// outbox during an outage does not age: its first delivery may be later than this, and is refused once it is
    /// later than the window. Where that threatens, open the inbox with a larger window before: each sweep raises
    /// the floor, below which nothing is applied any more, to the end of the window as it is then.
    pub fn max_delivery_age(mut self, age: Duration, lease: Duration) -> Self {
        (self.max_delivery_age, self.max_lease) = (age, lease);
        self
    }

    /// How long a message waits for its twin that is being applied, before it is
    /// [`Busy`](super::Outcome::Busy). 2 seconds by default; it holds a connection meanwhile.
    pub fn twin_wait(mut self, wait: Duration) -> Self {
        self.twin_wait = wait;
        self
    }

    /// The isolation level of the transactions in which messages are applied.
    pub fn isolation(mut self, isolation: Isolation) -> Self {
        self.isolation = isolation;
        self
    }

    /// Prepares statements once for each connection: one round trip less for each message. Only for
    /// connections straight to the server, or through a pooler that keeps prepared statements apart.
    pub fn prepared(mut self) -> Self {
        self.prepared = true;
        self
    }

    /// Opens the inbox: looks whether the tables are there, makes the consumer known, and makes the partitions
    /// of the days in its window and of the week ahead.
    ///
    /// # Errors
    /// [`Error::Settings`] where these contradict each other, before anything is sent. [`Error::Schema`] where
    /// tables are missing ([`migrate`](super::migrate)); [`Error::Database`] where the server fails.
    pub async fn open(self, pool: &PgPool) -> Result<Inbox, Error> {
        self.check()?;
        let mut held = Held::acquire(pool).await?;
        self.register(held.connection()).await?;
        sweep::prepare(held.connection(), self.window_ms()).await?;
        held.give_back();
        Ok(Inbox::new(pool.clone(), self.terms()))
    }

    fn check(&self) -> Result<(), Error> {
        let refuse = |text: String| Err(Error::Settings(text));
        if self.consumer.is_empty()
            || self.consumer.len() > 255
            || self.consumer.chars().any(char::is_control)
        {
            return refuse("a consumer's name has 1 to 255 bytes and no control characters".into());
        }
        if self.window.is_zero() || self.window > DAY * WINDOW_MAX_DAYS {
            return refuse(format!(
                "the dedupe window is {:?}: it must be above zero, and {WINDOW_MAX_DAYS} days at the most",
                self.window
            ));
        }
        let latest = self.max_delivery_age.saturating_add(self.max_lease);
        if latest >= self.window {
            return refuse(format!(
                "messages may be delivered until {latest:?} after they were made, and are known for {:?} only: \
                 the dedupe window must be longer than the greatest delivery age and the lease together",
                self.window
            ));
        }
        let twin_wait = self.twin_wait.as_millis();
        if twin_wait == 0 || i32::try_from(twin_wait).is_err() {
            return refuse(format!(
                "the wait for a twin is {:?}: it must be a millisecond at least, and 24 days at the most",
                self.twin_wait
            ));
        }
        Ok(())
    }

    /// In a transaction, so that it works behind a pooler.
    async fn register(&self, connection: &mut PgConnection) -> Result<(), Error> {
        TABLES.check(connection).await?;
        let begun = connection.begin_with(Isolation::ReadCommitted.begin());
        let mut tx = begun.await.map_err(of_database)?;
        let known = sqlx::query(REGISTER)
            .persistent(false)
            .bind(&self.consumer)
            .bind(self.window_ms());
        known.execute(&mut *tx).await.map_err(of_database)?;
        tx.commit().await.map_err(of_database)
    }

    fn terms(&self) -> Terms {
        Terms {
            consumer: self.consumer.clone(),
            window_ms: self.window_ms(),
            twin_wait_ms: self.twin_wait.as_millis(),
            begin: self.isolation.begin(),
            prepared: self.prepared,
        }
    }

    fn window_ms(&self) -> i64 {
        i64::try_from(self.window.as_millis())
            .expect("the window was checked: 366 days at the most")
    }
}
