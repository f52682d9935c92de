//! The service as `onlyonce-axum` makes it: charge, recorded answer and event are one transaction, with one commit.

use std::time::Duration;

use axum::Json;
use axum::Router;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use onlyonce::Policy;
use onlyonce::policy::OnDuplicate;
use onlyonce_axum::{IdempotentTx, TransactionalLayer};
use onlyonce_outbox::Event;
use sqlx::PgPool;

use super::{Charge, Charged, Failed, Receipt, card_network, key_of};

pub(super) fn app(pool: PgPool) -> Router {
    let policy = Policy::default()
        .require_key()
        .with_deadline(Duration::from_secs(2))
        .with_on_duplicate(OnDuplicate::Wait(Duration::from_millis(500)));
    Router::new()
        .route("/charges", post(charge))
        .layer(TransactionalLayer::new(pool).with_policy(policy))
}

async fn charge(
    mut tx: IdempotentTx,
    headers: HeaderMap,
    Json(charge): Json<Charge>,
) -> Result<(StatusCode, Json<Receipt>), Failed> {
    let id: i64 = sqlx::query_scalar(
        "insert into payments (key, account, amount) values ($1, $2, $3) returning id",
    )
    .bind(key_of(&headers))
    .bind(&charge.account)
    .bind(charge.amount)
    .fetch_one(&mut *tx)
    .await?;
    card_network().await;
    let event = Charged {
        payment: id,
        amount: charge.amount,
    };
    // Goes out if, and only if, all of this commits.
    tx.emit(
        Event::new("payments", &charge.account)
            .kind("charged")
            .json(&event)?,
    );
    Ok((StatusCode::CREATED, Json(Receipt { id })))
}
