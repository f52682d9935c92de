//! The inbox: applies each message's effect in the database once, however often the message comes.
//!
//! Everything that delivers messages delivers some of them twice: a broker, a webhook's sender, our own relay.
//! Looking for the id first and applying then does not help, since two deliveries can look at the same time;
//! nor does noting it in another transaction, which can fail alone. Here the message's id is a row that the
//! work's own transaction inserts first. A twin waits for it; a crash takes both away; a commit keeps both.
//!
//! What is promised: a consumer applies each message's **database** effect once, while the message is younger
//! than the dedupe window. After that it is refused ([`Outcome::TooOld`]) and never applied again, for ids that
//! say when they were made, which those of the outbox do. What the work does outside of the database (a mail,
//! a call) is not undone when its transaction fails, and happens again.
//!
//! ```no_run
//! use std::time::Duration;
//! use onlyonce_outbox::inbox::{self, Inbox, Message, MessageId, Outcome};
//!
//! # async fn example(pool: sqlx::PgPool, id: &str, amount: i64) -> Result<(), Box<dyn std::error::Error>> {
//! inbox::migrate(&mut *pool.acquire().await?).await?;
//! let inbox = Inbox::consumer("billing")
//!     .dedupe_window(Duration::from_secs(7 * 86_400))
//!     .open(&pool)
//!     .await?;
//! tokio::spawn(inbox.clone().sweep_every(Duration::from_secs(3_600)));
//!
//! let message = Message::new(id.parse::<MessageId>()?);
//! let outcome = inbox
//!     .process(&message, async |tx| {
//!         sqlx::query("insert into ledger (amount) values ($1)").bind(amount).execute(&mut *tx).await?;
//!         Ok::<_, sqlx::Error>(())
//!     })
//!     .await?; // an error: not acknowledged, so that it comes again
//! match outcome {
//!     Outcome::Applied(()) | Outcome::Duplicate(_) | Outcome::Overtaken => { /* acknowledge */ }
//!     Outcome::Busy => { /* let it be delivered again, a little later */ }
//!     _ => { /* too old or too new: put it aside, for somebody to look at */ }
//! }
//! # Ok(()) }
//! ```

mod admission;
mod carrier;
mod fault;
mod held;
mod message;
mod message_id;
mod options;
mod outcome;
mod sweep;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::postgres::{PgConnection, PgPool, PgTransactionManager, Postgres};
use sqlx::{AssertSqlSafe, Connection, Row, Transaction, raw_sql};
use sqlx_core::transaction::TransactionManager;

pub use self::admission::Admission;
pub use self::carrier::Carrier;
pub use self::message::Message;
pub use self::message_id::{InvalidId, MessageId};
pub use self::options::{Isolation, Options};
pub use self::outcome::{Outcome, ProcessError};
pub use self::sweep::Swept;

use self::fault::{is_refusal, lacks_day, of_database};
use self::held::Held;
use self::options::Terms;
use crate::error::Error;
use crate::versions::{Migration, Versions};

const TABLES: Versions = Versions {
    whose: "inbox",
    table: "onlyonce_inbox_schema",
    migrations: &[
        Migration {
            version: 1,
            min_compatible: 1,
            statements: include_str!("../migrations/0001_inbox.sql"),
        },
        Migration {
            version: 2,
            min_compatible: 1,
            statements: include_str!("../migrations/0002_inbox.sql"),
        },
    ],
};

/// Makes the inbox's tables, or brings them up to date; in the first schema of the search path, beside the
/// consumer's own. Does nothing where nothing is missing; may be called by several processes at once.
/// `connection` must not be in a transaction.
///
/// # Errors
/// [`Error::Schema`] where the database has been migrated by a newer program that this one cannot work with;
/// [`Error::Database`] where the server fails, with nothing changed.
pub async fn migrate(connection: &mut PgConnection) -> Result<(), Error> {
    TABLES.migrate(connection).await
}

/// The messages that a consumer has applied. Clones are the same inbox.
#[derive(Debug, Clone)]
pub struct Inbox {
    pool: PgPool,
    terms: Arc<Terms>,
}

impl Inbox {
    /// The inbox of this consumer: whoever applies a message for another purpose is another one, and applies it
    /// too. All processes of a consumer use the same name.
    pub fn consumer(name: impl Into<String>) -> Options {
        Options::new(name.into())
    }

    fn new(pool: PgPool, terms: Terms) -> Self {
        Self {
            pool,
            terms: Arc::new(terms),
        }
    }

    /// Applies a message, if it was not applied before: runs `work` in a transaction that has noted the
    /// message's id, and commits.
    ///
    /// `work` gets the connection, with the transaction open. Where it fails or panics all is rolled back, and
    /// the message is as new as before. It must not end the transaction itself: that is found out where it
    /// succeeds, and where it fails afterwards its error is believed. Nor may it leave the session's settings
    /// changed (`set` without `local`): the next one who borrows the connection has them. `begin` on it makes a
    /// savepoint. May be dropped at any await: then it is applied or not, as after [`ProcessError::Unknown`],
    /// and no transaction stays open in the pool.
    ///
    /// # Errors
    /// [`ProcessError`]. After none of them may the message be acknowledged.
    pub async fn process<T, E>(
        &self,
        message: &Message,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, E>,
    ) -> Result<Outcome<T>, ProcessError<E>> {
        let mut held = Held::acquire(&self.pool).await?;
        let mut tx = self.begin(held.connection()).await?;
        let mut admitted = admission::admit(&mut tx, &self.terms, message).await;
        if let (Err(error), Some(made_ms)) = (&admitted, message.made_ms())
            && lacks_day(error)
        {
            rolled_back(tx).await?;
            sweep::prepare_day(held.connection(), made_ms).await?;
            tx = self.begin(held.connection()).await?;
            admitted = admission::admit(&mut tx, &self.terms, message).await;
        }
        let ended = match admitted.map(|it| (it.admission.without_work(), it.xid)) {
            Ok((None, xid)) => match work(&mut tx).await {
                Ok(value) => {
                    committed(tx, &xid).await?;
                    held.give_back();
                    return Ok(Outcome::Applied(value));
                }
                Err(error) => Err(ProcessError::Work(error)),
            },
            Ok((Some(outcome), _)) => Ok(outcome),
            Err(error) => Err(error.into()),
        };
        // Otherwise the connection is closed, and its transaction with it.
        if !is_nested(&tx) && rolled_back(tx).await.is_ok() {
            held.give_back();
        }
        ended
    }

    /// As [`process`](Self::process), and again where it failed for no fault of its own: a deadlock, a
    /// serialization failure, an error that `again` knows as such ([`is_transient`](crate::is_transient) knows the
    /// database's). `attempts` times at the most, with a short, random pause before each. `work` is cloned for
    /// each: a closure can be whose captures are references, or can be cloned.
    ///
    /// # Errors
    /// As [`process`](Self::process), of the last attempt. A commit whose outcome nobody knows is not repeated.
    pub async fn process_retrying<T, E>(
        &self,
        message: &Message,
        attempts: u32,
        again: impl Fn(&E) -> bool,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, E> + Clone,
    ) -> Result<Outcome<T>, ProcessError<E>> {
        let mut attempt = 1;
        loop {
            let result = self.process(message, work.clone()).await;
            let transient = match &result {
                Err(ProcessError::Work(error)) => again(error),
                Err(ProcessError::NotApplied(error)) => error.is_transient(),
                _ => false,
            };
            if !transient || attempt >= attempts {
                return result;
            }
            tokio::time::sleep(pause(attempt)).await;
            attempt += 1;
        }
    }

    /// As [`process`](Self::process), and keeps what `work` answers, as JSON, for the message's duplicates: for
    /// consumers that reply.
    ///
    /// # Errors
    /// As [`process`](Self::process); [`ProcessError::NotApplied`] also where the answer cannot be written as
    /// JSON, or one that was kept cannot be read.
    pub async fn process_keeping<T, E>(
        &self,
        message: &Message,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, E>,
    ) -> Result<Outcome<T>, ProcessError<E>>
    where
        T: Serialize + DeserializeOwned,
    {
        let keeping = async |tx: &mut PgConnection| {
            let value = work(tx).await.map_err(ProcessError::Work)?;
            let json = serde_json::to_vec(&value).map_err(Error::Json)?;
            admission::keep(tx, &self.terms, message, &json).await?;
            Ok(value)
        };
        match self.process(message, keeping).await {
            Ok(Outcome::Duplicate(_)) => Ok(Outcome::Duplicate(self.kept(message).await?)),
            Ok(outcome) => Ok(outcome),
            Err(ProcessError::Work(error)) => Err(error),
            Err(ProcessError::NotApplied(error)) => Err(ProcessError::NotApplied(error)),
            Err(ProcessError::Unknown(error)) => Err(ProcessError::Unknown(error)),
        }
    }

    /// Asks whether a message is to be applied, in a transaction that is the caller's. It must be the
    /// transaction's first statement: a twin's effects may be invisible to what came before it.
    ///
    /// [`Admission::New`] means: do the work in this transaction and commit it. Nothing tells the caller that a
    /// transaction has failed before its `COMMIT`, which then answers `ROLLBACK` and no error: an error of any
    /// statement must lead to a rollback.
    ///
    /// The driver's `Pool::begin`, dropped at the wrong moment, leaves a transaction open in the pool;
    /// [`process`](Self::process) does not.
    ///
    /// ```no_run
    /// # use onlyonce_outbox::inbox::{Admission, Inbox, Message};
    /// # async fn example(inbox: Inbox, pool: sqlx::PgPool, message: Message) -> Result<(), Box<dyn std::error::Error>> {
    /// let mut tx = pool.begin().await?;
    /// if inbox.admit(&mut tx, &message).await? == Admission::New {
    ///     sqlx::query("insert into ledger (amount) values (12)").execute(&mut *tx).await?;
    ///     tx.commit().await?;
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`Error::Database`] where the server fails; the transaction can only be rolled back. Unlike
    /// [`process`](Self::process), this makes no partition where one is missing, which [`Options::open`] and
    /// [`sweep`](Self::sweep) do.
    pub async fn admit(
        &self,
        connection: &mut PgConnection,
        message: &Message,
    ) -> Result<Admission, Error> {
        let admitted = admission::admit(connection, &self.terms, message).await?;
        Ok(admitted.admission)
    }

    /// Forgets what is older than the dedupe windows, of all consumers in this database, and makes the
    /// partitions of the week ahead. To be called every hour or so, by one process or several.
    ///
    /// # Errors
    /// [`Error::Database`]: the account is not the tables' owner, or somebody holds a lock on them. A later
    /// sweep goes on.
    pub async fn sweep(&self) -> Result<Swept, Error> {
        let mut held = Held::acquire(&self.pool).await?;
        sweep::prepare(held.connection(), self.terms.window_ms).await?;
        let swept = sweep::sweep(held.connection()).await?;
        held.give_back();
        Ok(swept)
    }

    /// Sweeps now and at each interval, for ever: to be spawned. What fails is logged, and tried again.
    pub async fn sweep_every(self, interval: Duration) -> Infallible {
        loop {
            match self.sweep().await {
                Ok(swept) => tracing::debug!(?swept, "inbox swept"),
                Err(error) => tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "the inbox was not swept"
                ),
            }
            tokio::time::sleep(interval).await;
        }
    }

    async fn begin<'c>(
        &self,
        connection: &'c mut PgConnection,
    ) -> Result<Transaction<'c, Postgres>, Error> {
        let begun = connection.begin_with(self.terms.begin).await;
        begun.map_err(of_database)
    }

    async fn kept<T: DeserializeOwned>(&self, message: &Message) -> Result<Option<T>, Error> {
        let mut held = Held::acquire(&self.pool).await?;
        let mut tx = self.begin(held.connection()).await?;
        let json = admission::kept(&mut tx, &self.terms, message).await?;
        rolled_back(tx).await?;
        held.give_back();
        let value = json.map(|json| serde_json::from_slice(&json));
        value.transpose().map_err(Error::Json)
    }
}

/// Commits the transaction that has this id, and knows what an error then means.
async fn committed<E>(mut tx: Transaction<'_, Postgres>, xid: &str) -> Result<(), ProcessError<E>> {
    if is_nested(&tx) {
        return Err(ProcessError::NotApplied(Error::Transaction(
            "the work neither committed nor rolled back a transaction that it began: nothing was applied",
        )));
    }
    still_open(&mut tx, xid).await?;
    match tx.commit().await {
        Ok(()) => Ok(()),
        Err(error) if is_refusal(&error) => Err(ProcessError::NotApplied(of_database(error))),
        Err(error) => Err(ProcessError::Unknown(of_database(error))),
    }
}

/// Whether it is this transaction that a `COMMIT` would commit. One that has failed answers that without an error,
/// and commits nothing: this fails in it. One that the work has begun has not noted the message.
async fn still_open<E>(connection: &mut PgConnection, xid: &str) -> Result<(), ProcessError<E>> {
    let asked = format!(
        "select pg_current_xact_id_if_assigned() is not distinct from '{xid}'::xid8 as open, \
             pg_xact_status('{xid}'::xid8) as status"
    );
    // The id is the server's own.
    let asked = raw_sql(AssertSqlSafe(asked)).fetch_one(connection).await;
    let row = asked.map_err(of_database)?;
    if row.try_get("open").map_err(of_database)? {
        return Ok(());
    }
    let status: Option<String> = row.try_get("status").map_err(of_database)?;
    Err(match status.as_deref() {
        Some("aborted") => ProcessError::NotApplied(Error::Transaction(
            "the work has rolled back the transaction itself, which it must not: the message is not noted as applied",
        )),
        _ => ProcessError::Unknown(Error::Transaction(
            "the work has ended the transaction itself, which it must not: it may have been committed",
        )),
    })
}

/// Whether a transaction within ours was neither committed nor rolled back, because the work leaked it. The
/// driver's next commit or rollback would end that one only.
fn is_nested(connection: &PgConnection) -> bool {
    PgTransactionManager::get_transaction_depth(connection) > 1
}

async fn rolled_back(tx: Transaction<'_, Postgres>) -> Result<(), Error> {
    tx.rollback().await.map_err(of_database)
}

/// Up to 10 ms before the second attempt, up to twice as many before each further one, up to a second.
fn pause(attempt: u32) -> Duration {
    let longest = 10_u64.saturating_mul(1 << attempt.clamp(1, 8)) / 2;
    let mut random = [0; 8];
    // Without a random source all wait the longest.
    let random = match getrandom::fill(&mut random) {
        Ok(()) => u64::from_be_bytes(random) % longest,
        Err(_) => longest,
    };
    Duration::from_millis(random.min(1_000))
}
