//! Events that could not be delivered, and those that wait behind them, in a table of their own: the cursor
//! moves on, and other keys with it.
//!
//! States: 0 to be tried again, 1 behind the first of its key, 2 dead and its key waits, 3 dead and passed
//! over. The first event of a key is in state 0 or 2, and those after it in state 1. Whoever changes that, relay
//! or operator, locks the shard's cursor first and then looks: so nobody waits behind what has just left.

use std::collections::HashSet;
use std::time::Duration;

use sqlx::Row;
use sqlx::postgres::PgRow;

use super::lanes::Item;
use super::lease::{Identity, Lease, bound, millis};
use super::options::OnDead;
use super::poll::{PAGE_BYTES, envelope};
use crate::connector::Session;
use crate::envelope::Envelope;
use crate::error::Error;
use crate::sql;

/// A failed try.
#[derive(Debug)]
pub(super) struct Failure {
    /// Will never be taken.
    pub(super) dead: bool,
    /// Not to be tried again before that.
    pub(super) wait: Duration,
    pub(super) error: String,
}

/// What became of events, to be written in one transaction.
#[derive(Debug, Default)]
pub(super) struct Outcomes {
    /// New events that failed.
    pub(super) failed: Vec<(Item, Failure)>,
    /// New events whose key is parked.
    pub(super) behind: Vec<Item>,
    /// Parked events that were delivered.
    pub(super) delivered: Vec<Item>,
    /// Parked events that failed again.
    pub(super) failed_again: Vec<(Item, Failure)>,
    /// The numbers of parked events that were claimed to follow one that has failed, and were not sent.
    pub(super) unsent: Vec<i64>,
}

impl Outcomes {
    pub(super) fn is_empty(&self) -> bool {
        self.failed.is_empty()
            && self.behind.is_empty()
            && self.delivered.is_empty()
            && self.failed_again.is_empty()
            && self.unsent.is_empty()
    }
}

/// What was written.
#[derive(Debug, Default)]
pub(super) struct Written {
    /// The numbers of events for which there is no room behind their key's first.
    pub(super) no_room: HashSet<i64>,
    /// How many events became dead letters.
    pub(super) dead: usize,
}

/// How dead letters and long queues are dealt with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    pub(super) on_dead: OnDead,
    pub(super) max_age: Duration,
    pub(super) waiting_max: u32,
}

const LOCK: &str = "select shard from onlyonce_outbox_cursor \
     where sink = $1 and owner = $2 and (shard, epoch) in (select * from unnest($3::int2[], $4::int8[])) \
     order by shard for no key update";

/// Columns 2 to 10 of an event.
macro_rules! insert {
    ($columns:literal, $values:literal, $more:literal, $rest:literal) => {
        concat!(
            "insert into onlyonce_outbox_parked (sink, id, shard, event_id, topic, key, kind, content_type, \
                 headers, payload, created_at", $columns, ") \
             select $1, e.id, e.shard, e.event_id, e.topic, e.key, e.kind, e.content_type, e.headers::jsonb, \
                 e.payload, timestamptz 'epoch' + e.micros * interval '1 microsecond'", $values,
            " from unnest($2::int8[], $3::int2[], $4::uuid[], $5::text[], $6::text[], $7::text[], $8::text[], \
                 $9::text[], $10::bytea[], $11::int8[]", $more, ") \
             as e (id, shard, event_id, topic, key, kind, content_type, headers, payload, micros", $rest
        )
    };
}

const PARK: &str = insert!(
    ", state, attempts, next_at, first_failed_at, last_error",
    ", case when not e.dead then 0 when e.key is null then 3 else $15 end, 1, \
     statement_timestamp() + e.wait * interval '1 millisecond', statement_timestamp(), e.error",
    ", $12::bool[], $13::float8[], $14::text[]",
    ", dead, wait, error) on conflict (sink, id) do nothing"
);

/// Where the first of its key has left meanwhile, the first of these is due now.
const WAIT: &str = insert!(
    ", state",
    ", case when e.key is null then 0 when row_number() over (partition by e.topic, e.key order by e.id) > 1 or exists ( \
         select from onlyonce_outbox_parked p \
         where p.sink = $1 and p.topic = e.topic and p.key = e.key and p.state < 3) then 1 else 0 end",
    "",
    ") on conflict (sink, id) do nothing"
);

/// Of these keys, those that have no room for more.
const CROWDED: &str = "select k.topic, k.key from unnest($2::text[], $3::text[]) as k (topic, key) \
     where (select count(*) from (select from onlyonce_outbox_parked p \
         where p.sink = $1 and p.topic = k.topic and p.key = k.key and p.state < 3 limit $4) as waiting) >= $4";

const DELIVERED: &str =
    "delete from onlyonce_outbox_parked where sink = $1 and id = any($2::int8[])";

const FAILED_AGAIN: &str = "update onlyonce_outbox_parked p set \
         state = case when not f.dead and coalesce(p.first_failed_at, statement_timestamp()) + $6 * interval '1 millisecond' > statement_timestamp() \
                 then 0 when p.key is null then 3 else $7 end, \
         next_at = statement_timestamp() + f.wait * interval '1 millisecond', last_error = f.error, \
         first_failed_at = coalesce(p.first_failed_at, statement_timestamp()) \
     from unnest($2::int8[], $3::bool[], $4::float8[], $5::text[]) as f (id, dead, wait, error) \
     where p.sink = $1 and p.id = f.id and p.state = 0 returning p.state";

/// Their tries were counted when they were claimed.
const UNSENT: &str = "update onlyonce_outbox_parked set attempts = greatest(attempts - 1, 0) \
     where sink = $1 and id = any($2::int8[]) and state < 2";

/// The first of each of these keys, where it waits, is due.
pub(crate) const PROMOTE: &str = "with first as materialized ( \
         select q.id from (select distinct k.topic, k.key from unnest($2::text[], $3::text[]) as k (topic, key)) as k \
         cross join lateral (select id from onlyonce_outbox_parked p \
             where p.sink = $1 and p.topic = k.topic and p.key = k.key and p.state < 3 order by p.id limit 1) as q \
     ) update onlyonce_outbox_parked p set state = 0, next_at = statement_timestamp() \
     from first where p.sink = $1 and p.id = first.id and p.state = 1";

/// Writes what became of events, all or nothing. `None` where a shard is not ours any more: then nothing was
/// written.
pub(super) async fn write(
    session: &mut Session,
    me: &Identity,
    leases: &[Lease],
    outcomes: &Outcomes,
    rules: Rules,
) -> Result<Option<Written>, Error> {
    session.begin().await?;
    let held = session.fetch_within(bound(LOCK, me, leases)).await?;
    if held.len() != leases.len() {
        session.commit().await?;
        return Ok(None);
    }
    let mut written = Written::default();
    let dead_state: i16 = match rules.on_dead {
        OnDead::Block => 2,
        OnDead::Skip => 3,
    };
    park(session, me, &outcomes.failed, dead_state).await?;
    written.dead += outcomes
        .failed
        .iter()
        .filter(|(_, failure)| failure.dead)
        .count();
    delivered(session, me, &outcomes.delivered).await?;
    // What failed now may have become the first of its key by what was delivered just before it.
    promote(session, me, outcomes.delivered.iter()).await?;
    written.dead += failed_again(session, me, &outcomes.failed_again, dead_state, rules).await?;
    unsent(session, me, &outcomes.unsent).await?;
    written.no_room = wait(session, me, &outcomes.behind, rules.waiting_max).await?;
    let again = outcomes.failed_again.iter().map(|(item, _)| item);
    promote(session, me, again).await?;
    session.commit().await?;
    Ok(Some(written))
}

async fn park(
    session: &mut Session,
    me: &Identity,
    failed: &[(Item, Failure)],
    dead_state: i16,
) -> Result<(), Error> {
    if failed.is_empty() {
        return Ok(());
    }
    let events: Vec<_> = failed.iter().map(|(item, _)| &item.envelope).collect();
    let each = || failed.iter().map(|(_, failure)| failure);
    let query = columns(PARK, me, &events)?
        .bind(each().map(|failure| failure.dead).collect::<Vec<_>>())
        .bind(
            each()
                .map(|failure| millis(failure.wait))
                .collect::<Vec<_>>(),
        )
        .bind(
            each()
                .map(|failure| failure.error.as_str())
                .collect::<Vec<_>>(),
        )
        .bind(dead_state);
    session.fetch_within(query).await.map(drop)
}

/// Parks events behind the first of their key; answers those for which there is no room.
async fn wait(
    session: &mut Session,
    me: &Identity,
    behind: &[Item],
    waiting_max: u32,
) -> Result<HashSet<i64>, Error> {
    if behind.is_empty() {
        return Ok(HashSet::new());
    }
    let (topics, keys) = keys(behind.iter());
    let query = sqlx::query(CROWDED)
        .bind(&me.sink)
        .bind(topics)
        .bind(keys)
        .bind(i64::from(waiting_max));
    let rows = session.fetch_within(query).await?;
    let crowded: Result<HashSet<(String, String)>, sqlx::Error> = rows
        .iter()
        .map(|row| Ok((row.try_get(0)?, row.try_get(1)?)))
        .collect();
    let crowded = crowded?;
    let is_crowded = |envelope: &&Envelope| {
        let key = envelope.key.clone().unwrap_or_default();
        crowded.contains(&(envelope.topic.clone(), key))
    };
    let events = behind.iter().map(|item| &item.envelope);
    let (no_room, room): (Vec<_>, Vec<_>) = events.partition(is_crowded);
    if !room.is_empty() {
        session.fetch_within(columns(WAIT, me, &room)?).await?;
    }
    Ok(no_room
        .into_iter()
        .map(|envelope| envelope.sequence)
        .collect())
}

async fn delivered(session: &mut Session, me: &Identity, delivered: &[Item]) -> Result<(), Error> {
    if delivered.is_empty() {
        return Ok(());
    }
    let ids: Vec<i64> = delivered
        .iter()
        .map(|item| item.envelope.sequence)
        .collect();
    let query = sqlx::query(DELIVERED).bind(&me.sink).bind(ids);
    session.fetch_within(query).await.map(drop)
}

async fn failed_again(
    session: &mut Session,
    me: &Identity,
    failed: &[(Item, Failure)],
    dead_state: i16,
    rules: Rules,
) -> Result<usize, Error> {
    if failed.is_empty() {
        return Ok(0);
    }
    let each = || failed.iter().map(|(_, failure)| failure);
    let query = sqlx::query(FAILED_AGAIN)
        .bind(&me.sink)
        .bind(
            failed
                .iter()
                .map(|(item, _)| item.envelope.sequence)
                .collect::<Vec<_>>(),
        )
        .bind(each().map(|failure| failure.dead).collect::<Vec<_>>())
        .bind(
            each()
                .map(|failure| millis(failure.wait))
                .collect::<Vec<_>>(),
        )
        .bind(
            each()
                .map(|failure| failure.error.as_str())
                .collect::<Vec<_>>(),
        )
        .bind(millis(rules.max_age))
        .bind(dead_state);
    let rows = session.fetch_within(query).await?;
    let dead = rows
        .iter()
        .filter(|row| row.try_get(0).unwrap_or(0_i16) > 0);
    Ok(dead.count())
}

async fn unsent(session: &mut Session, me: &Identity, ids: &[i64]) -> Result<(), Error> {
    if ids.is_empty() {
        return Ok(());
    }
    let query = sqlx::query(UNSENT).bind(&me.sink).bind(ids);
    session.fetch_within(query).await.map(drop)
}

async fn promote<'e>(
    session: &mut Session,
    me: &Identity,
    events: impl Iterator<Item = &'e Item>,
) -> Result<(), Error> {
    let (topics, keys) = keys(events);
    if topics.is_empty() {
        return Ok(());
    }
    let query = sqlx::query(PROMOTE).bind(&me.sink).bind(topics).bind(keys);
    session.fetch_within(query).await.map(drop)
}

/// The topics and keys of events, each once; not of those without.
fn keys<'e>(items: impl Iterator<Item = &'e Item>) -> (Vec<&'e str>, Vec<&'e str>) {
    let events = items.map(|item| &item.envelope);
    let keys =
        events.filter_map(|envelope| Some((envelope.topic.as_str(), envelope.key.as_deref()?)));
    let once: HashSet<(&str, &str)> = keys.collect();
    once.into_iter().unzip()
}

/// The attempt is counted before it is made, and the next one set to when this one is surely over.
const CLAIM: &str = "with mine as ( \
         select shard from onlyonce_outbox_cursor \
         where sink = $1 and owner = $2 and (shard, epoch) in (select * from unnest($3::int2[], $4::int8[])) \
     ), due as materialized ( \
         select p.id from onlyonce_outbox_parked p \
         where p.sink = $1 and p.state = 0 and p.next_at <= statement_timestamp() \
             and p.shard in (select shard from mine) and p.id <> all($7::int8[]) \
         order by p.next_at, p.id limit $5 \
     ) update onlyonce_outbox_parked p set attempts = p.attempts + 1, \
         next_at = statement_timestamp() + $6 * interval '1 millisecond' \
     from due where p.sink = $1 and p.id = due.id and p.state = 0 \
     returning p.id, p.shard, p.event_id, p.topic, p.key, p.kind, p.content_type, p.headers::text as headers, \
         p.payload, (extract(epoch from p.created_at) * 1000000)::int8 as micros, p.attempts";

/// Parked events whose next try is due, each with the number of that try; not those `under_way`. Their next one
/// is put off for `busy`.
pub(super) async fn claim(
    session: &mut Session,
    me: &Identity,
    leases: &[Lease],
    under_way: Vec<i64>,
    limit: usize,
    busy: Duration,
) -> Result<Vec<Envelope>, Error> {
    let query = bound(CLAIM, me, leases)
        .bind(i64::try_from(limit).unwrap_or(i64::MAX))
        .bind(millis(busy))
        .bind(under_way);
    claimed(&session.fetch(query).await?)
}

/// What waits behind a first one, as far as it goes: all of it in the order of the numbers, so that each key gets
/// the beginning of its queue. It stays in state 1, and so is nobody else's.
const FOLLOW: &str = "with mine as ( \
         select shard from onlyonce_outbox_cursor \
         where sink = $1 and owner = $2 and (shard, epoch) in (select * from unnest($3::int2[], $4::int8[])) \
     ), waiting as materialized ( \
         select q.id, q.length from unnest($5::text[], $6::text[], $7::int8[]) as k (topic, key, head) \
         cross join lateral (select p.id, octet_length(p.payload) as length from onlyonce_outbox_parked p \
             where p.sink = $1 and p.topic = k.topic and p.key = k.key and p.id > k.head and p.state = 1 \
                 and p.shard in (select shard from mine) order by p.id limit $8) as q \
     ), next as materialized ( \
         select id, sum(length) over (order by id) as bytes from waiting order by id limit $9 \
     ) update onlyonce_outbox_parked p set attempts = p.attempts + 1 \
     from next where p.sink = $1 and p.id = next.id and next.bytes <= $10 and p.state = 1 \
     returning p.id, p.shard, p.event_id, p.topic, p.key, p.kind, p.content_type, p.headers::text as headers, \
         p.payload, (extract(epoch from p.created_at) * 1000000)::int8 as micros, p.attempts";

/// So many events of a key follow its first one at the most.
const FOLLOWERS: i64 = 100;

/// Claims what waits behind these first events of their keys, up to so many events. Each try is counted now;
/// [`Outcomes::unsent`] takes that back.
pub(super) async fn follow(
    session: &mut Session,
    me: &Identity,
    leases: &[Lease],
    first: &[&Envelope],
    limit: usize,
) -> Result<Vec<Envelope>, Error> {
    let query = bound(FOLLOW, me, leases)
        .bind(each(first, |envelope| envelope.topic.as_str()))
        .bind(each(first, |envelope| envelope.key.as_deref()))
        .bind(each(first, |envelope| envelope.sequence))
        .bind(FOLLOWERS)
        .bind(i64::try_from(limit).unwrap_or(i64::MAX))
        .bind(PAGE_BYTES);
    claimed(&session.fetch(query).await?)
}

/// In the order of the numbers, each with the number of its try.
fn claimed(rows: &[PgRow]) -> Result<Vec<Envelope>, Error> {
    let claimed = |row: &PgRow| {
        let attempts: i32 = row.try_get("attempts")?;
        envelope(row, attempts.unsigned_abs())
    };
    let claimed: Result<Vec<_>, sqlx::Error> = rows.iter().map(claimed).collect();
    let mut claimed = claimed?;
    claimed.sort_by_key(|envelope| envelope.sequence);
    Ok(claimed)
}

fn columns<'e>(
    statement: &'static str,
    me: &'e Identity,
    events: &[&'e Envelope],
) -> Result<sqlx::query::Query<'e, sqlx::Postgres, sqlx::postgres::PgArguments>, Error> {
    let headers: Result<Vec<_>, _> = events
        .iter()
        .map(|envelope| serde_json::to_string(&envelope.headers))
        .collect();
    let shards = events
        .iter()
        .map(|envelope| i16::try_from(envelope.shard).unwrap_or_default());
    Ok(sqlx::query(statement)
        .bind(&me.sink)
        .bind(each(events, |envelope| envelope.sequence))
        .bind(shards.collect::<Vec<_>>())
        .bind(each(events, |envelope| sql::Uuid(envelope.event_id)))
        .bind(each(events, |envelope| envelope.topic.as_str()))
        .bind(each(events, |envelope| envelope.key.as_deref()))
        .bind(each(events, |envelope| envelope.kind.as_str()))
        .bind(each(events, |envelope| envelope.content_type.as_str()))
        .bind(headers.map_err(Error::Json)?)
        .bind(each(events, |envelope| &*envelope.payload))
        .bind(each(events, micros)))
}

fn each<'e, T>(events: &[&'e Envelope], value: impl Fn(&'e Envelope) -> T) -> Vec<T> {
    events.iter().map(|envelope| value(envelope)).collect()
}

fn micros(envelope: &Envelope) -> i64 {
    let since = envelope
        .created_at
        .duration_since(std::time::SystemTime::UNIX_EPOCH);
    i64::try_from(since.unwrap_or_default().as_micros()).unwrap_or(i64::MAX)
}
