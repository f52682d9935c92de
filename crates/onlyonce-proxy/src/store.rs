//! The store that the settings name, as one type.
//!
//! [`Store`], [`Operator`] and [`Sweep`] return unnamed futures, so there is no `dyn` of them; there are
//! three kinds of store, so an enum does.

use std::time::Duration;

use onlyonce::cached::Cached;
use onlyonce::clock::SystemClock;
use onlyonce::store::operator::{Detail, Filter, Operator, Resolution, Resolved, Summary, Sweep};
use onlyonce::store::{
    Cacheable, Claim, Claimed, Completed, Confirmed, MemoryStore, Present, Settled, Settlement,
    Store, StoreError,
};
use onlyonce::{Epoch, RecordId};
use onlyonce_sqlx::postgres::MigrationLimits;
use onlyonce_sqlx::{PostgresStore, SqliteOptions, SqliteStore};
use tokio::time::timeout;
use tracing::{info, warn};

use crate::config::{self, StoreUrl};
use crate::telemetry::causes;

/// How long the start waits for a store that is away, before it goes on without.
const START_PATIENCE: Duration = Duration::from_secs(5);

/// What responses take at the most in a store in memory, for each record that it has room for.
const MEMORY_BYTES_EACH: usize = 2_684;

/// The pauses between tries to reach a store that was away at the start.
const RETRY: Duration = Duration::from_secs(2);

/// One of the stores there are. Clones share it.
#[derive(Debug, Clone)]
pub enum ChosenStore {
    /// In this process's memory.
    Memory(MemoryStore),
    /// In a file.
    Sqlite(SqliteStore),
    /// In Postgres.
    Postgres(PostgresStore),
}

/// A store cannot be used, and waiting will not help.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The URL is not one that the store understands.
    #[error("the store's URL cannot be used: {0}")]
    Url(String),
    /// There is nothing at the place that the URL names, and it is not this command's to make it.
    #[error("there is no store at {0}: name the one that `serve` uses with --store or --config")]
    Missing(StoreUrl),
    /// Records in memory are nobody else's.
    #[error("records in memory belong to the process that holds them: name a store with --store")]
    Memory,
    /// The store itself refuses.
    #[error("the store at {url} cannot be used")]
    Store {
        /// Where it is, without passwords.
        url: StoreUrl,
        /// What it says.
        #[source]
        source: StoreError,
    },
}

impl ChosenStore {
    /// Opens the store that `serve` uses. A file is made where there is none; Postgres is not asked yet.
    ///
    /// # Errors
    /// Where it can never work.
    pub fn open(settings: &config::Store) -> Result<Self, OpenError> {
        match &settings.url {
            StoreUrl::Memory => {
                let records = usize::try_from(settings.records_max).unwrap_or(usize::MAX);
                let bytes = records.saturating_mul(MEMORY_BYTES_EACH);
                let store = MemoryStore::new(records, bytes, SystemClock);
                Ok(Self::Memory(store))
            }
            StoreUrl::Sqlite(path) => SqliteOptions::new(path)
                .with_group_commit(settings.group_commit)
                .open()
                .map(Self::Sqlite)
                .map_err(|source| failed(settings, source)),
            StoreUrl::Postgres(_) => {
                let postgres = settings.postgres().map_err(OpenError::Url)?;
                Ok(Self::Postgres(PostgresStore::open(postgres)))
            }
        }
    }

    /// Opens a store that is there already, for the commands that look at it.
    ///
    /// # Errors
    /// Where there is none, or it cannot be used.
    pub async fn existing(settings: &config::Store) -> Result<Self, OpenError> {
        match &settings.url {
            StoreUrl::Memory => return Err(OpenError::Memory),
            StoreUrl::Sqlite(path) if !path.exists() => {
                return Err(OpenError::Missing(settings.url.clone()));
            }
            StoreUrl::Sqlite(_) | StoreUrl::Postgres(_) => {}
        }
        let store = Self::open(settings)?;
        if let Self::Postgres(postgres) = &store {
            postgres
                .check_schema()
                .await
                .map_err(|source| failed(settings, source))?;
        }
        Ok(store)
    }

    /// The store with what is kept of it nearer; `None` where nothing is: what is in memory is near enough.
    ///
    /// # Errors
    /// Where the shared cache wants TLS and that cannot be set up.
    pub(crate) fn cached(
        &self,
        settings: &config::Cache,
    ) -> Result<Option<Cached<Self>>, onlyonce_redis::TlsError> {
        match self {
            Self::Memory(_) => Ok(None),
            Self::Sqlite(_) | Self::Postgres(_) => settings.around(self.clone()),
        }
    }

    /// Makes a store usable, once: creates its tables, or asks whether they are there.
    async fn prepare(&self, migrate: bool) -> Result<(), StoreError> {
        match self {
            Self::Postgres(postgres) if migrate => postgres.prepare().await,
            Self::Postgres(postgres) => postgres.check_schema().await,
            Self::Memory(_) | Self::Sqlite(_) => Ok(()),
        }
    }

    /// Makes a store usable at the start. `false` where it is away and may come back.
    ///
    /// # Errors
    /// Where waiting will not help.
    pub(crate) async fn prepare_now(&self, settings: &config::Store) -> Result<bool, OpenError> {
        let error = match timeout(START_PATIENCE, self.prepare(settings.migrate)).await {
            Ok(Ok(())) => return Ok(true),
            Ok(Err(error)) if !error.is_transient() => return Err(failed(settings, error)),
            Ok(Err(error)) => causes(&error),
            Err(_) => "it did not answer in time".to_owned(),
        };
        warn!(
            store = %settings.url,
            %error,
            "the store is away; serving without, guarded requests get 503 until it is back"
        );
        Ok(false)
    }

    /// Tries until a store that was away is usable.
    ///
    /// # Errors
    /// Where waiting will not help.
    pub(crate) async fn prepare_later(&self, settings: &config::Store) -> Result<(), OpenError> {
        loop {
            tokio::time::sleep(RETRY).await;
            match self.prepare(settings.migrate).await {
                Ok(()) => {
                    info!(store = %settings.url, "the store is there");
                    return Ok(());
                }
                Err(error) if error.is_transient() => {}
                Err(error) => return Err(failed(settings, error)),
            }
        }
    }
}

/// Creates or updates the tables of a store. The limits are those of Postgres; a file has one user at that time.
///
/// # Errors
/// Where it is away or cannot be used.
pub async fn migrate(settings: &config::Store, limits: MigrationLimits) -> Result<(), OpenError> {
    match ChosenStore::open(settings)? {
        ChosenStore::Memory(_) => Err(OpenError::Memory),
        // Opening it did so.
        ChosenStore::Sqlite(_) => Ok(()),
        ChosenStore::Postgres(postgres) => postgres
            .migrate_within(limits)
            .await
            .map_err(|source| failed(settings, source)),
    }
}

fn failed(settings: &config::Store, source: StoreError) -> OpenError {
    OpenError::Store {
        url: settings.url.clone(),
        source,
    }
}

macro_rules! each {
    ($self:expr, $store:ident => $call:expr) => {
        match $self {
            ChosenStore::Memory($store) => $call,
            ChosenStore::Sqlite($store) => $call,
            ChosenStore::Postgres($store) => $call,
        }
    };
}

impl Store for ChosenStore {
    fn recall(&self, id: &RecordId) -> Option<Completed> {
        each!(self, store => store.recall(id))
    }

    async fn claim(&self, claim: &Claim) -> Result<Claimed, StoreError> {
        each!(self, store => store.claim(claim).await)
    }

    async fn settle(
        &self,
        claim: &Claim,
        epoch: Epoch,
        settlement: &Settlement,
    ) -> Result<Settled, StoreError> {
        each!(self, store => store.settle(claim, epoch, settlement).await)
    }

    async fn find(&self, id: &RecordId) -> Result<Option<Present>, StoreError> {
        each!(self, store => store.find(id).await)
    }
}

impl Cacheable for ChosenStore {
    async fn confirm(&self) -> Result<Confirmed, StoreError> {
        each!(self, store => store.confirm().await)
    }
}

impl Operator for ChosenStore {
    async fn list(&self, filter: &Filter) -> Result<Vec<Summary>, StoreError> {
        each!(self, store => store.list(filter).await)
    }

    async fn show(&self, id: &RecordId) -> Result<Option<Detail>, StoreError> {
        each!(self, store => store.show(id).await)
    }

    async fn resolve(
        &self,
        id: &RecordId,
        resolution: &Resolution,
        force: bool,
    ) -> Result<Resolved, StoreError> {
        each!(self, store => store.resolve(id, resolution, force).await)
    }
}

impl Sweep for ChosenStore {
    async fn sweep(&self, limit: u32) -> Result<u64, StoreError> {
        each!(self, store => store.sweep(limit).await)
    }
}
