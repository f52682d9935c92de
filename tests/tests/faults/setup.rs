//! A guarded service: an upstream that counts, a store, and proxies in front that share it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use onlyonce_test::client::{self, Response};
use onlyonce_test::event::within;
use onlyonce_test::postgres::{Cluster, Database, Options, find_bin_dirs};
use onlyonce_test::process::{Launch, Proxy};
use onlyonce_test::upstream::Legacy;
use serde_json::Value;
use sqlx::{AssertSqlSafe, raw_sql};
use tempfile::TempDir;
use tokio::time::Instant;

/// Where requests go, but for tests that need several routes.
pub(crate) const PATH: &str = "/charges";
/// What they carry.
pub(crate) const BODY: &str = "amount=100";

/// Mounts tests on both stores: `on_each_store!(a, b)` makes `sqlite::a`, `postgres::a`, ….
macro_rules! on_each_store {
    ($($(#[$attribute:meta])* $test:ident),+ $(,)?) => {
        mod sqlite {
            $($(#[$attribute])* #[tokio::test(flavor = "multi_thread")]
            async fn $test() {
                super::$test(crate::setup::Setup::sqlite().await).await;
            })+
        }
        mod postgres {
            $($(#[$attribute])* #[tokio::test(flavor = "multi_thread")]
            async fn $test() {
                super::$test(crate::setup::Setup::postgres().await).await;
            })+
        }
    };
}
pub(crate) use on_each_store;

/// An upstream and a store, each the test's own.
pub(crate) struct Setup {
    pub(crate) legacy: Legacy,
    pub(crate) store: Store,
}

/// Where records are kept.
pub(crate) enum Store {
    Sqlite(TempDir),
    Postgres(Box<Database>),
}

impl Setup {
    pub(crate) async fn sqlite() -> Self {
        Self {
            legacy: Legacy::start().await,
            store: Store::Sqlite(tempfile::tempdir().expect("a directory")),
        }
    }

    pub(crate) async fn postgres() -> Self {
        Self {
            legacy: Legacy::start().await,
            store: Store::Postgres(Box::new(Database::fresh().await)),
        }
    }

    /// On a Postgres server of the test's own.
    pub(crate) async fn cluster(cluster: &Cluster) -> Self {
        let database = Database::fresh_at(&cluster.url("postgres")).await;
        Self {
            legacy: Legacy::start().await,
            store: Store::Postgres(Box::new(database)),
        }
    }

    /// A proxy in front of the upstream, on the store.
    pub(crate) fn launch(&self) -> Launch {
        self.launch_on(&self.store.url())
    }

    /// The same with the store reached by another way.
    pub(crate) fn launch_on(&self, store: &str) -> Launch {
        Launch::serve(["--upstream", &self.legacy.url(), "--store", store])
    }

    /// What `onlyonce records ACTION …` prints on this store.
    ///
    /// # Panics
    /// Where it does not exit with 0.
    pub(crate) async fn records<const N: usize>(&self, action: [&str; N]) -> String {
        self.try_records(action)
            .await
            .unwrap_or_else(|said| panic!("{action:?}: {said}"))
    }

    /// The same, with what it complains of where it does not exit with 0.
    pub(crate) async fn try_records<const N: usize>(
        &self,
        action: [&str; N],
    ) -> Result<String, String> {
        let url = self.store.url();
        let launch = ["records"]
            .into_iter()
            .chain(action)
            .chain(["--store", &url]);
        let launch = launch.fold(Launch::of([]), Launch::arg);
        let output = launch.output().await;
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    }

    /// Id and state of each record, as `onlyonce records list --json` tells.
    pub(crate) async fn list(&self) -> Vec<(String, String)> {
        let printed = self.records(["list", "--json", "--limit", "100000"]).await;
        let records: Vec<Value> = serde_json::from_str(&printed).expect("JSON");
        let text = |record: &Value, field: &str| record[field].as_str().expect(field).to_owned();
        records
            .iter()
            .map(|record| (text(record, "id"), text(record, "state")))
            .collect()
    }

    /// The state of one record, by its id.
    pub(crate) async fn state(&self, id: &str) -> String {
        let list = self.list().await;
        let found = list.iter().find(|(own, _)| own == id);
        found
            .unwrap_or_else(|| panic!("{id} is not among {list:?}"))
            .1
            .clone()
    }

    /// Waits until a record is in `state`: there is no event for what another process writes.
    pub(crate) async fn until_state(&self, id: &str, state: &str) {
        within(&format!("the record to be {state}"), async {
            while self.state(id).await != state {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        })
        .await;
    }
}

impl Store {
    pub(crate) fn url(&self) -> String {
        match self {
            Self::Sqlite(_) => format!("sqlite://{}", self.file().display()),
            Self::Postgres(database) => database.url(),
        }
    }

    /// The file of a SQLite store.
    pub(crate) fn file(&self) -> PathBuf {
        match self {
            Self::Sqlite(directory) => directory.path().join("onlyonce.db"),
            Self::Postgres(database) => panic!("{} is no file", database.name()),
        }
    }

    /// The database of a store in Postgres.
    pub(crate) fn database(&self) -> &Database {
        match self {
            Self::Sqlite(directory) => panic!("{} is a file", directory.path().display()),
            Self::Postgres(database) => database,
        }
    }

    /// Runs SQL behind the proxies' backs: the text for the kind of store that this is.
    pub(crate) async fn run(&self, sqlite: &str, postgres: &str) {
        match self {
            Self::Sqlite(_) => run_sqlite(&self.file(), sqlite),
            Self::Postgres(database) => {
                let statements = AssertSqlSafe(postgres.to_owned());
                let done = raw_sql(statements)
                    .execute(&mut database.connect().await)
                    .await;
                done.unwrap_or_else(|error| panic!("{postgres}: {error}"));
            }
        }
    }
}

/// A Postgres server that a test may kill. No machine fails here, so it need not wait for the disk.
pub(crate) fn cluster() -> Cluster {
    let bin = find_bin_dirs().into_iter().next();
    let bin = bin.expect("a Postgres is installed");
    let started = Options::default().fsync(false).start(&bin);
    started.expect("a server starts")
}

fn run_sqlite(file: &Path, statements: &str) {
    let connection = rusqlite::Connection::open(file).expect("the store's file is there");
    connection
        .busy_timeout(Duration::from_secs(10))
        .expect("a setting");
    let done = connection.execute_batch(statements);
    done.unwrap_or_else(|error| panic!("{statements}: {error}"));
}

/// Sends the usual request under this key.
pub(crate) async fn post(proxy: &Proxy, key: &str) -> std::io::Result<Response> {
    client::post(proxy.addr(), PATH, key, BODY).await
}

/// The same where an answer must come.
pub(crate) async fn answer(proxy: &Proxy, key: &str) -> Response {
    let answer = post(proxy, key).await;
    answer.unwrap_or_else(|error| panic!("no answer for {key}: {error}; {:#?}", proxy.log()))
}

/// The `code` of a problem, or nothing where it is an answer of the upstream's.
pub(crate) fn code(response: &Response) -> String {
    problem(response)["code"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

/// The record that a problem names.
pub(crate) fn record(response: &Response) -> String {
    let problem = problem(response);
    let instance = problem["instance"]
        .as_str()
        .expect("a problem names its record");
    instance
        .trim_start_matches("urn:onlyonce:record:")
        .to_owned()
}

fn problem(response: &Response) -> Value {
    match response.fields.get("content-type") {
        Some("application/problem+json") => serde_json::from_slice(&response.body).expect("JSON"),
        _ => Value::Null,
    }
}

/// Repeats a request while its key is in flight; answers what came at last.
///
/// Nothing tells a client when that ends, so it has to ask.
pub(crate) async fn retry_while_in_progress(proxy: &Proxy, key: &str) -> Response {
    within("a key to be no longer in flight", async {
        loop {
            let answer = answer(proxy, key).await;
            if code(&answer) != "request-in-progress" {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await
}

/// Repeats a request while the store is away; answers what came at last.
pub(crate) async fn retry_while_unavailable(proxy: &Proxy, key: &str) -> Response {
    within("the store to be back", async {
        loop {
            let answer = retry_while_in_progress(proxy, key).await;
            if code(&answer) != "store-unavailable" {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await
}

/// For how long what is known is used without having been confirmed.
const RELIED_ON_MAX: Duration = Duration::from_secs(2);

/// What a proxy knows it replays while its store is away, for two seconds at the most. Waits until it does not.
///
/// One refusal does not show that: a Redis that is late once is not waited for, and the next retry is answered from it.
pub(crate) async fn until_not_relied_on(proxy: &Proxy, key: &str, first: &Response) {
    within("a proxy not to rely on what it knows", async {
        let mut refused_since = None;
        loop {
            let known = answer(proxy, key).await;
            if known.status != 503 {
                assert_replays(&known, first);
                refused_since = None;
            } else if refused_since.get_or_insert_with(Instant::now).elapsed() > RELIED_ON_MAX {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

/// Asserts that an answer is the upstream's first one, replayed byte for byte.
#[track_caller]
pub(crate) fn assert_replays(replay: &Response, first: &Response) {
    assert!(
        replay.is_replay() && replay.is_whole(),
        "no replay: {replay:?}"
    );
    assert_eq!((replay.status, &replay.body), (first.status, &first.body));
}

/// Asserts the status and code of a problem.
#[track_caller]
pub(crate) fn assert_problem(response: &Response, status: u16, expected: &str) {
    let found = (response.status, code(response));
    assert_eq!(
        found,
        (status, expected.to_owned()),
        "{}",
        String::from_utf8_lossy(&response.body)
    );
}
