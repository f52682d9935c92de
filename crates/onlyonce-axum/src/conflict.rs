//! Conflicts between transactions, which Postgres solves by ending one of them.
//!
//! At the commit the layer sees them itself. At a statement it is the handler that sees the error, and that may say
//! so in its response: then the layer can execute the request again
//! ([`with_conflict_retries`](crate::TransactionalLayer::with_conflict_retries)).
//!
//! ```
//! use axum::response::{IntoResponse, Response};
//! use http::StatusCode;
//! use onlyonce_axum::conflict::{TryAgain, is_conflict};
//!
//! struct AppError(sqlx::Error);
//!
//! impl IntoResponse for AppError {
//!     fn into_response(self) -> Response {
//!         let mut response = StatusCode::INTERNAL_SERVER_ERROR.into_response();
//!         if is_conflict(&self.0) {
//!             response.extensions_mut().insert(TryAgain);
//!         }
//!         response
//!     }
//! }
//! ```

/// Says that the request failed for a conflict, and would be a new one if it were executed again. Put it into a
/// response's extensions. The transaction is rolled back, whatever the status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TryAgain;

/// Whether the same transaction, begun again, may succeed: a serialization failure (`40001`) or a deadlock (`40P01`).
pub fn is_conflict(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    matches!(code.as_deref(), Some("40001" | "40P01"))
}
