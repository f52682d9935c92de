//! Webhooks from our own sink to an axum service with an inbox, over a real socket and on a real Postgres.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use onlyonce_axum::webhook::{SignedMessage, WebhookLayer, answer};
use onlyonce_outbox::inbox::{self, Inbox};
use onlyonce_outbox::sinks::Webhook;
use onlyonce_outbox::standard_webhooks::{Secret, Verifier};
use onlyonce_outbox::{Ack, Envelope, Event, Sink, SinkError};
use onlyonce_test::event::within;
use onlyonce_test::postgres::Database;
use sqlx::postgres::{PgConnection, PgPool};
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

/// Books what it is told; what it is told to fail at, fails.
async fn book(
    State(inbox): State<Inbox>,
    SignedMessage(message): SignedMessage,
    body: Bytes,
) -> StatusCode {
    let text = String::from_utf8(body.to_vec()).unwrap();
    let work = async |tx: &mut PgConnection| {
        let insert = sqlx::query("insert into ledger (message) values ($1)");
        insert.bind(&text).execute(tx).await?;
        if text == "fail" {
            return Err(sqlx::Error::RowNotFound);
        }
        Ok(())
    };
    answer(&inbox.process(&message, work).await)
}

struct Service {
    addr: SocketAddr,
    pool: PgPool,
    secret: Secret,
    _serving: AbortOnDropHandle<()>,
    _database: Database,
}

impl Service {
    async fn start() -> Self {
        let database = Database::fresh().await;
        let pool = PgPool::connect(&database.url()).await.unwrap();
        inbox::migrate(&mut database.connect().await).await.unwrap();
        let table = sqlx::query("create table ledger (message text not null)");
        table.execute(&pool).await.unwrap();
        let inbox = Inbox::consumer("billing").open(&pool).await.unwrap();
        let secret = Secret::generate().unwrap();
        let other = Secret::generate().unwrap();
        let layer = WebhookLayer::new(Verifier::new([other, secret.clone()])).body_max(1_000);
        let app = Router::new()
            .route("/hooks", post(book))
            .layer(layer)
            .route("/bare", post(book))
            .with_state(inbox);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let serving = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self {
            addr,
            pool,
            secret,
            _serving: AbortOnDropHandle::new(serving),
            _database: database,
        }
    }

    fn hook(&self, path: &str) -> Webhook {
        Webhook::to(&format!("http://{}{path}", self.addr), "/shop").unwrap()
    }

    fn signed(&self) -> Webhook {
        self.hook("/hooks").secret(self.secret.clone())
    }

    async fn effects(&self, message: &str) -> i64 {
        let count = sqlx::query_scalar("select count(*) from ledger where message = $1");
        count.bind(message).fetch_one(&self.pool).await.unwrap()
    }
}

async fn deliver(hook: &Webhook, event: &Event) -> Result<Ack, SinkError> {
    let made = SystemTime::UNIX_EPOCH + Duration::from_secs(1_764_000_000);
    let batch = [Envelope::of(event, 1, made)];
    let mut results = within("a delivery", hook.publish(&batch)).await;
    results.remove(0)
}

fn event(text: &str) -> Event {
    Event::new("payments", 1).bytes("text/plain", text.to_owned())
}

fn status(result: Result<Ack, SinkError>) -> String {
    let error = result.unwrap_err();
    std::error::Error::source(&error).unwrap().to_string()
}

#[tokio::test]
async fn a_webhook_that_comes_twice_is_booked_once() {
    let service = Service::start().await;
    let hook = service.signed();
    let (first, second) = (event("first"), event("second"));
    for event in [&first, &second, &first, &second] {
        deliver(&hook, event).await.unwrap();
    }
    assert_eq!(service.effects("first").await, 1);
    assert_eq!(service.effects("second").await, 1);
}

#[tokio::test]
async fn a_webhook_whose_work_fails_comes_again() {
    let service = Service::start().await;
    let event = event("fail");
    for _ in 0..2 {
        let error = deliver(&service.signed(), &event).await.unwrap_err();
        assert!(!error.is_dead());
        assert!(status(Err(error)).contains("500"));
    }
    assert_eq!(service.effects("fail").await, 0);
}

#[tokio::test]
async fn what_is_not_signed_reaches_no_one() {
    let service = Service::start().await;
    let forged = service.hook("/hooks").secret(Secret::generate().unwrap());
    for hook in [service.hook("/hooks"), forged] {
        let refused = status(deliver(&hook, &event("forged")).await);
        assert!(refused.contains("401"), "{refused}");
    }
    let large = event(&"x".repeat(1_001));
    let refused = status(deliver(&service.signed(), &large).await);
    assert!(refused.contains("413"), "{refused}");
    // A handler that was not given the layer does not take the sender's word.
    let bare = service.hook("/bare").secret(service.secret.clone());
    let refused = status(deliver(&bare, &event("bare")).await);
    assert!(refused.contains("500"), "{refused}");
    for text in ["forged", "bare"] {
        assert_eq!(service.effects(text).await, 0);
    }
}

#[tokio::test]
async fn a_webhook_that_is_too_old_or_too_new_is_refused_for_good() {
    let service = Service::start().await;
    for (text, id) in [
        ("old", "0190163d-8694-739b-aea5-966c26f8ad91"),
        ("new", "0990163d-8694-739b-aea5-966c26f8ad91"),
    ] {
        let event = event(text).id(id.parse().unwrap());
        let error = deliver(&service.signed(), &event).await.unwrap_err();
        assert!(error.is_dead());
        assert!(status(Err(error)).contains("422"));
        assert_eq!(service.effects(text).await, 0);
    }
}
