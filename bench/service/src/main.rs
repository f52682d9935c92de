//! What `cargo xtask bench` measures besides `onlyonce`. A package of its own because it is built as shipped
//! programs are, and the benchmarks around it are not.
//!
//! `serve DATABASE` (an empty one) is a service for `--only same-transaction`: one handler, on one pool, twice. `/bare` begins a transaction, inserts a payment and commits. `/charges` does the same under
//! [`TransactionalLayer`], which adds the claim and the recorded response to that transaction.
//!
//! `queue DATABASE REDIS` is a [queue] for `--only held-snapshot`.

use std::error::Error;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use onlyonce_axum::{IdempotentTx, TransactionalLayer};
use serde::{Deserialize, Serialize};
use sqlx::postgres::{PgConnection, PgPool, PgPoolOptions};
use tokio::net::TcpListener;

mod queue;

/// What both ways share. More do not make either faster on a machine with two cores.
const CONNECTIONS: u32 = 16;

const TABLE: &str = "create table payments (
    id bigint generated always as identity primary key, amount bigint not null, currency text not null, note text not null
)";

#[derive(Deserialize)]
struct Charge {
    amount: i64,
    currency: String,
    note: String,
}

#[derive(Serialize)]
struct Receipt {
    id: i64,
}

struct Failed(sqlx::Error);

impl From<sqlx::Error> for Failed {
    fn from(error: sqlx::Error) -> Self {
        Self(error)
    }
}

impl IntoResponse for Failed {
    fn into_response(self) -> Response {
        eprintln!("{}", self.0);
        StatusCode::INTERNAL_SERVER_ERROR.into_response()
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<_> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["serve", database] => serve(database).await,
        ["queue", database, redis] => queue::run(database, redis).await,
        _ => Err("usage: serve DATABASE | queue DATABASE REDIS".into()),
    }
}

async fn serve(database: &str) -> Result<(), Box<dyn Error>> {
    let options = PgPoolOptions::new().max_connections(CONNECTIONS);
    let pool = options.connect(database).await?;
    sqlx::query(TABLE).execute(&pool).await?;
    let layer = TransactionalLayer::new(pool.clone());
    layer.migrate().await?;
    let app = Router::new()
        .route("/charges", post(same_transaction))
        .layer(layer)
        .route("/bare", post(bare))
        .with_state(pool);
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("listening on {}", listener.local_addr()?);
    Ok(axum::serve(listener, app).await?)
}

async fn bare(
    State(pool): State<PgPool>,
    Json(charge): Json<Charge>,
) -> Result<impl IntoResponse, Failed> {
    let mut tx = pool.begin().await?;
    let id = insert(&mut tx, &charge).await?;
    tx.commit().await?;
    Ok((StatusCode::CREATED, Json(Receipt { id })))
}

async fn same_transaction(
    mut tx: IdempotentTx,
    Json(charge): Json<Charge>,
) -> Result<impl IntoResponse, Failed> {
    let id = insert(&mut tx, &charge).await?;
    Ok((StatusCode::CREATED, Json(Receipt { id })))
}

async fn insert(connection: &mut PgConnection, charge: &Charge) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar(
        "insert into payments (amount, currency, note) values ($1, $2, $3) returning id",
    )
    .bind(charge.amount)
    .bind(&charge.currency)
    .bind(&charge.note)
    .fetch_one(connection)
    .await
}
