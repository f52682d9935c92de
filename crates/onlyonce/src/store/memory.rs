//! Records in this process's memory: for tests and for a single process that may forget.
//!
//! It keeps the whole contract of [`Store`] except durability: a restart forgets every key. It is
//! bounded in records and in bytes of responses; when it is full it refuses new claims and deletes only
//! what has expired.
//!
//! ```
//! use onlyonce::store::MemoryStore;
//! use onlyonce::{IdempotencyLayer, clock::SystemClock};
//!
//! let store = MemoryStore::new(10_000, 64 << 20, SystemClock);
//! let layer = IdempotencyLayer::new(store);
//! ```

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use foldhash::fast::RandomState;

use super::decision::{ClaimDecision, Rest, Row, SettleDecision, decide_claim, decide_settle};
use super::operator::{
    Detail, FREED_REST, Filter, Operator, Resolution, Resolved, Summary, Sweep, refuse,
};
use super::{Cacheable, Confirmed, Generation};
use super::{Claim, Claimed, Completed, Present, Settled, Settlement, Store};
use super::{StoreError, StoreErrorKind};
use crate::clock::{Clock, SystemClock};
use crate::record::{CredentialHash, Epoch, Fingerprint, RecordId, StoredState, Timestamp, Token};

/// Records in memory. Clones share them.
#[derive(Clone)]
pub struct MemoryStore {
    table: Arc<Mutex<Table>>,
    clock: Arc<dyn Clock>,
}

struct Table {
    /// By ids, which are hashes already: a seed of our own is all that they need.
    /// Boxed, for a table that grows moves what is in it, while nobody gets to it.
    rows: HashMap<RecordId, Box<Entry>, RandomState>,
    generation: Generation,
    bytes: usize,
    records_max: usize,
    bytes_max: usize,
}

#[derive(Clone)]
struct Entry {
    token: Token,
    epoch: Epoch,
    state: StoredState,
    fingerprint: Fingerprint,
    credential: CredentialHash,
    claimed_at: Timestamp,
    lease_until: Timestamp,
    settled_at: Option<Timestamp>,
    expires_at: Timestamp,
    claimable_at: Option<Timestamp>,
    response: Option<Bytes>,
}

impl Default for MemoryStore {
    /// A hundred thousand records and 256 MiB of responses, by the system's clock.
    fn default() -> Self {
        Self::new(100_000, 256 << 20, SystemClock)
    }
}

impl MemoryStore {
    /// A store of at most `records_max` records and `bytes_max` bytes of encoded responses.
    pub fn new(records_max: usize, bytes_max: usize, clock: impl Clock) -> Self {
        let table = Table {
            rows: HashMap::default(),
            generation: Generation::random(),
            bytes: 0,
            records_max,
            bytes_max,
        };
        Self {
            table: Arc::new(Mutex::new(table)),
            clock: Arc::new(clock),
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // Every change below is complete when it is made: a panic elsewhere leaves the table whole.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore")
            .field("records", &self.table().rows.len())
            .finish()
    }
}

impl Entry {
    fn new(claim: &Claim, epoch: Epoch, now: Timestamp) -> Self {
        Self {
            token: claim.token,
            epoch,
            state: StoredState::InFlight,
            fingerprint: claim.fingerprint,
            credential: claim.credential,
            claimed_at: now,
            lease_until: now.plus(claim.lease),
            settled_at: None,
            expires_at: now.plus(claim.retention),
            claimable_at: None,
            response: None,
        }
    }

    fn settle(&mut self, settlement: &Settlement, now: Timestamp) {
        self.settled_at = Some(now);
        (self.state, self.response) = match settlement {
            Settlement::Completed(response) => (StoredState::Completed, Some(response.clone())),
            Settlement::Unknown => (StoredState::Unknown, None),
            Settlement::Released => (StoredState::Free, None),
        };
    }

    fn response_len(&self) -> usize {
        self.response.as_ref().map_or(0, Bytes::len)
    }

    fn row(&self, now: Timestamp) -> Row {
        Row {
            token: self.token,
            epoch: self.epoch,
            state: self.state,
            fingerprint: self.fingerprint,
            credential: self.credential,
            lease_remaining: self.lease_until.since(now),
            rest: Rest::of(self.claimable_at, self.expires_at, now),
            expired: self.expires_at <= now,
        }
    }

    fn present(&self, now: Timestamp) -> Option<Present> {
        let row = self.row(now);
        if row.expired {
            return None;
        }
        match row.state_now() {
            StoredState::Free => row
                .rest
                .left()
                .map(|lease_remaining| Present::InFlight { lease_remaining }),
            StoredState::InFlight => Some(Present::InFlight {
                lease_remaining: row.lease_remaining,
            }),
            StoredState::Completed => Some(Present::Completed(Completed {
                fingerprint: self.fingerprint,
                credential: self.credential,
                expires_at: self.expires_at,
                response: self.response.clone(),
            })),
            StoredState::Unknown => Some(Present::Unknown {
                fingerprint: self.fingerprint,
                credential: self.credential,
            }),
        }
    }

    fn summary(&self, id: RecordId, now: Timestamp) -> Summary {
        Summary {
            id,
            state: self.row(now).state_now(),
            epoch: self.epoch,
            claimed_at: self.claimed_at,
            lease_until: self.lease_until,
            settled_at: self.settled_at,
            expires_at: self.expires_at,
        }
    }
}

impl Table {
    fn put(&mut self, id: RecordId, entry: Entry) {
        self.bytes += entry.response_len();
        if let Some(old) = self.rows.insert(id, Box::new(entry)) {
            self.bytes -= old.response_len();
        }
    }

    fn sweep(&mut self, now: Timestamp, limit: usize) -> usize {
        let expired = |entry: &Entry| entry.expires_at <= now;
        let ids: Vec<_> = self
            .rows
            .iter()
            .filter(|(_, e)| expired(e))
            .map(|(id, _)| *id)
            .take(limit)
            .collect();
        for id in &ids {
            if let Some(old) = self.rows.remove(id) {
                self.bytes -= old.response_len();
            }
        }
        ids.len()
    }

    /// Room is checked at the claim: a settlement that was promised must always find room.
    fn make_room(&mut self, now: Timestamp) -> Result<(), StoreError> {
        let full =
            |table: &Self| table.rows.len() >= table.records_max || table.bytes >= table.bytes_max;
        if full(self) {
            self.sweep(now, usize::MAX);
        }
        if full(self) {
            return Err(StoreError::not_applied(
                StoreErrorKind::Full,
                "the memory store is at its limit of records or bytes",
            ));
        }
        Ok(())
    }
}

impl Store for MemoryStore {
    fn recall(&self, id: &RecordId) -> Option<Completed> {
        let table = self.table();
        match table.rows.get(id)?.present(self.clock.now())? {
            Present::Completed(completed) => Some(completed),
            Present::InFlight { .. } | Present::Unknown { .. } => None,
        }
    }

    async fn claim(&self, claim: &Claim) -> Result<Claimed, StoreError> {
        let mut table = self.table();
        let now = self.clock.now();
        let Some(entry) = table.rows.get(&claim.id) else {
            table.make_room(now)?;
            table.put(claim.id, Entry::new(claim, Epoch::FIRST, now));
            return Ok(Claimed::Acquired(Epoch::FIRST));
        };
        let epoch = match decide_claim(&entry.row(now), claim) {
            ClaimDecision::Own(epoch) => return Ok(Claimed::Acquired(epoch)),
            ClaimDecision::TakeOver { read } => read.next(),
            // A decision shows at once here, so every rest has begun with it.
            ClaimDecision::BeginRest { .. }
            | ClaimDecision::InFlight
            | ClaimDecision::Completed
            | ClaimDecision::Unknown => {
                return Ok(entry.present(now).map_or(
                    Claimed::Present(Present::InFlight {
                        lease_remaining: Duration::ZERO,
                    }),
                    Claimed::Present,
                ));
            }
        };
        table.put(claim.id, Entry::new(claim, epoch, now));
        Ok(Claimed::Acquired(epoch))
    }

    async fn settle(
        &self,
        claim: &Claim,
        epoch: Epoch,
        settlement: &Settlement,
    ) -> Result<Settled, StoreError> {
        let mut table = self.table();
        let now = self.clock.now();
        let Table { rows, bytes, .. } = &mut *table;
        let mut there = rows.get_mut(&claim.id);
        let row = there.as_ref().map(|entry| entry.row(now));
        match decide_settle(row.as_ref(), claim.token, epoch, settlement) {
            SettleDecision::AlreadyDone => return Ok(Settled::Done),
            SettleDecision::Stale => return Ok(Settled::Stale),
            SettleDecision::Apply => {}
            SettleDecision::Insert => there = None,
        }
        let Some(entry) = there else {
            let mut entry = Entry::new(claim, epoch, now);
            entry.settle(settlement, now);
            table.put(claim.id, entry);
            return Ok(Settled::Done);
        };
        *bytes -= entry.response_len();
        entry.settle(settlement, now);
        *bytes += entry.response_len();
        Ok(Settled::Done)
    }

    async fn find(&self, id: &RecordId) -> Result<Option<Present>, StoreError> {
        let now = self.clock.now();
        Ok(self
            .table()
            .rows
            .get(id)
            .and_then(|entry| entry.present(now)))
    }
}

impl Cacheable for MemoryStore {
    async fn confirm(&self) -> Result<Confirmed, StoreError> {
        let table = self.table();
        Ok(Confirmed {
            generation: table.generation,
            now: self.clock.now(),
        })
    }
}

impl Operator for MemoryStore {
    async fn list(&self, filter: &Filter) -> Result<Vec<Summary>, StoreError> {
        let now = self.clock.now();
        let mut found: Vec<_> = self
            .table()
            .rows
            .iter()
            .filter(|(_, entry)| entry.expires_at > now)
            .map(|(id, entry)| entry.summary(*id, now))
            .filter(|summary| filter.state.is_none_or(|state| state == summary.state))
            .collect();
        found.sort_by_key(|summary| std::cmp::Reverse((summary.claimed_at, summary.id)));
        found.truncate(usize::try_from(filter.limit).unwrap_or(usize::MAX));
        Ok(found)
    }

    async fn show(&self, id: &RecordId) -> Result<Option<Detail>, StoreError> {
        let now = self.clock.now();
        let table = self.table();
        let entry = table.rows.get(id).filter(|entry| entry.expires_at > now);
        Ok(entry.map(|entry| Detail {
            summary: entry.summary(*id, now),
            response: entry.response.clone(),
        }))
    }

    async fn resolve(
        &self,
        id: &RecordId,
        resolution: &Resolution,
        force: bool,
    ) -> Result<Resolved, StoreError> {
        let mut table = self.table();
        let now = self.clock.now();
        let Some(entry) = table.rows.get(id).filter(|entry| entry.expires_at > now) else {
            return Ok(Resolved::NotFound);
        };
        if let Some(refused) = refuse(&entry.summary(*id, now), now, resolution, force) {
            return Ok(Resolved::Refused(refused));
        }
        let mut entry = Entry::clone(entry);
        entry.epoch = entry.epoch.next();
        entry.settled_at = Some(now);
        (entry.state, entry.response) = match resolution {
            Resolution::Executed(response) => (StoredState::Completed, Some(response.clone())),
            Resolution::NotExecuted | Resolution::Forget => (StoredState::Free, None),
        };
        entry.claimable_at = (entry.state == StoredState::Free).then(|| now.plus(FREED_REST));
        let epoch = entry.epoch;
        table.put(*id, entry);
        table.generation = Generation::random();
        Ok(Resolved::Done(epoch))
    }
}

impl Sweep for MemoryStore {
    async fn sweep(&self, limit: u32) -> Result<u64, StoreError> {
        let now = self.clock.now();
        let swept = self
            .table()
            .sweep(now, usize::try_from(limit).unwrap_or(usize::MAX));
        Ok(u64::try_from(swept).unwrap_or(u64::MAX))
    }
}
