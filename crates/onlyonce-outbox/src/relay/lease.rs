//! Who works on which shard: leases by the database's clock, with an epoch that each new owner raises.
//!
//! Every write names owner and epoch; where a write of ours changes nothing, the shard is another's. A lease
//! is kept by renewing it. Beside the database's time each has a deadline by this process's monotonic clock,
//! counted from before the renewal was sent: nothing is published that would not be over by then.

use std::time::Duration;

use sqlx::Row;
use sqlx::postgres::PgRow;
use tokio::time::Instant;
use uuid::Uuid;

use super::options::{RelayOptions, Start};
use super::poll;
use super::position::{Position, Snapshot};
use crate::connector::Session;
use crate::error::Error;
use crate::shard::SHARDS;
use crate::sql;

/// Longer than anybody remembers, and short enough for the database's calendar.
pub(super) const CENTURY: Duration = Duration::from_secs(100 * 365 * 24 * 3_600);

/// A sink, and the relay that works for it.
#[derive(Debug, Clone)]
pub(super) struct Identity {
    pub(super) sink: String,
    pub(super) relay: Uuid,
}

/// A shard and the epoch of our lease on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Lease {
    pub(super) shard: i16,
    pub(super) epoch: i64,
}

/// A shard that was taken over, and how far it is.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) lease: Lease,
    pub(super) position: Position,
    /// How many owners in a row have vanished without moving it.
    pub(super) crashes: i16,
}

const REGISTER: &str = "insert into onlyonce_outbox_cursor (sink, shard, done, done_floor) \
     select $1, shard, case when $2 then pg_current_snapshot() else '3:3:'::pg_snapshot end, \
         case when $2 then $4::int8 else 0 end \
     from generate_series(0, $3 - 1) as shard on conflict do nothing";

/// For whoever looks while no relay runs.
const REMEMBER: &str = "insert into onlyonce_outbox_sink as known (sink, dedupe_window) \
     values ($1, $2::float8 * interval '1 millisecond') on conflict (sink) do update \
     set dedupe_window = excluded.dedupe_window where known.dedupe_window is distinct from excluded.dedupe_window";

/// Sees to it that the sink has cursors. A sink that is new starts where `start` says; the present has a floor,
/// with a write of ours before it.
pub(super) async fn register(
    session: &mut Session,
    me: &Identity,
    options: &RelayOptions,
) -> Result<(), Error> {
    let floor = poll::sequence(session).await?;
    fair_share(session, me, options.lease).await?;
    let query = sqlx::query(REGISTER)
        .bind(&me.sink)
        .bind(options.start == Start::Latest)
        .bind(i32::from(SHARDS))
        .bind(floor);
    session.fetch(query).await?;
    let window = options
        .dedupe_window
        .map(|window| millis(window.min(CENTURY)));
    let query = sqlx::query(REMEMBER).bind(&me.sink).bind(window);
    session.fetch(query).await.map(drop)
}

/// Says that we live, forgets who does not, and counts who does.
const ALIVE: &str = "with gone as ( \
         delete from onlyonce_outbox_relay where sink = $1 and alive_until < statement_timestamp() - interval '1 hour' \
     ), me as ( \
         insert into onlyonce_outbox_relay (sink, relay, alive_until) \
         values ($1, $2, statement_timestamp() + $3 * interval '1 millisecond') \
         on conflict (sink, relay) do update set alive_until = excluded.alive_until \
     ) select count(*) filter (where alive_until >= statement_timestamp()), \
         coalesce(sum(hashtext(relay::text)), 0) + hashtext($2::uuid::text) \
     from onlyonce_outbox_relay where sink = $1 and relay <> $2";

const RENEW: &str = "with mine as ( \
         select shard from onlyonce_outbox_cursor \
         where sink = $1 and owner = $2 and (shard, epoch) in (select * from unnest($3::int2[], $4::int8[])) \
         order by shard for no key update \
     ) update onlyonce_outbox_cursor c set lease_until = statement_timestamp() + $5 * interval '1 millisecond' \
     from mine where c.sink = $1 and c.shard = mine.shard returning c.shard";

/// A shard that another is changing is left for the next time.
const TAKE: &str = "with free as ( \
         select shard from onlyonce_outbox_cursor \
         where sink = $1 and (owner is null or owner = $2 or lease_until < statement_timestamp()) \
         and shard <> all($5::int2[]) \
         order by shard limit $3 for no key update skip locked \
     ) update onlyonce_outbox_cursor c set epoch = c.epoch + 1, owner = $2, \
         lease_until = statement_timestamp() + $4 * interval '1 millisecond', \
         crashes = case when c.owner is null or c.owner = $2 then c.crashes \
                        else least(c.crashes + 1, 1000)::smallint end \
     from free where c.sink = $1 and c.shard = free.shard \
     returning c.shard, c.epoch, c.done::text, c.done_floor, c.open::text, c.open_floor, c.last_id, c.crashes";

const RELEASE: &str = "with mine as ( \
         select shard from onlyonce_outbox_cursor \
         where sink = $1 and owner = $2 and (shard, epoch) in (select * from unnest($3::int2[], $4::int8[])) \
         order by shard for no key update \
     ) update onlyonce_outbox_cursor c set owner = null, lease_until = '-infinity' \
     from mine where c.sink = $1 and c.shard = mine.shard";

const LEAVE: &str = "delete from onlyonce_outbox_relay where sink = $1 and relay = $2";

/// How many shards each relay should have, and among which relays.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Share {
    pub(super) shards: usize,
    /// Another number when one has come or gone, as [`Page`](super::poll::Page) has it.
    pub(super) relays: i64,
}

/// The share of each relay, this one included.
pub(super) async fn fair_share(
    session: &mut Session,
    me: &Identity,
    lease: Duration,
) -> Result<Share, Error> {
    let query = sqlx::query(ALIVE)
        .bind(&me.sink)
        .bind(sql::Uuid(me.relay))
        .bind(millis(lease));
    let rows = session.fetch(query).await?;
    let Some(row) = rows.first() else {
        return Err(Error::Schema("the relays cannot be counted".into()));
    };
    let others = usize::try_from(row.try_get::<i64, _>(0)?).unwrap_or_default();
    Ok(Share {
        shards: usize::from(SHARDS).div_ceil(others + 1),
        relays: row.try_get(1)?,
    })
}

/// Renews leases; answers the shards whose leases still are ours, and until when by this process's clock.
pub(super) async fn renew(
    session: &mut Session,
    me: &Identity,
    leases: &[Lease],
    lease: Duration,
) -> Result<(Vec<i16>, Instant), Error> {
    let until = Instant::now() + lease;
    let query = bound(RENEW, me, leases).bind(millis(lease));
    let rows = session.fetch(query).await?;
    let shards: Result<Vec<i16>, _> = rows.iter().map(|row| row.try_get(0)).collect();
    Ok((shards?, until))
}

/// Takes up to `count` shards that are nobody's, or whose owner has been silent for too long. Not those that
/// are `held` already.
pub(super) async fn take(
    session: &mut Session,
    me: &Identity,
    count: usize,
    held: &[i16],
    lease: Duration,
) -> Result<(Vec<Taken>, Instant), Error> {
    let until = Instant::now() + lease;
    let query = sqlx::query(TAKE)
        .bind(&me.sink)
        .bind(sql::Uuid(me.relay))
        .bind(i64::try_from(count).unwrap_or(i64::MAX))
        .bind(millis(lease))
        .bind(held);
    let rows = session.fetch(query).await?;
    let taken: Result<Vec<_>, sqlx::Error> = rows.iter().map(taken).collect();
    Ok((taken?, until))
}

/// Gives shards to whoever wants them.
pub(super) async fn release(
    session: &mut Session,
    me: &Identity,
    leases: &[Lease],
) -> Result<(), Error> {
    session.fetch(bound(RELEASE, me, leases)).await.map(drop)
}

/// This relay counts no more.
pub(super) async fn leave(session: &mut Session, me: &Identity) -> Result<(), Error> {
    let query = sqlx::query(LEAVE).bind(&me.sink).bind(sql::Uuid(me.relay));
    session.fetch(query).await.map(drop)
}

/// The parameters that every write begins with.
pub(super) fn bound<'q>(
    statement: &'static str,
    me: &'q Identity,
    leases: &[Lease],
) -> sqlx::query::Query<'q, sqlx::Postgres, sqlx::postgres::PgArguments> {
    let shards: Vec<i16> = leases.iter().map(|lease| lease.shard).collect();
    let epochs: Vec<i64> = leases.iter().map(|lease| lease.epoch).collect();
    sqlx::query(statement)
        .bind(&me.sink)
        .bind(sql::Uuid(me.relay))
        .bind(shards)
        .bind(epochs)
}

pub(super) fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1_000.0
}

fn taken(row: &PgRow) -> Result<Taken, sqlx::Error> {
    let (done, open): (&str, Option<&str>) = (row.try_get("done")?, row.try_get("open")?);
    let open_floor: i64 = row.try_get("open_floor")?;
    Ok(Taken {
        lease: Lease {
            shard: row.try_get("shard")?,
            epoch: row.try_get("epoch")?,
        },
        position: Position {
            done: Snapshot {
                text: done.into(),
                floor: row.try_get("done_floor")?,
            },
            open: open.map(|text| Snapshot {
                text: text.into(),
                floor: open_floor,
            }),
            last: row.try_get("last_id")?,
        },
        crashes: row.try_get("crashes")?,
    })
}
