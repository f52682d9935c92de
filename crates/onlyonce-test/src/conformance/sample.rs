//! Claims to test with, and the times that fit them.

use std::time::Duration;

use bytes::Bytes;
use onlyonce::store::operator::FREED_REST;
use onlyonce::store::{
    Claim, Claimed, Completed, OnUnknown, Operator, Present, Settlement, StoreError,
};
use onlyonce::{CredentialHash, Epoch, Fingerprint, RecordId, Token};
use tokio::time::Instant;

/// The lease of [`claim`]: a deadline of 60 s and its margin.
pub const LEASE: Duration = Duration::from_secs(65);
/// More than [`LEASE`], and by less than the deadline.
pub const PAST_LEASE: Duration = Duration::from_secs(80);
/// More than the lease and a deadline after it: an operator may decide.
pub const PAST_DOUBT: Duration = Duration::from_secs(180);
/// The retention of [`claim`].
pub const RETENTION: Duration = Duration::from_secs(24 * 60 * 60);
/// More than [`RETENTION`].
pub const PAST_RETENTION: Duration = Duration::from_secs(25 * 60 * 60);

/// More than [`FREED_REST`]: a key that an operator freed takes claims again.
pub const PAST_REST: Duration = FREED_REST.saturating_add(Duration::from_secs(1));

/// An id of its own for each number.
pub fn id(number: u16) -> RecordId {
    let mut bytes = [0xA5; 16];
    bytes[..2].copy_from_slice(&number.to_be_bytes());
    RecordId::from_bytes(bytes)
}

/// A claim of [`id`]`(number)` with a new token.
pub fn claim(number: u16) -> Claim {
    Claim {
        id: id(number),
        token: Token::random(),
        fingerprint: Fingerprint::from_bytes([0x11; 32]),
        credential: CredentialHash::from_bytes([0x22; 32]),
        lease: LEASE,
        retention: RETENTION,
        on_unknown: OnUnknown::Hold,
        asked_at: Instant::now(),
    }
}

/// The claim of another request that asks for the same.
pub fn rival(claim: &Claim) -> Claim {
    Claim {
        token: Token::random(),
        ..claim.clone()
    }
}

/// The claim of another request that uses the same key for something else.
pub fn misuse(claim: &Claim) -> Claim {
    Claim {
        fingerprint: Fingerprint::from_bytes([0x33; 32]),
        credential: CredentialHash::from_bytes([0x44; 32]),
        ..rival(claim)
    }
}

/// A rival on a route whose policy executes again what is unknown.
pub fn reexecuting(claim: &Claim) -> Claim {
    Claim {
        on_unknown: OnUnknown::Reexecute,
        ..rival(claim)
    }
}

/// A completion with these bytes as the encoded response.
pub fn completed(response: impl Into<Bytes>) -> Settlement {
    Settlement::Completed(response.into())
}

/// The epoch of a claim that must have been acquired.
///
/// # Panics
/// Where it was not.
#[track_caller]
pub fn acquired(answer: Result<Claimed, StoreError>) -> Epoch {
    match answer.expect("the store answers") {
        Claimed::Acquired(epoch) => epoch,
        Claimed::Present(present) => panic!("not acquired: {present:?} is in the way"),
    }
}

/// What stood in the way of a claim that must not have been acquired.
///
/// # Panics
/// Where it was acquired.
#[track_caller]
pub fn present(answer: Result<Claimed, StoreError>) -> Present {
    match answer.expect("the store answers") {
        Claimed::Present(present) => present,
        Claimed::Acquired(epoch) => panic!("acquired in epoch {epoch}"),
    }
}

/// What stands in the way once `owner`'s record is completed with this response, until the time that the store
/// shows to operators.
///
/// # Panics
/// Where there is no record.
pub async fn outcome(store: &impl Operator, owner: &Claim, response: &'static str) -> Present {
    let detail = store.show(&owner.id).await.expect("the store answers");
    Present::Completed(Completed {
        fingerprint: owner.fingerprint,
        credential: owner.credential,
        expires_at: detail.expect("there is a record").summary.expires_at,
        response: Some(response.into()),
    })
}

/// The response of a record that must be completed.
///
/// # Panics
/// Where it is not.
#[track_caller]
pub fn response(present: Option<Present>) -> Option<Bytes> {
    match present {
        Some(Present::Completed(completed)) => completed.response,
        other => panic!("not completed: {other:?}"),
    }
}
