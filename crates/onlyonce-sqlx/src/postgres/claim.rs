//! Claiming a record: insert it; where that finds one there already, read it, and take it over if it may be.
//!
//! Never in one statement. An insertion that meets a row of a transaction that commits meanwhile gives no
//! row, and a `select` in the same statement, whose snapshot is older, does not see the row either (P1a).
//! And a row may be there for the insertion and gone for the reading, when the sweep deletes it (P1c).
//! Whatever was read may have changed since: then the next round decides anew.

use onlyonce::store::Present;
use onlyonce::store::decision::{ClaimDecision, decide_claim};
use onlyonce::store::operator::FREED_REST;
use onlyonce::store::{Claim, Claimed, OnUnknown};
use onlyonce::{Epoch, RecordId};
use sqlx::postgres::{PgArguments, Postgres};
use sqlx::query;
use sqlx::query::Query;

use super::call::Call;
use super::failure::Failure;
use super::id::Uuid;
use super::row::{durable, epoch, epoch_number, micros, read};
use super::session::Session;

/// Each lost round means that somebody else made progress.
const ROUNDS: u32 = 8;

/// Claims a record.
#[derive(Debug)]
pub(super) struct TakeClaim<'a> {
    pub(super) claim: &'a Claim,
    /// Whether an insertion has met a row already, so that reading comes first.
    pub(super) met: bool,
}

/// Reads what stands in the way of a claim.
#[derive(Debug)]
pub(super) struct Find<'a>(pub(super) &'a RecordId);

impl Call for TakeClaim<'_> {
    type Output = Claimed;

    async fn run(&self, session: &mut Session<'_>) -> Result<Claimed, Failure> {
        let claim = self.claim;
        let mut met = self.met;
        for _ in 0..ROUNDS {
            if !std::mem::take(&mut met)
                && let Some(epoch) = insert(session, claim).await?
            {
                return Ok(Claimed::Acquired(epoch));
            }
            let Some(found) = read(session, &claim.id).await? else {
                continue;
            };
            match decide_claim(&found.row, claim) {
                ClaimDecision::Own(epoch) => return Ok(Claimed::Acquired(epoch)),
                ClaimDecision::TakeOver { read } => {
                    if let Some(epoch) = take_over(session, claim, read).await? {
                        return Ok(Claimed::Acquired(epoch));
                    }
                }
                // Whatever became of it, the next round finds a rest that has begun.
                ClaimDecision::BeginRest { read } => begin_rest(session, &claim.id, read).await?,
                ClaimDecision::InFlight | ClaimDecision::Completed | ClaimDecision::Unknown => {
                    if let Some(present) = found.present(session).await? {
                        return Ok(Claimed::Present(present));
                    }
                }
            }
        }
        Err(Failure::contended())
    }
}

impl Call for Find<'_> {
    type Output = Option<Present>;

    async fn run(&self, session: &mut Session<'_>) -> Result<Option<Present>, Failure> {
        match read(session, self.0).await? {
            Some(found) => found.present(session).await,
            None => Ok(None),
        }
    }
}

const INSERT: &str = durable!(
    " insert into onlyonce_records \
     (id, token, fingerprint, credential, epoch, state, claimed_at, lease_until, expires_at) \
     select $1, $2, $3, $4, 1, 1, statement_timestamp(), \
     statement_timestamp() + $5 * interval '1 microsecond', \
     statement_timestamp() + $6 * interval '1 microsecond' \
     from durable on conflict (id) do nothing returning epoch"
);

/// Everything that was decided from the row that was read is asked again: it may have changed since.
const TAKE_OVER: &str = durable!(
    " update onlyonce_records set token = $2, fingerprint = $3, credential = $4, \
     epoch = epoch + 1, state = 1, claimed_at = statement_timestamp(), settled_at = null, claimable_at = null, \
     lease_until = statement_timestamp() + $5 * interval '1 microsecond', \
     expires_at = statement_timestamp() + $6 * interval '1 microsecond' \
     from durable where id = $1 and epoch = $7 and ( \
         expires_at <= statement_timestamp() \
         or state = 0 and coalesce(claimable_at <= statement_timestamp(), true) \
         or $8 and fingerprint = $3 \
            and (state = 3 or state = 1 and lease_until <= statement_timestamp())) \
     returning epoch"
);

/// Where it has not begun, no other decision has been made since, and nobody has claimed.
const BEGIN_REST: &str = durable!(
    " update onlyonce_records \
     set claimable_at = statement_timestamp() + $3 * interval '1 microsecond' from durable \
     where id = $1 and epoch = $2 and state = 0 and claimable_at = expires_at"
);

/// Begins the rest of a key that an operator freed, for somebody who has seen that the decision is committed.
pub(super) async fn begin_rest(
    session: &mut Session<'_>,
    id: &RecordId,
    epoch: Epoch,
) -> Result<(), Failure> {
    let statement = query(BEGIN_REST)
        .bind(Uuid(*id.as_bytes()))
        .bind(epoch_number(epoch)?)
        .bind(micros(FREED_REST));
    session.fetch(statement).await.map(drop)
}

/// Inserts a record that nobody has yet; `None` where somebody has.
pub(super) async fn insert(
    session: &mut Session<'_>,
    claim: &Claim,
) -> Result<Option<Epoch>, Failure> {
    let row = session.fetch(bind(INSERT, claim)).await?;
    row.map(|row| epoch(&row)).transpose()
}

async fn take_over(
    session: &mut Session<'_>,
    claim: &Claim,
    read: Epoch,
) -> Result<Option<Epoch>, Failure> {
    let reexecute = claim.on_unknown == OnUnknown::Reexecute;
    let statement = bind(TAKE_OVER, claim)
        .bind(epoch_number(read)?)
        .bind(reexecute);
    let row = session.fetch(statement).await?;
    row.map(|row| epoch(&row)).transpose()
}

/// `$1` to `$6`.
fn bind<'a>(statement: &'static str, claim: &'a Claim) -> Query<'a, Postgres, PgArguments> {
    query(statement)
        .bind(Uuid(*claim.id.as_bytes()))
        .bind(Uuid(*claim.token.as_bytes()))
        .bind(claim.fingerprint.as_bytes().as_slice())
        .bind(claim.credential.as_bytes().as_slice())
        .bind(micros(claim.lease))
        .bind(micros(claim.retention))
}
