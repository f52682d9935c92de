//! The extractor: a request's own transaction.
//!
//! Unlike a transaction that a handler begins on a connection of the pool, this one is open already, has taken the
//! request's key, and ends by what the handler answers ([which statuses commit](crate#what-becomes-of-an-answer)): there
//! is no `commit` to forget, and nothing to undo after an early `?`.
//!
//! ```
//! use axum::{Json, http::StatusCode};
//! use onlyonce_axum::IdempotentTx;
//! use onlyonce_outbox::Event;
//!
//! async fn withdraw(mut tx: IdempotentTx, Json(amount): Json<i64>) -> Result<StatusCode, StatusCode> {
//!     let failed = |_: sqlx::Error| StatusCode::INTERNAL_SERVER_ERROR; // rolled back; a retry executes
//!     let update = "update account set balance = balance - $1 where id = 1 returning balance";
//!     let balance: i64 =
//!         sqlx::query_scalar(update).bind(amount).fetch_one(&mut *tx).await.map_err(failed)?;
//!     if balance < 0 {
//!         return Err(StatusCode::PAYMENT_REQUIRED); // the update is undone; the answer is kept for retries
//!     }
//!     tx.emit(Event::new("accounts", 1).kind("withdrawn"));
//!     Ok(StatusCode::NO_CONTENT) // committed, with the event
//! }
//! ```
//!
//! Hazards: it holds a connection of the pool as long as the request is at work, whether or not the handler still uses
//! it; what the handler does elsewhere is not in it.

use std::fmt;
use std::ops::{Deref, DerefMut};

use axum::extract::FromRequestParts;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::request::Parts;
use onlyonce::problem::Code;
use onlyonce::{Problem, RecordId};
use onlyonce_outbox::Event;
use sqlx::postgres::PgConnection;

use crate::connection::Open;
use crate::slot::{Slot, Taken};
use crate::work::Work;

/// The request's transaction. It commits with the response, or not at all: the handler does neither.
///
/// It is a connection to all of `sqlx`: `query.execute(&mut *tx)`. A `tx.begin()` (with `sqlx::Connection` in scope)
/// makes a savepoint. Dropped, at the end of the handler, it goes back to the layer.
///
/// Do not send `commit` or `rollback` yourself: the layer notices, and answers 500. (Without a key it does not notice
/// where another transaction was begun by then.) Do not move it into a task that outlives the handler: what that does is
/// rolled back.
pub struct IdempotentTx {
    /// `None` only while it is being dropped.
    work: Option<Box<Work>>,
    slot: Slot,
}

const HELD: &str = "it is taken only by the drop";

impl IdempotentTx {
    /// An event that goes out if, and only if, this transaction commits. It is written just before that, with all
    /// others of the request; one that no sink could deliver ([`Event::validate`]) fails the request then.
    pub fn emit(&mut self, event: Event) {
        self.work_mut().events.emit(event);
    }

    /// The request's record, as logs and problems name it; `None` for a request without a key.
    pub fn record_id(&self) -> Option<RecordId> {
        let work = self.work.as_ref().expect(HELD);
        work.record.as_ref().map(|record| record.taken.id())
    }

    fn work_mut(&mut self) -> &mut Work {
        self.work.as_mut().expect(HELD)
    }
}

impl Deref for IdempotentTx {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        self.work.as_ref().expect(HELD).open.connection_ref()
    }
}

impl DerefMut for IdempotentTx {
    fn deref_mut(&mut self) -> &mut PgConnection {
        self.work_mut().open.connection()
    }
}

impl Drop for IdempotentTx {
    fn drop(&mut self) {
        if let Some(work) = self.work.take() {
            self.slot.give_back(work);
        }
    }
}

impl fmt::Debug for IdempotentTx {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdempotentTx")
            .field("record", &self.record_id())
            .finish_non_exhaustive()
    }
}

/// Why a handler gets no transaction.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransactionRejection {
    /// The route is not inside a [`TransactionalLayer`](crate::TransactionalLayer): 500.
    #[error("there is no TransactionalLayer around this route")]
    NoLayer,
    /// Something else in this request holds it: it was extracted twice. 500.
    #[error("the request's transaction is in use: extract it once")]
    InUse,
    /// The database gives none, to a request without a key: 503.
    #[error("the database cannot begin a transaction")]
    Unavailable(#[source] sqlx::Error),
}

impl IntoResponse for TransactionRejection {
    fn into_response(self) -> Response {
        let error = &self as &dyn std::error::Error;
        match &self {
            Self::NoLayer | Self::InUse => {
                tracing::error!(error, "a handler gets no transaction");
                (StatusCode::INTERNAL_SERVER_ERROR, self.to_string()).into_response()
            }
            Self::Unavailable(_) => {
                tracing::warn!(error, "a handler gets no transaction");
                let problem = Problem::new(Code::StoreUnavailable)
                    .with_detail("the database gives no transaction; nothing was executed");
                problem.into_response().map(axum::body::Body::from)
            }
        }
    }
}

impl<S: Sync> FromRequestParts<S> for IdempotentTx {
    type Rejection = TransactionRejection;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, TransactionRejection> {
        let slot = parts.extensions.get::<Slot>().cloned();
        let slot = slot.ok_or(TransactionRejection::NoLayer)?;
        let work = match slot.take() {
            Taken::Work(work) => work,
            Taken::Nothing => return Err(TransactionRejection::InUse),
            Taken::Unbegun(settings) => {
                let open = Box::pin(Open::begin(&settings.pool, settings.isolation)).await;
                let open = open.map_err(TransactionRejection::Unavailable)?;
                Box::new(Work::new(open, &settings, None))
            }
        };
        Ok(Self {
            work: Some(work),
            slot,
        })
    }
}
