//! Forgetting, in the order that keeps it safe: first the floor rises, below which nothing is applied any
//! more, and then what lies below it is removed.
//!
//! A day's partition is dropped when it is below the floors of all consumers. That needs the whole table for
//! itself for a moment; while it waits for messages that are being applied, others wait behind it, so it waits
//! a tenth of a second at the most and otherwise leaves it to a later sweep.

use sqlx::Row;
use sqlx::postgres::PgConnection;

use crate::error::Error;
use crate::partition::{self, TODAY};
use crate::transaction::{end, run};

const MESSAGES: &str = "onlyonce_inbox_message";
/// How many batches one sweep deletes at the most.
const BATCHES_MAX: u32 = 1_000;

const RAISE_FLOORS: &str = "update onlyonce_inbox_consumer set floor = statement_timestamp() - keep \
     where floor < statement_timestamp() - keep";

/// Of all consumers, retired ones too: 1 000 rows of each at the most.
const FORGET_FOREIGN: &str = "with forgotten as ( \
     delete from onlyonce_inbox_foreign where (consumer, message_id) in ( \
         select old.consumer, old.message_id from onlyonce_inbox_consumer known, lateral ( \
             select consumer, message_id from onlyonce_inbox_foreign \
             where consumer = known.consumer and seen_at < known.floor \
             order by seen_at limit 1000) old) \
     returning 1) select count(*) as forgotten from forgotten";

/// Keys that have been silent since before the floor, and a day more for clocks that differ. What was overtaken
/// by their last message was made before it, and so is below the floor. A key that has a message under way is not
/// silent any more, and is left alone.
const FORGET_KEYS: &str = "with silent as materialized ( \
         select o.consumer, o.key from onlyonce_inbox_consumer known, lateral ( \
             select consumer, key from onlyonce_inbox_order \
             where consumer = known.consumer \
                 and seen_on < ((known.floor - interval '1 day') at time zone 'UTC')::date \
             order by seen_on limit 1000 for update skip locked) o \
     ), forgotten as ( \
         delete from onlyonce_inbox_order o using silent \
         where o.consumer = silent.consumer and o.key = silent.key returning 1 \
     ) select count(*) as forgotten from forgotten";

/// Days that are over, and below every floor.
const PAST: &str = "select quote_ident(nspname) || '.' || quote_ident(relname) as name from ( \
         select n.nspname, c.relname, to_date(right(c.relname, 8), 'YYYYMMDD') + 1 as ended \
         from pg_inherits i join pg_class c on c.oid = i.inhrelid \
         join pg_namespace n on n.oid = c.relnamespace \
         where i.inhparent = 'onlyonce_inbox_message'::regclass) day \
     where ended::timestamp at time zone 'UTC' <= (select min(floor) from onlyonce_inbox_consumer) \
     order by relname";

/// What a sweep removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Swept {
    /// Days of messages whose ids say when they were made.
    pub days: u64,
    /// Days that could have gone, and were in use: a later sweep drops them.
    pub days_in_use: u64,
    /// Messages with ids of other kinds.
    pub messages: u64,
    /// Keys that were silent for longer than the window ([`Message::ordered_by`](super::Message::ordered_by)).
    pub keys: u64,
}

/// Makes the partitions from the beginning of the window to a week ahead, where they are missing.
pub(super) async fn prepare(connection: &mut PgConnection, window_ms: i64) -> Result<(), Error> {
    let first = format!(
        "((statement_timestamp() - {window_ms} * interval '1 millisecond') at time zone 'UTC')::date"
    );
    partition::make(connection, MESSAGES, &first, &format!("{TODAY} + 7")).await
}

/// Makes the partition of the day of this moment, in milliseconds since 1970, unless it is over a week ahead.
pub(super) async fn prepare_day(connection: &mut PgConnection, made_ms: i64) -> Result<(), Error> {
    let day = format!("date '1970-01-01' + {}", made_ms / 86_400_000);
    let last = format!("least({day}, {TODAY} + 7)");
    partition::make(connection, MESSAGES, &day, &last).await
}

pub(super) async fn sweep(connection: &mut PgConnection) -> Result<Swept, Error> {
    run(connection, RAISE_FLOORS).await?;
    let mut swept = Swept::default();
    for day in run(connection, PAST).await? {
        let dropped = drop_day(connection, day.try_get("name")?).await?;
        swept.days += u64::from(dropped);
        swept.days_in_use += u64::from(!dropped);
    }
    swept.messages = forget(connection, FORGET_FOREIGN).await?;
    swept.keys = forget(connection, FORGET_KEYS).await?;
    Ok(swept)
}

/// Batch by batch; answers how many rows went.
async fn forget(connection: &mut PgConnection, batch: &str) -> Result<u64, Error> {
    let mut all = 0;
    for _ in 0..BATCHES_MAX {
        let rows = run(connection, batch).await?;
        let forgotten: i64 = rows.first().map_or(Ok(0), |row| row.try_get("forgotten"))?;
        if forgotten == 0 {
            break;
        }
        all += forgotten.unsigned_abs();
    }
    Ok(all)
}

/// Whether it was dropped; not where somebody uses it.
async fn drop_day(connection: &mut PgConnection, name: &str) -> Result<bool, Error> {
    let statements = format!(
        "begin isolation level read committed; set local lock_timeout = '100ms'; drop table if exists {name}"
    );
    let dropped = run(connection, &statements).await.map(drop);
    match end(connection, dropped).await {
        Err(error) if error.sqlstate().as_deref() == Some("55P03") => Ok(false),
        result => result.map(|()| true),
    }
}
