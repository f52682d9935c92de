//! Noticing that events wait for so long that receivers may have forgotten what they had.
//!
//! An event's tries end with its budget, which begins with its first failure. Its first delivery can be later than
//! that by any time: after a long stop, while the sink is down, behind another of its key. Receivers know
//! repetitions for a window, mostly counted from the making of an event, and refuse what is older. So a relay looks
//! how old the oldest event is that waits, and says so while half of the window is left to do something about it.

use std::time::Duration;

use sqlx::Row;
use tokio::time::Instant;

use super::lease::Identity;
use super::options::RelayOptions;
use super::stats::Counters;
use crate::connector::Session;
use crate::error::Error;

/// While it lasts, it is said so often.
const SAY_EVERY: Duration = Duration::from_secs(3_600);

/// The oldest by number of what is before each cursor; of transactions that were open then, any; and what is
/// parked, but for the dead.
const OLDEST: &str = "with place as materialized ( \
         select done::text as done, open::text as open, last_id, done_floor, array_agg(shard) as shards \
         from onlyonce_outbox_cursor where sink = $1 group by 1, 2, 3, 4 \
     ), waiting as ( \
         select (select e.created_at from onlyonce_outbox_event e \
             where e.id > greatest(p.done_floor, p.last_id) and e.shard = any(p.shards) \
                 and not pg_visible_in_snapshot(e.xid, p.done::pg_snapshot) order by e.id limit 1) as since \
         from place p \
         union all \
         select (select min(e.created_at) from onlyonce_outbox_event e \
             where e.xid = any(array(select pg_snapshot_xip(p.done::pg_snapshot))) and e.shard = any(p.shards) \
                 and (p.open is null or e.id > p.last_id \
                     or not pg_visible_in_snapshot(e.xid, p.open::pg_snapshot))) \
         from place p \
         union all \
         select min(created_at) from onlyonce_outbox_parked where sink = $1 and state < 2 \
     ) select (extract(epoch from statement_timestamp() - min(since)))::float8 from waiting";

/// When to look, and what was said. Outlives a shift.
#[derive(Debug)]
pub(super) struct Age {
    look_at: Instant,
    said_at: Option<Instant>,
}

impl Age {
    /// Looks at once: after a long stop events are oldest at the start.
    pub(super) fn new() -> Self {
        Self {
            look_at: Instant::now(),
            said_at: None,
        }
    }

    /// When to look next; never where receivers know repetitions for ever.
    pub(super) fn look_at(&self, options: &RelayOptions) -> Option<Instant> {
        options.dedupe_window.map(|_| self.look_at)
    }

    /// Looks, counts, and says it where it is worth that.
    pub(super) async fn look(
        &mut self,
        session: &mut Session,
        me: &Identity,
        options: &RelayOptions,
        counters: &Counters,
    ) -> Result<(), Error> {
        let Some(window) = options.dedupe_window else {
            return Ok(());
        };
        let rows = session.fetch(sqlx::query(OLDEST).bind(&me.sink)).await?;
        let seconds: Option<f64> = rows.first().map_or(Ok(None), |row| row.try_get(0))?;
        let oldest = Duration::try_from_secs_f64(seconds.unwrap_or_default()).unwrap_or_default();
        let now = Instant::now();
        self.look_at = now + (window / 100).clamp(Duration::from_secs(1), Duration::from_secs(60));
        let late = oldest > window / 2;
        counters.late.set(usize::from(late));
        if !late {
            if self.said_at.take().is_some() {
                tracing::info!(
                    sink = me.sink,
                    "no event waits for longer than half of the receivers' dedupe window any more"
                );
            }
            return Ok(());
        }
        if self.said_at.is_none_or(|at| now - at >= SAY_EVERY) {
            self.said_at = Some(now);
            say(me, oldest, window);
        }
        Ok(())
    }
}

fn say(me: &Identity, oldest: Duration, window: Duration) {
    let (oldest, window) = (oldest.as_secs(), window.as_secs());
    if oldest < window {
        tracing::warn!(
            sink = me.sink,
            oldest,
            window,
            "the oldest event that waits is older than half of the receivers' dedupe window (seconds): past it, \
             they refuse it for ever; give them a larger one before"
        );
    } else {
        tracing::error!(
            sink = me.sink,
            oldest,
            window,
            "the oldest event that waits is older than the receivers' dedupe window (seconds): they may refuse it \
             for ever, or take a repetition for new"
        );
    }
}
