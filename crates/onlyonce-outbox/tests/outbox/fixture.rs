//! A database of a test's own, with the outbox's tables in it.

use std::time::Duration;

use onlyonce_outbox::{Connector, migrate};
use onlyonce_test::event::within;
use onlyonce_test::pgbouncer::PgBouncer;
use onlyonce_test::postgres::{Database, Server};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, ConnectOptions, Row, raw_sql};

/// A database with tables, which can be reached through a pooler too.
pub(crate) struct Postgres {
    pub(crate) database: Database,
    pub(crate) bouncer: Option<PgBouncer>,
}

impl Postgres {
    pub(crate) async fn fresh() -> Self {
        Self::on(Server::Default).await
    }

    pub(crate) async fn on(server: Server) -> Self {
        let database = Database::fresh_on(server).await;
        migrate(&mut database.connect().await).await.unwrap();
        Self {
            database,
            bouncer: None,
        }
    }

    /// Four connections to the server for all.
    pub(crate) async fn behind_pgbouncer() -> Self {
        Self::pooled(Database::fresh().await, 4).await
    }

    /// Another server's database, and so many connections to it for all.
    pub(crate) async fn pooled(database: Database, connections: u16) -> Self {
        migrate(&mut database.connect().await).await.unwrap();
        let bouncer = PgBouncer::start(database.port(), connections).unwrap();
        Self {
            database,
            bouncer: Some(bouncer),
        }
    }

    /// As the application connects.
    pub(crate) async fn connect(&self) -> PgConnection {
        self.options().connect().await.unwrap()
    }

    /// As a relay connects.
    pub(crate) fn connector(&self) -> Connector {
        Connector::from(self.options()).with_pooler(self.bouncer.is_some())
    }

    pub(crate) fn options(&self) -> PgConnectOptions {
        match &self.bouncer {
            None => self.database.url().parse().unwrap(),
            Some(bouncer) => {
                let url = self.database.url_at(bouncer.port());
                let options: PgConnectOptions = url.parse().unwrap();
                options.extra_float_digits(None)
            }
        }
    }
}

pub(crate) async fn run(connection: &mut PgConnection, statements: &str) {
    raw_sql(AssertSqlSafe(statements.to_owned()))
        .execute(connection)
        .await
        .unwrap();
}

/// The first column of the first row.
pub(crate) async fn value<T>(connection: &mut PgConnection, query: &str) -> T
where
    T: for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>,
{
    raw_sql(AssertSqlSafe(query.to_owned()))
        .fetch_one(connection)
        .await
        .unwrap()
        .get(0)
}

/// Waits until a query answers `true`.
pub(crate) async fn eventually(connection: &mut PgConnection, what: &str, query: &str) {
    let wait = async {
        while !value::<bool>(connection, query).await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    within(what, wait).await;
}

/// Whether so many backends of this database wait for a lock.
pub(crate) fn waiting(backends: u32) -> String {
    format!(
        "select count(*) = {backends} from pg_stat_activity \
         where datname = current_database() and wait_event_type = 'Lock'"
    )
}
