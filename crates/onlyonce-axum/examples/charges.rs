//! A service whose charges, recorded answers and events commit together: the README's.
//!
//! `DATABASE_URL=postgres://… cargo run -p onlyonce-axum --example charges`

use std::error::Error;
use std::time::Duration;

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use onlyonce::Policy;
use onlyonce_axum::{IdempotentTx, TransactionalLayer};
use onlyonce_outbox::Event;
use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use tokio::net::TcpListener;
use tokio::signal::ctrl_c;

#[derive(Serialize, Deserialize)]
struct Charge {
    amount: i64,
}

#[derive(Serialize)]
struct Receipt {
    id: i64,
}

async fn charge(
    mut tx: IdempotentTx,
    Json(charge): Json<Charge>,
) -> Result<(StatusCode, Json<Receipt>), Failed> {
    let id: i64 = sqlx::query_scalar("insert into payments (amount) values ($1) returning id")
        .bind(charge.amount)
        .fetch_one(&mut *tx)
        .await?;
    tx.emit(Event::new("payments", id).kind("charged").json(&charge)?); // goes out if, and only if, this commits
    Ok((StatusCode::CREATED, Json(Receipt { id })))
}

/// A 500: what the handler wrote is rolled back, and a retry with the same key executes again.
struct Failed(Box<dyn Error + Send + Sync>);

impl<E: Into<Box<dyn Error + Send + Sync>>> From<E> for Failed {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl IntoResponse for Failed {
    fn into_response(self) -> Response {
        eprintln!("charge: {}", self.0);
        StatusCode::INTERNAL_SERVER_ERROR.into_response()
    }
}

/// The layer, once all tables are there: the service's own, those of records, those of events.
pub(crate) async fn prepare(pool: PgPool) -> Result<TransactionalLayer, Box<dyn Error>> {
    let payments = "create table if not exists payments ( \
        id bigint generated always as identity primary key, amount bigint not null)";
    sqlx::query(payments).execute(&pool).await?;
    let layer = TransactionalLayer::new(pool).with_policy(Policy::default().require_key());
    layer.migrate().await?;
    Ok(layer)
}

pub(crate) fn app(layer: &TransactionalLayer) -> Router {
    Router::new()
        .route("/charges", post(charge))
        .layer(layer.clone())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt::init();
    let pool = PgPool::connect(&std::env::var("DATABASE_URL")?).await?;
    let layer = prepare(pool).await?;
    let listener = TcpListener::bind("127.0.0.1:3000").await?;
    axum::serve(listener, app(&layer))
        .with_graceful_shutdown(async { drop(ctrl_c().await) })
        .await?;
    layer.drain(Duration::from_secs(30)).await; // requests whose clients have left finish too
    Ok(())
}
