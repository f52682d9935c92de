//! One connection to the server: made when it is first needed, made anew when it broke, and left alone for a
//! while when that does not help.
//!
//! There are two, one for looking up and one for keeping: a lookup with a deadline of milliseconds must not queue
//! behind half a megabyte that is being written.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redis::aio::MultiplexedConnection;
use redis::{RedisError, ServerError};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::breaker::{Breaker, Change};
use crate::dial::{Connection, Dialer};

#[derive(Debug)]
pub(crate) struct Link {
    dialer: Arc<Dialer>,
    state: Mutex<State>,
    /// Told when a try to connect has ended.
    tried: Notify,
}

#[derive(Debug, Default)]
struct State {
    connection: Option<Connection>,
    connecting: bool,
    /// How many connections there have been: a request may end after its connection was replaced.
    number: u64,
    breaker: Breaker,
}

/// A connection to make one request on.
#[derive(Debug)]
pub(crate) struct Up {
    pub(crate) requests: MultiplexedConnection,
    number: u64,
}

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("no answer in time")]
    Late,
    #[error("the server refused the request")]
    Refused(#[source] RedisError),
    #[error("the connection broke")]
    Broken(#[source] RedisError),
}

impl From<RedisError> for Failure {
    fn from(error: RedisError) -> Self {
        if error.is_unrecoverable_error() || error.is_io_error() {
            Self::Broken(error)
        } else {
            Self::Refused(error)
        }
    }
}

impl From<ServerError> for Failure {
    fn from(error: ServerError) -> Self {
        Self::Refused(error.into())
    }
}

impl Link {
    pub(crate) fn new(dialer: Arc<Dialer>) -> Self {
        Self {
            dialer,
            state: Mutex::default(),
            tried: Notify::new(),
        }
    }

    /// The connection, if there is one now. Where there is none, one is being made from here on, unless the
    /// server is to be left alone. Must be called inside a Tokio runtime.
    pub(crate) fn up(self: &Arc<Self>) -> Option<Up> {
        let mut state = self.state();
        if let Some(up) = state.up() {
            return Some(up);
        }
        if !state.connecting && state.breaker.allows(Instant::now()) {
            state.connecting = true;
            let link = Arc::clone(self);
            let trying = Trying(link);
            tokio::spawn(async move { trying.run().await });
        }
        None
    }

    /// The connection; waits for one that is being made. `None` where there will not be one for now.
    pub(crate) async fn connected(self: &Arc<Self>) -> Option<Up> {
        // It is told of whatever ends from here on.
        let tried = self.tried.notified();
        if let Some(up) = self.up() {
            return Some(up);
        }
        if self.state().connecting {
            tried.await;
        }
        self.state().up()
    }

    /// A request was answered.
    pub(crate) fn succeeded(&self, up: &Up) {
        let mut state = self.state();
        if state.number == up.number {
            let change = state.breaker.succeeded();
            drop(state);
            if change == Change::Back {
                tracing::info!(redis = %self.dialer.settings(), "Redis answers again");
            }
        }
    }

    /// A request was not answered as it should be.
    pub(crate) fn failed(&self, up: &Up, failure: &Failure) {
        let mut state = self.state();
        if state.number != up.number || state.connection.is_none() {
            return;
        }
        let change = state.breaker.failed(Instant::now());
        if state.breaker.is_open() || matches!(failure, Failure::Broken(_)) {
            state.connection = None;
        }
        drop(state);
        self.tell(change, failure);
    }

    fn tell(&self, change: Change, error: &(dyn std::error::Error + 'static)) {
        if change == Change::Away {
            tracing::warn!(
                redis = %self.dialer.settings(),
                error,
                "Redis is left alone for a while; retries are answered from the store"
            );
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each change is one step: a panic elsewhere cannot leave it half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn up(&self) -> Option<Up> {
        let connection = self.connection.as_ref()?;
        Some(Up {
            requests: connection.requests.clone(),
            number: self.number,
        })
    }
}

/// A try to connect. Where its runtime drops it, another may try.
#[derive(Debug)]
struct Trying(Arc<Link>);

impl Trying {
    async fn run(self) {
        let link = &self.0;
        let dialled = link.dialer.dial().await;
        let mut state = link.state();
        match dialled {
            Ok(connection) => {
                state.connection = Some(connection);
                state.number += 1;
                state.breaker.connected();
            }
            Err(error) => {
                let change = state.breaker.open(Instant::now());
                drop(state);
                link.tell(change, &error);
            }
        }
    }
}

impl Drop for Trying {
    fn drop(&mut self) {
        self.0.state().connecting = false;
        self.0.tried.notify_waiters();
    }
}
