//! [choosing]: #where-to-begin
//! [sqlx]: https://docs.rs/onlyonce-sqlx
#![doc = include_str!("../README.md")]
//!
//! # Where to begin
//! | | |
//! |---|---|
//! | [`IdempotencyLayer`] | the layer; clones share records and bounds ([`Limits`]) |
//! | [`Policy`] | what a route asks for: which keys, whose, what is kept, for how long |
//! | [`Evidence`] | what an inner service says of whether it executed |
//! | [`store`] | the contract of stores, and [`MemoryStore`](store::MemoryStore) |
//! | [`cached`] | completed records nearer than the store |
//! | [`problem`] | what clients are told |
//!
//! A service that cannot be changed, or is not in Rust, is guarded by the proxy (`onlyonce-proxy`); one whose data is in
//! Postgres is better off with `onlyonce-axum`, which leaves no unknown outcome. An authentication that verifies its
//! callers can say so with [`VerifiedPrincipal`]. Routes set what becomes of unknown outcomes by
//! [`OnUnknown`](store::OnUnknown), operators by [`Operator`](store::Operator).
//!
//! Hazards: expired records are deleted by [`Sweep`](store::Sweep) only, which somebody has to call; axum's `nest` strips
//! prefixes before inner layers see them, see [`Policy::with_target`].

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
