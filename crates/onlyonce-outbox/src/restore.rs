//! Noticing that the database is not the one whose cursors these are.
//!
//! Cursors and events hold transaction ids, which mean something in one cluster only. After a dump was restored
//! into another, a cursor can say "all up to transaction one million is done" where the server is at one
//! thousand: a relay that believes it delivers nothing for a long time, in silence. So before it works, a
//! relay compares the database's identity with the one that is kept, and looks for cursors that are ahead of
//! the server. Where something differs, it delivers all that is still there once more, and says so.

use sqlx::Row;

use crate::connector::Session;
use crate::error::Error;

const COMPARE: &str = "select s.system_identifier as system, d.oid as database, \
         coalesce(c.system_identifier <> s.system_identifier or c.database <> d.oid, true) as moved, \
         exists (select from onlyonce_outbox_cursor where greatest( \
             pg_snapshot_xmax(done)::text::numeric, coalesce(pg_snapshot_xmax(open)::text::numeric, 0)) \
             > pg_snapshot_xmax(pg_current_snapshot())::text::numeric) as ahead \
     from pg_control_system() s join pg_database d on d.datname = current_database() \
         left join onlyonce_outbox_cluster c on true";

const TURN: &str = "select from onlyonce_outbox_cluster for update";

/// Events with ids from elsewhere become events of this transaction: visible to every later snapshot. Those
/// with ids below are visible already.
const ADOPT: &str = "update onlyonce_outbox_event set xid = pg_current_xact_id() \
     where xid >= pg_snapshot_xmin(pg_current_snapshot())";

const REWIND: &str = "update onlyonce_outbox_cursor set done = '3:3:', done_floor = 0, open = null, last_id = 0, \
     owner = null, lease_until = '-infinity', epoch = epoch + 1, moved_at = statement_timestamp()";

const REMEMBER: &str = "insert into onlyonce_outbox_cluster (system_identifier, database) \
     select system_identifier, (select oid from pg_database where datname = current_database()) \
     from pg_control_system() \
     on conflict (only_row) do update set system_identifier = excluded.system_identifier, \
         database = excluded.database";

/// Whether the database was restored from elsewhere; if so, everything is ready to be delivered again.
pub(crate) async fn resync(session: &mut Session) -> Result<bool, Error> {
    if !differs(session).await? {
        return Ok(false);
    }
    session.begin().await?;
    // Others may be at it.
    session.fetch_patiently(sqlx::query(TURN)).await?;
    // Once more, now that it is our turn.
    let rows = session.fetch_within(sqlx::query(COMPARE)).await?;
    let Some((moved, ahead)) = compared(&rows)? else {
        session.commit().await?;
        return Ok(false);
    };
    if !moved && !ahead {
        session.commit().await?;
        return Ok(false);
    }
    for statement in [ADOPT, REWIND, REMEMBER] {
        session.fetch_patiently(sqlx::query(statement)).await?;
    }
    session.commit().await?;
    tracing::error!(
        moved,
        ahead,
        "the outbox was restored from another cluster or from an older state: all events that are still \
         there are delivered again, to every sink"
    );
    Ok(true)
}

async fn differs(session: &mut Session) -> Result<bool, Error> {
    let rows = session.fetch(sqlx::query(COMPARE)).await?;
    Ok(compared(&rows)?.is_some_and(|(moved, ahead)| moved || ahead))
}

fn compared(rows: &[sqlx::postgres::PgRow]) -> Result<Option<(bool, bool)>, Error> {
    let Some(row) = rows.first() else {
        return Ok(None);
    };
    Ok(Some((row.try_get("moved")?, row.try_get("ahead")?)))
}
