//! Connections to the primary, at most so many, each used by one call at a time.
//!
//! The driver's pool is not used. It hides why it cannot connect, retries a refused connection until its
//! time-out, knows one server, and takes back connections whose call was dropped half-way (a cancelled
//! `begin` leaves its transaction open there, for the next borrower to write into). Here a connection comes
//! back only when its call says that it ended in order; any other way it is closed, never cancelled: a
//! `CancelRequest` can turn a commit that is waiting for its standby into one that claims to be replicated
//! (P3).
//!
//! A backend does not notice that its client has left while it waits for a standby. So a connection whose
//! call was dropped is kept, aside, until its server answers: as many as there are connections for calls,
//! and when they are used up, in place of those. A cluster without its standby is then not flooded (F11).
//!
//! A server with fewer connections to spare than this pool may have is no failure: calls wait for those that
//! there are, and now and then one asks for more.
//!
//! What arrives on a connection wakes the runtime that opened it, wherever the call is. So a call takes a
//! connection of its own runtime, or opens one, and one of another's only where no more may be opened.

use std::pin::pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use onlyonce::store::StoreErrorKind;
use tokio::runtime::{self, Handle};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout, timeout_at};

use super::failure::Failure;
use super::primary::Primary;
use super::session::{Session, begin_statement};
use super::settings::Settings;

/// A connection that rested this long is asked whether it still lives before a call relies on it.
const TRUSTED_FOR: Duration = Duration::from_secs(5);
/// How long that may take.
const ANSWER_MAX: Duration = Duration::from_secs(1);
/// What a burst opened is closed after it.
const IDLE_MAX: Duration = Duration::from_secs(300);
/// After this long without an answer a connection whose call was dropped is closed all the same.
const ABANDONED_MAX: Duration = Duration::from_secs(600);
/// A server that has no connection to spare is asked again after it.
const CROWDED_FOR: Duration = Duration::from_secs(1);
/// Connections are renewed, so that a server that joined gets its share and memory is given back.
const AGE_MAX: Duration = Duration::from_secs(1_800);

/// The store's connections.
#[derive(Debug)]
pub(super) struct Pool {
    primary: Primary,
    begin: Option<Arc<str>>,
    permits: Arc<Semaphore>,
    connections_max: usize,
    shared: Arc<Shared>,
}

/// What connections in use need to find their way back.
#[derive(Debug)]
struct Shared {
    /// The connections that nobody uses; the one used last is on top.
    idle: Mutex<Vec<Idle>>,
    /// Held by each connection, idle or not: its count is one more than theirs.
    open: Arc<()>,
    places: Arc<Places>,
    /// Until when the server is not asked for another connection.
    crowded_until: Mutex<Option<Instant>>,
    /// Raised when the server went away: connections of before are not used again.
    generation: AtomicU64,
    /// Room aside for connections whose call was dropped.
    abandoned: Arc<Semaphore>,
}

/// How many connections are open, or about to be: idle or in use.
#[derive(Debug, Default)]
struct Places {
    taken: AtomicUsize,
    /// Told when a connection comes back, and when one is closed.
    freed: Notify,
}

/// Counts as an open connection until it is dropped.
#[derive(Debug)]
struct Place(Arc<Places>);

#[derive(Debug)]
struct Idle {
    live: Live,
    since: Instant,
}

#[derive(Debug)]
struct Live {
    session: Session<'static>,
    generation: u64,
    born: Instant,
    /// The runtime that it was opened on.
    home: runtime::Id,
    _open: Arc<()>,
    /// Given up last of all: whoever is told looks whether any connection is left.
    place: Option<Place>,
}

/// A connection in use. [`give_back`](Self::give_back) keeps it, [`close`](Self::close) closes it, and
/// dropping it, which is what a dropped call does, closes it when its server has answered.
#[derive(Debug)]
pub(super) struct Borrowed {
    /// `None` only while it is being dropped.
    taken: Option<(Live, OwnedSemaphorePermit)>,
    shared: Arc<Shared>,
}

impl Pool {
    pub(super) fn new(settings: &Settings) -> Self {
        let connections = usize::try_from(settings.connections).unwrap_or(Semaphore::MAX_PERMITS);
        let connections = connections.min(Semaphore::MAX_PERMITS);
        Self {
            primary: Primary::new(settings),
            begin: settings.pooler.then(|| begin_statement(settings).into()),
            permits: Arc::new(Semaphore::new(connections)),
            connections_max: connections,
            shared: Arc::new(Shared {
                idle: Mutex::default(),
                open: Arc::default(),
                places: Arc::default(),
                crowded_until: Mutex::default(),
                generation: AtomicU64::new(0),
                abandoned: Arc::new(Semaphore::new(connections)),
            }),
        }
    }

    /// A connection to the primary. Waits while all are in use: the caller sets the limit of time.
    pub(super) async fn borrow(&self) -> Result<Borrowed, Failure> {
        let mut permit = Arc::clone(&self.permits)
            .acquire_owned()
            .await
            .map_err(|closed| Failure::other(StoreErrorKind::Unavailable, closed))?;
        let home = Handle::current().id();
        loop {
            while let Some(idle) = self.shared.take_idle(home, || self.may_open()) {
                let rested = idle.since.elapsed();
                let mut borrowed = self.lend(idle.live, permit);
                if rested < TRUSTED_FOR || borrowed.answers().await {
                    return Ok(borrowed);
                }
                // The others of this runtime rested longer, and would each cost as much time.
                self.server_gone(borrowed.generation());
                permit = borrowed.close();
            }
            if let Some(until) = self.shared.crowded_until() {
                let waiting = self.shared.wait_while(Shared::has_open);
                let _ = timeout_at(until, waiting).await;
                continue;
            }
            let Some(place) = self.shared.places.take(self.connections_max) else {
                // One is about to come back or to be closed, for there was a permit.
                let all_taken = |shared: &Shared| shared.places.count() >= self.connections_max;
                self.shared.wait_while(all_taken).await;
                continue;
            };
            match self.connect(home, place).await {
                Err(failure) if failure.is_crowded() && self.shared.has_open() => {
                    self.shared.ask_no_more();
                }
                connected => {
                    let live = connected?;
                    *self.shared.crowded() = None;
                    return Ok(self.lend(live, permit));
                }
            }
        }
    }

    /// Whether a call may open a connection though others are idle.
    fn may_open(&self) -> bool {
        self.shared.places.count() < self.connections_max && self.shared.crowded().is_none()
    }

    /// Closes what is idle, and what is in use once it comes back: the server of this connection went away.
    pub(super) fn server_gone(&self, generation: u64) {
        // Of all the calls that notice, the first one speaks for its generation.
        let next = generation + 1;
        let raised = self.shared.generation.compare_exchange(
            generation,
            next,
            Ordering::AcqRel,
            Ordering::Acquire,
        );
        if raised.is_ok() {
            self.shared.idle().clear();
        }
    }

    async fn connect(&self, home: runtime::Id, place: Place) -> Result<Live, Failure> {
        // Before connecting: a failover that happens meanwhile must not go unnoticed.
        let generation = self.shared.generation.load(Ordering::Acquire);
        let connection = self.primary.connect().await?;
        Ok(Live {
            session: Session::new(connection, self.begin.clone()),
            generation,
            born: Instant::now(),
            home,
            place: Some(place),
            _open: Arc::clone(&self.shared.open),
        })
    }

    fn lend(&self, live: Live, permit: OwnedSemaphorePermit) -> Borrowed {
        Borrowed {
            taken: Some((live, permit)),
            shared: Arc::clone(&self.shared),
        }
    }
}

impl Borrowed {
    pub(super) fn session(&mut self) -> &mut Session<'static> {
        &mut self.live().session
    }

    /// The connection's generation, for [`Pool::server_gone`].
    pub(super) fn generation(&mut self) -> u64 {
        self.live().generation
    }

    /// Keeps the connection for the next call: this one ended in order.
    pub(super) fn give_back(mut self) {
        let Some((live, permit)) = self.taken.take() else {
            return;
        };
        let current = live.generation == self.shared.generation.load(Ordering::Acquire);
        if current && live.born.elapsed() < AGE_MAX {
            let since = Instant::now();
            let mut idle = self.shared.idle();
            idle.retain(|idle| idle.since.elapsed() < IDLE_MAX);
            idle.push(Idle { live, since });
        }
        self.shared.places.freed.notify_one();
        // Only now may another be opened.
        drop(permit);
    }

    /// Closes the connection, of which nothing is to be expected any more.
    pub(super) fn close(mut self) -> OwnedSemaphorePermit {
        let (live, permit) = self.taken.take().expect(HELD);
        drop(live);
        permit
    }

    async fn answers(&mut self) -> bool {
        let answers = self.session().answers();
        timeout(ANSWER_MAX, answers).await.unwrap_or(false)
    }

    fn live(&mut self) -> &mut Live {
        let (live, _) = self.taken.as_mut().expect(HELD);
        live
    }
}

const HELD: &str = "a connection is taken from its guard only by what consumes the guard";

impl Drop for Borrowed {
    fn drop(&mut self) {
        let (Some((mut live, permit)), Ok(runtime)) = (self.taken.take(), Handle::try_current())
        else {
            return;
        };
        let room = Arc::clone(&self.shared.abandoned).try_acquire_owned();
        // With room aside, the next call may open another connection at once.
        let aside = room.is_ok();
        let held = room.unwrap_or(permit);
        if aside {
            live.place = None;
        }
        runtime.spawn(async move {
            let answered = timeout(ABANDONED_MAX, live.session.answers()).await;
            tracing::debug!(
                answered = answered.is_ok(),
                "an abandoned connection is closed"
            );
            drop(live);
            drop(held);
        });
    }
}

impl Places {
    fn count(&self) -> usize {
        self.taken.load(Ordering::Acquire)
    }

    fn take(self: &Arc<Self>, max: usize) -> Option<Place> {
        let one_more = |taken| (taken < max).then_some(taken + 1);
        let taken = self
            .taken
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, one_more);
        taken.is_ok().then(|| Place(Arc::clone(self)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::AcqRel);
        self.0.freed.notify_one();
    }
}

impl Shared {
    /// The connection of this runtime that was used last; where it has none and may not open one, another's.
    fn take_idle(&self, home: runtime::Id, may_open: impl FnOnce() -> bool) -> Option<Idle> {
        let mut idle = self.idle();
        match idle.iter().rposition(|idle| idle.live.home == home) {
            Some(own) => Some(idle.remove(own)),
            None if idle.is_empty() || may_open() => None,
            None => idle.pop(),
        }
    }

    fn has_open(&self) -> bool {
        Arc::strong_count(&self.open) > 1
    }

    fn ask_no_more(&self) {
        let until = Instant::now() + CROWDED_FOR;
        if self.crowded().replace(until).is_none() {
            tracing::warn!(
                "postgres has no connection to spare; calls wait for the connections that there are"
            );
        }
    }

    /// Returns when a connection came back or was closed, or at once where one is idle, or `vain` no longer holds.
    async fn wait_while(&self, vain: impl FnOnce(&Self) -> bool) {
        let mut freed = pin!(self.places.freed.notified());
        // Before looking: what happens after the look is told to us. What happened before it is kept for one of us
        // only, however much it was.
        freed.as_mut().enable();
        if self.idle().is_empty() && vain(self) {
            freed.await;
        }
    }

    /// `None` where another connection may be asked for: of those that wait, the first one does.
    fn crowded_until(&self) -> Option<Instant> {
        let mut until = self.crowded();
        let waits = until.filter(|until| Instant::now() < *until && self.has_open());
        if waits.is_none() && until.is_some() {
            *until = self.has_open().then(|| Instant::now() + CROWDED_FOR);
        }
        waits
    }

    fn crowded(&self) -> MutexGuard<'_, Option<Instant>> {
        // One value is written at once.
        self.crowded_until
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Idle>> {
        // A push, a pop or a clear is whole or did not happen.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A failover closes several connections at once, and those who are about to wait for one are told once.
    #[tokio::test(start_paused = true)]
    async fn all_places_that_became_free_are_found_at_once() {
        const PLACES: usize = 3;
        let settings: Settings = "postgres://localhost/none".parse().unwrap();
        let pool = Pool::new(&settings.with_connections(3));
        let shared = &pool.shared;
        let taken: Vec<_> = (0..PLACES)
            .map(|_| shared.places.take(PLACES).unwrap())
            .collect();
        assert!(shared.places.take(PLACES).is_none());
        drop(taken);

        let begun = Instant::now();
        for _ in 0..PLACES {
            let all_taken = |shared: &Shared| shared.places.count() >= PLACES;
            let waiting = shared.wait_while(all_taken);
            timeout(Duration::from_secs(60), waiting).await.unwrap();
        }
        assert_eq!(begun.elapsed(), Duration::ZERO);
    }
}
