//! Dead letters, and whatever else is parked: to look at, to try again, to throw away.
//!
//! Each operation is one transaction, and locks the sink's cursors before it looks, as relays do: an event that
//! comes in the same moment does not wait behind one that has just left.
//!
//! ```no_run
//! use onlyonce_outbox::dead::{self, Filter};
//!
//! # async fn operator(connection: &mut sqlx::PgConnection) -> Result<(), onlyonce_outbox::Error> {
//! for letter in dead::list(connection, &Filter::sink("webhook")).await? {
//!     println!("{} {}: {:?}", letter.event_id, letter.topic, letter.last_error);
//! }
//! let redriven = dead::redrive(connection, &Filter::sink("webhook").topic("payments")).await?;
//! # Ok(()) }
//! ```

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use sqlx::Row;
use sqlx::postgres::{PgArguments, PgConnection, PgRow, Postgres};
use sqlx::query::Query;
use uuid::Uuid;

use crate::envelope::Envelope;
use crate::error::Error;
use crate::relay;
use crate::sql;
use crate::transaction::{BEGIN, end, fetch, run};

/// Which parked events of a sink. Without more, all dead ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    sink: String,
    topic: Option<String>,
    key: Option<String>,
    event_id: Option<Uuid>,
    alive_too: bool,
    limit: u32,
}

impl Filter {
    /// All dead letters of a sink, the oldest 1 000.
    pub fn sink(sink: impl Into<String>) -> Self {
        Self {
            sink: sink.into(),
            topic: None,
            key: None,
            event_id: None,
            alive_too: false,
            limit: 1_000,
        }
    }

    /// Only of this topic.
    #[must_use]
    pub fn topic(mut self, topic: impl Into<String>) -> Self {
        self.topic = Some(topic.into());
        self
    }

    /// Only with this key.
    #[must_use]
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// Only this event.
    #[must_use]
    pub fn event(mut self, event_id: Uuid) -> Self {
        self.event_id = Some(event_id);
        self
    }

    /// Events too that are tried again, or wait behind one that is. For [`list`]; nothing else touches them.
    #[must_use]
    pub fn alive_too(mut self) -> Self {
        self.alive_too = true;
        self
    }

    /// At most so many, the oldest first.
    #[must_use]
    pub fn limit(mut self, events: u32) -> Self {
        self.limit = events;
        self
    }

    fn bind<'q>(&'q self, statement: &'static str) -> Query<'q, Postgres, PgArguments> {
        sqlx::query(statement)
            .bind(&self.sink)
            .bind(self.topic.as_deref())
            .bind(self.key.as_deref())
            .bind(self.event_id.map(sql::Uuid))
            .bind(i64::from(self.limit))
    }
}

/// What a parked event waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Parked {
    /// The time of its next try.
    Retry,
    /// The first of its key.
    Behind,
    /// An operator; and so do the later events of its key.
    Dead,
    /// An operator; the later events of its key have gone on.
    PassedOver,
}

/// A parked event.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Letter {
    /// The event's number; within a key in order.
    pub sequence: i64,
    /// The event's id.
    pub event_id: Uuid,
    /// Its topic.
    pub topic: String,
    /// Its key.
    pub key: Option<String>,
    /// Its kind.
    pub kind: String,
    /// What it waits for.
    pub parked: Parked,
    /// How often it was tried.
    pub attempts: u32,
    /// When it first failed; `None` for one that waits behind another.
    pub first_failed_at: Option<SystemTime>,
    /// What the sink said last.
    pub last_error: Option<String>,
    /// How many bytes its payload has.
    pub payload_len: u64,
}

macro_rules! letters {
    ($states:literal) => {
        concat!(
            "select id, event_id, topic, key, kind, state, attempts, last_error, \
                 (extract(epoch from first_failed_at) * 1000000)::int8 as failed, \
                 octet_length(payload)::int8 as length \
             from onlyonce_outbox_parked where sink = $1 and ($2::text is null or topic = $2) \
                 and ($3::text is null or key = $3) and ($4::uuid is null or event_id = $4) and state ",
            $states, " order by id limit $5"
        )
    };
}

/// Which dead ones, oldest first.
const CHOSEN: &str = "select id from onlyonce_outbox_parked where sink = $1 \
     and ($2::text is null or topic = $2) and ($3::text is null or key = $3) \
     and ($4::uuid is null or event_id = $4) and state >= 2 order by id limit $5";

const LOCK: &str =
    "select from onlyonce_outbox_cursor where sink = $1 order by shard for no key update";

/// The first of its key is promoted afterwards, and its budget starts anew.
const REDRIVE: &str = "update onlyonce_outbox_parked set state = case when key is null then 0 else 1 end, \
         attempts = 0, first_failed_at = null, next_at = statement_timestamp() \
     where sink = $1 and id = any($2::int8[]) returning topic, key";

const DISCARD: &str = "delete from onlyonce_outbox_parked where sink = $1 and id = any($2::int8[]) \
     returning topic, key";

const SHOW: &str = "select id, shard, event_id, topic, key, kind, content_type, headers::text as headers, \
         payload, attempts, (extract(epoch from created_at) * 1000000)::int8 as micros \
     from onlyonce_outbox_parked where sink = $1 and event_id = $2 order by id limit 1";

/// The events that match, the oldest first, without their payloads.
///
/// # Errors
/// [`Error::Database`].
pub async fn list(connection: &mut PgConnection, filter: &Filter) -> Result<Vec<Letter>, Error> {
    let statement = match filter.alive_too {
        true => letters!(">= 0"),
        false => letters!(">= 2"),
    };
    run(connection, BEGIN).await?;
    let rows = fetch(connection, filter.bind(statement)).await;
    let rows = end(connection, rows).await?;
    let letters: Result<Vec<_>, sqlx::Error> = rows.iter().map(letter).collect();
    Ok(letters?)
}

/// One parked event with all that the sink would get, whatever it waits for.
///
/// # Errors
/// [`Error::Database`].
pub async fn show(
    connection: &mut PgConnection,
    sink: &str,
    event_id: Uuid,
) -> Result<Option<Envelope>, Error> {
    run(connection, BEGIN).await?;
    let query = sqlx::query(SHOW).bind(sink).bind(sql::Uuid(event_id));
    let rows = fetch(connection, query).await;
    let rows = end(connection, rows).await?;
    let shown = |row: &PgRow| {
        let attempts: i32 = row.try_get("attempts")?;
        relay::envelope(row, attempts.unsigned_abs())
    };
    Ok(rows.first().map(shown).transpose()?)
}

/// Has the dead letters that match tried again, with a new budget; answers how many. Those of a key are tried in
/// their order, before what waits behind them.
///
/// # Errors
/// [`Error::Database`], with nothing changed.
pub async fn redrive(connection: &mut PgConnection, filter: &Filter) -> Result<u64, Error> {
    change(connection, filter, REDRIVE).await
}

/// Throws away the dead letters that match; answers how many. What waits behind them goes on.
///
/// # Errors
/// [`Error::Database`], with nothing changed.
pub async fn discard(connection: &mut PgConnection, filter: &Filter) -> Result<u64, Error> {
    change(connection, filter, DISCARD).await
}

async fn change(
    connection: &mut PgConnection,
    filter: &Filter,
    statement: &'static str,
) -> Result<u64, Error> {
    run(connection, BEGIN).await?;
    let changed = changed(connection, filter, statement).await;
    end(connection, changed).await
}

async fn changed(
    connection: &mut PgConnection,
    filter: &Filter,
    statement: &'static str,
) -> Result<u64, Error> {
    fetch(connection, sqlx::query(LOCK).bind(&filter.sink)).await?;
    let rows = fetch(connection, filter.bind(CHOSEN)).await?;
    let ids: Result<Vec<i64>, sqlx::Error> = rows.iter().map(|row| row.try_get(0)).collect();
    let query = sqlx::query(statement).bind(&filter.sink).bind(ids?);
    let rows = fetch(connection, query).await?;
    let mut keys: BTreeSet<(String, String)> = BTreeSet::new();
    for row in &rows {
        if let Some(key) = row.try_get(1)? {
            keys.insert((row.try_get(0)?, key));
        }
    }
    let (topics, keys): (Vec<_>, Vec<_>) = keys.into_iter().unzip();
    let query = sqlx::query(relay::PROMOTE)
        .bind(&filter.sink)
        .bind(topics)
        .bind(keys);
    fetch(connection, query).await?;
    Ok(u64::try_from(rows.len()).unwrap_or(u64::MAX))
}

fn letter(row: &PgRow) -> Result<Letter, sqlx::Error> {
    let state: i16 = row.try_get("state")?;
    let attempts: i32 = row.try_get("attempts")?;
    let length: i64 = row.try_get("length")?;
    let failed: Option<i64> = row.try_get("failed")?;
    let time = |micros: i64| {
        SystemTime::UNIX_EPOCH + Duration::from_micros(u64::try_from(micros).unwrap_or_default())
    };
    Ok(Letter {
        sequence: row.try_get("id")?,
        event_id: row.try_get::<sql::Uuid, _>("event_id")?.0,
        topic: row.try_get("topic")?,
        key: row.try_get("key")?,
        kind: row.try_get("kind")?,
        parked: match state {
            0 => Parked::Retry,
            1 => Parked::Behind,
            2 => Parked::Dead,
            _ => Parked::PassedOver,
        },
        attempts: attempts.unsigned_abs(),
        first_failed_at: failed.map(time),
        last_error: row.try_get("last_error")?,
        payload_len: length.unsigned_abs(),
    })
}
