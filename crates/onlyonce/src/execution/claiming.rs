//! The claim: tried, repeated while ambiguous, and never left behind.
//!
//! A claim whose answer is lost may have been written. It is repeated with the same token, which finds
//! its own record; and where even that fails, a background task keeps trying until the record is
//! released, so that the key is not held until its lease lapses and then counted as unknown.

use std::sync::Arc;

use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::alarm::Alarm;
use super::settling::{Backoff, TRY_MAX};
use crate::evidence::Deadline;
use crate::resources::Resources;
use crate::store::{Claim, Claimed, OnUnknown, Settlement, Store, StoreError, StoreErrorKind};

/// A claim that was not taken, and whether it may have been written all the same.
pub(super) struct NotClaimed {
    pub(super) error: StoreError,
    pub(super) may_have_applied: bool,
}

/// Claims, with repeats as long as it is not known what became of the last try.
pub(super) async fn acquire(
    resources: &Resources,
    alarm: &mut Alarm,
    claim: &Claim,
    deadline: &Deadline,
) -> Result<Claimed, NotClaimed> {
    let patience = claim.asked_at + resources.limits.claim_patience;
    let give_up = deadline.start_by().min(patience);
    let mut may_have_applied = false;
    let mut backoff = Backoff::default();
    loop {
        let attempt = resources.store.claim(claim);
        let error = match alarm.limit(&resources.abort, give_up, attempt).await {
            Ok(Ok(claimed)) => return Ok(claimed),
            Ok(Err(error)) => error,
            Err(cut) => StoreError::new(StoreErrorKind::Timeout, cut),
        };
        may_have_applied |= error.may_have_applied();
        let pause = backoff.next();
        // An error that settles the question, or no time for another try: the client retries, not we.
        if !error.may_have_applied() || Instant::now() + pause >= give_up {
            return Err(NotClaimed {
                error,
                may_have_applied,
            });
        }
        sleep(pause).await;
    }
}

/// Finds out what became of an ambiguous claim and releases it; ends when the store has said so.
pub(super) async fn abandon(resources: Arc<Resources>, claim: Claim) {
    // It wants its own record back and no other: one whose outcome is unknown is not its to free.
    let claim = Claim {
        on_unknown: OnUnknown::Hold,
        ..claim
    };
    let until = Instant::now() + claim.retention;
    let mut backoff = Backoff::default();
    let released = async {
        loop {
            match timeout(TRY_MAX, release(&resources, &claim)).await {
                Ok(Ok(())) => return,
                Ok(Err(error)) => tracing::debug!(%error, "an abandoned claim is not released yet"),
                Err(_elapsed) => tracing::debug!("the store says nothing of an abandoned claim"),
            }
            sleep(backoff.next()).await;
        }
    };
    tokio::select! {
        _ = timeout_at(until, released) => {}
        () = resources.abort.said() => {
            tracing::warn!(record = %claim.id, "a claim of unknown fate is left: its lease will lapse");
        }
    }
}

/// Takes the claim, which finds it again if it was written, and releases it.
async fn release(resources: &Resources, claim: &Claim) -> Result<(), StoreError> {
    if let Claimed::Acquired(epoch) = resources.store.claim(claim).await? {
        let settlement = Settlement::Released;
        resources.store.settle(claim, epoch, &settlement).await?;
    }
    Ok(())
}
