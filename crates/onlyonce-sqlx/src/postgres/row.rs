//! Reading a record's row, and the words between Rust and SQL.

use std::time::Duration;

use bytes::Bytes;
use onlyonce::store::decision::{Rest, Row};
use onlyonce::store::{Completed, Present, StoreErrorKind};
use onlyonce::{CredentialHash, Epoch, Fingerprint, RecordId, StoredState, Timestamp, Token};
use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, Row as _, query};

use super::failure::Failure;
use super::id::Uuid;
use super::session::Session;

/// Has this transaction's commit wait for the disk, and for the synchronous standbys where there are any; gives the
/// level. `off` and `local` are raised, for a claim that a failover forgets is a second charge; `remote_write` (on the
/// standby, not yet on its disk) is somebody's choice, and stays.
macro_rules! raise_durability {
    () => {
        "set_config('synchronous_commit', \
         case when current_setting('synchronous_commit') in ('off', 'local') then 'on' \
         else current_setting('synchronous_commit') end, true)"
    };
}
pub(super) use raise_durability;

/// The head of every statement that promises something: see [`raise_durability`].
///
/// It works behind a pooler too, since it lasts until the transaction ends. The statement must read from
/// `durable`, or the setting would never be made.
macro_rules! durable {
    (and $setting:literal; $($statement:literal),+ $(,)?) => {
        concat!(
            "with durable as materialized (select ",
            $crate::postgres::row::raise_durability!(),
            " as level",
            $setting, ")",
            $($statement),+
        )
    };
    ($($statement:literal),+ $(,)?) => {
        $crate::postgres::row::durable!(and ""; $($statement),+)
    };
}
pub(super) use durable;

/// A record as it was found.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) row: Row,
    expires_at: Timestamp,
    /// The day on which it was settled, which names the partition of its response.
    day: Option<Day>,
}

/// A day (UTC) as its partition is named: 20261124 for the 24th of November 2026.
#[derive(Debug, Clone, Copy)]
pub(super) struct Day(i32);

const READ: &str = "select token, epoch, state, fingerprint, credential, \
     greatest(0, extract(epoch from lease_until - statement_timestamp()) * 1000000)::bigint \
         as lease_remaining, \
     greatest(0, coalesce(extract(epoch from claimable_at - statement_timestamp()), 0) * 1000000)::bigint \
         as rest_remaining, \
     claimable_at = expires_at as rest_not_begun, \
     expires_at <= statement_timestamp() as expired, \
     (extract(epoch from expires_at) * 1000000)::bigint as expires_at, \
     to_char(settled_at at time zone 'UTC', 'YYYYMMDD')::integer as day, \
     current_setting('transaction_read_only') = 'on' as read_only \
     from onlyonce_records where id = $1";

/// Reads a record, expired or not.
pub(super) async fn read(
    session: &mut Session<'_>,
    id: &RecordId,
) -> Result<Option<Found>, Failure> {
    let row = session
        .fetch(query(READ).bind(Uuid(*id.as_bytes())))
        .await?;
    row.map(|row| {
        of_primary(&row)?;
        found(&row)
    })
    .transpose()
}

/// Checks the column `read_only`: a session can stay open while its server becomes a standby or is taken out of
/// service. A write there fails; a read would show the past for as long as the session lasts.
pub(super) fn of_primary(row: &PgRow) -> Result<(), Failure> {
    if row.try_get("read_only")? {
        return Err(Failure::demoted());
    }
    Ok(())
}

fn found(row: &PgRow) -> Result<Found, Failure> {
    let row_found = Row {
        token: token(row)?,
        epoch: epoch(row)?,
        state: state(row, "state")?,
        fingerprint: Fingerprint::from_bytes(digest(row, "fingerprint")?),
        credential: CredentialHash::from_bytes(digest(row, "credential")?),
        lease_remaining: remaining(row, "lease_remaining")?,
        rest: rest(row)?,
        expired: row.try_get("expired")?,
    };
    Ok(Found {
        row: row_found,
        expires_at: timestamp(row, "expires_at")?,
        day: day(row)?,
    })
}

/// A rest that has not begun is kept as one that lasts as long as its record.
fn rest(row: &PgRow) -> Result<Rest, Failure> {
    if row.try_get::<Option<bool>, _>("rest_not_begun")? == Some(true) {
        return Ok(Rest::NotBegun);
    }
    let left = remaining(row, "rest_remaining")?;
    Ok(match left.is_zero() {
        true => Rest::Over,
        false => Rest::Left(left),
    })
}

/// What names a response within its day. Token and epoch would do; its record's expiry is where the index begins.
#[derive(Debug)]
pub(super) struct ResponseName {
    pub(super) expires_at: Timestamp,
    pub(super) token: Token,
    pub(super) epoch: Epoch,
}

const NAMED: &str = "where expires_at = timestamptz 'epoch' + $1 * interval '1 microsecond' \
     and token = $2 and epoch = $3";

/// Reads a response; `None` where it is missing, with its record completed or not.
///
/// It is named by token and epoch, so it is the response of the record that was read, whatever became of
/// that meanwhile. Its partition is read by its own name: by way of the parent, a prepared statement locks
/// all partitions each time, and past sixteen locks backends get in each other's way. In a transaction that is
/// not ours the parent is asked all the same, for nothing may fail there.
pub(super) async fn response(
    session: &mut Session<'_>,
    day: Option<Day>,
    name: &ResponseName,
) -> Result<Option<Bytes>, Failure> {
    let Some(Day(day)) = day else {
        return Ok(None);
    };
    let by_name = format!("select response from onlyonce_responses_{day:08} {NAMED}");
    let by_parent = format!(
        "select response from onlyonce_responses {NAMED} and day = '{:04}-{:02}-{:02}'",
        day / 10_000,
        day / 100 % 100,
        day % 100
    );
    if session.is_inside() {
        let row = fetch_response(session, by_parent, name).await?;
        return response_of(row);
    }
    let row = match fetch_response(session, by_name, name).await {
        Err(failure) if failure.lacks_table() => return Ok(None),
        // An account other than the owner's has its rights on the parent: a partition is born without.
        Err(failure) if failure.lacks_privilege() => {
            fetch_response(session, by_parent, name).await?
        }
        result => result?,
    };
    response_of(row)
}

fn response_of(row: Option<PgRow>) -> Result<Option<Bytes>, Failure> {
    let response: Option<Vec<u8>> = row.map(|row| row.try_get("response")).transpose()?;
    Ok(response.map(Bytes::from))
}

async fn fetch_response(
    session: &mut Session<'_>,
    text: String,
    name: &ResponseName,
) -> Result<Option<PgRow>, Failure> {
    // The one thing in it that is no constant is a number.
    let statement = query(AssertSqlSafe(text))
        .bind(name.expires_at.as_micros())
        .bind(Uuid(*name.token.as_bytes()))
        .bind(epoch_number(name.epoch)?);
    session.fetch(statement).await
}

impl Found {
    /// What stands in a claim's way; `None` where nothing does.
    pub(super) async fn present(
        self,
        session: &mut Session<'_>,
    ) -> Result<Option<Present>, Failure> {
        let Self {
            row,
            expires_at,
            day,
        } = self;
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
            StoredState::Completed => {
                let name = ResponseName {
                    expires_at,
                    token: row.token,
                    epoch: row.epoch,
                };
                Some(Present::Completed(Completed {
                    fingerprint: row.fingerprint,
                    credential: row.credential,
                    expires_at,
                    response: response(session, day, &name).await?,
                }))
            }
            StoredState::Unknown => Some(Present::Unknown {
                fingerprint: row.fingerprint,
                credential: row.credential,
            }),
        })
    }
}

/// The column `token`.
pub(super) fn token(row: &PgRow) -> Result<Token, Failure> {
    Ok(Token::from_bytes(row.try_get::<Uuid, _>("token")?.0))
}

/// The column `day`.
pub(super) fn day(row: &PgRow) -> Result<Option<Day>, Failure> {
    let day: Option<i32> = row.try_get("day")?;
    Ok(day.map(Day))
}

/// The column `epoch`.
pub(super) fn epoch(row: &PgRow) -> Result<Epoch, Failure> {
    let number: i32 = row.try_get("epoch")?;
    u32::try_from(number).map(Epoch::new).map_err(incompatible)
}

/// An epoch as SQL keeps it.
pub(super) fn epoch_number(epoch: Epoch) -> Result<i32, Failure> {
    i32::try_from(epoch.get()).map_err(incompatible)
}

/// A column that holds a state.
pub(super) fn state(row: &PgRow, column: &str) -> Result<StoredState, Failure> {
    let code: i16 = row.try_get(column)?;
    StoredState::from_code(code.into()).ok_or_else(|| {
        let said = format!("a record is in state {code}, which this version does not know");
        Failure::other(StoreErrorKind::Incompatible, said)
    })
}

/// A column that holds microseconds since the Unix epoch.
pub(super) fn timestamp(row: &PgRow, column: &str) -> Result<Timestamp, Failure> {
    Ok(Timestamp::from_micros(row.try_get(column)?))
}

/// A column that holds microseconds to come; what is over is zero.
fn remaining(row: &PgRow, column: &str) -> Result<Duration, Failure> {
    let micros: i64 = row.try_get(column)?;
    Ok(Duration::from_micros(u64::try_from(micros).unwrap_or(0)))
}

/// A duration as SQL takes it: microseconds, a hundred years at the most (dates end somewhere).
pub(super) fn micros(duration: Duration) -> i64 {
    const CENTURY: i64 = 100 * 365 * 86_400 * 1_000_000;
    i64::try_from(duration.as_micros()).map_or(CENTURY, |micros| micros.min(CENTURY))
}

/// A column of 32 bytes.
pub(super) fn digest(row: &PgRow, column: &str) -> Result<[u8; 32], Failure> {
    let bytes: &[u8] = row.try_get(column)?;
    bytes.try_into().map_err(incompatible)
}

fn incompatible(error: impl Into<onlyonce::BoxError>) -> Failure {
    Failure::other(StoreErrorKind::Incompatible, error)
}
