//! A service that books each event of `charges` once, as a relay delivers them: the README's.
//!
//! `DATABASE_URL=postgres://… WEBHOOK_SECRET=whsec_… cargo run -p onlyonce-axum --example receiver`

use std::error::Error;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, Router};
use onlyonce_axum::webhook::{SignedMessage, WebhookLayer, answer};
use onlyonce_outbox::inbox::{self, Inbox};
use onlyonce_outbox::standard_webhooks::{Secret, Verifier};
use serde::Deserialize;
use sqlx::{PgConnection, PgPool};
use tokio::net::TcpListener;

#[derive(Deserialize)]
struct Charged {
    amount: i64,
}

async fn charged(
    State(inbox): State<Inbox>,
    SignedMessage(message): SignedMessage,
    Json(charged): Json<Charged>,
) -> StatusCode {
    let book = async |tx: &mut PgConnection| {
        let insert = sqlx::query("insert into ledger (amount) values ($1)");
        insert.bind(charged.amount).execute(tx).await
    };
    answer(&inbox.process(&message, book).await) // 204 where it is done, now or before; else the relay comes again
}

/// The inbox, once all tables are there: the service's own, and those of the inbox.
pub(crate) async fn prepare(pool: &PgPool) -> Result<Inbox, Box<dyn Error>> {
    let ledger = "create table if not exists ledger (amount bigint not null)";
    sqlx::query(ledger).execute(pool).await?;
    inbox::migrate(&mut *pool.acquire().await?).await?;
    Ok(Inbox::consumer("ledger").open(pool).await?)
}

pub(crate) fn app(inbox: Inbox, secret: Secret) -> Router {
    Router::new()
        .route("/events", post(charged))
        .layer(WebhookLayer::new(Verifier::new([secret])))
        .with_state(inbox)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt::init();
    let pool = PgPool::connect(&std::env::var("DATABASE_URL")?).await?;
    let inbox = prepare(&pool).await?;
    tokio::spawn(inbox.clone().sweep_every(Duration::from_secs(3_600))); // forgets what is past the window
    let secret = std::env::var("WEBHOOK_SECRET")?.parse()?; // `whsec_` and 32 random bytes in base64
    let listener = TcpListener::bind("127.0.0.1:4000").await?;
    Ok(axum::serve(listener, app(inbox, secret)).await?)
}
