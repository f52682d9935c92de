//! Connections kept for the next request.
//!
//! A server that closes an idle connection just as a request arrives loses that request, and nobody can
//! tell whether it was read. Servers announce when they will close, or close after 5 s by custom; we stop
//! using a connection before that. One on which anything arrives while it is idle is dropped by hyper:
//! bytes that nobody asked for would be taken for the next response.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::time::Instant;

use super::connection::{Connection, Idle};

/// The idle connections to one upstream. The one used last is used first.
#[derive(Debug)]
pub(crate) struct Pool {
    state: Mutex<State>,
    connections_max: usize,
}

#[derive(Debug, Default)]
struct State {
    idle: VecDeque<Idle>,
    is_swept: bool,
}

/// How often connections that went unused too long are closed.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

impl Pool {
    pub(crate) fn new(connections_max: usize) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            connections_max,
        })
    }

    /// A connection that was open a moment ago and is not too old.
    pub(crate) fn check_out(&self) -> Option<Connection> {
        let now = Instant::now();
        let mut state = self.state();
        while let Some(idle) = state.idle.pop_back() {
            if now < idle.until && !idle.connection.is_closed() {
                return Some(idle.connection);
            }
        }
        None
    }

    /// Keeps a connection for at most `keep`.
    pub(crate) fn check_in(self: &Arc<Self>, connection: Connection, keep: Duration) {
        if keep.is_zero() || self.connections_max == 0 {
            return;
        }
        let mut state = self.state();
        if state.idle.len() >= self.connections_max {
            state.idle.pop_front();
        }
        let until = Instant::now() + keep;
        state.idle.push_back(Idle { connection, until });
        if !state.is_swept {
            state.is_swept = true;
            tokio::spawn(sweep(Arc::downgrade(self)));
        }
    }

    /// Drops what is too old or was closed; false once nothing is left to look after.
    fn sweep(&self) -> bool {
        let now = Instant::now();
        let mut state = self.state();
        state
            .idle
            .retain(|idle| now < idle.until && !idle.connection.is_closed());
        state.is_swept = !state.idle.is_empty();
        state.is_swept
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs while there are idle connections, so that none outlives its welcome when traffic stops.
async fn sweep(pool: Weak<Pool>) {
    loop {
        tokio::time::sleep(SWEEP_INTERVAL).await;
        match pool.upgrade() {
            Some(pool) if pool.sweep() => {}
            _ => return,
        }
    }
}
