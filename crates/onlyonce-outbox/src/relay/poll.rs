//! Reading what is new, page by page.
//!
//! A batch is what one snapshot sees and an earlier one did not. Unlike "above the last number" this misses
//! nothing that commits late; unlike "older than the oldest open transaction" it waits for nobody. What it
//! reads of the index is what is new since the earlier snapshot and what was open then: an old snapshot that
//! somebody else holds adds nothing.
//!
//! The first page of a batch finds what is new by its transaction, and sorts; in the normal case it is the
//! only one. Where it is full, the batch may be large, and the pages after it follow the numbers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use serde_json::{Map, Value};
use sqlx::Row;
use sqlx::postgres::PgRow;

use super::position::Position;
use crate::connector::Session;
use crate::envelope::Envelope;
use crate::error::Error;
use crate::sql;

/// A page ends before this many bytes of payloads, but for one event.
const PAGE_BYTES: i64 = 8 << 20;

/// Snapshots are read from their text once, not for each row.
macro_rules! statement {
    ($page:literal) => {
        concat!(
            "with s as materialized ( \
                 select coalesce($5::text::pg_snapshot, pg_current_snapshot()) as open, $3::text::pg_snapshot as done, \
                     $1::text as sink, $6::int8 as last, \
                     exists (select from onlyonce_outbox_parked where sink = $1 and state < 3) as any_parked \
             ), page as materialized (", $page, "), \
             event as ( \
                 select e.*, count(*) over () as of, \
                     sum(octet_length(e.payload)) over (order by e.id) - octet_length(e.payload) as before \
                 from page join onlyonce_outbox_event e on e.id = page.id and e.created_at = page.created_at \
             ) select s.open::text as open, e.of, e.id, e.shard, e.event_id, e.topic, e.key, e.kind, \
                 e.content_type, e.headers::text as headers, e.payload, \
                 (extract(epoch from e.created_at) * 1000000)::int8 as micros, \
                 s.any_parked and e.key is not null and exists ( \
                     select from onlyonce_outbox_parked p \
                     where p.sink = s.sink and p.topic = e.topic and p.key = e.key and p.state < 3) as parked \
             from s left join event e on e.before < $7::int8 order by e.id"
        )
    };
}

const FIRST: &str = statement!(
    "select id, created_at from ( \
         select id, created_at from onlyonce_outbox_event \
         where xid >= pg_snapshot_xmax((select done from s)) and shard = any($2::int2[]) \
             and pg_visible_in_snapshot(xid, (select open from s)) \
         union all \
         select id, created_at from onlyonce_outbox_event \
         where xid = any(array(select pg_snapshot_xip(done) from s)) and shard = any($2::int2[]) \
             and pg_visible_in_snapshot(xid, (select open from s)) \
     ) as due where id > (select last from s) order by id limit $4"
);

/// The condition on the transactions is written so that no index serves it.
const NEXT: &str = statement!(
    "select id, created_at from onlyonce_outbox_event \
     where id > (select last from s) and shard = any($2::int2[]) \
         and pg_visible_in_snapshot(xid, (select open from s)) \
         and not pg_visible_in_snapshot(xid, (select done from s)) \
     order by id limit $4"
);

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
    /// Whether there may be more.
    pub(super) full: bool,
}

/// Reads a page of the shards that are all at `position`. `open` is the snapshot to read up to, where that
/// is not the present.
pub(super) async fn page(
    session: &mut Session,
    sink: &str,
    shards: &[i16],
    position: &Position,
    open: Option<&Arc<str>>,
    limit: u32,
) -> Result<Page, Error> {
    let in_the_middle = position.open.is_some() && position.last > 0;
    let statement = if in_the_middle { NEXT } else { FIRST };
    let open = position.open.as_ref().or(open);
    let query = sqlx::query(statement)
        .bind(sink)
        .bind(shards)
        .bind(&*position.done)
        .bind(i64::from(limit))
        .bind(open.map(|open| &**open))
        .bind(position.last)
        .bind(PAGE_BYTES);
    let rows = session.fetch(query).await?;
    let Some(first) = rows.first() else {
        return Err(Error::Schema("a poll answered nothing at all".into()));
    };
    let open: Arc<str> = first.try_get::<&str, _>("open")?.into();
    let found: Option<i64> = first.try_get("of")?;
    let Some(found) = found else {
        return Ok(Page {
            events: Vec::new(),
            after: Position::after(open),
            full: false,
        });
    };
    let events: Result<Vec<_>, sqlx::Error> = rows.iter().map(read).collect();
    let events = events?;
    let full = found >= i64::from(limit) || usize::try_from(found) != Ok(events.len());
    let last = events.last().map_or(0, |event| event.envelope.sequence);
    let after = if full {
        position.within(open, last)
    } else {
        Position::after(open)
    };
    Ok(Page {
        events,
        after,
        full,
    })
}

const PRESENT: &str = "select pg_current_snapshot()::text, \
     (select count(*) from pg_snapshot_xip(pg_current_snapshot()))";

/// The present, for shards that are read by several statements and shall end at the same place; and how many
/// transactions are open.
pub(super) async fn present(session: &mut Session) -> Result<(Arc<str>, usize), Error> {
    let rows = session.fetch(sqlx::query(PRESENT)).await?;
    let Some(row) = rows.first() else {
        return Err(Error::Schema("the server has no snapshot".into()));
    };
    let open = row.try_get::<&str, _>(0)?.into();
    Ok((
        open,
        usize::try_from(row.try_get::<i64, _>(1)?).unwrap_or_default(),
    ))
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
