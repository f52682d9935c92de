//! What the README shows, on a real Postgres: its programs are the examples, its tests are run here. A block of Rust in
//! the README that is none of these fails the last test.

#[expect(dead_code, reason = "a program, of which the test needs no `main`")]
#[path = "../../examples/ledger.rs"]
mod ledger;
#[expect(dead_code, reason = "a program, of which the test needs no `main`")]
#[path = "../../examples/shop.rs"]
mod shop;

use std::error::Error;
use std::time::Duration;

use onlyonce_outbox::inbox::Outcome;
use onlyonce_outbox::sinks::{Memory, Stdout, Webhook};
use onlyonce_outbox::{Connector, Relay, RelayOptions};
use onlyonce_test::event::within;
use onlyonce_test::postgres::Database;
use onlyonce_test::postgres::ask::value;
use onlyonce_test::readme;
use sqlx::PgPool;
use tokio::io::{AsyncBufReadExt, BufReader, duplex};

use self::ledger::{CloudEvent, book};
use self::shop::{pay, prepare};

#[tokio::test]
async fn what_is_paid_is_published_with_its_key() {
    let database = Database::fresh().await;
    let pool = PgPool::connect(&database.url()).await.unwrap();
    prepare(&pool).await.unwrap();

    let sink = Memory::new("test");
    let relay = Relay::new(&pool, sink.clone(), RelayOptions::default()).unwrap();
    let running = tokio::spawn(relay.run(std::future::pending()));
    let id = pay(&pool, 1_200).await.unwrap();
    let events = sink.reached(1).await;
    assert_eq!(events[0].key.as_deref(), Some(id.to_string().as_str()));
    assert_eq!(&*events[0].payload, br#"{"amount":1200}"#);
    running.abort();
}

#[tokio::test]
async fn each_line_that_is_printed_is_booked_once() {
    let (shop, books) = (Database::fresh().await, Database::fresh().await);
    let pool = PgPool::connect(&shop.url()).await.unwrap();
    prepare(&pool).await.unwrap();
    let ledger = PgPool::connect(&books.url()).await.unwrap();
    let inbox = ledger::prepare(&ledger).await.unwrap();
    for amount in [100, 200, 300] {
        pay(&pool, amount).await.unwrap();
    }

    let (out, printed) = duplex(1 << 16);
    let sink = Stdout::to(out, "/payments");
    let relay = Relay::new(&pool, sink, RelayOptions::default()).unwrap();
    let running = tokio::spawn(relay.run(std::future::pending()));
    let mut lines = BufReader::new(printed).lines();
    for _ in 0..3 {
        let line = within("a line", lines.next_line()).await.unwrap().unwrap();
        let event: CloudEvent = serde_json::from_str(&line).unwrap();
        assert_eq!(book(&inbox, &event).await.unwrap(), Outcome::Applied(()));
        assert_eq!(
            book(&inbox, &event).await.unwrap(),
            Outcome::Duplicate(None)
        );
    }
    running.abort();
    let booked: String = value(
        &mut books.connect().await,
        "select string_agg(amount::text, ' ' order by amount) from ledger",
    )
    .await;
    assert_eq!(booked, "100 200 300");
}

#[test]
fn a_relay_to_a_webhook_has_no_contradictions() {
    let connector: Connector = "postgres://127.0.0.1/shop".parse().unwrap();
    let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    webhook(connector, "http://127.0.0.1:4000/events", secret).unwrap();
}

fn webhook(pool: Connector, endpoint: &str, secret: &str) -> Result<(), Box<dyn Error>> {
    let sink = Webhook::to(endpoint, "/payments")?
        .named("accounting") // its identity in the database: another name starts from the beginning
        .secret(secret.parse()?); // `whsec_` and 24 to 64 random bytes in base64
    let options = RelayOptions::default().retry(Duration::from_secs(1), Duration::from_secs(3_600));
    let relay = Relay::new(pool, sink, options)?;
    drop(relay);
    Ok(())
}

#[test]
fn the_readme_shows_what_is_tested() {
    let sources = [
        include_str!("../../examples/shop.rs"),
        include_str!("../../examples/ledger.rs"),
        include_str!("main.rs"),
    ];
    assert_eq!(readme::shows(include_str!("../../README.md"), &sources), 4);
}
