//! What a claim or a settlement may do to a row: the state machine, as pure functions.
//!
//! Every store reads a row under its own clock, asks here, and writes what it is told in a way that names
//! the epoch it read. Nothing else in the project decides about states, so a store cannot disagree with
//! another about who may execute.
//!
//! ```
//! use std::time::Duration;
//! use onlyonce::store::decision::{decide_claim, ClaimDecision, Rest, Row};
//! use onlyonce::store::{Claim, OnUnknown};
//! use onlyonce::{CredentialHash, Epoch, Fingerprint, RecordId, StoredState, Token};
//!
//! let claim = Claim {
//!     id: RecordId::from_bytes([0; 16]),
//!     token: Token::random(),
//!     fingerprint: Fingerprint::from_bytes([1; 32]),
//!     credential: CredentialHash::from_bytes([2; 32]),
//!     lease: Duration::from_secs(65),
//!     retention: Duration::from_secs(3600),
//!     on_unknown: OnUnknown::Hold,
//!     asked_at: tokio::time::Instant::now(),
//! };
//! let lapsed = Row {
//!     token: Token::random(),
//!     epoch: Epoch::FIRST,
//!     state: StoredState::InFlight,
//!     fingerprint: claim.fingerprint,
//!     credential: claim.credential,
//!     lease_remaining: Duration::ZERO,
//!     rest: Rest::Over,
//!     expired: false,
//! };
//! // A silent owner is unknown, and by default nobody executes again.
//! assert_eq!(decide_claim(&lapsed, &claim), ClaimDecision::Unknown);
//! ```

use std::time::Duration;

use super::operator::FREED_REST;
use super::{Claim, OnUnknown, Settlement};
use crate::record::{CredentialHash, Epoch, Fingerprint, StoredState, Timestamp, Token};

/// A row as a store read it, with times already compared to the store's clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Whose it is.
    pub token: Token,
    /// In which epoch.
    pub epoch: Epoch,
    /// The state that is stored.
    pub state: StoredState,
    /// What was asked for.
    pub fingerprint: Fingerprint,
    /// Who asked.
    pub credential: CredentialHash,
    /// What is left of the lease; zero once it has lapsed.
    pub lease_remaining: Duration,
    /// Where it is free: whether it takes claims yet.
    pub rest: Rest,
    /// Whether retention is over.
    pub expired: bool,
}

impl Row {
    /// The state with the lease taken into account: in flight past its lease means unknown.
    pub fn state_now(&self) -> StoredState {
        match self.state {
            StoredState::InFlight if self.lease_remaining.is_zero() => StoredState::Unknown,
            state => state,
        }
    }
}

/// For how long a key that an operator freed takes no claim yet.
///
/// It begins when the decision shows. That moment is nowhere to be read: a commit that waits for a standby, or
/// for a disk, shows long after the statement's own time. So a decision is written with a rest that has not begun,
/// and whoever knows that it shows begins it: the operator once the commit is acknowledged, or the first claim
/// that finds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rest {
    /// It takes claims: its rest is over, or an owner freed it.
    Over,
    /// It takes none for this long.
    Left(Duration),
    /// It takes none, and will not until somebody has written when its rest ends.
    NotBegun,
}

impl Rest {
    /// The rest of a row as stores keep it, seen at `now`: one that has not begun lasts as long as its record.
    pub fn of(claimable_at: Option<Timestamp>, expires_at: Timestamp, now: Timestamp) -> Self {
        match claimable_at {
            Some(at) if at == expires_at => Self::NotBegun,
            Some(at) if at > now => Self::Left(at.since(now)),
            Some(_) | None => Self::Over,
        }
    }

    /// How much of it is left, as far as can be told; `None` where it is over.
    pub const fn left(self) -> Option<Duration> {
        match self {
            Self::Over => None,
            Self::Left(left) => Some(left),
            Self::NotBegun => Some(FREED_REST),
        }
    }
}

/// What a claim may do with a row that is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClaimDecision {
    /// It is the claimant's own, from a try whose answer was lost.
    Own(Epoch),
    /// Take it over: compare this epoch in the write, and raise it.
    TakeOver {
        /// The epoch that was read.
        read: Epoch,
    },
    /// It is free, and its rest has not begun: write that it ends [`FREED_REST`] from now, where this is still so
    /// in this epoch. To the claimant it is in flight.
    BeginRest {
        /// The epoch that was read.
        read: Epoch,
    },
    /// Its owner is at work.
    InFlight,
    /// It has an outcome.
    Completed,
    /// Nobody knows, and this claim may not execute again.
    Unknown,
}

/// Decides what `claim` may do with `row`.
///
/// A free or expired row is taken over whatever its fingerprint, since nothing was executed under it or
/// its retention is over, unless it rests: then the claim finds it in flight, so that its sender comes back.
/// An unknown one is taken over only by [`OnUnknown::Reexecute`] with the same fingerprint.
pub fn decide_claim(row: &Row, claim: &Claim) -> ClaimDecision {
    // Own first, even when the lease lapsed meanwhile: the owner's deadline, started before the claim
    // was sent, keeps it from forwarding; being told so lets it release.
    if row.token == claim.token && row.state == StoredState::InFlight {
        return ClaimDecision::Own(row.epoch);
    }
    if row.expired {
        return ClaimDecision::TakeOver { read: row.epoch };
    }
    match row.state_now() {
        StoredState::Free => match row.rest {
            Rest::Over => ClaimDecision::TakeOver { read: row.epoch },
            // Old answers may still be shown elsewhere.
            Rest::Left(_) => ClaimDecision::InFlight,
            Rest::NotBegun => ClaimDecision::BeginRest { read: row.epoch },
        },
        StoredState::InFlight => ClaimDecision::InFlight,
        StoredState::Completed => ClaimDecision::Completed,
        StoredState::Unknown
            if claim.on_unknown == OnUnknown::Reexecute && row.fingerprint == claim.fingerprint =>
        {
            ClaimDecision::TakeOver { read: row.epoch }
        }
        StoredState::Unknown => ClaimDecision::Unknown,
    }
}

/// What a settlement may do with the row that it finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SettleDecision {
    /// Write the new state; compare token and epoch in the write.
    Apply,
    /// The row is gone (lost in a failover): write it anew, with the claim's data and epoch.
    Insert,
    /// The row says so already.
    AlreadyDone,
    /// The caller no longer speaks for the row.
    Stale,
}

/// Decides what the owner of `token` and `epoch` may do with `row`.
///
/// An unknown row may still be completed, or released, by its own owner: the late truth is better than
/// none. A completed or free row is final within its epoch.
pub fn decide_settle(
    row: Option<&Row>,
    token: Token,
    epoch: Epoch,
    settlement: &Settlement,
) -> SettleDecision {
    let Some(row) = row else {
        return match settlement {
            Settlement::Released => SettleDecision::AlreadyDone,
            Settlement::Completed(_) | Settlement::Unknown => SettleDecision::Insert,
        };
    };
    if row.token != token || row.epoch != epoch {
        return SettleDecision::Stale;
    }
    match (row.state, settlement) {
        (StoredState::InFlight, _)
        | (StoredState::Unknown, Settlement::Completed(_) | Settlement::Released) => {
            SettleDecision::Apply
        }
        (StoredState::Unknown, Settlement::Unknown)
        | (StoredState::Completed, Settlement::Completed(_))
        | (StoredState::Free, Settlement::Released) => SettleDecision::AlreadyDone,
        (StoredState::Completed | StoredState::Free, _) => SettleDecision::Stale,
    }
}
