//! Reading what is new, page by page.
//!
//! A batch is what one snapshot sees and an earlier one did not. Unlike "above the last number" this misses
//! nothing that commits late; unlike "older than the oldest open transaction" it waits for nobody.
//!
//! All that is above a number, the earlier snapshot's [floor](Snapshot), is read in the order of the numbers,
//! however large the batch is. What is new below can only be of the few transactions that the snapshot says
//! were open, and is found by their ids. Where nothing is new, that is one probe for each partition and each
//! open transaction; an old snapshot that somebody else holds adds nothing.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use serde_json::{Map, Value};
use sqlx::Row;
use sqlx::postgres::PgRow;

use super::position::{Position, Snapshot};
use crate::connector::Session;
use crate::envelope::Envelope;
use crate::error::Error;
use crate::sql;

/// A page ends before this many bytes of payloads, but for one event.
pub(super) const PAGE_BYTES: i64 = 8 << 20;

/// Where the sequence is. Not a matter of snapshots.
pub(crate) const SEQUENCE: &str = "select case when is_called then last_value else last_value - 1 end from onlyonce_outbox_sequence";

/// Snapshots are read from their text once, not for each row. Conditions that no index shall serve are written
/// so that none can: the first part follows the primary key, the second the index of transactions.
const PAGE: &str = "with s as materialized ( \
         select coalesce($5::text::pg_snapshot, pg_current_snapshot()) as open, $3::text::pg_snapshot as done, \
             $1::text as sink, $6::int8 as last, greatest($6::int8, $8::int8) as floor, \
             exists (select from onlyonce_outbox_parked where sink = $1 and state < 3) as any_parked, \
             coalesce((select sum(hashtext(relay::text)) from onlyonce_outbox_relay where sink = $1), 0) as relays \
     ), page as materialized ( \
         select id, created_at from ( \
             (select id, created_at from onlyonce_outbox_event \
             where id > (select floor from s) and shard = any($2::int2[]) \
                 and pg_visible_in_snapshot(xid, (select open from s)) \
                 and not pg_visible_in_snapshot(xid, (select done from s)) \
             order by id limit $4) \
             union all \
             (select id, created_at from onlyonce_outbox_event \
             where xid = any(array(select pg_snapshot_xip(done) from s)) and shard = any($2::int2[]) \
                 and pg_visible_in_snapshot(xid, (select open from s)) \
                 and id + 0 > (select last from s) and id + 0 <= (select floor from s)) \
         ) as due order by id limit $4 \
     ), event as ( \
         select e.*, count(*) over () as of, \
             sum(octet_length(e.payload)) over (order by e.id) - octet_length(e.payload) as before \
         from page join onlyonce_outbox_event e on e.id = page.id and e.created_at = page.created_at \
     ) select s.open::text as open, s.relays, q.last_value as sequence, e.of, e.id, e.shard, e.event_id, e.topic, e.key, \
         e.kind, e.content_type, e.headers::text as headers, e.payload, \
         (extract(epoch from e.created_at) * 1000000)::int8 as micros, \
         s.any_parked and e.key is not null and exists ( \
             select from onlyonce_outbox_parked p \
             where p.sink = s.sink and p.topic = e.topic and p.key = e.key and p.state < 3) as parked \
     from s cross join ( \
             select case when is_called then last_value else last_value - 1 end as last_value \
             from onlyonce_outbox_sequence) as q \
         left join event e on e.before < $7::int8 order by e.id";

/// An event that was read.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) envelope: Envelope,
    /// Whether an event of its key is parked, so that it has to wait behind.
    pub(super) parked: bool,
}

/// A page, in the order of the events' numbers.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) events: Vec<Read>,
    /// Where the shards that were read are after it.
    pub(super) after: Position,
    /// How many transactions were open in the snapshot up to which was read.
    pub(super) transactions: usize,
    /// Whether there may be more.
    pub(super) full: bool,
    /// Where the sequence is by now.
    pub(super) sequence: i64,
    /// Which relays there are: another number when one has come or gone.
    pub(super) relays: i64,
}

/// Up to where a batch that begins is to be read.
#[derive(Debug)]
pub(super) enum Until {
    /// The present, which is looked up with the page, and has this floor.
    Present(i64),
    /// That snapshot.
    Snapshot(Snapshot),
}

/// Reads a page of the shards that are all at `position`.
pub(super) async fn page(
    session: &mut Session,
    sink: &str,
    shards: &[i16],
    position: &Position,
    until: &Until,
    limit: u32,
) -> Result<Page, Error> {
    let (open, floor) = match (&position.open, until) {
        (Some(open), _) | (None, Until::Snapshot(open)) => (Some(&*open.text), open.floor),
        (None, Until::Present(floor)) => (None, *floor),
    };
    let query = sqlx::query(PAGE)
        .bind(sink)
        .bind(shards)
        .bind(&*position.done.text)
        .bind(i64::from(limit))
        .bind(open)
        .bind(position.last)
        .bind(PAGE_BYTES)
        .bind(position.done.floor);
    let rows = session.fetch(query).await?;
    let Some(first) = rows.first() else {
        return Err(Error::Schema("the outbox's sequence is missing".into()));
    };
    let open = Snapshot {
        text: first.try_get::<&str, _>("open")?.into(),
        floor,
    };
    let transactions = open.transactions();
    let sequence = first.try_get("sequence")?;
    let relays = first.try_get("relays")?;
    let found: Option<i64> = first.try_get("of")?;
    let events = match found {
        None => Vec::new(),
        Some(_) => rows.iter().map(read).collect::<Result<_, sqlx::Error>>()?,
    };
    let found = found.unwrap_or_default();
    let full = found >= i64::from(limit) || usize::try_from(found) != Ok(events.len());
    let last = events
        .last()
        .map_or(0, |event: &Read| event.envelope.sequence);
    let after = if full {
        position.within(open, last)
    } else {
        Position::after(open)
    };
    Ok(Page {
        events,
        after,
        transactions,
        full,
        sequence,
        relays,
    })
}

/// Where the sequence is.
pub(super) async fn sequence(session: &mut Session) -> Result<i64, Error> {
    let rows = session.fetch(sqlx::query(SEQUENCE)).await?;
    let Some(row) = rows.first() else {
        return Err(Error::Schema("the outbox's sequence is missing".into()));
    };
    Ok(row.try_get(0)?)
}

const PRESENT: &str = "select pg_current_snapshot()::text";

/// The present, for shards that are read by several statements and shall end at the same place.
pub(super) async fn present(session: &mut Session, floor: i64) -> Result<Snapshot, Error> {
    let rows = session.fetch(sqlx::query(PRESENT)).await?;
    let Some(row) = rows.first() else {
        return Err(Error::Schema("the server has no snapshot".into()));
    };
    Ok(Snapshot {
        text: row.try_get::<&str, _>(0)?.into(),
        floor,
    })
}

fn read(row: &PgRow) -> Result<Read, sqlx::Error> {
    Ok(Read {
        envelope: envelope(row, 1)?,
        parked: row.try_get("parked")?,
    })
}

/// The columns of an event or a parked event.
pub(crate) fn envelope(row: &PgRow, attempt: u32) -> Result<Envelope, sqlx::Error> {
    let micros: i64 = row.try_get("micros")?;
    let since = Duration::from_micros(u64::try_from(micros).unwrap_or_default());
    Ok(Envelope {
        sequence: row.try_get("id")?,
        shard: row.try_get::<i16, _>("shard")?.unsigned_abs(),
        event_id: row.try_get::<sql::Uuid, _>("event_id")?.0,
        topic: row.try_get("topic")?,
        key: row.try_get("key")?,
        kind: row.try_get("kind")?,
        content_type: row.try_get("content_type")?,
        headers: headers(row.try_get("headers")?),
        payload: Bytes::from(row.try_get::<Vec<u8>, _>("payload")?),
        created_at: SystemTime::UNIX_EPOCH + since,
        attempt,
    })
}

/// Whoever inserts by SQL may write other values than text.
fn headers(json: &str) -> BTreeMap<String, String> {
    let headers: Map<String, Value> = serde_json::from_str(json).unwrap_or_default();
    let text = |value| match value {
        Value::String(text) => text,
        other => other.to_string(),
    };
    headers
        .into_iter()
        .map(|(name, value)| (name, text(value)))
        .collect()
}
