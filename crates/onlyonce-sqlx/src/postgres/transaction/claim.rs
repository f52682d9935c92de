//! Taking a record within an open transaction, and finding out who has it.

use std::time::Duration;

use onlyonce::store::decision::{ClaimDecision, decide_claim};
use onlyonce::store::operator::FREED_REST;
use onlyonce::store::{Claim, OnUnknown, Present, StoreError};
use onlyonce::{Epoch, RecordId, Token};
use sqlx::Row;
use sqlx::postgres::{PgArguments, PgConnection, PgRow, Postgres};
use sqlx::query::Query;
use sqlx::{query, raw_sql};

use super::super::claim::begin_rest;
use super::super::failure::Failure;
use super::super::id::Uuid;
use super::super::row::{epoch, epoch_number, micros, raise_durability, read};
use super::super::session::Session;
use super::{Statements, lock_of, named};

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
    /// In microseconds, from the beginning of the transaction.
    pub(super) retention: i64,
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

/// One row where the record was taken. None where another request has its lock or a record is there already: which of
/// the two is seldom asked, and a statement of its own tells.
///
/// The times are those of the transaction, which begins with this statement: the one that completes the record
/// knows them too then, and nothing has to be carried from here to there.
pub(super) const TAKE: &str = concat!(
    "insert into onlyonce_records \
     (id, token, fingerprint, credential, epoch, state, claimed_at, settled_at, lease_until, expires_at) \
     select $1, $2, $3, $4, 1, 2, now(), now(), \
     now() + $5 * interval '1 microsecond', now() + $6 * interval '1 microsecond' \
     where pg_try_advisory_xact_lock($7) and ",
    raise_durability!(),
    " <> '' on conflict (id) do nothing returning epoch, pg_current_xact_id()::text as xid"
);

const LOCK: &str = "select pg_try_advisory_xact_lock($1) as mine";

/// Everything that was decided from the row that was read is asked again: other programs may use these tables,
/// and know nothing of the lock.
const TAKE_OVER: &str = "update onlyonce_records set token = $2, fingerprint = $3, credential = $4, \
     epoch = epoch + 1, state = 2, claimed_at = now(), settled_at = now(), claimable_at = null, \
     lease_until = now() + $5 * interval '1 microsecond', \
     expires_at = now() + $6 * interval '1 microsecond' \
     where id = $1 and epoch = $7 and ( \
         expires_at <= statement_timestamp() \
         or state = 0 and coalesce(claimable_at <= statement_timestamp(), true) \
         or $8 and fingerprint = $3 \
            and (state = 3 or state = 1 and lease_until <= statement_timestamp())) \
     returning epoch, pg_current_xact_id()::text as xid";

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

/// Begins a transaction with `begin` (one statement or several, of the caller's own) and takes a record in it, in one
/// message. What [`claim`] is otherwise; [`prepare`](super::named::prepare) came before, on this connection.
///
/// # Errors
/// As there. Whether the transaction was begun is not known then.
pub async fn begin_and_claim(
    connection: &mut PgConnection,
    begin: &str,
    claim: &Claim,
) -> Result<Taking, StoreError> {
    let error = |failure: Failure| failure.uncommitted().into_error();
    let taking = async {
        let statements = Statements::Prepared;
        match named::take(&mut *connection, begin, claim).await? {
            Some(row) => Ok(Taking::Taken(taken(&row, statements, claim)?)),
            None => Box::pin(look(connection, statements, claim)).await,
        }
    };
    taking.await.map_err(error)
}

async fn try_claim(
    connection: &mut PgConnection,
    statements: Statements,
    claim: &Claim,
) -> Result<Taking, Failure> {
    match take(&mut *connection, statements, claim).await? {
        Some(row) => Ok(Taking::Taken(taken(&row, statements, claim)?)),
        None => Box::pin(look(connection, statements, claim)).await,
    }
}

async fn take(
    connection: &mut PgConnection,
    statements: Statements,
    claim: &Claim,
) -> Result<Option<PgRow>, Failure> {
    let take = bind(TAKE, claim)
        .bind(lock_of(&claim.id))
        .persistent(statements.persistent());
    Ok(take.fetch_optional(connection).await?)
}

/// A claim that did not take its record finds out why, and takes it after all where nobody has it. A large future, and
/// seldom needed: its callers box it.
async fn look(
    connection: &mut PgConnection,
    statements: Statements,
    claim: &Claim,
) -> Result<Taking, Failure> {
    for _ in 0..ROUNDS {
        let session = &mut Session::inside(connection);
        let Some(found) = read(session, &claim.id).await? else {
            if !lock(session, &claim.id).await? {
                return Ok(Taking::Present(IN_FLIGHT));
            }
            if let Some(row) = take(connection, statements, claim).await? {
                return Ok(Taking::Taken(taken(&row, statements, claim)?));
            }
            continue;
        };
        match decide_claim(&found.row, claim) {
            ClaimDecision::TakeOver { read } => {
                if !lock(session, &claim.id).await? {
                    return Ok(Taking::Present(IN_FLIGHT));
                }
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

/// Whether the record's lock is had, now or since before. Who did not have it may have been waiting for nobody by
/// now, and takes another turn.
async fn lock(session: &mut Session<'_>, id: &RecordId) -> Result<bool, Failure> {
    match session.fetch(query(LOCK).bind(lock_of(id))).await? {
        Some(row) => Ok(row.try_get("mine")?),
        None => Ok(false),
    }
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
        retention: micros(claim.retention),
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
