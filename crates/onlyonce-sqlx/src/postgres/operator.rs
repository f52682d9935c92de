//! What operators do: list, show, resolve.
//!
//! A list reads the whole table. An index that could spare that would be on a column that changes, and
//! cost every completion its heap-only update; operators ask seldom.

use onlyonce::store::operator::{Detail, Filter, Resolution, Resolved, Summary, refuse};
use onlyonce::store::{Confirmed, Generation, StoreErrorKind};
use onlyonce::{Epoch, RecordId, StoredState, Timestamp};
use sqlx::postgres::PgRow;
use sqlx::{Row, query};

use super::call::Call;
use super::claim::begin_rest;
use super::days;
use super::failure::Failure;
use super::id::Uuid;
use super::row::{
    ResponseName, day, digest, durable, epoch, epoch_number, of_primary, response, state,
    timestamp, token,
};
use super::session::Session;

const ROUNDS: u32 = 8;

/// The columns of a [`Summary`], and what is needed to act on it.
macro_rules! summary {
    ($($rest:literal),+ $(,)?) => {
        concat!(
            "select r.id, r.epoch, r.state as stored, ",
            "case when r.state = 1 and r.lease_until <= statement_timestamp() then 3::smallint ",
            "else r.state end as state, ",
            "(extract(epoch from r.claimed_at) * 1000000)::bigint as claimed_at, ",
            "(extract(epoch from r.lease_until) * 1000000)::bigint as lease_until, ",
            "(extract(epoch from r.settled_at) * 1000000)::bigint as settled_at, ",
            "(extract(epoch from r.expires_at) * 1000000)::bigint as expires_at, ",
            "(extract(epoch from statement_timestamp()) * 1000000)::bigint as now",
            $($rest),+
        )
    };
}

const LIST: &str = summary!(
    " from onlyonce_records r where r.expires_at > statement_timestamp() \
     and ($1::smallint is null or $1 = case \
         when r.state = 1 and r.lease_until <= statement_timestamp() then 3 else r.state end) \
     order by r.claimed_at desc, r.id desc limit $2"
);

const SHOW: &str = summary!(
    ", r.token, to_char(r.settled_at at time zone 'UTC', 'YYYYMMDD')::integer as day \
     from onlyonce_records r where r.id = $1 and r.expires_at > statement_timestamp()"
);

/// A decision, whose first part is called `resolved`. The generation changes where that changed the record, and
/// with it; a row that somebody deleted is made anew.
macro_rules! decided {
    ($resolved:literal) => {
        durable!(
            $resolved,
            ", renewed as ( \
             insert into onlyonce_generation (generation) select $4 from resolved \
             on conflict (single) do update set generation = excluded.generation) \
             select epoch from resolved"
        )
    };
}

/// The state that was read is named as well: an owner may settle without raising the epoch.
const EXECUTED: &str = decided!(
    ", resolved as ( \
     update onlyonce_records \
     set epoch = epoch + 1, state = 2, settled_at = statement_timestamp() from durable \
     where id = $1 and epoch = $2 and state = $3 and expires_at > statement_timestamp() \
     returning token, epoch, settled_at, expires_at), \
     kept as ( \
     insert into onlyonce_responses (day, token, epoch, expires_at, response) \
     select (settled_at at time zone 'UTC')::date, token, epoch, expires_at, $5 from resolved)"
);

/// Its rest has not begun: nobody knows yet when this will show.
const FREED: &str = decided!(
    ", resolved as ( \
     update onlyonce_records \
     set epoch = epoch + 1, state = 0, settled_at = statement_timestamp(), \
         claimable_at = expires_at from durable \
     where id = $1 and epoch = $2 and state = $3 and expires_at > statement_timestamp() \
     returning epoch)"
);

const CONFIRM: &str = "select generation, \
     (extract(epoch from statement_timestamp()) * 1000000)::bigint as now, \
     current_setting('transaction_read_only') = 'on' as read_only from onlyonce_generation";

/// Lists records.
#[derive(Debug)]
pub(super) struct List<'a>(pub(super) &'a Filter);

impl Call for List<'_> {
    type Output = Vec<Summary>;

    async fn run(&self, session: &mut Session<'_>) -> Result<Vec<Summary>, Failure> {
        let statement = query(LIST)
            .bind(self.0.state.map(StoredState::code))
            .bind(i64::from(self.0.limit));
        let rows = session.fetch_patiently(statement).await?;
        rows.iter().map(summary).collect()
    }
}

/// Reads one record with its response.
#[derive(Debug)]
pub(super) struct Show<'a>(pub(super) &'a RecordId);

impl Call for Show<'_> {
    type Output = Option<Detail>;

    async fn run(&self, session: &mut Session<'_>) -> Result<Option<Detail>, Failure> {
        let Some(row) = fetch(session, self.0).await? else {
            return Ok(None);
        };
        let summary = summary(&row)?;
        let response = match summary.state {
            StoredState::Completed => {
                let name = ResponseName {
                    expires_at: summary.expires_at,
                    token: token(&row)?,
                    epoch: summary.epoch,
                };
                response(session, day(&row)?, &name).await?
            }
            StoredState::Free | StoredState::InFlight | StoredState::Unknown => None,
        };
        Ok(Some(Detail { summary, response }))
    }
}

/// Carries out an operator's decision.
#[derive(Debug)]
pub(super) struct Resolve<'a> {
    pub(super) id: &'a RecordId,
    pub(super) resolution: &'a Resolution,
    pub(super) force: bool,
}

impl Call for Resolve<'_> {
    type Output = Resolved;

    const FINDS_ITSELF_DONE: bool = false;

    async fn run(&self, session: &mut Session<'_>) -> Result<Resolved, Failure> {
        for _ in 0..ROUNDS {
            let Some(row) = fetch(session, self.id).await? else {
                return Ok(Resolved::NotFound);
            };
            let (read, now) = (summary(&row)?, timestamp(&row, "now")?);
            if let Some(refused) = refuse(&read, now, self.resolution, self.force) {
                return Ok(Resolved::Refused(refused));
            }
            let stored = state(&row, "stored")?;
            let written = match self.write(session, &read, stored).await {
                Err(failure) if failure.lacks_partition() => {
                    days::prepare(session).await?;
                    self.write(session, &read, stored).await?
                }
                result => result?,
            };
            if let Some(row) = written {
                return Ok(Resolved::Done(epoch(&row)?));
            }
        }
        Err(Failure::contended())
    }
}

/// Begins the rest of a key that was freed, once the decision is known to be committed.
#[derive(Debug)]
pub(super) struct BeginRest<'a> {
    pub(super) id: &'a RecordId,
    /// The decision's.
    pub(super) epoch: Epoch,
}

impl Call for BeginRest<'_> {
    type Output = ();

    async fn run(&self, session: &mut Session<'_>) -> Result<(), Failure> {
        begin_rest(session, self.id, self.epoch).await
    }
}

impl Resolve<'_> {
    async fn write(
        &self,
        session: &mut Session<'_>,
        read: &Summary,
        stored: StoredState,
    ) -> Result<Option<PgRow>, Failure> {
        let generation = Generation::random();
        let statement = |text| {
            Ok::<_, Failure>(
                query(text)
                    .bind(Uuid(*self.id.as_bytes()))
                    .bind(epoch_number(read.epoch)?)
                    .bind(stored.code())
                    .bind(generation.as_bytes().as_slice()),
            )
        };
        let statement = match self.resolution {
            Resolution::Executed(response) => statement(EXECUTED)?.bind(&response[..]),
            Resolution::NotExecuted | Resolution::Forget => statement(FREED)?,
        };
        session.fetch(statement).await
    }
}

/// Reads generation and time.
#[derive(Debug)]
pub(super) struct Confirm;

impl Call for Confirm {
    type Output = Confirmed;

    async fn run(&self, session: &mut Session<'_>) -> Result<Confirmed, Failure> {
        let row = session.fetch(query(CONFIRM)).await?.ok_or_else(|| {
            let said =
                "the table onlyonce_generation has lost its row: any decision makes a new one";
            Failure::other(StoreErrorKind::Incompatible, said)
        })?;
        of_primary(&row)?;
        Ok(Confirmed {
            generation: Generation::from_bytes(digest(&row, "generation")?),
            now: timestamp(&row, "now")?,
        })
    }
}

async fn fetch(session: &mut Session<'_>, id: &RecordId) -> Result<Option<PgRow>, Failure> {
    session.fetch(query(SHOW).bind(Uuid(*id.as_bytes()))).await
}

fn summary(row: &PgRow) -> Result<Summary, Failure> {
    let settled_at: Option<i64> = row.try_get("settled_at")?;
    Ok(Summary {
        id: RecordId::from_bytes(row.try_get::<Uuid, _>("id")?.0),
        state: state(row, "state")?,
        epoch: epoch(row)?,
        claimed_at: timestamp(row, "claimed_at")?,
        lease_until: timestamp(row, "lease_until")?,
        settled_at: settled_at.map(Timestamp::from_micros),
        expires_at: timestamp(row, "expires_at")?,
    })
}
