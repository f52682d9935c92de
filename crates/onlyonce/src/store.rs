//! Where records live: the [`Store`] trait and its contract.
//!
//! A store is a table with a uniqueness constraint. It is not a cache: a record that it acknowledged
//! must not be lost before its retention is over, because a lost record is a second charge. When a store
//! is full it refuses new claims ([`StoreErrorKind::Full`]); it never evicts.
//!
//! # Contract
//! 1. [`claim`](Store::claim) is atomic: of any number of concurrent claims of one id, at most one is
//!    [`Claimed::Acquired`] per epoch, and its record is durable before the call returns.
//! 2. A claim that is repeated with the same token finds its own record and is acquired again, with the
//!    same epoch, as long as that record is in flight. (A claim whose answer was lost can be repeated.)
//! 3. Every write compares token and epoch ([`Settled::Stale`] otherwise). Epochs of an id never go down
//!    while its row exists.
//! 4. [`settle`](Store::settle) is idempotent: repeating it answers [`Settled::Done`] and changes nothing.
//! 5. One clock decides leases and expiry: the store's own. Callers pass durations, never moments.
//! 6. Expiry is decided by the claim, not by the sweep: an expired record is claimable though its row is
//!    still there, and a row is deleted only after its expiry.
//! 7. Dropping a returned future must leave no transaction, lock or connection behind. The write may or
//!    may not have happened; [`StoreError::may_have_applied`] says so for errors.
//!
//! What is decided from a row is the same in every store: [`decision`] holds it, as pure functions.
//! `onlyonce-test` holds a conformance suite that checks all of the above on a given store.
//!
//! ```
//! use std::time::Duration;
//! use onlyonce::store::{Claim, Claimed, MemoryStore, OnUnknown, Settlement, Store};
//! use onlyonce::{CredentialHash, Fingerprint, RecordId, Token};
//!
//! # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
//! let store = MemoryStore::default();
//! let claim = Claim {
//!     id: RecordId::from_bytes([7; 16]),
//!     token: Token::random(),
//!     fingerprint: Fingerprint::from_bytes([1; 32]),
//!     credential: CredentialHash::from_bytes([2; 32]),
//!     lease: Duration::from_secs(65),
//!     retention: Duration::from_secs(86_400),
//!     on_unknown: OnUnknown::Hold,
//!     asked_at: tokio::time::Instant::now(),
//! };
//! let Claimed::Acquired(epoch) = store.claim(&claim).await? else { panic!("the id is new") };
//! // … forward the request, once …
//! store.settle(&claim, epoch, &Settlement::Completed("answer".into())).await?;
//! # Ok::<(), onlyonce::store::StoreError>(()) }).unwrap();
//! ```

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::record::{CredentialHash, Epoch, Fingerprint, RecordId, Timestamp, Token};

pub mod decision;
mod erased;
mod error;
mod generation;
mod memory;
pub mod operator;

pub use self::erased::SharedStore;
pub use self::error::{StoreError, StoreErrorKind};
pub use self::generation::{Cacheable, Confirmed, Generation};
pub use self::memory::MemoryStore;
pub use self::operator::{Operator, Sweep};

/// One request's wish to own a record, and everything a store needs to write it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The record.
    pub id: RecordId,
    /// The claimant; random, new for each request, the same when a claim is repeated.
    pub token: Token,
    /// What the request asks for.
    pub fingerprint: Fingerprint,
    /// Who asks.
    pub credential: CredentialHash,
    /// How long the claimant may stay silent before its record means *unknown*: its deadline and a margin.
    pub lease: Duration,
    /// How long the record is kept, counted from the claim. Longer than lease and deadline together.
    pub retention: Duration,
    /// Whether this claim may take over a record that is unknown.
    pub on_unknown: OnUnknown,
    /// When it was made, before it was first sent, by this process's monotonic clock. No store keeps it.
    pub asked_at: Instant,
}

/// What a route wants done with a key whose outcome nobody knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnUnknown {
    /// Keep it until an operator decides or retention ends. Nothing is executed again.
    #[default]
    Hold,
    /// Let exactly one retry with the same fingerprint take it over and execute. Only for upstreams that
    /// are themselves idempotent.
    Reexecute,
}

/// The answer to a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claimed {
    /// The record is the claimant's, in this epoch: it may forward, once.
    Acquired(Epoch),
    /// Another request has it.
    Present(Present),
}

/// A record that stands in the way of a claim. Expired and free records never do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Present {
    /// Its owner is at work.
    InFlight {
        /// What is left of the lease.
        lease_remaining: Duration,
    },
    /// It has an outcome.
    Completed(Completed),
    /// Nobody can tell whether the upstream executed.
    Unknown {
        /// What the request of unknown outcome asked for.
        fingerprint: Fingerprint,
        /// Who asked.
        credential: CredentialHash,
    },
}

/// A record with an outcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Completed {
    /// What was asked for.
    pub fingerprint: Fingerprint,
    /// Who asked.
    pub credential: CredentialHash,
    /// When retention ends, by the store's clock.
    pub expires_at: Timestamp,
    /// The response as [`crate::codec`] encoded it; `None` where its row is missing.
    pub response: Option<Bytes>,
}

/// How an owner ends its claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settlement {
    /// The upstream answered; this is the response to replay, encoded by [`crate::codec`].
    Completed(Bytes),
    /// It cannot be known whether the upstream executed.
    Unknown,
    /// The upstream provably did not execute: the key is free again.
    Released,
}

/// What became of a settlement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// The record has this settlement, now or since an earlier try.
    Done,
    /// The record belongs to a later epoch, or is settled otherwise: the caller no longer speaks for it.
    Stale,
}

/// Durable records with a uniqueness constraint. The [module's documentation](self) is the contract.
///
/// All methods are required: a default would be a weaker guarantee in disguise. A cache is a store that
/// wraps a store.
pub trait Store: Send + Sync + 'static {
    /// Tries to own the record, durably, before any byte goes upstream.
    ///
    /// # Errors
    /// See [`StoreError::may_have_applied`]: after such an error, repeat the claim with the same token.
    fn claim(&self, claim: &Claim) -> impl Future<Output = Result<Claimed, StoreError>> + Send;

    /// A completed record that a claim would find, if this process knows it without asking anybody.
    ///
    /// It is asked before a claim is made, and so spares it; hence it must not wait. A store whose records are
    /// elsewhere knows nothing.
    fn recall(&self, id: &RecordId) -> Option<Completed>;

    /// Ends a claim that was acquired in `epoch`.
    ///
    /// A row that is gone (lost in a failover) is written anew as completed or unknown; a row that is
    /// unknown because the lease lapsed may still be completed by its owner of the same epoch.
    ///
    /// # Errors
    /// Safe to repeat after any error.
    fn settle(
        &self,
        claim: &Claim,
        epoch: Epoch,
        settlement: &Settlement,
    ) -> impl Future<Output = Result<Settled, StoreError>> + Send;

    /// Reads what stands in the way of a claim; `None` where the id is absent, free or expired.
    /// Writes nothing.
    ///
    /// # Errors
    /// Where the store cannot be read.
    fn find(
        &self,
        id: &RecordId,
    ) -> impl Future<Output = Result<Option<Present>, StoreError>> + Send;
}
