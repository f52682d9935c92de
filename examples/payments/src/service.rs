//! The payment service: `POST /charges`.

use std::error::Error;
use std::net::SocketAddr;

use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use onlyonce::store::MemoryStore;
use onlyonce_sqlx::PostgresStore;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;

mod locked;
mod naive;
mod same_transaction;

use crate::chance::millis;
use crate::database;
use crate::form::Form;

/// What a client asks for.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Charge {
    /// Whom.
    pub(crate) account: String,
    /// How much, in cents.
    pub(crate) amount: i64,
}

/// What it gets.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Receipt {
    /// The payment's number.
    pub(crate) id: i64,
}

/// What the ledger is told.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Charged {
    /// The payment's number.
    pub(crate) payment: i64,
    /// How much, in cents.
    pub(crate) amount: i64,
}

/// Serves, until the process is killed.
///
/// # Errors
/// Where it cannot start.
pub(crate) async fn serve(
    form: Form,
    listen: SocketAddr,
    url: &str,
    ledger: SocketAddr,
) -> Result<(), Box<dyn Error>> {
    let pool = database::connect(url)?;
    let app = match form {
        Form::Naive => naive::app(pool, ledger),
        Form::Lock => locked::behind(naive::app(pool, ledger), database::connect(url)?),
        Form::Memory => naive::guarded(naive::app(pool, ledger), MemoryStore::default()),
        Form::Layer => {
            let store = PostgresStore::open(url.parse()?);
            naive::guarded(naive::app(pool, ledger), store)
        }
        Form::SameTransaction => same_transaction::app(pool),
    };
    Ok(axum::serve(TcpListener::bind(listen).await?, app).await?)
}

/// The key of a request, for the books alone; in the lock, for the lock.
fn key_of(headers: &HeaderMap) -> &str {
    let key = headers.get("Idempotency-Key");
    key.and_then(|key| key.to_str().ok()).unwrap_or_default()
}

/// The work that every form does. A card network takes its time, and so there is time to be killed in.
async fn card_network() {
    tokio::time::sleep(millis(0, 40)).await;
}

/// Anything that fails is a 500, and the client may try again.
#[derive(Debug)]
struct Failed(Box<dyn Error + Send + Sync>);

impl<E: Into<Box<dyn Error + Send + Sync>>> From<E> for Failed {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl IntoResponse for Failed {
    fn into_response(self) -> Response {
        tracing::warn!(error = &*self.0 as &dyn Error, "a charge failed");
        StatusCode::INTERNAL_SERVER_ERROR.into_response()
    }
}
