//! What the writing thread can be asked for. Each runs inside the transaction of its batch.

use onlyonce::store::decision::{ClaimDecision, SettleDecision, decide_claim, decide_settle};
use onlyonce::store::operator::{FREED_REST, Resolution, Resolved, refuse};
use onlyonce::store::{Claim, Claimed, Settled, Settlement};
use onlyonce::{Epoch, RecordId, StoredState, Timestamp};
use rusqlite::Connection;

use super::fault::Fault;
use super::row::{self, Record};

/// The transaction of a batch, as a request sees it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Batch<'a> {
    pub(super) connection: &'a Connection,
    /// One moment for all of the batch, read after the file was locked.
    pub(super) now: Timestamp,
    pub(super) bytes_max: Option<u64>,
}

/// One request. It is answered once the transaction of its batch is committed.
pub(super) trait Write: Send + 'static {
    /// What is answered.
    type Answer: Send + 'static;

    /// Whether it is left out where its caller is gone before it ran.
    const ONLY_WHILE_AWAITED: bool = false;

    /// Reads, decides and writes. After an error nothing of it remains.
    fn run(&self, batch: Batch<'_>) -> Result<Self::Answer, Fault>;

    /// The bytes that it adds to the log, roughly.
    fn bytes(&self) -> usize {
        0
    }
}

impl Batch<'_> {
    /// Room is checked for new records only: a settlement that was promised must find room.
    fn expect_room(self) -> Result<(), Fault> {
        let Some(bytes_max) = self.bytes_max else {
            return Ok(());
        };
        let number = |pragma: &str| -> Result<u64, Fault> {
            let mut statement = self.connection.prepare_cached(pragma)?;
            let number: i64 = statement.query_row([], |row| row.get(0))?;
            Ok(u64::try_from(number).unwrap_or(0))
        };
        let pages = number("pragma page_count")?.saturating_sub(number("pragma freelist_count")?);
        let bytes = pages.saturating_mul(number("pragma page_size")?);
        if bytes < bytes_max {
            Ok(())
        } else {
            Err(Fault::Full { bytes_max })
        }
    }
}

/// What a claim comes to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Claiming {
    Told(Claimed),
    /// The record is free, and its rest has not begun. Not to be begun by the claim: the decision may stand in the
    /// same transaction, and that is not committed yet.
    RestNotBegun(Epoch),
}

impl Write for Claim {
    type Answer = Claiming;

    // Nobody would settle it. One that ran already is found again by its token.
    const ONLY_WHILE_AWAITED: bool = true;

    fn run(&self, batch: Batch<'_>) -> Result<Claiming, Fault> {
        let Batch {
            connection, now, ..
        } = batch;
        let acquired = |epoch| Claiming::Told(Claimed::Acquired(epoch));
        // Nearly every id is new, so none is looked for first. Where there is no room it is.
        let room = batch.expect_room();
        if room.is_ok() && row::insert(connection, self, Epoch::FIRST, now)? {
            return Ok(acquired(Epoch::FIRST));
        }
        let Some(record) = Record::load(connection, &self.id)? else {
            room?;
            return Err(Fault::Unreadable("no trace of a record that is there"));
        };
        match decide_claim(&record.seen_at(now), self) {
            ClaimDecision::Own(epoch) => Ok(acquired(epoch)),
            ClaimDecision::TakeOver { .. } => {
                row::take_over(connection, &record, self, now).map(acquired)
            }
            ClaimDecision::BeginRest { read } => Ok(Claiming::RestNotBegun(read)),
            ClaimDecision::InFlight | ClaimDecision::Completed | ClaimDecision::Unknown => record
                .present(now, || row::response(connection, record.number))?
                .map(|present| Claiming::Told(Claimed::Present(present)))
                .ok_or(Fault::Unreadable("a record that is both free and taken")),
        }
    }
}

/// The owner's word on how its claim ended.
#[derive(Debug)]
pub(super) struct Settle {
    pub(super) claim: Claim,
    pub(super) epoch: Epoch,
    pub(super) settlement: Settlement,
}

impl Write for Settle {
    type Answer = Settled;

    fn run(&self, batch: Batch<'_>) -> Result<Settled, Fault> {
        let Batch {
            connection, now, ..
        } = batch;
        let Self {
            claim,
            epoch,
            settlement,
        } = self;
        let found = Record::load(connection, &claim.id)?;
        let seen = found.as_ref().map(|record| record.seen_at(now));
        let decision = decide_settle(seen.as_ref(), claim.token, *epoch, settlement);
        let record = match (decision, found) {
            (SettleDecision::AlreadyDone, _) => return Ok(Settled::Done),
            (SettleDecision::Apply, Some(record)) => record,
            (SettleDecision::Insert, None) => {
                row::insert(connection, claim, *epoch, now)?;
                Record::load(connection, &claim.id)?
                    .ok_or(Fault::Unreadable("no trace of a record just written"))?
            }
            (SettleDecision::Stale | SettleDecision::Apply | SettleDecision::Insert, _) => {
                return Ok(Settled::Stale);
            }
        };
        let (state, response) = match settlement {
            Settlement::Completed(response) => (StoredState::Completed, Some(response)),
            Settlement::Unknown => (StoredState::Unknown, None),
            Settlement::Released => (StoredState::Free, None),
        };
        row::end(connection, &record, *epoch, state, response, now)?;
        Ok(Settled::Done)
    }

    fn bytes(&self) -> usize {
        match &self.settlement {
            Settlement::Completed(response) => response.len(),
            Settlement::Unknown | Settlement::Released => 0,
        }
    }
}

/// An operator's decision.
#[derive(Debug)]
pub(super) struct Resolve {
    pub(super) id: RecordId,
    pub(super) resolution: Resolution,
    pub(super) force: bool,
}

impl Write for Resolve {
    type Answer = Resolved;

    fn run(&self, batch: Batch<'_>) -> Result<Resolved, Fault> {
        let Batch {
            connection, now, ..
        } = batch;
        let record = Record::load(connection, &self.id)?;
        let Some(record) = record.filter(|record| !record.seen_at(now).expired) else {
            return Ok(Resolved::NotFound);
        };
        let refused = refuse(&record.summary(now), now, &self.resolution, self.force);
        if let Some(refused) = refused {
            return Ok(Resolved::Refused(refused));
        }
        let (state, response) = match &self.resolution {
            Resolution::Executed(response) => (StoredState::Completed, Some(response)),
            Resolution::NotExecuted | Resolution::Forget => (StoredState::Free, None),
        };
        let epoch = record.epoch.next();
        row::end(connection, &record, epoch, state, response, now)?;
        row::rest(connection, &self.id, epoch)?;
        row::renew_generation(connection)?;
        Ok(Resolved::Done(epoch))
    }

    fn bytes(&self) -> usize {
        match &self.resolution {
            Resolution::Executed(response) => response.len(),
            Resolution::NotExecuted | Resolution::Forget => 0,
        }
    }
}

/// Begins the rest of a key that was freed, once the decision is known to be committed.
#[derive(Debug)]
pub(super) struct BeginRest {
    pub(super) id: RecordId,
    /// The decision's.
    pub(super) epoch: Epoch,
}

impl Write for BeginRest {
    type Answer = ();

    fn run(&self, batch: Batch<'_>) -> Result<(), Fault> {
        let until = batch.now.plus(FREED_REST);
        row::begin_rest(batch.connection, &self.id, self.epoch, until)
    }
}

/// Deletes the records that expired first; their responses go by a trigger.
#[derive(Debug)]
pub(super) struct SweepExpired {
    pub(super) limit: u32,
}

impl Write for SweepExpired {
    type Answer = u64;

    fn run(&self, batch: Batch<'_>) -> Result<u64, Fault> {
        let mut statement = batch.connection.prepare_cached(
            "delete from record where number in \
             (select number from record where expires_at <= ?1 order by expires_at limit ?2)",
        )?;
        let swept = statement.execute((batch.now.as_micros(), self.limit))?;
        Ok(u64::try_from(swept).unwrap_or(u64::MAX))
    }
}
