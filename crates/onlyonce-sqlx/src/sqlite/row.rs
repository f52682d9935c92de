//! A record as the file keeps it, and back.

use bytes::Bytes;
use onlyonce::store::decision::{Rest, Row};
use onlyonce::store::operator::Summary;
use onlyonce::store::{Claim, Completed, Generation, Present};
use onlyonce::{CredentialHash, Epoch, Fingerprint, RecordId, StoredState, Timestamp, Token};
use rusqlite::Connection;

use super::fault::Fault;

/// The columns of [`Record::read`], in its order.
macro_rules! columns {
    () => {
        "number, id, token, epoch, state, fingerprint, credential, \
         claimed_at, lease_until, settled_at, expires_at, claimable_at"
    };
}
pub(super) use columns;

/// The place of a body that was selected after [`columns!`].
pub(super) const BODY: usize = 12;

/// One row of the table `record`.
#[derive(Debug, Clone)]
pub(super) struct Record {
    pub(super) number: i64,
    id: RecordId,
    pub(super) token: Token,
    pub(super) epoch: Epoch,
    state: StoredState,
    fingerprint: Fingerprint,
    credential: CredentialHash,
    claimed_at: Timestamp,
    lease_until: Timestamp,
    settled_at: Option<Timestamp>,
    expires_at: Timestamp,
    claimable_at: Option<Timestamp>,
}

impl Record {
    /// The record of an id, expired or not.
    pub(super) fn load(connection: &Connection, id: &RecordId) -> Result<Option<Self>, Fault> {
        const BY_ID: &str = concat!("select ", columns!(), " from record where id = ?1");
        let mut statement = connection.prepare_cached(BY_ID)?;
        let mut rows = statement.query([id.as_bytes()])?;
        rows.next()?.map(Self::read).transpose()
    }

    /// Reads a row of [`columns!`].
    pub(super) fn read(row: &rusqlite::Row<'_>) -> Result<Self, Fault> {
        let epoch = u32::try_from(row.get::<_, i64>(3)?);
        let state = StoredState::from_code(row.get(4)?);
        Ok(Self {
            number: row.get(0)?,
            id: RecordId::from_bytes(row.get(1)?),
            token: Token::from_bytes(row.get(2)?),
            epoch: Epoch::new(epoch.map_err(|_| Fault::Unreadable("an epoch out of range"))?),
            state: state.ok_or(Fault::Unreadable("a record in an unknown state"))?,
            fingerprint: Fingerprint::from_bytes(row.get(5)?),
            credential: CredentialHash::from_bytes(row.get(6)?),
            claimed_at: Timestamp::from_micros(row.get(7)?),
            lease_until: Timestamp::from_micros(row.get(8)?),
            settled_at: row.get::<_, Option<i64>>(9)?.map(Timestamp::from_micros),
            expires_at: Timestamp::from_micros(row.get(10)?),
            claimable_at: row.get::<_, Option<i64>>(11)?.map(Timestamp::from_micros),
        })
    }

    /// What the shared decisions are made from.
    pub(super) fn seen_at(&self, now: Timestamp) -> Row {
        Row {
            token: self.token,
            epoch: self.epoch,
            state: self.state,
            fingerprint: self.fingerprint,
            credential: self.credential,
            lease_remaining: self.lease_until.since(now),
            rest: Rest::of(self.claimable_at, self.expires_at, now),
            expired: self.expires_at <= now,
        }
    }

    /// What stands in the way of a claim; the response is asked for only where there is one.
    pub(super) fn present(
        &self,
        now: Timestamp,
        response: impl FnOnce() -> Result<Option<Bytes>, Fault>,
    ) -> Result<Option<Present>, Fault> {
        let row = self.seen_at(now);
        if row.expired {
            return Ok(None);
        }
        Ok(match row.state_now() {
            StoredState::Free => row
                .rest
                .left()
                .map(|lease_remaining| Present::InFlight { lease_remaining }),
            StoredState::InFlight => Some(Present::InFlight {
                lease_remaining: row.lease_remaining,
            }),
            StoredState::Completed => Some(Present::Completed(Completed {
                fingerprint: self.fingerprint,
                credential: self.credential,
                expires_at: self.expires_at,
                response: response()?,
            })),
            StoredState::Unknown => Some(Present::Unknown {
                fingerprint: self.fingerprint,
                credential: self.credential,
            }),
        })
    }

    /// What operators see.
    pub(super) fn summary(&self, now: Timestamp) -> Summary {
        Summary {
            id: self.id,
            state: self.seen_at(now).state_now(),
            epoch: self.epoch,
            claimed_at: self.claimed_at,
            lease_until: self.lease_until,
            settled_at: self.settled_at,
            expires_at: self.expires_at,
        }
    }
}

/// Writes the record of an id that has none; whether that was so.
pub(super) fn insert(
    connection: &Connection,
    claim: &Claim,
    epoch: Epoch,
    now: Timestamp,
) -> Result<bool, Fault> {
    let mut statement = connection.prepare_cached(
        "insert into record (id, token, epoch, state, fingerprint, credential, \
                             claimed_at, lease_until, expires_at) \
         values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9) \
         on conflict (id) do nothing",
    )?;
    let inserted = statement.execute((
        claim.id.as_bytes(),
        claim.token.as_bytes(),
        epoch.get(),
        StoredState::InFlight.code(),
        claim.fingerprint.as_bytes(),
        claim.credential.as_bytes(),
        now.as_micros(),
        now.plus(claim.lease).as_micros(),
        now.plus(claim.retention).as_micros(),
    ))?;
    Ok(inserted == 1)
}

/// Lets a record that an operator freed take no claim until somebody begins its rest.
pub(super) fn rest(connection: &Connection, id: &RecordId, epoch: Epoch) -> Result<(), Fault> {
    let mut statement = connection.prepare_cached(
        "update record set claimable_at = expires_at where id = ?1 and epoch = ?2 and state = ?3",
    )?;
    statement.execute((id.as_bytes(), epoch.get(), StoredState::Free.code()))?;
    Ok(())
}

/// Says when such a rest ends; nothing where it has begun already, or is no longer that one.
pub(super) fn begin_rest(
    connection: &Connection,
    id: &RecordId,
    epoch: Epoch,
    until: Timestamp,
) -> Result<(), Fault> {
    let mut statement = connection.prepare_cached(
        "update record set claimable_at = ?3 \
         where id = ?1 and epoch = ?2 and state = ?4 and claimable_at = expires_at",
    )?;
    statement.execute((
        id.as_bytes(),
        epoch.get(),
        until.as_micros(),
        StoredState::Free.code(),
    ))?;
    Ok(())
}

/// The store's generation.
pub(super) fn generation(connection: &Connection) -> Result<Generation, Fault> {
    let mut statement = connection.prepare_cached("select generation from generation")?;
    let mut rows = statement.query([])?;
    let row = rows.next()?.ok_or(Fault::Unreadable(
        "no generation: any decision makes a new one",
    ))?;
    Ok(Generation::from_bytes(row.get(0)?))
}

/// Gives the store another generation. A row that somebody deleted is made anew.
pub(super) fn renew_generation(connection: &Connection) -> Result<(), Fault> {
    let mut statement = connection
        .prepare_cached("insert or replace into generation (single, generation) values (1, ?1)")?;
    statement.execute([Generation::random().as_bytes()])?;
    Ok(())
}

/// Gives a record to another owner; its old response goes.
pub(super) fn take_over(
    connection: &Connection,
    record: &Record,
    claim: &Claim,
    now: Timestamp,
) -> Result<Epoch, Fault> {
    let epoch = record.epoch.next();
    let mut statement = connection.prepare_cached(
        "update record set token = ?3, epoch = ?4, state = ?5, fingerprint = ?6, credential = ?7, \
                           claimed_at = ?8, lease_until = ?9, settled_at = null, expires_at = ?10, \
                           claimable_at = null \
         where number = ?1 and epoch = ?2",
    )?;
    let changed = statement.execute((
        record.number,
        record.epoch.get(),
        claim.token.as_bytes(),
        epoch.get(),
        StoredState::InFlight.code(),
        claim.fingerprint.as_bytes(),
        claim.credential.as_bytes(),
        now.as_micros(),
        now.plus(claim.lease).as_micros(),
        now.plus(claim.retention).as_micros(),
    ))?;
    expect_one(changed)?;
    delete_response(connection, record.number)?;
    Ok(epoch)
}

/// Ends a record's epoch, or gives it an operator's: state and response together.
pub(super) fn end(
    connection: &Connection,
    record: &Record,
    epoch: Epoch,
    state: StoredState,
    response: Option<&Bytes>,
    now: Timestamp,
) -> Result<(), Fault> {
    let mut statement = connection.prepare_cached(
        "update record set epoch = ?4, state = ?5, settled_at = ?6 \
         where number = ?1 and token = ?2 and epoch = ?3",
    )?;
    let changed = statement.execute((
        record.number,
        record.token.as_bytes(),
        record.epoch.get(),
        epoch.get(),
        state.code(),
        now.as_micros(),
    ))?;
    expect_one(changed)?;
    match response {
        Some(body) => insert_response(connection, record.number, body),
        None => delete_response(connection, record.number),
    }
}

fn insert_response(connection: &Connection, number: i64, body: &Bytes) -> Result<(), Fault> {
    let mut statement = connection
        .prepare_cached("insert or replace into response (record, body) values (?1, ?2)")?;
    statement.execute((number, &body[..]))?;
    Ok(())
}

fn delete_response(connection: &Connection, number: i64) -> Result<(), Fault> {
    let mut statement = connection.prepare_cached("delete from response where record = ?1")?;
    statement.execute([number])?;
    Ok(())
}

/// The response of a record; `None` where it is missing.
pub(super) fn response(connection: &Connection, number: i64) -> Result<Option<Bytes>, Fault> {
    let mut statement = connection.prepare_cached("select body from response where record = ?1")?;
    let mut rows = statement.query([number])?;
    rows.next()?.map_or(Ok(None), |row| body(row, 0))
}

/// A body out of a column, copied once.
pub(super) fn body(row: &rusqlite::Row<'_>, column: usize) -> Result<Option<Bytes>, Fault> {
    let value = row.get_ref(column)?;
    let bytes = value.as_blob_or_null().map_err(rusqlite::Error::from)?;
    Ok(bytes.map(Bytes::copy_from_slice))
}

/// The row was read in this transaction, which alone may write: it cannot have changed since.
fn expect_one(changed: usize) -> Result<(), Fault> {
    match changed {
        1 => Ok(()),
        _ => Err(Fault::Unreadable(
            "a record that changed within its transaction",
        )),
    }
}
