//! Records in a SQLite file: the embedded store, with nothing else to install.
//!
//! Unlike a pool of connections, all writes go through one thread that owns the only connection that
//! writes. SQLite has one writer at a time anyway, and this one puts everything that waits into one
//! transaction (*group commit*): an `fsync` is paid once for a whole batch, and not at all while idle.
//! Each request runs in a savepoint, so that one which fails does so alone, and is answered after COMMIT.
//!
//! What was acknowledged survives `kill -9` and, as far as the disk keeps its word about `fsync`, loss of
//! power: the write-ahead log is synced before every answer (`synchronous=FULL`). Processes on one host
//! may share a file.
//!
//! Hazards:
//! - The file must be on a local disk. SQLite's locks do not work on network file systems.
//! - Leases and retention are counted by the wall clock of the host ([`Clock`]). Setting it forward ends
//!   leases early: their records become unknown, they are not executed again. Setting it forward past the
//!   retention forgets records.
//! - A file that is deleted or replaced under a running store, be it the log beside it, makes it refuse
//!   every claim until it is opened anew: SQLite would go on writing where nobody finds it again.
//! - The newest records are in the log beside the file (`-wal`). A copy of the file alone lacks them: make
//!   backups with `sqlite3 FILE ".backup COPY"`.
//! - Restoring a backup forgets every key since, and a retry of one executes again. Do it while no process
//!   has the file open, and remove the log and its index (`-wal`, `-shm`) first: they belong to the file
//!   that was there, and SQLite would write them into the one that is put there.
//! - Dropping the last handle waits until what is queued is written.
//!
//! ```
//! use onlyonce::IdempotencyLayer;
//! use onlyonce_sqlx::SqliteStore;
//!
//! # let directory = tempfile::tempdir()?;
//! # let path = directory.path().join("onlyonce.db");
//! let store = SqliteStore::open(path)?; // created where it is not there
//! let layer = IdempotencyLayer::new(store);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use onlyonce::clock::Clock;
use onlyonce::store::operator::{
    Detail, FREED_REST, Filter, Operator, Resolution, Resolved, Summary, Sweep,
};
use onlyonce::store::{
    Cacheable, Claim, Claimed, Completed, Confirmed, Present, Settled, Settlement, Store,
    StoreError,
};
use onlyonce::{Epoch, RecordId};

mod connection;
mod fault;
mod options;
mod queue;
mod reader;
mod row;
mod schema;
mod writer;
mod writes;

pub use self::options::{SqliteOptions, SqliteUrlError};
use self::reader::Reader;
use self::writer::Writer;
use self::writes::{BeginRest, Claiming, Resolve, Settle, SweepExpired};

/// Records in a SQLite file. Clones share its two threads; the [module's documentation](self) says how
/// it works.
#[derive(Clone)]
pub struct SqliteStore(Arc<Shared>);

struct Shared {
    path: Box<Path>,
    writer: Writer,
    reader: Reader,
}

impl SqliteStore {
    /// Opens a file, or creates it with access for its owner only. Reads and writes the disk: call it at
    /// start.
    ///
    /// # Errors
    /// `Unavailable` where the file cannot be opened or created, `Full` where it is read-only,
    /// `Incompatible` where it is not a database of this program's or of a version it cannot use.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        SqliteOptions::new(path).open()
    }

    fn start(options: &SqliteOptions) -> Result<Self, StoreError> {
        let opened = connection::open_for_writing(options)?;
        let reading = connection::open_for_reading(options)?;
        let file = opened.file.clone();
        let clock: Arc<dyn Clock> = Arc::clone(&options.clock);
        Ok(Self(Arc::new(Shared {
            path: options.path.clone(),
            writer: Writer::start(opened, Arc::clone(&clock), options)?,
            reader: Reader::start(reading, file, clock, options.queue_max)?,
        })))
    }

    /// A failure is no reason to fail: the next claim begins it.
    async fn begin_rest(&self, id: &RecordId, epoch: Epoch) {
        if let Err(error) = self.0.writer.write(BeginRest { id: *id, epoch }).await {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(record = %id, error, "the rest of a key that was freed has not begun");
        }
    }
}

impl fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteStore")
            .field("path", &self.0.path)
            .finish_non_exhaustive()
    }
}

impl Store for SqliteStore {
    /// Its records are elsewhere.
    fn recall(&self, _: &RecordId) -> Option<Completed> {
        None
    }

    async fn claim(&self, claim: &Claim) -> Result<Claimed, StoreError> {
        match self.0.writer.write(claim.clone()).await? {
            Claiming::Told(claimed) => Ok(claimed),
            Claiming::RestNotBegun(epoch) => {
                self.begin_rest(&claim.id, epoch).await;
                Ok(Claimed::Present(Present::InFlight {
                    lease_remaining: FREED_REST,
                }))
            }
        }
    }

    async fn settle(
        &self,
        claim: &Claim,
        epoch: Epoch,
        settlement: &Settlement,
    ) -> Result<Settled, StoreError> {
        // The body is not copied: `Bytes` share it.
        let settle = Settle {
            claim: claim.clone(),
            epoch,
            settlement: settlement.clone(),
        };
        self.0.writer.write(settle).await
    }

    async fn find(&self, id: &RecordId) -> Result<Option<Present>, StoreError> {
        let id = *id;
        let read = move |reading: &reader::Reading<'_>| reading.find(&id);
        self.0.reader.read(read).await
    }
}

impl Operator for SqliteStore {
    async fn list(&self, filter: &Filter) -> Result<Vec<Summary>, StoreError> {
        let filter = filter.clone();
        let read = move |reading: &reader::Reading<'_>| reading.list(&filter);
        self.0.reader.read(read).await
    }

    async fn show(&self, id: &RecordId) -> Result<Option<Detail>, StoreError> {
        let id = *id;
        let read = move |reading: &reader::Reading<'_>| reading.show(&id);
        self.0.reader.read(read).await
    }

    async fn resolve(
        &self,
        id: &RecordId,
        resolution: &Resolution,
        force: bool,
    ) -> Result<Resolved, StoreError> {
        let resolve = Resolve {
            id: *id,
            resolution: resolution.clone(),
            force,
        };
        let resolved = self.0.writer.write(resolve).await?;
        if let Resolved::Done(epoch) = resolved
            && !matches!(resolution, Resolution::Executed(_))
        {
            self.begin_rest(id, epoch).await;
        }
        Ok(resolved)
    }
}

impl Cacheable for SqliteStore {
    async fn confirm(&self) -> Result<Confirmed, StoreError> {
        self.0.reader.read(|reading| reading.confirm()).await
    }
}

impl Sweep for SqliteStore {
    async fn sweep(&self, limit: u32) -> Result<u64, StoreError> {
        self.0.writer.write(SweepExpired { limit }).await
    }
}
