//! The service as it is often written: it charges, and then tells the ledger. And the same behind the plain layer,
//! which has no part in the transaction.
//!
//! What goes wrong: a client whose answer was lost charges again. The layer ends that, if its records outlive the
//! process and are the same for all instances: in a process's own memory they are neither. And between the commit and the
//! ledger's answer the service can be killed: then the books are wrong, and nothing says so. No layer can help there; the
//! event would have to be in the transaction.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Json;
use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use onlyonce::store::Store;
use onlyonce::{IdempotencyLayer, Policy};
use sqlx::PgPool;

use super::{Charge, Charged, Failed, Receipt, card_network, key_of};
use crate::http;

#[derive(Clone)]
struct Parts {
    pool: PgPool,
    ledger: SocketAddr,
}

pub(super) fn app(pool: PgPool, ledger: SocketAddr) -> Router {
    Router::new()
        .route("/charges", post(charge))
        .with_state(Parts { pool, ledger })
}

pub(super) fn guarded(app: Router, store: impl Store) -> Router {
    let policy = Policy::default()
        .require_key()
        .with_deadline(Duration::from_secs(2));
    app.layer(IdempotencyLayer::new(store).with_policy(policy))
}

async fn charge(
    State(parts): State<Parts>,
    headers: HeaderMap,
    Json(charge): Json<Charge>,
) -> Result<(StatusCode, Json<Receipt>), Failed> {
    let id: i64 = sqlx::query_scalar(
        "insert into payments (key, account, amount) values ($1, $2, $3) returning id",
    )
    .bind(key_of(&headers))
    .bind(&charge.account)
    .bind(charge.amount)
    .fetch_one(&parts.pool)
    .await?;
    card_network().await;
    let event = Charged {
        payment: id,
        amount: charge.amount,
    };
    let told = http::post(
        parts.ledger,
        "/entries",
        None,
        serde_json::to_vec(&event)?,
        Duration::from_secs(1),
    );
    if let Err(error) = told.await {
        // The money has moved: failing the request now would only make the client pay twice.
        tracing::warn!(
            error = &*error as &dyn std::error::Error,
            id,
            "the ledger was not told"
        );
    }
    Ok((StatusCode::CREATED, Json(Receipt { id })))
}
