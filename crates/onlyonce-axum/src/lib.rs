//! [choosing]: crate#when-to-choose-it
//! [outbox]: onlyonce_outbox
#![doc = include_str!("../README.md")]
//!
//! # When to choose it
//! | | proxy | plain layer | this |
//! |---|---|---|---|
//! | the service | any, unmodified | Tower, in Rust | axum or Tower, its data in Postgres with sqlx |
//! | the service dies in the middle | outcome unknown, held | outcome unknown, held | nothing happened, a retry executes |
//! | commits for a request | two, shared with others | two, shared with others | one, the handler's own |
//! | a handler that calls others | fine | fine | holds a connection and a transaction meanwhile |
//!
//! The tables are those of the other two: an application can move from one to the next, and keys that were used
//! before are honoured.
//!
//! # What becomes of an answer
//! | answer | effects and events | a retry |
//! |---|---|---|
//! | below 400 | committed | gets it again |
//! | 4xx that the policy keeps | rolled back | gets it again |
//! | what the policy releases (401, 403, 429, …), 5xx, an error, a panic | rolled back | executes |
//! | none within the deadline | rolled back | executes |
//!
//! [`TransactionalLayer::with_commit`] and [`Policy::with_statuses`](onlyonce::Policy::with_statuses) change it. The
//! layer's own word for an answer that does not hold is the problem `rolled-back`. What a client sees is otherwise what
//! it sees of the proxy: `Idempotent-Replayed`, `409` while its twin is at work, `422` for another request under
//! a used key.
//!
//! Requests without a key, where the policy lets them pass, get a transaction as well, which commits by the same
//! rule.
//!
//! # Duplicates
//! Within a process they are answered without the database. Between processes a lock is tried that belongs to the
//! transaction: who does not get it answers `409`, or waits where the policy says so
//! ([`OnDuplicate::Wait`](onlyonce::policy::OnDuplicate::Wait)), without a connection. So ten retries of a slow
//! request do not empty the pool.
//!
//! A request with a key holds its connection from the claim to the commit. The pool bounds how many are at work at a
//! time; others wait for [`Limits::claim_patience`](onlyonce::Limits::claim_patience) and then get `503`.
//!
//! # Under load
//! Where more requests want a connection than the pool has, one that has committed is handed straight to the request that
//! has waited longest, without the pool's test at each return and each loan; the next transaction begins with the claim,
//! and the response goes with the commit. That takes three round trips for a request with one statement, where a
//! transaction from the pool takes five. Others who use the pool are not kept waiting for it: a connection goes back to it
//! after a bounded number of requests and a bounded time
//! ([`with_handing_on`](TransactionalLayer::with_handing_on)).
//!
//! # Serialization failures and deadlocks
//! In `read committed`, the default, Postgres fails no transaction for what others do, but for deadlocks (`40P01`);
//! [`Isolation::RepeatableRead`] and [`Isolation::Serializable`] add serialization failures (`40001`), at any
//! statement and at the commit. Nothing remains of such a transaction, so executing the request again is as good as
//! executing it for the first time:
//!
//! - by the client: at the commit it gets `503` with `Retry-After`; at a statement whatever the handler makes of the
//!   error, which should be a `5xx`. A retry with the same key executes.
//! - by the layer, where [`with_conflict_retries`](TransactionalLayer::with_conflict_retries) allows it. The handler
//!   runs again, with the same request, so what it does outside of the transaction happens again as well. A failure at
//!   a statement is the handler's to report: [`conflict`].
//!
//! An error that is swallowed helps nobody: the transaction has failed, and the layer answers `503` in the handler's
//! place.
//!
//! # Behind a pooler
//! In transaction mode (PgBouncer): [`TransactionalLayer::with_pooler`]. Nothing here needs a session.
//!
//! # Hazards
//! - **Events need a relay.** They wait in the outbox until an [`onlyonce_outbox::Relay`] or `onlyonce relay` publishes
//!   them; without one nothing is lost, and nothing goes out.
//! - **`set local search_path` and `set local role`** in a handler hold for the response and the events too, which are
//!   written in the same transaction: name the schema of our tables in such a path, and grant such a role what
//!   [`migrate`](TransactionalLayer::migrate) made, or set them back before the handler returns.
//! - **What is set for the session** (`set`, not `set local`) is there for whoever has the connection next, as it is with
//!   every pool. A connection that is handed on does not pass the pool's `after_release` and `before_acquire` in between.
//! - **Responses in the server's log.** Under load a response of 4 kB or less is part of a statement's text. A server that
//!   logs statements, or one whose commit fails, logs it, and `pg_stat_activity` shows it to the same account. Where that
//!   must not be, [`with_handing_on(1, …)`](TransactionalLayer::with_handing_on).
//! - **`deallocate` and `discard all`** in a handler take away the layer's prepared statements and the driver's. The
//!   request may be rolled back for it once; then the layer prepares nothing any more, which is slower.
//! - **One guard for a route.** Two layers with one identity on one database, or this layer behind a proxy that
//!   keeps its records here, meet the same record: all that is keyed gets `409`.
//! - **A response without end**, to a request without a key that used the transaction, is held back with the
//!   transaction open. Stream from handlers that do not use it.
//!
//! # On the other side
//! Whoever receives such events over HTTP: [`webhook`] checks who sent them, and the inbox applies each once.

mod answer;
mod body;
pub mod conflict;
mod connection;
mod ending;
pub mod extract;
mod layer;
mod line;
mod run;
mod service;
mod settings;
mod slot;
mod store;
mod upkeep;
pub mod webhook;
mod work;

pub use self::body::HeldBody;
pub use self::extract::IdempotentTx;
pub use self::layer::TransactionalLayer;
pub use self::service::InTransaction;
pub use self::settings::Isolation;
