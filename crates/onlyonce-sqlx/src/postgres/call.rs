//! A call to the database: bounded in time, repeated where that helps, honest about what may have happened.
//!
//! A request's writes name its token and epoch, so they can be repeated: a claim that was made finds itself,
//! a settlement that was done finds itself done. A call is repeated after a serialization failure, a
//! deadlock, a lock that was not had in time, and a connection that was lost; not when no server can be
//! reached, since callers want to hear that at once. An operator's decision has no token: where it may have
//! been carried out it is not repeated, for by then the record may be another request's.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use onlyonce::store::{StoreError, StoreErrorKind};
use tokio::time::{sleep, timeout};

use super::failure::{Condition, Failure};
use super::pool::Pool;
use super::primary::jittered;
use super::session::Session;

const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_millis(10);

/// What a call does with a connection.
pub(super) trait Call: Sync {
    type Output: Send;

    /// Whether it may be repeated where it may have been done already.
    const FINDS_ITSELF_DONE: bool = true;

    fn run(
        &self,
        session: &mut Session<'_>,
    ) -> impl Future<Output = Result<Self::Output, Failure>> + Send;
}

/// Makes a call within `limit`.
pub(super) async fn perform<C: Call>(
    pool: &Pool,
    limit: Duration,
    call: &C,
) -> Result<C::Output, StoreError> {
    // Whether a write may have happened without our knowing. Outlives the tries that are cut off.
    let doubt = AtomicBool::new(false);
    let mut failure = match timeout(limit, tries(pool, call, &doubt)).await {
        Ok(Ok(output)) => return Ok(output),
        Ok(Err(failure)) => failure,
        Err(elapsed) => Failure::other(StoreErrorKind::Timeout, elapsed),
    };
    // Whatever the last try says: an earlier one may have written.
    failure.may_have_applied |= doubt.load(Ordering::Relaxed);
    Err(failure.into_error())
}

async fn tries<C: Call>(pool: &Pool, call: &C, doubt: &AtomicBool) -> Result<C::Output, Failure> {
    let mut tries = 1;
    loop {
        let mut borrowed = pool.borrow().await?;
        let before = doubt.swap(true, Ordering::Relaxed);
        let failure = match call.run(borrowed.session()).await {
            Ok(output) => {
                borrowed.give_back();
                return Ok(output);
            }
            Err(failure) => failure,
        };
        doubt.store(before || failure.may_have_applied, Ordering::Relaxed);
        match failure.connection {
            Condition::Good => borrowed.give_back(),
            Condition::Broken => drop(borrowed.close()),
            Condition::ServerGone => {
                pool.server_gone(borrowed.generation());
                drop(borrowed.close());
            }
        }
        let in_doubt = failure.may_have_applied && !C::FINDS_ITSELF_DONE;
        if !failure.retry || in_doubt || tries == TRIES {
            return Err(failure);
        }
        tracing::debug!(tries, "a call to postgres is repeated");
        sleep(jittered(PAUSE * tries)).await;
        tries += 1;
    }
}
