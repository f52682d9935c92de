//! Records in a transaction of the caller's: the claim, the work and the response commit together or not at all.
//!
//! What [`PostgresStore`](super::PostgresStore) does in two commits, one before the work and one after it, is one
//! here. A row is inserted as *completed* before the work begins, by a transaction that is open: nobody sees it, and
//! nobody else can insert it. The response follows before the commit. So there is no lease, and no outcome that
//! nobody knows: after a crash the row is there with its effects, or neither is.
//!
//! An insertion that meets another transaction's row waits for that transaction (P1). So that ten retries of a slow
//! request do not occupy ten connections, a lock is *tried* first, which lasts as long as the transaction: who does
//! not get it is told that the record is in flight.
//!
//! Hazards:
//! - The caller begins and ends the transaction. What this module says of a claim holds once it has committed.
//! - Where the work ends the transaction itself, with a `commit` of its own, [`Taken::complete`] notices and writes
//!   nothing. The record was committed with that work, without a response: it is never executed again.
//! - In `read committed` a claim sees what was committed before it; under stricter levels it fails with `40001`
//!   instead, for the caller to begin again.
//!
//! ```no_run
//! use onlyonce::store::Claim;
//! use onlyonce_sqlx::postgres::transaction::{Statements, Taking, claim};
//!
//! # async fn charge(pool: sqlx::PgPool, wish: Claim) -> Result<(), Box<dyn std::error::Error>> {
//! let mut tx = pool.begin().await?;
//! if let Taking::Taken(taken) = claim(&mut tx, Statements::Prepared, &wish).await? {
//!     // … the work, on `tx` …
//!     taken.complete(&mut tx, b"the response, encoded").await?;
//!     tx.commit().await?;
//! }
//! # Ok(()) }
//! ```

mod claim;
mod complete;
pub mod named;
mod upkeep;

pub use self::claim::{Taken, Taking, begin_and_claim, claim, find};
pub use self::upkeep::{migrate, sweep, upkeep};

use onlyonce::RecordId;

/// How the statements of every request are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Statements {
    /// Prepared once for each connection.
    #[default]
    Prepared,
    /// Without a name, each time anew: for poolers in transaction mode, which give every transaction another
    /// connection.
    Unnamed,
}

impl Statements {
    const fn persistent(self) -> bool {
        matches!(self, Self::Prepared)
    }
}

/// The advisory lock of a record: half of its id. Ids are hashes, so that no two that are in flight at once meet,
/// and none meets a lock of the application's own.
fn lock_of(id: &RecordId) -> i64 {
    let bytes = id.as_bytes();
    let (half, _) = bytes.split_first_chunk().expect("16 bytes are at least 8");
    i64::from_be_bytes(*half)
}
