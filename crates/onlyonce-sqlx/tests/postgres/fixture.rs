//! A database of a test's own, whose clock can be moved.
//!
//! The store asks `statement_timestamp()`. Where `pg_catalog` is not searched first, a function of that name
//! in another schema is found instead; this one adds what the test says. So days pass for every statement
//! at once, partitions run out as they would, and no row is touched.

pub(crate) use onlyonce_test::postgres::ask::{eventually, run, value, waiting};
use std::time::Duration;

use onlyonce::RecordId;
use onlyonce_sqlx::PostgresStore;
use onlyonce_sqlx::postgres::Settings;
use onlyonce_test::conformance::Fixture;
use onlyonce_test::pgbouncer::PgBouncer;
use onlyonce_test::postgres::{Database, Server};
use sqlx::ConnectOptions;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use tokio::sync::Mutex;

/// Two stores on one database.
pub(crate) struct Postgres {
    pub(crate) store: PostgresStore,
    pub(crate) second: PostgresStore,
    pub(crate) admin: Mutex<PgConnection>,
    pub(crate) database: Database,
    pub(crate) bouncer: Option<PgBouncer>,
    settings: Settings,
}

impl Postgres {
    pub(crate) async fn on(server: Server) -> Self {
        let database = Database::fresh_on(server).await;
        let settings = settings(&database.url());
        Self::with(database, settings, None).await
    }

    pub(crate) async fn fresh() -> Self {
        Self::on(Server::Default).await
    }

    pub(crate) async fn without_groups() -> Self {
        let database = Database::fresh().await;
        let settings = settings(&database.url()).with_group_commit(false);
        Self::with(database, settings, None).await
    }

    /// Two connections to the server for all.
    pub(crate) async fn behind_pgbouncer() -> Self {
        let database = Database::fresh().await;
        let bouncer = PgBouncer::start(database.port(), 2).unwrap();
        let url = format!("{}?pooler=transaction", database.url_at(bouncer.port()));
        Self::with(database, settings(&url), Some(bouncer)).await
    }

    async fn with(database: Database, settings: Settings, bouncer: Option<PgBouncer>) -> Self {
        let mut admin = database.connect().await;
        run(&mut admin, CLOCK).await;
        let name = database.name();
        let searched = format!("alter database {name} set search_path = public, clock, pg_catalog");
        run(&mut admin, &searched).await;
        Self {
            store: PostgresStore::connect(settings.clone()).await.unwrap(),
            second: PostgresStore::connect(settings.clone()).await.unwrap(),
            admin: Mutex::new(admin),
            database,
            bouncer,
            settings,
        }
    }

    /// A store of its own, as another process would have.
    pub(crate) fn another(&self, change: impl FnOnce(Settings) -> Settings) -> PostgresStore {
        PostgresStore::open(change(self.settings.clone()))
    }

    pub(crate) async fn run(&self, statements: &str) {
        run(&mut *self.admin.lock().await, statements).await;
    }
}

pub(crate) fn settings(url: &str) -> Settings {
    url.parse().unwrap()
}

/// A connection of the test's own, which a pooler takes as well.
pub(crate) async fn connect(url: &str) -> PgConnection {
    let options: PgConnectOptions = url.parse().unwrap();
    options.extra_float_digits(None).connect().await.unwrap()
}

/// Drops the partitions of all days.
pub(crate) const DROP_DAYS: &str = "do $$ declare name text; begin \
     for name in select inhrelid::regclass::text from pg_inherits \
     where inhparent = 'onlyonce_responses'::regclass \
     loop execute 'drop table ' || name; end loop; end $$";

const CLOCK: &str = "create schema clock; \
     create table clock.moved (by interval not null); \
     insert into clock.moved values ('0'); \
     create function clock.statement_timestamp() returns timestamptz stable language sql as \
     'select pg_catalog.statement_timestamp() + by from clock.moved'";

impl Fixture for Postgres {
    type Store = PostgresStore;

    fn store(&self) -> &PostgresStore {
        &self.store
    }

    fn second(&self) -> &PostgresStore {
        &self.second
    }

    async fn advance(&self, by: Duration) {
        let micros = by.as_micros();
        self.run(&format!(
            "update clock.moved set by = by + interval '{micros} microseconds'"
        ))
        .await;
    }

    async fn lose_response(&self, id: &RecordId) -> bool {
        self.run(&format!(
            "delete from onlyonce_responses using onlyonce_records \
             where onlyonce_records.id = '{id}' \
             and onlyonce_responses.token = onlyonce_records.token"
        ))
        .await;
        true
    }

    /// New rows are refused as by a full disk. (A disk that is really full refuses settlements too.)
    async fn fill(&self) -> bool {
        self.run(
            "create function full_disk() returns trigger language plpgsql as \
             $$ begin raise exception 'no space left' using errcode = 'disk_full'; end $$; \
             create trigger full_disk before insert on onlyonce_records \
             execute function full_disk()",
        )
        .await;
        true
    }
}
