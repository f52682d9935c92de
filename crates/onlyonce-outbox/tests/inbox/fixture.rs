//! A database of a test's own, with the inbox's tables and a ledger in it.

pub(crate) use onlyonce_test::postgres::ask::{eventually, run, value, waiting};
use std::time::Duration;

use onlyonce_outbox::inbox::{self, Inbox, Message, Options, Outcome, ProcessError};
use onlyonce_test::event::within;
use onlyonce_test::fault::PgFault;
use onlyonce_test::pgbouncer::PgBouncer;
use onlyonce_test::postgres::Database;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions};
use sqlx::{AssertSqlSafe, raw_sql};
use uuid::Uuid;

pub(crate) const HOUR: Duration = Duration::from_secs(3_600);
pub(crate) const DAY: Duration = Duration::from_secs(86_400);

/// A consumer's database.
pub(crate) struct Postgres {
    pub(crate) database: Database,
    bouncer: Option<PgBouncer>,
}

impl Postgres {
    pub(crate) async fn fresh() -> Self {
        let database = Database::fresh().await;
        let mut connection = database.connect().await;
        inbox::migrate(&mut connection).await.unwrap();
        run(
            &mut connection,
            "create table ledger (message text not null)",
        )
        .await;
        Self {
            database,
            bouncer: None,
        }
    }

    /// Four connections to the server for all.
    pub(crate) async fn behind_pgbouncer() -> Self {
        let mut fresh = Self::fresh().await;
        fresh.bouncer = Some(PgBouncer::start(fresh.database.port(), 4).unwrap());
        fresh
    }

    /// As the application connects, with so many connections.
    pub(crate) async fn pool(&self, connections: u32) -> PgPool {
        let url = match &self.bouncer {
            None => self.database.url(),
            Some(bouncer) => self.database.url_at(bouncer.port()),
        };
        pool(&url, connections).await
    }

    pub(crate) async fn fault(&self) -> PgFault {
        PgFault::start(&self.database.url()).await
    }

    /// How often messages with ids that begin so were applied.
    pub(crate) async fn effects(&self, message: &Message) -> i64 {
        let query = format!(
            "select count(*) from ledger where message = '{}'",
            message.id()
        );
        value(&mut self.database.connect().await, &query).await
    }

    pub(crate) async fn value<T>(&self, query: &str) -> T
    where
        T: for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>,
    {
        value(&mut self.database.connect().await, query).await
    }
}

pub(crate) async fn pool(url: &str, connections: u32) -> PgPool {
    let options: PgConnectOptions = url.parse().unwrap();
    PgPoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(Duration::from_secs(30))
        .connect_with(options.statement_cache_capacity(0).extra_float_digits(None))
        .await
        .unwrap()
}

pub(crate) fn billing() -> Options {
    Inbox::consumer("billing")
}

/// A message whose id is of now.
pub(crate) fn fresh() -> Message {
    Message::new(Uuid::now_v7())
}

/// A message whose id says that it was made so long ago.
pub(crate) fn made_ago(age: Duration) -> Message {
    moved(|now| now - i64::try_from(age.as_millis()).unwrap())
}

/// A message whose id says that it was made in the future.
pub(crate) fn made_in(time: Duration) -> Message {
    moved(|now| now + i64::try_from(time.as_millis()).unwrap())
}

fn moved(to: impl Fn(i64) -> i64) -> Message {
    let mut bytes = *Uuid::now_v7().as_bytes();
    let [a, b, c, d, e, f, ..] = bytes;
    let millis = to(i64::from_be_bytes([0, 0, a, b, c, d, e, f]));
    bytes[..6].copy_from_slice(&millis.to_be_bytes()[2..]);
    Message::new(Uuid::from_bytes(bytes))
}

pub(crate) fn foreign(id: &str) -> Message {
    Message::new(id.parse::<inbox::MessageId>().unwrap())
}

pub(crate) type Processed<T = ()> = Result<Outcome<T>, ProcessError<sqlx::Error>>;

/// Applies a message: a row in the ledger.
pub(crate) async fn apply(inbox: &Inbox, message: &Message) -> Processed {
    let applied = inbox.process(message, async |tx| enter(tx, message).await);
    within("the message to be processed", applied).await
}

/// The effect of a message.
pub(crate) async fn enter(tx: &mut PgConnection, message: &Message) -> Result<(), sqlx::Error> {
    let insert = format!("insert into ledger (message) values ('{}')", message.id());
    raw_sql(AssertSqlSafe(insert)).execute(tx).await.map(drop)
}
