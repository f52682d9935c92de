//! A shop's database with an outbox in it, and the commands on it.

use std::collections::BTreeMap;

use onlyonce_test::event::within;
use onlyonce_test::pgbouncer::PgBouncer;
use onlyonce_test::postgres::Database;
use onlyonce_test::postgres::ask::run;
use onlyonce_test::process::Launch;
use serde_json::Value;
use sqlx::ConnectOptions;
use sqlx::postgres::{PgConnectOptions, PgConnection};

/// The sink's name in the database.
pub(crate) const SINK: &str = "hooks";

/// Numbers the events of each key, in the order of the commits.
const TALLY: &str =
    "create table tally (key text primary key, events integer not null) with (fillfactor = 50)";

pub(crate) struct Shop {
    pub(crate) database: Database,
    bouncer: Option<PgBouncer>,
}

impl Shop {
    /// With the outbox's tables, and no relay yet.
    pub(crate) async fn new() -> Self {
        Self::without_tables().await.migrated().await
    }

    /// The same, and everything reaches it by a pooler in transaction mode, which has few connections.
    pub(crate) async fn behind_pgbouncer() -> Self {
        let mut shop = Self::without_tables().await;
        let bouncer = PgBouncer::start(shop.database.port(), 8).expect("a PgBouncer of our own");
        shop.bouncer = Some(bouncer);
        shop.migrated().await
    }

    pub(crate) async fn without_tables() -> Self {
        Self {
            database: Database::fresh().await,
            bouncer: None,
        }
    }

    async fn migrated(self) -> Self {
        let output = self.migrate().output().await;
        assert!(output.status.success(), "{output:?}");
        number(&mut self.database.connect().await).await;
        self
    }

    /// As everybody but the test itself reaches it.
    pub(crate) fn url(&self) -> String {
        match &self.bouncer {
            None => self.database.url(),
            Some(bouncer) => self.database.url_at(bouncer.port()),
        }
    }

    /// As an application connects.
    pub(crate) async fn connect(&self) -> PgConnection {
        let options: PgConnectOptions = self.url().parse().expect("a URL");
        let options = options.extra_float_digits(None).statement_cache_capacity(0);
        options.connect().await.expect("a connection")
    }

    pub(crate) fn migrate(&self) -> Launch {
        self.command(&["migrate", "--outbox"])
    }

    /// A relay that is quick to try again.
    pub(crate) fn relay(&self, sink: &str) -> Launch {
        self.command(&["relay", "--sink", sink, "--name", SINK])
            .env("ONLYONCE__RELAY__RETRY_BASE", "10ms")
            .env("ONLYONCE__RELAY__RETRY_MAX", "100ms")
    }

    fn command(&self, args: &[&str]) -> Launch {
        let launch = args
            .iter()
            .fold(Launch::of([]), |launch, arg| launch.arg(arg));
        let launch = launch.arg("--database").arg(&self.url());
        match self.bouncer {
            None => launch,
            Some(_) => launch.env("ONLYONCE__RELAY__POOLER", "true"),
        }
    }

    /// What `onlyonce outbox …` prints as JSON.
    pub(crate) async fn outbox(&self, args: &[&str]) -> Value {
        let launch = self.command(&[&["outbox"], args, &["--json"]].concat());
        let output = launch.output().await;
        assert!(output.status.success(), "{args:?}: {output:?}");
        serde_json::from_slice(&output.stdout).expect("JSON")
    }

    /// Waits until the status of the sink is as `is` wants it. The database has no event for this.
    pub(crate) async fn status_is(&self, what: &str, is: impl Fn(&Value) -> bool) {
        within(what, async {
            while !is(&self.outbox(&["status"]).await["sinks"][0]) {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        })
        .await;
    }

    /// Waits until the database says that everything was passed to the sink.
    pub(crate) async fn is_level(&self) {
        self.status_is("the cursors to pass everything", |sink| {
            let left = ["undelivered", "retrying", "behind", "dead"];
            left.iter().all(|left| sink[left] == 0)
        })
        .await;
    }

    /// So many relays have the shards among themselves.
    pub(crate) async fn is_shared_by(&self, relays: usize) {
        self.status_is("the shards to be shared", |sink| {
            let shards = sink["shards"].as_array().map_or(&[][..], Vec::as_slice);
            let mut owned = BTreeMap::<_, usize>::new();
            for owner in shards.iter().filter_map(|shard| shard["owner"].as_str()) {
                *owned.entry(owner).or_default() += 1;
            }
            owned.len() == relays && owned.values().sum::<usize>() == 64
        })
        .await;
    }
}

/// Makes the table by which writers number their events.
pub(crate) async fn number(connection: &mut PgConnection) {
    run(connection, TALLY).await;
}
