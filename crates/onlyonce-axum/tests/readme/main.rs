//! What the README shows, on a real Postgres: its programs are the examples, its test is run here, and the events of the
//! one go to the other as it says. A block of Rust in the README that is none of these fails the last test.

#[expect(dead_code, reason = "a program, of which the test needs no `main`")]
#[path = "../../examples/charges.rs"]
mod charges;
#[expect(dead_code, reason = "a program, of which the test needs no `main`")]
#[path = "../../examples/receiver.rs"]
mod receiver;

use axum::body::Body;
use http::{Request, StatusCode};
use onlyonce_outbox::sinks::Webhook;
use onlyonce_outbox::standard_webhooks::Secret;
use onlyonce_outbox::{Relay, RelayOptions};
use onlyonce_test::postgres::Database;
use onlyonce_test::postgres::ask::{eventually, value};
use onlyonce_test::readme;
use sqlx::PgPool;
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;
use tower::ServiceExt;

use self::charges::{app, prepare};

#[tokio::test]
async fn a_retried_charge_is_made_once_and_booked_once() {
    let (payments, books) = (Database::fresh().await, Database::fresh().await);
    let pool = PgPool::connect(&payments.url()).await.unwrap();
    let layer = prepare(pool.clone()).await.unwrap();

    let retried = || {
        Request::post("/charges")
            .header("content-type", "application/json")
            .header("idempotency-key", "order-1")
            .body(Body::from(r#"{"amount":1200}"#))
            .unwrap()
    };
    let first = app(&layer).oneshot(retried()).await.unwrap();
    let again = app(&layer).oneshot(retried()).await.unwrap();
    assert_eq!(first.status(), StatusCode::CREATED);
    assert_eq!(again.status(), StatusCode::CREATED);
    assert_eq!(again.headers()["idempotent-replayed"], "true");

    let mut admin = payments.connect().await;
    let charges: i64 = value(&mut admin, "select count(*) from payments").await;
    assert_eq!(charges, 1);

    let (url, secret) = (books.url(), Secret::generate().unwrap());
    let inbox = receiver::prepare(&PgPool::connect(&url).await.unwrap()).await;
    let receiver = receiver::app(inbox.unwrap(), secret.clone());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let events = format!("http://{}/events", listener.local_addr().unwrap());
    let _serving =
        AbortOnDropHandle::new(tokio::spawn(axum::serve(listener, receiver).into_future()));
    let sink = Webhook::to(&events, "/payments").unwrap().secret(secret);
    let relay = Relay::new(&pool, sink, RelayOptions::default()).unwrap();
    let one = "select count(*) = 1 and sum(amount) = 1200 from ledger";
    let mut admin = books.connect().await;
    let booked = eventually(&mut admin, "the charge is in the ledger", one);
    relay.run(booked).await.unwrap();
}

#[test]
fn the_readme_shows_what_is_tested() {
    let sources = [
        include_str!("../../examples/charges.rs"),
        include_str!("../../examples/receiver.rs"),
        include_str!("main.rs"),
    ];
    assert_eq!(readme::shows(include_str!("../../README.md"), &sources), 3);
}
