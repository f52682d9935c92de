//! Whoever would rather read the log: what a connector gets of the table, and the view's columns by their names.

use onlyonce_outbox::{Event, migrate};
use onlyonce_test::postgres::{Options, find_bin_dirs};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions, Row, raw_sql};

use crate::fixture::{run, value};
use crate::relay::commit;

const SLOT: &str = "select pg_create_logical_replication_slot('events', 'pgoutput')";
const CHANGES: &str = "select data from pg_logical_slot_get_binary_changes('events', null, null, \
     'proto_version', '1', 'publication_names', 'events')";

/// A server whose log can be read, with an event in its outbox.
async fn logged(connection: &mut PgConnection) -> Event {
    migrate(connection).await.unwrap();
    let publication = "create publication events for table onlyonce_outbox_event \
         with (publish = 'insert', publish_via_partition_root = true)";
    run(connection, publication).await;
    run(connection, SLOT).await;
    let event = Event::new("payments", 4711)
        .kind("charged")
        .json(&12)
        .unwrap();
    commit(connection, std::slice::from_ref(&event)).await;
    event
}

/// The text that ends with the next zero byte.
fn text<'m>(message: &mut &'m [u8]) -> &'m str {
    let end = message.iter().position(|byte| *byte == 0).unwrap();
    let (text, rest) = message.split_at(end);
    *message = &rest[1..];
    std::str::from_utf8(text).unwrap()
}

fn number<const N: usize>(message: &mut &[u8]) -> usize {
    let (bytes, rest) = message.split_at(N);
    *message = rest;
    bytes
        .iter()
        .fold(0, |sum, byte| sum * 256 + usize::from(*byte))
}

/// The names of the columns in the message of a relation, and the relation's.
fn relation(mut message: &[u8]) -> (String, Vec<String>) {
    number::<5>(&mut message);
    text(&mut message);
    let name = text(&mut message).to_owned();
    number::<1>(&mut message);
    let mut columns = Vec::new();
    for _ in 0..number::<2>(&mut message) {
        number::<1>(&mut message);
        columns.push(text(&mut message).to_owned());
        number::<8>(&mut message);
    }
    (name, columns)
}

/// The values in the message of an insertion, as text.
fn insertion(mut message: &[u8]) -> Vec<String> {
    number::<6>(&mut message);
    let mut values = Vec::new();
    for _ in 0..number::<2>(&mut message) {
        let kind = number::<1>(&mut message);
        if kind != usize::from(b't') {
            values.push(String::new());
            continue;
        }
        let length = number::<4>(&mut message);
        let (value, rest) = message.split_at(length);
        message = rest;
        values.push(String::from_utf8(value.to_vec()).unwrap());
    }
    values
}

/// By way of the root, whatever the day's table is called, with the columns that the router is told of.
#[tokio::test]
async fn the_log_has_each_event_under_the_tables_own_name() {
    let bin = find_bin_dirs()
        .into_iter()
        .next()
        .expect("a Postgres is installed");
    let options = Options::default().fsync(false).set("wal_level", "logical");
    let cluster = options.start(&bin).unwrap();
    let options: PgConnectOptions = cluster.url("postgres").parse().unwrap();
    let mut connection = options.connect().await.unwrap();
    let event = logged(&mut connection).await;
    let rows = raw_sql(CHANGES).fetch_all(&mut connection).await.unwrap();
    let messages: Vec<Vec<u8>> = rows.iter().map(|row| row.get(0)).collect();
    let of = |kind: u8| messages.iter().filter(move |message| message[0] == kind);
    let (name, columns) = relation(of(b'R').next().unwrap());
    assert_eq!(name, "onlyonce_outbox_event");
    assert_eq!(of(b'I').count(), 1);
    let values = insertion(of(b'I').next().unwrap());
    let value_of = |column: &str| {
        let place = columns.iter().position(|known| known == column).unwrap();
        values[place].clone()
    };
    assert_eq!(
        ["event_id", "topic", "key", "kind", "payload"].map(value_of),
        [
            &event.event_id().to_string(),
            "payments",
            "4711",
            "charged",
            "\\x3132"
        ]
    );
    let view = "select string_agg(column_name || ' ' || data_type, ', ' order by ordinal_position) \
         from information_schema.columns where table_name = 'onlyonce_outbox_debezium'";
    assert_eq!(
        value::<String>(&mut connection, view).await,
        "id uuid, aggregatetype text, aggregateid text, type text, payload bytea, headers jsonb, \
         created_at timestamp with time zone"
    );
}
