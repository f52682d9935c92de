//! Taking a record within an open transaction, and finding out who has it.

use std::time::Duration;

use onlyonce::store::decision::{ClaimDecision, decide_claim};
use onlyonce::store::operator::FREED_REST;
use onlyonce::store::{Claim, OnUnknown, Present, StoreError};
use onlyonce::{Epoch, RecordId, Timestamp, Token};
use sqlx::Row;
use sqlx::postgres::{PgArguments, PgConnection, PgRow, Postgres};
use sqlx::query::Query;
use sqlx::{query, raw_sql};

use super::super::claim::begin_rest;
use super::super::failure::Failure;
use super::super::id::Uuid;
use super::super::row::{durable, epoch, epoch_number, micros, read, timestamp};
use super::super::session::Session;
use super::{Statements, lock_of};

/// Each lost round means that somebody else made progress.
const ROUNDS: u32 = 8;

/// What became of a claim.
#[derive(Debug)]
pub enum Taking {
    /// The record is this transaction's, if it commits.
    Taken(Taken),
    /// Another request has it; the transaction is of no further use.
    Present(Present),
}

/// A record that the open transaction has written, as completed. Its response is still to come.
#[derive(Debug, Clone)]
pub struct Taken {
    pub(super) id: RecordId,
    pub(super) token: Token,
    pub(super) epoch: Epoch,
    /// The day (UTC) whose partition takes the response: `2026-11-24`.
    pub(super) day: String,
    pub(super) expires_at: Timestamp,
    /// The transaction that it was written in.
    pub(super) xid: String,
    pub(super) statements: Statements,
}

impl Taken {
    /// The record.
    pub fn id(&self) -> RecordId {
        self.id
    }

    /// In which epoch it is this transaction's.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }
}

/// One row, always, with what has to be known of the record that was written. `mine` is whether the lock was had;
/// without an epoch a record was there already.
const TAKE: &str = durable!(
    ", turn as materialized (select pg_try_advisory_xact_lock($7) as mine), \
     taken as ( \
     insert into onlyonce_records \
     (id, token, fingerprint, credential, epoch, state, claimed_at, settled_at, lease_until, expires_at) \
     select $1, $2, $3, $4, 1, 2, statement_timestamp(), statement_timestamp(), \
     statement_timestamp() + $5 * interval '1 microsecond', \
     statement_timestamp() + $6 * interval '1 microsecond' \
     from durable, turn where mine on conflict (id) do nothing \
     returning epoch, to_char(settled_at at time zone 'UTC', 'YYYY-MM-DD') as day, \
     (extract(epoch from expires_at) * 1000000)::bigint as expires_at, pg_current_xact_id()::text as xid) \
     select mine, taken.* from turn left join taken on true"
);

/// Everything that was decided from the row that was read is asked again: other programs may use these tables,
/// and know nothing of the lock.
const TAKE_OVER: &str = "update onlyonce_records set token = $2, fingerprint = $3, credential = $4, \
     epoch = epoch + 1, state = 2, claimed_at = statement_timestamp(), settled_at = statement_timestamp(), \
     claimable_at = null, \
     lease_until = statement_timestamp() + $5 * interval '1 microsecond', \
     expires_at = statement_timestamp() + $6 * interval '1 microsecond' \
     where id = $1 and epoch = $7 and ( \
         expires_at <= statement_timestamp() \
         or state = 0 and coalesce(claimable_at <= statement_timestamp(), true) \
         or $8 and fingerprint = $3 \
            and (state = 3 or state = 1 and lease_until <= statement_timestamp())) \
     returning epoch, to_char(settled_at at time zone 'UTC', 'YYYY-MM-DD') as day, \
     (extract(epoch from expires_at) * 1000000)::bigint as expires_at, pg_current_xact_id()::text as xid";

/// Takes a record, as the first statement of the open transaction.
///
/// Where it finds that an operator freed the record, and that nobody has begun its rest
/// ([`Rest`](onlyonce::store::decision::Rest)), it writes that, commits it by itself, and leaves a new transaction open.
///
/// # Errors
/// Where the database fails; nothing was written then, and the transaction can only be rolled back.
pub async fn claim(
    connection: &mut PgConnection,
    statements: Statements,
    claim: &Claim,
) -> Result<Taking, StoreError> {
    // Nothing is written before the caller commits.
    let error = |failure: Failure| failure.uncommitted().into_error();
    try_claim(connection, statements, claim)
        .await
        .map_err(error)
}

async fn try_claim(
    connection: &mut PgConnection,
    statements: Statements,
    claim: &Claim,
) -> Result<Taking, Failure> {
    for _ in 0..ROUNDS {
        let take = bind(TAKE, claim)
            .bind(lock_of(&claim.id))
            .persistent(statements.persistent());
        let row = take.fetch_one(&mut *connection).await?;
        if !row.try_get("mine")? {
            return Ok(Taking::Present(IN_FLIGHT));
        }
        if row.try_get::<Option<i32>, _>("epoch")?.is_some() {
            return Ok(Taking::Taken(taken(&row, statements, claim)?));
        }
        let session = &mut Session::inside(connection);
        let Some(found) = read(session, &claim.id).await? else {
            continue;
        };
        match decide_claim(&found.row, claim) {
            ClaimDecision::TakeOver { read } => {
                if let Some(row) = take_over(connection, claim, read).await? {
                    return Ok(Taking::Taken(taken(&row, statements, claim)?));
                }
            }
            ClaimDecision::BeginRest { read } => {
                begin_rest(session, &claim.id, read).await?;
                // Whoever is told that a record is there rolls back.
                raw_sql("commit and chain").execute(connection).await?;
                return Ok(Taking::Present(Present::InFlight {
                    lease_remaining: FREED_REST,
                }));
            }
            ClaimDecision::Own(_)
            | ClaimDecision::InFlight
            | ClaimDecision::Completed
            | ClaimDecision::Unknown => {
                if let Some(present) = found.present(session).await? {
                    return Ok(Taking::Present(present));
                }
            }
        }
    }
    Err(Failure::contended())
}

/// Of another transaction nothing can be seen, not even for how long it may go on.
const IN_FLIGHT: Present = Present::InFlight {
    lease_remaining: Duration::ZERO,
};

async fn take_over(
    connection: &mut PgConnection,
    claim: &Claim,
    read: Epoch,
) -> Result<Option<PgRow>, Failure> {
    let statement = bind(TAKE_OVER, claim)
        .bind(epoch_number(read)?)
        .bind(claim.on_unknown == OnUnknown::Reexecute);
    // Planned for the table as it is now: it is seldom needed, and a plan that is kept may have been made for a
    // table without rows.
    Ok(statement
        .persistent(false)
        .fetch_optional(connection)
        .await?)
}

fn taken(row: &PgRow, statements: Statements, claim: &Claim) -> Result<Taken, Failure> {
    Ok(Taken {
        id: claim.id,
        token: claim.token,
        epoch: epoch(row)?,
        day: row.try_get("day")?,
        expires_at: timestamp(row, "expires_at")?,
        xid: row.try_get("xid")?,
        statements,
    })
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

/// Reads what stands in the way of a claim; `None` where nothing does. Needs an open transaction, and writes nothing.
///
/// Of a request that is being executed in another transaction no row is to be seen. Its lock is: whoever is at
/// work has it. It is shared by those who look, so that they are not taken for one another; a claim that comes in
/// that moment is told that the record is in flight.
///
/// # Errors
/// Where the database cannot be read.
pub async fn find(
    connection: &mut PgConnection,
    id: &RecordId,
) -> Result<Option<Present>, StoreError> {
    let error = |failure: Failure| failure.uncommitted().into_error();
    try_find(connection, id).await.map_err(error)
}

async fn try_find(
    connection: &mut PgConnection,
    id: &RecordId,
) -> Result<Option<Present>, Failure> {
    let session = &mut Session::inside(connection);
    // First the lock, then the row: who has committed in between is seen.
    let look = query("select pg_try_advisory_xact_lock_shared($1) as free").bind(lock_of(id));
    let free = match session.fetch(look).await? {
        Some(row) => row.try_get("free")?,
        None => false,
    };
    if !free {
        return Ok(Some(IN_FLIGHT));
    }
    match read(session, id).await? {
        Some(found) => found.present(session).await,
        None => Ok(None),
    }
}
