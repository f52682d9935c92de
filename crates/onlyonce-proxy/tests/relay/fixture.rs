//! A shop's database with an outbox in it, and the commands on it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::time::Duration;

use onlyonce_outbox::{Event, append};
use onlyonce_test::client::{Raw, Response};
use onlyonce_test::event::within;
use onlyonce_test::postgres::Database;
use onlyonce_test::process::{Launch, Proxy};
use onlyonce_test::upstream::{Legacy, Received};
use serde_json::Value;
use sqlx::Connection;
use sqlx::postgres::PgConnection;

pub(crate) struct Shop {
    pub(crate) database: Database,
    pub(crate) connection: PgConnection,
}

impl Shop {
    /// With the outbox's tables, and no relay yet.
    pub(crate) async fn new() -> Self {
        let database = Database::fresh().await;
        let output = Launch::of(["migrate", "--outbox", "--database", &database.url()])
            .output()
            .await;
        assert!(output.status.success(), "{output:?}");
        let connection = database.connect().await;
        Self {
            database,
            connection,
        }
    }

    /// Events in one transaction.
    pub(crate) async fn commit(&mut self, events: &[Event]) {
        commit(&mut self.connection, events).await;
    }

    /// A relay to a sink by the name of `hooks`, which is quick to try again.
    pub(crate) fn relay(&self, sink: &str) -> Launch {
        relay(&self.database.url(), sink)
    }

    /// Runs `onlyonce outbox …`; answers its exit code, standard output and standard error.
    pub(crate) async fn outbox(&self, args: &[&str]) -> (i32, String, String) {
        let launch = args
            .iter()
            .fold(Launch::of(["outbox"]), |launch, arg| launch.arg(arg));
        let output = launch
            .arg("--database")
            .arg(&self.database.url())
            .output()
            .await;
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
        (
            output.status.code().expect("it ended"),
            text(output.stdout),
            text(output.stderr),
        )
    }

    pub(crate) async fn json(&self, args: &[&str]) -> Value {
        let (code, out, err) = self.outbox(&[args, &["--json"]].concat()).await;
        assert_eq!(code, 0, "{err}");
        serde_json::from_str(&out).expect("JSON")
    }

    /// Waits until the status of the sink is as `is` wants it. The database has no event for this.
    pub(crate) async fn status_is(&self, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        within(what, async {
            loop {
                let status = self.json(&["status"]).await;
                if is(&status["sinks"][0]) {
                    return status;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await
    }
}

/// Events in one transaction.
pub(crate) async fn commit(connection: &mut PgConnection, events: &[Event]) {
    let mut tx = connection.begin().await.expect("begun");
    append(&mut tx, events, None).await.expect("appended");
    tx.commit().await.expect("committed");
}

pub(crate) fn relay(database: &str, sink: &str) -> Launch {
    Launch::of(["relay", "--database", database, "--sink", sink])
        .arg("--name")
        .arg("hooks")
        .env("ONLYONCE__RELAY__RETRY_BASE", "10ms")
        .env("ONLYONCE__RELAY__RETRY_MAX", "100ms")
}

pub(crate) fn payment(key: impl Display, number: u32) -> Event {
    Event::new("payments", key)
        .kind("charged")
        .json(&number)
        .expect("a number is JSON")
}

/// The events that a relay has written to its standard output.
pub(crate) fn lines(relay: &Proxy) -> Vec<Value> {
    let log = relay.log();
    let events = log.iter().filter(|line| line.contains("\"specversion\""));
    events
        .map(|line| serde_json::from_str(line).expect("a line is JSON"))
        .collect()
}

/// The ids of the events that an endpoint got, and the numbers of each key in the order of their first delivery.
pub(crate) fn received(endpoint: &Legacy) -> (BTreeSet<String>, BTreeMap<String, Vec<u32>>) {
    let (mut ids, mut keys) = (BTreeSet::new(), BTreeMap::<String, Vec<u32>>::new());
    for message in endpoint.journal() {
        if ids.insert(field(&message, "webhook-id")) {
            let numbers = keys.entry(field(&message, "ce-subject")).or_default();
            numbers.push(number(&message));
        }
    }
    (ids, keys)
}

pub(crate) fn field(message: &Received, name: &str) -> String {
    message.fields.get(name).unwrap_or_default().to_owned()
}

pub(crate) fn number(message: &Received) -> u32 {
    serde_json::from_slice(&message.body).expect("a number")
}

pub(crate) async fn get(relay: &Proxy, path: &str) -> Response {
    let mut client = Raw::connect(relay.admin()).await;
    client
        .send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"))
        .await;
    client.response().await.expect("an answer")
}
