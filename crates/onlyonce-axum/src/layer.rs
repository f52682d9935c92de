//! The layer, and its settings.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use onlyonce::policy::OnStoreFailure;
use onlyonce::store::{StoreError, StoreErrorKind};
use onlyonce::{BoxError, Idempotency, IdempotencyLayer, Limits, Policy};
use onlyonce_outbox::Wake;
use onlyonce_sqlx::postgres::transaction;
use sqlx::PgPool;
use tower_layer::Layer;

use crate::connection::Borrowed;
use crate::line::{self, Line};
use crate::run::{Commits, Route};
use crate::service::InTransaction;
use crate::settings::{Isolation, Settings};
use crate::store::TransactionStore;

/// Gives each request a transaction, and commits it with the response: see [the crate's documentation](crate).
///
/// Clones share records, bounds and tasks; make one layer, and a clone per route with the route's policy.
/// [`with_limits`](Self::with_limits), [`with_isolation`](Self::with_isolation), [`with_pooler`](Self::with_pooler),
/// [`with_conflict_retries`](Self::with_conflict_retries), [`with_handing_on`](Self::with_handing_on) and
/// [`with_wake`](Self::with_wake) make another one that shares only the pool, so they come first.
#[derive(Clone)]
pub struct TransactionalLayer {
    settings: Arc<Settings>,
    limits: Limits,
    store: TransactionStore,
    layer: IdempotencyLayer,
    policy: Policy,
    commits: Arc<Commits>,
}

impl TransactionalLayer {
    /// A layer on the application's pool, with the default policy and limits.
    ///
    /// Its tables have to be there: [`migrate`](Self::migrate), or `onlyonce migrate` and `onlyonce migrate --outbox`.
    pub fn new(pool: PgPool) -> Self {
        let limits = Limits::default();
        let settings = Settings {
            line: Arc::new(Line::new(pool.clone(), line::Limits::default())),
            pool,
            forgetful: Arc::default(),
            isolation: Isolation::default(),
            pooler: false,
            wake: None,
            claim_patience: limits.claim_patience,
            conflict_retries: 0,
        };
        let commits: Arc<Commits> = Arc::new(|status| {
            status.is_informational() || status.is_success() || status.is_redirection()
        });
        Self::of(settings, limits, Policy::default(), commits)
    }

    fn of(settings: Settings, limits: Limits, policy: Policy, commits: Arc<Commits>) -> Self {
        let settings = Arc::new(settings);
        let store = TransactionStore::new(Arc::clone(&settings));
        let layer =
            IdempotencyLayer::with_limits(store.clone(), limits).with_policy(policy.clone());
        Self {
            settings,
            limits,
            store,
            layer,
            policy,
            commits,
        }
    }

    fn with(self, change: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = Settings::clone(&self.settings);
        change(&mut settings);
        Self::of(settings, self.limits, self.policy, self.commits)
    }

    /// The same layer, with another policy. Its clones keep theirs.
    ///
    /// # Panics
    /// Where the policy contradicts itself ([`Policy::validate`] tells beforehand), and where it would forward without
    /// a claim ([`OnStoreFailure::Forward`]): the database that takes no claim is the one that the handler writes to,
    /// and what it wrote then would be without a record.
    #[must_use]
    pub fn with_policy(self, policy: Policy) -> Self {
        assert!(
            policy.on_store_failure() == OnStoreFailure::Refuse,
            "the policy forwards where the store takes no claim: in the same transaction there is nothing to forward to"
        );
        Self {
            layer: self.layer.with_policy(policy.clone()),
            policy,
            ..self
        }
    }

    /// Which statuses commit what the handler wrote and emitted. Default: below 400.
    ///
    /// Of an answer that does not commit, nothing remains but the answer itself: one below 500 that the policy keeps
    /// ([`Policy::with_statuses`]) is recorded alone and replayed; any other leaves nothing at all, and a retry
    /// executes again. So a handler can write, find out that it must refuse, and return `402`, as it would with a
    /// transaction of its own.
    #[must_use]
    pub fn with_commit(self, commits: impl Fn(StatusCode) -> bool + Send + Sync + 'static) -> Self {
        Self {
            commits: Arc::new(commits),
            ..self
        }
    }

    /// A layer with other bounds.
    #[must_use]
    pub fn with_limits(self, limits: Limits) -> Self {
        let patience = limits.claim_patience;
        Self { limits, ..self }.with(|settings| settings.claim_patience = patience)
    }

    /// A layer whose transactions are isolated so. Default: read committed.
    #[must_use]
    pub fn with_isolation(self, isolation: Isolation) -> Self {
        self.with(|settings| settings.isolation = isolation)
    }

    /// A layer whose pool connects to a pooler in transaction mode, such as PgBouncer: nothing is prepared. The
    /// handlers' own statements have to be sent with `persistent(false)` there.
    #[must_use]
    pub fn with_pooler(self) -> Self {
        self.with(|settings| settings.pooler = true)
    }

    /// A layer that executes a request again, so often at most, after a serialization failure or a deadlock: see
    /// [the crate's documentation](crate#serialization-failures-and-deadlocks). Default: never.
    #[must_use]
    pub fn with_conflict_retries(self, retries: u32) -> Self {
        self.with(|settings| settings.conflict_retries = retries)
    }

    /// A layer that hands a connection from one request straight to the next that waits for one, so often at most, and
    /// for so long, before the pool gets it back for whoever else uses it: see
    /// [the crate's documentation](crate#under-load). Default: to 64 requests in a row, for 250 ms. With 1 every
    /// request takes its connection from the pool.
    #[must_use]
    pub fn with_handing_on(self, requests: u32, time: Duration) -> Self {
        let limits = line::Limits { requests, time };
        self.with(|settings| {
            settings.line = Arc::new(Line::new(settings.pool.clone(), limits));
        })
    }

    /// A layer that tells a relay in this process of the events that were committed.
    #[must_use]
    pub fn with_wake(self, wake: Wake) -> Self {
        self.with(|settings| settings.wake = Some(wake))
    }

    /// Makes the tables of records and of the outbox, or brings them up to date. Any number of processes may do so
    /// at once; the account has to be allowed to create tables.
    ///
    /// # Errors
    /// Where the database fails, or its schema is too new for this program.
    pub async fn migrate(&self) -> Result<(), StoreError> {
        let failed = |error: BoxError| StoreError::new(StoreErrorKind::Unavailable, error);
        let borrowed = Borrowed::from(&self.settings.pool).await;
        let mut borrowed = borrowed.map_err(|error| failed(error.into()))?;
        transaction::migrate(borrowed.connection()).await?;
        let outbox = onlyonce_outbox::migrate(borrowed.connection()).await;
        outbox.map_err(|error| failed(error.into()))?;
        borrowed.give_back();
        Ok(())
    }

    /// Waits until every claimed request is over, for all clones of this layer. Call it when the server has stopped
    /// taking requests: work that a client no longer waits for goes on until then.
    ///
    /// What is still running after `limit` is rolled back, unless its commit is on its way; its client is told that the
    /// outcome is unknown. Returns whether nothing was.
    pub async fn drain(&self, limit: Duration) -> bool {
        self.layer.drain(limit).await
    }
}

impl fmt::Debug for TransactionalLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TransactionalLayer")
            .field("policy", &self.policy)
            .field("isolation", &self.settings.isolation)
            .field("pooler", &self.settings.pooler)
            .finish_non_exhaustive()
    }
}

impl<S> Layer<S> for TransactionalLayer {
    type Service = Idempotency<InTransaction<S>>;

    fn layer(&self, inner: S) -> Self::Service {
        let route = Route {
            settings: Arc::clone(&self.settings),
            store: self.store.clone(),
            policy: self.policy.clone(),
            commits: Arc::clone(&self.commits),
        };
        self.layer.layer(InTransaction::new(inner, Arc::new(route)))
    }
}
