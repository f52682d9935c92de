//! Records in Postgres, 14 or later: for any number of processes on any number of machines.
//!
//! A claim is one `insert … on conflict do nothing` that commits by itself before anything is forwarded;
//! its uniqueness is what makes a second execution impossible. There are no session locks, no `listen`, no
//! open transactions while a request is being executed, so a pooler in transaction mode may stand in
//! between (`pooler=transaction` in the URL).
//!
//! **Durability.** Each write asks for a commit that waits for the disk, whatever `synchronous_commit` says.
//! Whether a failover keeps it is up to the cluster: without synchronous standbys the last claims before a
//! failover can be lost, and with them the promise for their keys.
//!
//! **Time.** Leases and retention are compared to the server's clock only.
//!
//! **Silent networks.** The driver sets no TCP keep-alive; a server that stops answering is noticed by the
//! call's time-out ([`Settings::with_call_timeout`]), after which the connection is closed, never reused.
//!
//! ```no_run
//! use onlyonce_sqlx::PostgresStore;
//!
//! # async fn start() -> Result<(), Box<dyn std::error::Error>> {
//! let store = PostgresStore::connect("postgres://onlyonce@db.internal/app".parse()?).await?;
//! # Ok(()) }
//! ```

mod call;
mod claim;
mod days;
mod failure;
mod group;
mod id;
mod operator;
mod pool;
mod primary;
mod row;
mod schema;
mod session;
mod settings;
mod settle;
mod sweep;
pub mod transaction;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use onlyonce::store::operator::{Detail, Filter, Resolution, Resolved, Summary};
use onlyonce::store::{
    Cacheable, Claim, Claimed, Completed, Confirmed, Operator, Present, Settled, Settlement, Store,
    StoreError, Sweep,
};
use onlyonce::{Epoch, RecordId};
use tokio::time::Instant;

use self::call::Call;
use self::group::{Completion, Insertion, Lane, Outcome};
use self::pool::Pool;
pub use self::schema::MigrationLimits;
use self::schema::Schema;
pub use self::settings::{Settings, SettingsError};

/// Migrations, lists and upkeep may take longer than what a request waits for.
const PATIENT_TIMEOUT: Duration = Duration::from_secs(120);
/// Days are made a week ahead, so an hour is often enough.
const UPKEEP_EVERY: Duration = Duration::from_secs(3_600);
/// After a failure.
const UPKEEP_AGAIN: Duration = Duration::from_secs(600);

/// Records in Postgres. Clones share the connections.
#[derive(Clone)]
pub struct PostgresStore {
    inner: Arc<Inner>,
}

struct Inner {
    settings: Settings,
    pool: Arc<Pool>,
    claims: Lane<Insertion>,
    completions: Lane<Completion>,
    upkeep_due: Mutex<Option<Instant>>,
}

impl PostgresStore {
    /// A store that connects when it is first used: a server that is down is no reason not to start.
    pub fn open(settings: Settings) -> Self {
        let pool = Arc::new(Pool::new(&settings));
        let inner = Inner {
            claims: Lane::new(Arc::clone(&pool), settings.call_timeout),
            completions: Lane::new(Arc::clone(&pool), settings.call_timeout),
            pool,
            settings,
            upkeep_due: Mutex::default(),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// A store whose server answers and has its tables, which are made where they are missing.
    ///
    /// # Errors
    /// As [`Self::prepare`].
    pub async fn connect(settings: Settings) -> Result<Self, StoreError> {
        let store = Self::open(settings);
        store.prepare().await?;
        Ok(store)
    }

    /// Makes the tables, or brings them up to date, where that is needed.
    ///
    /// # Errors
    /// [`Incompatible`](onlyonce::store::StoreErrorKind::Incompatible) where the schema is too new for this
    /// program, else as any call.
    pub async fn prepare(&self) -> Result<(), StoreError> {
        // Asked first, so that an account that may not create tables can use those that are there.
        match self.perform(&schema::Inspect).await? {
            Schema::Usable => self.upkeep().await,
            Schema::Behind { .. } => self.migrate().await?,
        }
        Ok(())
    }

    /// Applies the migrations that are missing. Any number of processes may do so at once.
    ///
    /// Whoever migrates owns the tables, and only their owner can make the partitions of the days ahead and
    /// drop those that are over: where the proxy's account may not, this and [`sweep`](Sweep::sweep) have to
    /// be run by one that may, once a week at least.
    ///
    /// # Errors
    /// As [`Self::prepare`].
    pub async fn migrate(&self) -> Result<(), StoreError> {
        self.migrate_within(MigrationLimits::default()).await
    }

    /// As [`Self::migrate`], with other limits than a minute: for tables that take longer.
    ///
    /// # Errors
    /// As [`Self::prepare`].
    pub async fn migrate_within(&self, limits: MigrationLimits) -> Result<(), StoreError> {
        let migrate = schema::Migrate(limits);
        call::perform(&self.inner.pool, limits.whole(), &migrate).await
    }

    /// Asks whether this program can use the schema that is there; changes nothing.
    ///
    /// # Errors
    /// [`Incompatible`](onlyonce::store::StoreErrorKind::Incompatible), with a source that says what to do,
    /// where it cannot; else as any call.
    pub async fn check_schema(&self) -> Result<(), StoreError> {
        let schema = self.perform(&schema::Inspect).await?;
        schema.required().map_err(failure::Failure::into_error)
    }

    async fn perform<C: Call>(&self, call: &C) -> Result<C::Output, StoreError> {
        call::perform(&self.inner.pool, self.inner.settings.call_timeout, call).await
    }

    /// As [`Self::perform`], for a call that began earlier.
    async fn perform_since<C: Call>(
        &self,
        started: Instant,
        call: &C,
    ) -> Result<C::Output, StoreError> {
        let left = self
            .inner
            .settings
            .call_timeout
            .saturating_sub(started.elapsed());
        call::perform(&self.inner.pool, left, call).await
    }

    /// Makes the days ahead and drops those that are over, now and then.
    ///
    /// A failure is logged and no more: it keeps nobody from claiming or sweeping, a settlement makes its day
    /// where that is missing, and an account that does not own the tables may do none of this.
    async fn upkeep(&self) {
        if !self.inner.take_upkeep() {
            return;
        }
        let done = call::perform(&self.inner.pool, PATIENT_TIMEOUT, &days::Upkeep).await;
        if let Err(error) = done {
            self.inner.upkeep_in(UPKEEP_AGAIN);
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "the days of the response table are not kept up");
        }
    }
}

impl Inner {
    /// Whether upkeep is due; it is not again for a while then.
    fn take_upkeep(&self) -> bool {
        let mut due = self
            .upkeep_due
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let take = due.is_none_or(|due| due <= now);
        if take {
            *due = Some(now + UPKEEP_EVERY);
        }
        take
    }

    fn upkeep_in(&self, pause: Duration) {
        let mut due = self
            .upkeep_due
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *due = Some(Instant::now() + pause);
    }
}

impl fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresStore")
            .field("settings", &self.inner.settings)
            .finish_non_exhaustive()
    }
}

impl Store for PostgresStore {
    /// Its records are elsewhere.
    fn recall(&self, _: &RecordId) -> Option<Completed> {
        None
    }

    async fn claim(&self, claim: &Claim) -> Result<Claimed, StoreError> {
        let started = Instant::now();
        let (mut met, mut doubt) = (false, false);
        if self.inner.settings.group_commit {
            match self.inner.claims.join(Insertion(claim.clone())).await? {
                Outcome::Done(epoch) => return Ok(Claimed::Acquired(epoch)),
                Outcome::GoOn { doubt: joined } => (met, doubt) = (true, joined),
            }
        }
        self.perform_since(started, &claim::TakeClaim { claim, met })
            .await
            .map_err(|error| if doubt { error.in_doubt() } else { error })
    }

    async fn settle(
        &self,
        claim: &Claim,
        epoch: Epoch,
        settlement: &Settlement,
    ) -> Result<Settled, StoreError> {
        let started = Instant::now();
        let mut doubt = false;
        if let Settlement::Completed(response) = settlement
            && self.inner.settings.group_commit
        {
            let completion = Completion {
                id: claim.id,
                token: claim.token,
                epoch,
                response: response.clone(),
            };
            match self.inner.completions.join(completion).await? {
                Outcome::Done(()) => return Ok(Settled::Done),
                Outcome::GoOn { doubt: joined } => doubt = joined,
            }
        }
        let settle = settle::Settle {
            claim,
            epoch,
            settlement,
        };
        self.perform_since(started, &settle)
            .await
            .map_err(|error| if doubt { error.in_doubt() } else { error })
    }

    async fn find(&self, id: &RecordId) -> Result<Option<Present>, StoreError> {
        self.perform(&claim::Find(id)).await
    }
}

impl Operator for PostgresStore {
    async fn list(&self, filter: &Filter) -> Result<Vec<Summary>, StoreError> {
        call::perform(&self.inner.pool, PATIENT_TIMEOUT, &operator::List(filter)).await
    }

    async fn show(&self, id: &RecordId) -> Result<Option<Detail>, StoreError> {
        self.perform(&operator::Show(id)).await
    }

    async fn resolve(
        &self,
        id: &RecordId,
        resolution: &Resolution,
        force: bool,
    ) -> Result<Resolved, StoreError> {
        let resolve = operator::Resolve {
            id,
            resolution,
            force,
        };
        let resolved = self.perform(&resolve).await?;
        if let Resolved::Done(epoch) = resolved
            && !matches!(resolution, Resolution::Executed(_))
            && let Err(error) = self.perform(&operator::BeginRest { id, epoch }).await
        {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(record = %id, error, "the rest of a key that was freed has not begun");
        }
        Ok(resolved)
    }
}

impl Cacheable for PostgresStore {
    async fn confirm(&self) -> Result<Confirmed, StoreError> {
        self.perform(&operator::Confirm).await
    }
}

impl Sweep for PostgresStore {
    async fn sweep(&self, limit: u32) -> Result<u64, StoreError> {
        let swept = self.perform(&sweep::SweepRecords(limit)).await?;
        self.upkeep().await;
        Ok(swept)
    }
}
