//! A service that counts its effects, a place for records, and the processes in front of the one with the other.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use onlyonce_axum::TransactionalLayer;
use onlyonce_test::client::{Raw, Response};
use onlyonce_test::postgres::Database;
use onlyonce_test::postgres::ask::run;
use onlyonce_test::process::{Launch, Proxy, Signal};
use onlyonce_test::upstream::{Legacy, Reply};
use sqlx::PgPool;
use tempfile::TempDir;

use crate::app::{App, Service};
use crate::front::Front;

/// What is there whether or not a process runs.
pub(crate) struct Shop {
    pub(crate) front: Front,
    pub(crate) legacy: Arc<Legacy>,
    service: Service,
    records: Records,
}

enum Records {
    /// Each process has its own.
    Memory,
    File(TempDir),
    Database(Box<Database>),
    /// Nobody answers there.
    Away(SocketAddr),
}

impl Shop {
    /// For one process: where its records may be in its memory, they are.
    pub(crate) async fn passing(front: Front) -> Self {
        let records = match front {
            Front::Proxy | Front::Layer => Records::Memory,
            Front::SameTransaction => database().await,
        };
        Self::with(front, records).await
    }

    /// For several processes, one after the other or side by side.
    pub(crate) async fn lasting(front: Front) -> Self {
        let records = match front {
            Front::Proxy | Front::Layer => Records::File(tempfile::tempdir().expect("a directory")),
            Front::SameTransaction => database().await,
        };
        Self::with(front, records).await
    }

    /// The store is a Postgres that is away, and the app's own database is where its store is.
    pub(crate) async fn without_a_store(front: Front) -> Self {
        let away = onlyonce_test::upstream::refusing_addr().await;
        Self::with(front, Records::Away(away)).await
    }

    async fn with(front: Front, records: Records) -> Self {
        let service = Service {
            legacy: Arc::new(charges().await),
            due: Arc::default(),
        };
        Self {
            front,
            legacy: Arc::clone(&service.legacy),
            service,
            records,
        }
    }

    /// The URL of the records.
    pub(crate) fn store(&self) -> String {
        match &self.records {
            Records::Memory => "memory:".to_owned(),
            Records::File(directory) => {
                format!("sqlite://{}", directory.path().join("o.db").display())
            }
            Records::Database(database) => database.url(),
            Records::Away(addr) => format!("postgres://nobody@{addr}/nothing"),
        }
    }

    /// All bytes of the store, and where they were found.
    pub(crate) async fn stored(&self) -> Vec<(String, Vec<u8>)> {
        match &self.records {
            Records::Memory | Records::Away(_) => Vec::new(),
            Records::File(directory) => {
                let entries = directory.path().read_dir().expect("readable");
                let paths = entries.map(|entry| entry.expect("readable").path());
                let read = |path: PathBuf| {
                    let bytes = std::fs::read(&path).expect("readable");
                    (path.display().to_string(), bytes)
                };
                paths.map(read).collect()
            }
            Records::Database(database) => tables(database).await,
        }
    }

    /// Starts a process.
    pub(crate) async fn open(&self, settings: &[(&str, &str)]) -> Guard {
        let store = self.store();
        match self.front {
            Front::Proxy => Guard::Proxy(serve(&self.legacy.url(), &store, settings).start().await),
            Front::Layer | Front::SameTransaction => {
                let service = self.service.clone();
                let app = App::start(self.front, service, &store, variables(settings)).await;
                Guard::App(Box::new(app))
            }
        }
    }

    /// How many effects there were. In the same transaction they are also rows: one for each whose answer commits,
    /// and none of any other.
    pub(crate) async fn effects(&self) -> usize {
        self.compare_rows().await;
        self.legacy.effects()
    }

    /// How many effects there were under exactly this key; as [`effects`](Self::effects).
    pub(crate) async fn effects_of(&self, key: &str) -> usize {
        self.compare_rows().await;
        self.legacy.effects_of(key)
    }

    async fn compare_rows(&self) {
        let Records::Database(database) = &self.records else {
            return;
        };
        let mut rows: Vec<Option<String>> = sqlx::query_scalar("select key from effects")
            .fetch_all(&mut database.connect().await)
            .await
            .expect("the table is there");
        let mut due = self.service.due().clone();
        rows.sort();
        due.sort();
        assert_eq!(rows, due, "what is in the database, and what has to be");
    }
}

/// A database with our tables, and one of the service's own.
async fn database() -> Records {
    let database = Database::fresh().await;
    let pool = PgPool::connect(&database.url()).await.expect("a database");
    let migrated = TransactionalLayer::new(pool.clone()).migrate().await;
    migrated.expect("tables can be made");
    let mut connection = pool.acquire().await.expect("a connection");
    run(&mut connection, "create table effects (key text)").await;
    drop(connection);
    pool.close().await;
    Records::Database(Box::new(database))
}

/// Our tables, row by row.
async fn tables(database: &Database) -> Vec<(String, Vec<u8>)> {
    let mut connection = database.connect().await;
    let names: Vec<String> = sqlx::query_scalar(
        "select relname::text from pg_class where relname like 'onlyonce%' and relkind = 'r'",
    )
    .fetch_all(&mut connection)
    .await
    .expect("the catalogue is there");
    let mut rows = Vec::new();
    for name in names {
        let query = format!("select record_send(t) from {name} t");
        let found: Vec<Vec<u8>> = sqlx::query_scalar(sqlx::AssertSqlSafe(query))
            .fetch_all(&mut connection)
            .await
            .expect("the table is there");
        rows.extend(found.into_iter().map(|row| (name.clone(), row)));
    }
    rows
}

/// A service whose every effect has an answer of its own: `201`, `charge 1`, then `charge 2`.
pub(crate) async fn charges() -> Legacy {
    let mut number = 0;
    Legacy::answering(move |_| {
        number += 1;
        Reply::new(201)
            .field("Location", &format!("/charges/{number}"))
            .body(format!("charge {number}"))
    })
    .await
}

/// A process in front of the service, or around it.
pub(crate) enum Guard {
    Proxy(Proxy),
    App(Box<App>),
}

impl Guard {
    pub(crate) fn addr(&self) -> SocketAddr {
        match self {
            Self::Proxy(proxy) => proxy.addr(),
            Self::App(app) => app.addr(),
        }
    }

    /// The process, where it is the binary.
    pub(crate) fn proxy(&self) -> &Proxy {
        match self {
            Self::Proxy(proxy) => proxy,
            Self::App(_) => panic!("this test is of the proxy alone"),
        }
    }

    pub(crate) async fn connect(&self) -> Raw {
        Raw::connect(self.addr()).await
    }

    /// Sends a request on a connection of its own, and reads the answer.
    pub(crate) async fn ask(&self, request: impl AsRef<[u8]>) -> Response {
        ask(self.addr(), request).await
    }

    pub(crate) async fn kill(&mut self) {
        match self {
            Self::Proxy(proxy) => proxy.kill().await,
            Self::App(app) => app.kill(),
        }
    }

    /// Ends it in good order, and lets `finish` finish what is at work, once no new work is taken.
    pub(crate) async fn drain(&mut self, finish: impl FnOnce()) {
        match self {
            Self::Proxy(proxy) => {
                proxy.signal(Signal::TERM);
                proxy.logged("draining").await;
                finish();
                assert!(proxy.exited().await.success());
            }
            Self::App(app) => {
                finish();
                assert!(app.drained().await);
                app.kill();
            }
        }
    }

    /// Waits until a request is executed and recorded whose client has left.
    pub(crate) async fn recorded(&self) {
        match self {
            Self::Proxy(proxy) => {
                proxy.logged("outcome=\"fresh\"").await;
            }
            Self::App(app) => assert!(app.drained().await),
        }
    }
}

/// Sends a request on a connection of its own, and reads the answer.
pub(crate) async fn ask(addr: SocketAddr, request: impl AsRef<[u8]>) -> Response {
    let mut client = Raw::connect(addr).await;
    client.send(request).await;
    client.response().await.expect("a whole head")
}

/// How to start the binary, with settings that flags have no names for.
pub(crate) fn serve(upstream: &str, store: &str, settings: &[(&str, &str)]) -> Launch {
    let launch = Launch::serve(["--upstream", upstream, "--store", store]);
    variables(settings).fold(launch, |launch, (name, value)| launch.env(&name, &value))
}

/// Settings as `("policy.key-max", "8B")`, as an environment has them.
fn variables(settings: &[(&str, &str)]) -> impl Iterator<Item = (String, String)> {
    settings.iter().map(|(key, value)| {
        let name = key.replace('.', "__").replace('-', "_").to_uppercase();
        (format!("ONLYONCE__{name}"), (*value).to_owned())
    })
}
