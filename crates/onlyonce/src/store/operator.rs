//! What people and upkeep do with a store, apart from requests: list, resolve, forget, sweep.
//!
//! A key whose outcome is unknown stays so until somebody who has looked at the upstream says what
//! happened: "it did, answer with this" or "it did not, free the key". Each such decision raises the
//! epoch, so that a frozen owner which wakes up later finds that it no longer speaks for the record.
//!
//! A record that is in flight, or has been unknown for less than its request's deadline, may still have
//! a living owner. It is [`Refused`] unless the operator says `force`.
//!
//! Each decision gives the store another [`Generation`](super::Generation) as well, in the same transaction,
//! and a key that it frees rests for [`FREED_REST`]: claims find it in flight meanwhile.

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;

use super::{Store, StoreError};
use crate::record::{Epoch, RecordId, StoredState, Timestamp};

/// Added to a request's deadline to make its lease: time for the owner to end itself and say so.
pub const LEASE_MARGIN: Duration = Duration::from_secs(5);

/// How long a key that an operator freed takes no claim, counted from when somebody saw that the decision is
/// committed ([`Rest`](super::decision::Rest)).
///
/// Until then others may answer retries from what they kept of the record
/// ([`CONFIRMED_FOR`](crate::cached::CONFIRMED_FOR) at the most). Past that, whoever executes anew can be sure
/// that nobody is shown the old answer any more.
pub const FREED_REST: Duration = Duration::from_secs(3);

/// A record as an operator sees it. Times are of the store's clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// The record.
    pub id: RecordId,
    /// Its state now: in flight past its lease is shown as unknown.
    pub state: StoredState,
    /// How often it changed hands.
    pub epoch: Epoch,
    /// When the present epoch was claimed.
    pub claimed_at: Timestamp,
    /// When its lease lapses or lapsed.
    pub lease_until: Timestamp,
    /// When it was settled; `None` while in flight or unknown by a lapsed lease.
    pub settled_at: Option<Timestamp>,
    /// When its retention ends.
    pub expires_at: Timestamp,
}

/// Which records to list, newest claim first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// Only those in this state (as [`Summary::state`] shows it); all where `None`.
    pub state: Option<StoredState>,
    /// How many at the most.
    pub limit: u32,
}

/// One record with its response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Detail {
    /// What the list shows.
    pub summary: Summary,
    /// The response as [`crate::codec`] encoded it, where the record is completed and has one.
    pub response: Option<Bytes>,
}

/// What an operator knows about a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resolution {
    /// It happened: answer retries with this response, encoded by [`crate::codec`]. For unknown records.
    Executed(Bytes),
    /// It did not happen: free the key. For unknown records.
    NotExecuted,
    /// Forget the record, whatever its outcome: after [`FREED_REST`] the next request with the key executes.
    Forget,
}

/// What became of an operator's decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resolved {
    /// Done; the record's epoch is now this.
    Done(Epoch),
    /// There is no such record, or its retention is over.
    NotFound,
    /// Not done, and why.
    Refused(Refused),
}

/// Why an operator's decision was not carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// The request is in flight. `force` overrides.
    InFlight,
    /// Unknown for less than the request's deadline: its owner may be alive. `force` overrides.
    RecentlyUnknown,
    /// The record is completed or free: there is nothing unknown to resolve.
    NotUnknown,
}

/// What operators do. Every decision raises the epoch, keeps the row, and changes the store's generation.
pub trait Operator: Store {
    /// Lists records, newest claim first.
    ///
    /// # Errors
    /// Where the store cannot be read.
    fn list(
        &self,
        filter: &Filter,
    ) -> impl Future<Output = Result<Vec<Summary>, StoreError>> + Send;

    /// Reads one record; `None` where it is absent or expired.
    ///
    /// # Errors
    /// Where the store cannot be read.
    fn show(
        &self,
        id: &RecordId,
    ) -> impl Future<Output = Result<Option<Detail>, StoreError>> + Send;

    /// Carries out an operator's decision, atomically against the epoch it read.
    ///
    /// # Errors
    /// Where the store cannot be read or written.
    fn resolve(
        &self,
        id: &RecordId,
        resolution: &Resolution,
        force: bool,
    ) -> impl Future<Output = Result<Resolved, StoreError>> + Send;
}

/// Upkeep: deletes what is past its retention.
pub trait Sweep: Store {
    /// Deletes at most `limit` expired records, and prepares what the store needs for the days ahead.
    /// Returns how many went; fewer than `limit` means there is no more for now.
    ///
    /// # Errors
    /// Where the store cannot be written. Safe to repeat.
    fn sweep(&self, limit: u32) -> impl Future<Output = Result<u64, StoreError>> + Send;
}

/// Decides whether an operator may do this to a record, seen at `now`. `None` means yes.
pub fn refuse(
    summary: &Summary,
    now: Timestamp,
    resolution: &Resolution,
    force: bool,
) -> Option<Refused> {
    match summary.state {
        StoredState::InFlight if !force => Some(Refused::InFlight),
        StoredState::Unknown if !force && now.since(unknown_since(summary)) < deadline(summary) => {
            Some(Refused::RecentlyUnknown)
        }
        StoredState::InFlight | StoredState::Unknown => None,
        StoredState::Completed | StoredState::Free => match resolution {
            Resolution::Forget => None,
            Resolution::Executed(_) | Resolution::NotExecuted => Some(Refused::NotUnknown),
        },
    }
}

fn unknown_since(summary: &Summary) -> Timestamp {
    summary.settled_at.unwrap_or(summary.lease_until)
}

fn deadline(summary: &Summary) -> Duration {
    summary
        .lease_until
        .since(summary.claimed_at)
        .saturating_sub(LEASE_MARGIN)
}
