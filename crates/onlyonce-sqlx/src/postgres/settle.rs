//! Settling a claim: one statement that names token and epoch and writes outcome and response together.
//!
//! Where it changes no row, the row is read to find out why: it says so already (the first try's answer was
//! lost), it is somebody else's by now, or it is gone, lost in a failover, and is written anew.

use onlyonce::store::decision::{SettleDecision, decide_settle};
use onlyonce::store::{Claim, Settled, Settlement};
use onlyonce::{Epoch, RecordId, Token};
use sqlx::query;

use super::call::Call;
use super::days;
use super::failure::Failure;
use super::id::Uuid;
use super::row::{durable, epoch_number, micros, read};
use super::session::Session;

const ROUNDS: u32 = 8;

/// Settles a claim.
#[derive(Debug)]
pub(super) struct Settle<'a> {
    pub(super) claim: &'a Claim,
    pub(super) epoch: Epoch,
    pub(super) settlement: &'a Settlement,
}

impl Call for Settle<'_> {
    type Output = Settled;

    async fn run(&self, session: &mut Session<'_>) -> Result<Settled, Failure> {
        for _ in 0..ROUNDS {
            if self.write(session, Write::Update).await? {
                return Ok(Settled::Done);
            }
            let found = read(session, &self.claim.id).await?;
            let row = found.as_ref().map(|found| &found.row);
            match decide_settle(row, self.claim.token, self.epoch, self.settlement) {
                SettleDecision::AlreadyDone => return Ok(Settled::Done),
                SettleDecision::Stale => return Ok(Settled::Stale),
                SettleDecision::Insert => {
                    if self.write(session, Write::Insert).await? {
                        return Ok(Settled::Done);
                    }
                }
                SettleDecision::Apply => {}
            }
        }
        Err(Failure::contended())
    }
}

#[derive(Debug, Clone, Copy)]
enum Write {
    Update,
    Insert,
}

const COMPLETE: &str = durable!(
    ", settled as ( \
     update onlyonce_records set state = 2, settled_at = statement_timestamp() from durable \
     where id = $1 and token = $2 and epoch = $3 and state in (1, 3) \
     returning settled_at, expires_at), \
     kept as ( \
     insert into onlyonce_responses (day, token, epoch, expires_at, response) \
     select (settled_at at time zone 'UTC')::date, $2, $3, expires_at, $4 from settled) \
     select 1 from settled"
);

const INSERT_COMPLETED: &str = durable!(
    ", settled as ( \
     insert into onlyonce_records \
     (id, token, epoch, fingerprint, credential, state, \
      claimed_at, settled_at, lease_until, expires_at) \
     select $1, $2, $3, $5, $6, 2, statement_timestamp(), statement_timestamp(), \
     statement_timestamp() + $7 * interval '1 microsecond', \
     statement_timestamp() + $8 * interval '1 microsecond' \
     from durable on conflict (id) do nothing \
     returning settled_at, expires_at), \
     kept as ( \
     insert into onlyonce_responses (day, token, epoch, expires_at, response) \
     select (settled_at at time zone 'UTC')::date, $2, $3, expires_at, $4 from settled) \
     select 1 from settled"
);

const UNKNOWN: &str = durable!(
    ", settled as ( \
     update onlyonce_records set state = 3, settled_at = statement_timestamp() from durable \
     where id = $1 and token = $2 and epoch = $3 and state = 1 \
     returning settled_at, expires_at), \
     noted as ( \
     insert into onlyonce_unknown (id, epoch, since, expires_at) \
     select $1, $3, settled_at, expires_at from settled on conflict do nothing) \
     select 1 from settled"
);

const INSERT_UNKNOWN: &str = durable!(
    ", settled as ( \
     insert into onlyonce_records \
     (id, token, epoch, fingerprint, credential, state, \
      claimed_at, settled_at, lease_until, expires_at) \
     select $1, $2, $3, $4, $5, 3, statement_timestamp(), statement_timestamp(), \
     statement_timestamp() + $6 * interval '1 microsecond', \
     statement_timestamp() + $7 * interval '1 microsecond' \
     from durable on conflict (id) do nothing \
     returning settled_at, expires_at), \
     noted as ( \
     insert into onlyonce_unknown (id, epoch, since, expires_at) \
     select $1, $3, settled_at, expires_at from settled on conflict do nothing) \
     select 1 from settled"
);

const RELEASE: &str = durable!(
    " update onlyonce_records set state = 0, settled_at = statement_timestamp() from durable \
     where id = $1 and token = $2 and epoch = $3 and state in (1, 3) returning epoch"
);

/// Completes a record that is its owner's still; whether it was.
pub(super) async fn complete_one(
    session: &mut Session<'_>,
    id: RecordId,
    token: Token,
    epoch: Epoch,
    response: &[u8],
) -> Result<bool, Failure> {
    let statement = query(COMPLETE)
        .bind(Uuid(*id.as_bytes()))
        .bind(Uuid(*token.as_bytes()))
        .bind(epoch_number(epoch)?)
        .bind(response);
    Ok(session.fetch(statement).await?.is_some())
}

impl Settle<'_> {
    /// Whether a row was written.
    async fn write(&self, session: &mut Session<'_>, write: Write) -> Result<bool, Failure> {
        match self.try_write(session, write).await {
            // A store that nobody swept for days, or midnight right after a migration.
            Err(failure) if failure.lacks_partition() => {
                days::prepare(session).await?;
                self.try_write(session, write).await
            }
            result => result,
        }
    }

    async fn try_write(&self, session: &mut Session<'_>, write: Write) -> Result<bool, Failure> {
        let claim = self.claim;
        let text = match (self.settlement, write) {
            (Settlement::Completed(response), Write::Update) => {
                return complete_one(session, claim.id, claim.token, self.epoch, response).await;
            }
            (Settlement::Completed(_), Write::Insert) => INSERT_COMPLETED,
            (Settlement::Unknown, Write::Update) => UNKNOWN,
            (Settlement::Unknown, Write::Insert) => INSERT_UNKNOWN,
            (Settlement::Released, _) => RELEASE,
        };
        let mut statement = query(text)
            .bind(Uuid(*claim.id.as_bytes()))
            .bind(Uuid(*claim.token.as_bytes()))
            .bind(epoch_number(self.epoch)?);
        if let Settlement::Completed(response) = self.settlement {
            statement = statement.bind(&response[..]);
        }
        if let (Write::Insert, Settlement::Completed(_) | Settlement::Unknown) =
            (write, self.settlement)
        {
            statement = statement
                .bind(claim.fingerprint.as_bytes().as_slice())
                .bind(claim.credential.as_bytes().as_slice())
                .bind(micros(claim.lease))
                .bind(micros(claim.retention));
        }
        Ok(session.fetch(statement).await?.is_some())
    }
}
