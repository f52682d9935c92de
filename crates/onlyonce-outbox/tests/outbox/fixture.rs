//! A database of a test's own, with the outbox's tables in it.

pub(crate) use onlyonce_test::postgres::ask::{eventually, run, value, waiting};

use onlyonce_outbox::{Connector, migrate};
use onlyonce_test::pgbouncer::PgBouncer;
use onlyonce_test::postgres::{Database, Server};
use sqlx::ConnectOptions;
use sqlx::postgres::{PgConnectOptions, PgConnection};

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
