//! Deleting what is past its retention, a bounded batch at a time.
//!
//! One statement finds and deletes, and asks for the expiry again when it has the row: locking the rows
//! first and deleting them later would let a claim find a row that nobody can read any more (P1c). One
//! process sweeps at a time; the others find nothing to do.

use sqlx::{Row, query};

use super::call::Call;
use super::failure::Failure;
use super::session::Session;

/// The number is arbitrary, and ours; the lock lasts until the statement's transaction ends.
const SWEEP: &str = "with turn as materialized ( \
     select pg_try_advisory_xact_lock(6032170923155741027) as mine), \
     swept as ( \
     delete from onlyonce_records where id = any(array( \
         select id from onlyonce_records \
         where expires_at <= statement_timestamp() and (select mine from turn) \
         order by expires_at limit $1)) \
     and expires_at <= statement_timestamp() returning 1), \
     noted as ( \
     delete from onlyonce_unknown where (id, epoch) in ( \
         select id, epoch from onlyonce_unknown \
         where expires_at <= statement_timestamp() and (select mine from turn) \
         order by expires_at limit $1)) \
     select count(*) as swept from swept";

/// Deletes at most so many expired records.
#[derive(Debug)]
pub(super) struct SweepRecords(pub(super) u32);

impl Call for SweepRecords {
    type Output = u64;

    async fn run(&self, session: &mut Session<'_>) -> Result<u64, Failure> {
        let row = session.fetch(query(SWEEP).bind(i64::from(self.0))).await?;
        let swept: i64 = row.map_or(Ok(0), |row| row.try_get("swept"))?;
        Ok(u64::try_from(swept).unwrap_or(0))
    }
}
