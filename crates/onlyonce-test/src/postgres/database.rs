//! A fresh, empty database in a server that runs already.

use std::env;
use std::fmt::Display;
use std::thread;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions, Connection, Executor};

/// Which of the servers that the tests have running.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Server {
    /// The distribution's version.
    Default,
    /// The newest released version.
    Newest,
}

impl Server {
    /// The environment variable that holds its superuser's URL.
    pub const fn variable(self) -> &'static str {
        match self {
            Self::Default => "ONLYONCE_TEST_POSTGRES_URL",
            Self::Newest => "ONLYONCE_TEST_POSTGRES18_URL",
        }
    }

    /// Its superuser's URL.
    ///
    /// # Panics
    /// Where the environment variable is missing: tests never skip silently.
    pub fn url(self) -> String {
        let variable = self.variable();
        env::var(variable).unwrap_or_else(|_| {
            panic!(
                "{variable} is not set: start the servers with `cargo xtask servers` or run `cargo xtask test`"
            )
        })
    }
}

/// A database of one test's own. Dropped, connections and all, at the end.
#[derive(Debug)]
pub struct Database {
    options: PgConnectOptions,
    name: String,
}

impl Database {
    /// A database on [`Server::Default`].
    ///
    /// # Panics
    /// As [`Self::fresh_on`].
    pub async fn fresh() -> Self {
        Self::fresh_on(Server::Default).await
    }

    /// A database on a server.
    ///
    /// # Panics
    /// Where the server's URL is missing from the environment or the server refuses.
    pub async fn fresh_on(server: Server) -> Self {
        Self::fresh_at(&server.url()).await
    }

    /// A database on the server of a superuser's URL.
    ///
    /// # Panics
    /// Where the server refuses.
    pub async fn fresh_at(url: &str) -> Self {
        let options: PgConnectOptions = url.parse().unwrap_or_else(|e| refused(url, &e));
        let mut admin = options.connect().await.unwrap_or_else(|e| refused(url, &e));
        let mut random = [0; 8];
        getrandom::fill(&mut random).expect("the operating system's random source answers");
        let name = format!("onlyonce_test_{:016x}", u64::from_be_bytes(random));
        execute(&mut admin, format!("create database {name}"))
            .await
            .unwrap_or_else(|e| refused(url, &e));
        let _ = admin.close().await;
        Self { options, name }
    }

    /// Its URL.
    pub fn url(&self) -> String {
        self.url_at(self.options.get_port())
    }

    /// Its URL by way of another port on this machine: a pooler's or a fault proxy's.
    pub fn url_at(&self, port: u16) -> String {
        format!(
            "postgres://{}@{}:{port}/{}",
            self.options.get_username(),
            self.options.get_host(),
            self.name
        )
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The server's port.
    pub fn port(&self) -> u16 {
        self.options.get_port()
    }

    /// A connection of the test's own, apart from the pool under test.
    ///
    /// # Panics
    /// Where the server refuses.
    pub async fn connect(&self) -> PgConnection {
        let options = self.options.clone().database(&self.name);
        options
            .connect()
            .await
            .unwrap_or_else(|e| refused(&self.url(), &e))
    }

    async fn drop_now(options: PgConnectOptions, name: String) -> Result<(), sqlx::Error> {
        let mut admin = options.connect().await?;
        execute(
            &mut admin,
            format!("drop database if exists {name} with (force)"),
        )
        .await?;
        admin.close().await
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        // Best effort, in a thread of its own: the test's runtime may be shutting down, and the whole
        // server is thrown away in the end.
        let (options, name) = (self.options.clone(), self.name.clone());
        let dropping = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            if let Ok(runtime) = runtime {
                let bounded = async {
                    tokio::time::timeout(Duration::from_secs(5), Self::drop_now(options, name))
                        .await
                };
                let _ = runtime.block_on(bounded);
            }
        });
        let _ = dropping.join();
    }
}

async fn execute(admin: &mut PgConnection, statement: String) -> Result<(), sqlx::Error> {
    // Names cannot be bound; this one is ours, letters and digits.
    admin.execute(sqlx::AssertSqlSafe(statement)).await?;
    Ok(())
}

fn refused<T>(url: &str, error: &dyn Display) -> T {
    panic!("the test server at {url} refused: {error}")
}
