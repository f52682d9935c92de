//! Makes retried HTTP requests safe: each `Idempotency-Key` is executed once, its response recorded and
//! replayed.
//!
//! A client repeats a `POST` whose answer was lost. A lock does not help: it is released before the retry
//! arrives. Memory does not help: it dies with the process. This layer *claims* the key in durable storage
//! with a uniqueness constraint before it lets a request through, records the response, and answers the
//! retry from the record.
//!
//! # What is promised
//! While a key's record is retained, at most one forward of it that was not provably unsent and not
//! reported unexecuted by the inner service. Where it cannot be known whether the service executed, the
//! record is *unknown*, the client is told so, and nothing is executed again unless the route
//! ([`OnUnknown`](store::OnUnknown)) or an operator ([`Operator`](store::Operator)) says so.
//!
//! # What is not
//! - "Exactly once": a service that executes and then dies leaves an unknown outcome, not a known one.
//! - Anything past retention, past the durability of the store, or on requests without a key.
//! - That a process frozen between its last look at its deadline and its first write stays silent.
//!
//! # Where it goes in a stack
//! Inside rate limits and authentication: what they refuse must not use up a key, and they must run for
//! replays too. An authentication that verifies its callers can say so with [`VerifiedPrincipal`].
//!
//! # Example
//! ```
//! use std::time::Duration;
//!
//! use axum::{Router, routing::post};
//! use onlyonce::{IdempotencyLayer, Policy, store::MemoryStore};
//!
//! async fn charge() -> &'static str {
//!     "charged"
//! }
//!
//! # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
//! let layer = IdempotencyLayer::new(MemoryStore::default())
//!     .with_policy(Policy::default().require_key());
//! let app: Router = Router::new().route("/charges", post(charge)).layer(layer.clone());
//! // axum::serve(listener, app).with_graceful_shutdown(signal).await?;
//! layer.drain(Duration::from_secs(30)).await; // charges in progress finish and are recorded
//! # });
//! ```
//!
//! axum's `nest` strips prefixes before inner layers see them: see [`Policy::with_target`].

mod abort;
pub mod body;
mod budget;
pub mod cached;
mod capture;
pub mod classify;
pub mod clock;
pub mod codec;
pub mod evidence;
mod execution;
#[cfg(feature = "failpoints")]
pub mod failpoint;
mod fields;
pub mod fingerprint;
mod future;
mod in_flight;
pub mod key;
mod layer;
pub mod policy;
pub mod problem;
pub mod record;
pub mod replay;
mod resources;
pub mod scope;
mod service;
pub mod store;

pub use self::classify::{StatusRules, Verdict};
pub use self::codec::StoredResponse;
pub use self::evidence::{Deadline, Evidence};
pub use self::future::ResponseFuture;
pub use self::key::{IdempotencyKey, KeyError, KeySyntax};
pub use self::layer::IdempotencyLayer;
pub use self::policy::Policy;
pub use self::problem::Problem;
pub use self::record::{
    CredentialHash, Epoch, Fingerprint, ParseIdError, RecordId, StoredState, Timestamp, Token,
};
pub use self::replay::HeaderFilter;
pub use self::resources::Limits;
pub use self::scope::{Identity, Principal, Scope, VerifiedPrincipal};
pub use self::service::Idempotency;

/// Any error, boxed.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Names a place where a test may end or freeze the process; expands to nothing without the feature
/// `failpoints`. For async code only. See `crate::failpoint` for what can happen there.
#[cfg(feature = "failpoints")]
#[macro_export]
macro_rules! failpoint {
    ($name:literal) => {
        $crate::failpoint::reach($name).await
    };
}

/// Names a place where a test may end or freeze the process, in builds with the feature `failpoints`.
/// This build has none of it.
#[cfg(not(feature = "failpoints"))]
#[macro_export]
macro_rules! failpoint {
    ($name:literal) => {};
}
