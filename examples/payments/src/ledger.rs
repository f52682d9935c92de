//! The ledger: another service, which writes down each payment that it hears of.

use std::error::Error;
use std::net::SocketAddr;

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, Router};
use onlyonce_axum::webhook::{SignedMessage, WebhookLayer, answer};
use onlyonce_outbox::inbox::Inbox;
use onlyonce_outbox::standard_webhooks::Verifier;
use sqlx::{PgConnection, PgPool};
use tokio::net::TcpListener;

use crate::database;
use crate::service::Charged;

/// What the relay and the ledger both know. An example may have its secret in the source; nobody else may.
pub(crate) const SECRET: &str = "whsec_b25seW9uY2UgZXhhbXBsZSBzZWNyZXQgMDEyMzQ1Njc4OQ==";

#[derive(Clone)]
struct Books {
    pool: PgPool,
    inbox: Inbox,
}

/// Serves, until the process is killed.
///
/// # Errors
/// Where it cannot start.
pub(crate) async fn serve(listen: SocketAddr, url: &str) -> Result<(), Box<dyn Error>> {
    let pool = database::connect(url)?;
    let inbox = Inbox::consumer("ledger").open(&pool).await?;
    let verifier = Verifier::new([SECRET.parse()?]);
    let signed = Router::new()
        .route("/events", post(event))
        .layer(WebhookLayer::new(verifier));
    let app = Router::new()
        .route("/entries", post(entry))
        .merge(signed)
        .with_state(Books { pool, inbox });
    Ok(axum::serve(TcpListener::bind(listen).await?, app).await?)
}

/// Without an inbox: what comes twice is written down twice.
async fn entry(State(books): State<Books>, Json(charged): Json<Charged>) -> StatusCode {
    let written = match books.pool.acquire().await {
        Ok(mut connection) => write(&mut connection, &charged).await,
        Err(error) => Err(error),
    };
    written.map_or(StatusCode::SERVICE_UNAVAILABLE, |()| StatusCode::NO_CONTENT)
}

/// With an inbox: once, however often it comes. What is not applied for sure is not acknowledged, and comes again.
async fn event(
    State(books): State<Books>,
    SignedMessage(message): SignedMessage,
    Json(charged): Json<Charged>,
) -> StatusCode {
    let work = async |tx: &mut PgConnection| write(tx, &charged).await;
    answer(&books.inbox.process(&message, work).await)
}

async fn write(connection: &mut PgConnection, charged: &Charged) -> Result<(), sqlx::Error> {
    sqlx::query("insert into ledger_entries (payment, amount) values ($1, $2)")
        .bind(charged.payment)
        .bind(charged.amount)
        .execute(connection)
        .await?;
    Ok(())
}
