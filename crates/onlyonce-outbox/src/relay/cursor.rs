//! Telling the database how far a relay is. Seldom, since each telling is a new version of the row.

use sqlx::Row;

use super::lease::{Identity, Lease, bound};
use super::position::Position;
use crate::connector::Session;
use crate::error::Error;

const MOVE: &str = "with mine as ( \
         select shard from onlyonce_outbox_cursor \
         where sink = $1 and owner = $2 and (shard, epoch) in (select * from unnest($3::int2[], $4::int8[])) \
         order by shard for no key update \
     ) update onlyonce_outbox_cursor c set done = p.done::pg_snapshot, done_floor = p.done_floor, \
         open = p.open::pg_snapshot, open_floor = p.open_floor, last_id = p.last, moved_at = statement_timestamp(), crashes = 0 \
     from unnest($3::int2[], $5::text[], $6::text[], $7::int8[], $8::int8[], $9::int8[]) \
         as p (shard, done, open, last, done_floor, open_floor), mine \
     where c.sink = $1 and c.shard = p.shard and mine.shard = p.shard returning c.shard";

/// Moves cursors; answers the shards whose cursors moved. The others are not ours any more.
pub(super) async fn move_to(
    session: &mut Session,
    me: &Identity,
    moves: &[(Lease, Position)],
) -> Result<Vec<i16>, Error> {
    let leases: Vec<_> = moves.iter().map(|(lease, _)| *lease).collect();
    let each = || moves.iter().map(|(_, position)| position);
    let done: Vec<&str> = each().map(|position| &*position.done.text).collect();
    let open: Vec<Option<&str>> = each()
        .map(|position| position.open.as_ref().map(|open| &*open.text))
        .collect();
    let last: Vec<i64> = each().map(|position| position.last).collect();
    let done_floor: Vec<i64> = each().map(|position| position.done.floor).collect();
    let open_floor = |position: &Position| position.open.as_ref().map_or(0, |open| open.floor);
    let open_floor: Vec<i64> = each().map(open_floor).collect();
    let query = bound(MOVE, me, &leases)
        .bind(done)
        .bind(open)
        .bind(last)
        .bind(done_floor)
        .bind(open_floor);
    let rows = session.fetch(query).await?;
    let shards: Result<_, sqlx::Error> = rows.iter().map(|row| row.try_get(0)).collect();
    Ok(shards?)
}
