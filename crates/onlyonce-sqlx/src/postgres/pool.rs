//! Connections to the primary, at most so many, each used by one call at a time.
//!
//! The driver's pool is not used. It hides why it cannot connect, retries a refused connection until its
//! time-out, knows one server, and takes back connections whose call was dropped half-way (a cancelled
//! `begin` leaves its transaction open there, for the next borrower to write into). Here a connection comes
//! back only when its call says that it ended in order; any other way it is closed, never cancelled: a
//! `CancelRequest` can turn a commit that is waiting for its standby into one that claims to be replicated.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use onlyonce::store::{StoreError, StoreErrorKind};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::primary::Primary;
use super::session::{Session, begin_statement};
use super::settings::Settings;

/// A connection that rested this long is asked whether it still lives before a call relies on it.
const TRUSTED_FOR: Duration = Duration::from_secs(5);
/// Connections are renewed, so that a server that joined gets its share and memory is given back.
const AGE_MAX: Duration = Duration::from_secs(1_800);

/// The store's connections.
#[derive(Debug)]
pub(super) struct Pool {
    primary: Primary,
    begin: Option<Arc<str>>,
    permits: Arc<Semaphore>,
    idle: Arc<Idle>,
}

/// The connections that nobody uses; the one used last is on top.
#[derive(Debug, Default)]
struct Idle {
    resting: Mutex<Vec<Resting>>,
    /// Raised when the server went away: connections of before are not used again.
    generation: AtomicU64,
}

#[derive(Debug)]
struct Resting {
    live: Live,
    since: Instant,
}

#[derive(Debug)]
struct Live {
    session: Session,
    generation: u64,
    born: Instant,
}

/// A connection in use. Dropping it closes the connection; [`Borrowed::give_back`] keeps it.
#[derive(Debug)]
pub(super) struct Borrowed {
    // In this order: the connection is closed before the next one may be opened.
    live: Live,
    idle: Arc<Idle>,
    _permit: OwnedSemaphorePermit,
}

impl Pool {
    pub(super) fn new(settings: &Settings) -> Self {
        let permits = usize::try_from(settings.connections).unwrap_or(Semaphore::MAX_PERMITS);
        Self {
            primary: Primary::new(settings),
            begin: settings.pooler.then(|| begin_statement(settings).into()),
            permits: Arc::new(Semaphore::new(permits.min(Semaphore::MAX_PERMITS))),
            idle: Arc::default(),
        }
    }

    /// A connection to the primary. Waits while all are in use: the caller sets the limit of time.
    pub(super) async fn borrow(&self) -> Result<Borrowed, StoreError> {
        let permit = Arc::clone(&self.permits)
            .acquire_owned()
            .await
            .map_err(|closed| StoreError::not_applied(StoreErrorKind::Unavailable, closed))?;
        while let Some(resting) = self.idle.take() {
            let mut live = resting.live;
            if resting.since.elapsed() < TRUSTED_FOR || live.session.answers().await {
                return Ok(self.lend(live, permit));
            }
        }
        // Before connecting: a failover that happens meanwhile must not go unnoticed.
        let generation = self.idle.generation.load(Ordering::Acquire);
        let connection = self.primary.connect().await?;
        let live = Live {
            session: Session::new(connection, self.begin.clone()),
            generation,
            born: Instant::now(),
        };
        Ok(self.lend(live, permit))
    }

    /// Closes what is idle, and what is in use once it comes back: the server went away.
    pub(super) fn server_gone(&self) {
        self.idle.generation.fetch_add(1, Ordering::AcqRel);
        self.idle.resting().clear();
    }

    fn lend(&self, live: Live, permit: OwnedSemaphorePermit) -> Borrowed {
        Borrowed {
            live,
            idle: Arc::clone(&self.idle),
            _permit: permit,
        }
    }
}

impl Borrowed {
    pub(super) fn session(&mut self) -> &mut Session {
        &mut self.live.session
    }

    /// Keeps the connection for the next call: this one ended in order.
    pub(super) fn give_back(self) {
        let Self {
            live,
            idle,
            _permit,
        } = self;
        let current = live.generation == idle.generation.load(Ordering::Acquire);
        if current && live.born.elapsed() < AGE_MAX {
            let since = Instant::now();
            idle.resting().push(Resting { live, since });
        }
    }
}

impl Idle {
    fn take(&self) -> Option<Resting> {
        self.resting().pop()
    }

    fn resting(&self) -> MutexGuard<'_, Vec<Resting>> {
        // A push, a pop or a clear is whole or did not happen.
        self.resting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
