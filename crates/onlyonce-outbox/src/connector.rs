//! How a relay reaches the database, and the one connection that it works on.
//!
//! A relay has a connection of its own, opened like those of the application's pool and not taken from it: what
//! a dropped call leaves half-done goes with its connection, and nobody borrows that.
//!
//! The driver sends a statement in two halves. Between them a pooler in transaction mode may change servers,
//! so behind one each statement is sent inside a transaction of its own; without one it commits by itself, and
//! its text is prepared once.

use std::str::FromStr;
use std::time::Duration;

use sqlx::postgres::{PgArguments, PgConnectOptions, PgConnection, PgPool, PgRow, Postgres};
use sqlx::query::Query;
use sqlx::{AssertSqlSafe, ConnectOptions, raw_sql};
use tokio::time::timeout;

use crate::error::Error;

/// The planner has no say: it thinks new tables empty and reads the whole of them, or starts workers to look
/// where nothing is (12 ms for a look that takes 0.15). Nothing waits for a lock for long.
const SETTINGS: [(&str, &str); 7] = [
    ("enable_seqscan", "off"),
    ("enable_hashjoin", "off"),
    ("enable_mergejoin", "off"),
    ("plan_cache_mode", "force_generic_plan"),
    ("jit", "off"),
    ("max_parallel_workers_per_gather", "0"),
    ("lock_timeout", "3s"),
];

/// For what changes every event that there is.
const PATIENCE: Duration = Duration::from_secs(6 * 3_600);

/// How to reach the database: how the application's pool does, or a URL.
///
/// ```
/// use onlyonce_outbox::Connector;
///
/// let direct: Connector = "postgres://db.internal/app".parse()?;
/// let pooled: Connector = "postgres://db.internal:6432/app?pooler=transaction".parse()?;
/// # Ok::<(), onlyonce_outbox::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Connector {
    options: PgConnectOptions,
    pooler: bool,
}

impl Connector {
    /// Whether a pooler in transaction mode stands in between. Without knowing of it, statements fail with
    /// `26000` or `42P05`.
    #[must_use]
    pub fn with_pooler(mut self, pooler: bool) -> Self {
        self.pooler = pooler;
        self
    }

    /// The server gives up before this process does, where it can be told so.
    fn options(&self, statement_timeout: Duration) -> PgConnectOptions {
        let options = self.options.clone().disable_statement_logging();
        let options = match options.get_application_name() {
            Some(_) => options,
            None => options.application_name("onlyonce-outbox"),
        };
        if self.pooler {
            // What the pooler does not track it refuses to take at the start.
            return options.statement_cache_capacity(0).extra_float_digits(None);
        }
        options.options(SETTINGS).options([
            ("default_transaction_isolation", "read committed".to_owned()),
            (
                "statement_timeout",
                statement_timeout.as_millis().to_string(),
            ),
        ])
    }

    /// A connection of one's own: for the operations of an operator, such as [`status`](crate::status::status).
    /// Opening it may take `limit`, and each statement `statement_timeout` (not behind a pooler).
    ///
    /// # Errors
    /// [`Error::Database`] where the server refuses, [`Error::Timeout`] where it does not answer.
    pub async fn connect(
        &self,
        limit: Duration,
        statement_timeout: Duration,
    ) -> Result<PgConnection, Error> {
        let options = self.options(statement_timeout);
        match timeout(limit, options.connect()).await {
            Ok(connected) => Ok(connected?),
            Err(_) => Err(Error::Timeout(limit)),
        }
    }

    pub(crate) async fn open(&self, limit: Duration) -> Result<Session, Error> {
        Ok(Session {
            connection: self.connect(limit, limit.mul_f64(0.9)).await?,
            pooler: self.pooler,
            limit,
        })
    }
}

impl From<PgConnectOptions> for Connector {
    fn from(options: PgConnectOptions) -> Self {
        Self {
            options,
            pooler: false,
        }
    }
}

/// With the pool's options, not its connections: what its `after_connect` does is not done.
impl From<&PgPool> for Connector {
    fn from(pool: &PgPool) -> Self {
        Self::from(PgConnectOptions::clone(&pool.connect_options()))
    }
}

impl FromStr for Connector {
    type Err = Error;

    /// A URL as the driver takes it, and `pooler=transaction` where there is one.
    fn from_str(url: &str) -> Result<Self, Error> {
        let (address, query) = url.split_once('?').unwrap_or((url, ""));
        let (ours, theirs): (Vec<_>, Vec<_>) = query
            .split('&')
            .filter(|parameter| !parameter.is_empty())
            .partition(|parameter| parameter.starts_with("pooler="));
        let pooler = match ours.last() {
            None | Some(&"pooler=none") => false,
            Some(&"pooler=transaction") => true,
            Some(_) => {
                return Err(Error::Settings(
                    "the URL's parameter `pooler` knows the values `transaction` and `none`".into(),
                ));
            }
        };
        let options: PgConnectOptions = format!("{address}?{}", theirs.join("&"))
            .parse()
            // Not the driver's words: they may hold the password.
            .map_err(|_| Error::Settings("the database's URL cannot be understood".into()))?;
        Ok(Self { options, pooler })
    }
}

/// A relay's connection. After any error it is to be dropped, and never cancelled: a transaction that was open
/// ends with it.
#[derive(Debug)]
pub(crate) struct Session {
    connection: PgConnection,
    pooler: bool,
    limit: Duration,
}

impl Session {
    /// Runs one statement by itself; its rows, once it is committed.
    pub(crate) async fn fetch(
        &mut self,
        query: Query<'_, Postgres, PgArguments>,
    ) -> Result<Vec<PgRow>, Error> {
        if !self.pooler {
            let rows = timeout(self.limit, query.fetch_all(&mut self.connection)).await;
            return Ok(rows.map_err(|_| Error::Timeout(self.limit))??);
        }
        self.begin().await?;
        let rows = self.fetch_within(query).await?;
        self.commit().await?;
        Ok(rows)
    }

    /// Begins a transaction.
    pub(crate) async fn begin(&mut self) -> Result<(), Error> {
        let mut begin = "begin isolation level read committed".to_owned();
        if self.pooler {
            let millis = self.limit.mul_f64(0.9).as_millis();
            begin.push_str(&format!("; set local statement_timeout = {millis}"));
            for (name, value) in SETTINGS {
                begin.push_str(&format!("; set local {name} = '{value}'"));
            }
        }
        self.run(begin).await
    }

    /// Runs one statement inside the open transaction.
    pub(crate) async fn fetch_within(
        &mut self,
        query: Query<'_, Postgres, PgArguments>,
    ) -> Result<Vec<PgRow>, Error> {
        let query = query.persistent(!self.pooler);
        let rows = timeout(self.limit, query.fetch_all(&mut self.connection)).await;
        Ok(rows.map_err(|_| Error::Timeout(self.limit))??)
    }

    /// As [`fetch_within`](Self::fetch_within), for what may take hours.
    pub(crate) async fn fetch_patiently(
        &mut self,
        query: Query<'_, Postgres, PgArguments>,
    ) -> Result<Vec<PgRow>, Error> {
        self.run("set local statement_timeout = 0".to_owned())
            .await?;
        let usual = std::mem::replace(&mut self.limit, PATIENCE);
        let rows = self.fetch_within(query).await;
        self.limit = usual;
        rows
    }

    /// Commits the open transaction.
    pub(crate) async fn commit(&mut self) -> Result<(), Error> {
        self.run("commit".to_owned()).await
    }

    /// The connection itself, for what is sent in other ways.
    pub(crate) fn connection(&mut self) -> &mut PgConnection {
        &mut self.connection
    }

    async fn run(&mut self, statements: String) -> Result<(), Error> {
        let running = raw_sql(AssertSqlSafe(statements)).execute(&mut self.connection);
        match timeout(self.limit, running).await {
            Ok(done) => done.map(drop).map_err(Error::from),
            Err(_) => Err(Error::Timeout(self.limit)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pooler_is_named_in_the_url() {
        let pooled: Connector = "postgres://u@h/d?sslmode=disable&pooler=transaction"
            .parse()
            .unwrap();
        assert!(pooled.pooler);
        assert_eq!(pooled.options.get_host(), "h");
        let direct: Connector = "postgres://u@h/d".parse().unwrap();
        assert!(!direct.pooler);
        assert!(
            "postgres://u@h/d?pooler=session"
                .parse::<Connector>()
                .is_err()
        );
        let error = "postgres://u:secret@h:x/d"
            .parse::<Connector>()
            .unwrap_err();
        assert!(!format!("{error:?}").contains("secret"));
    }
}
