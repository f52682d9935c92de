//! Connections kept for the next request.
//!
//! A server that closes an idle connection just as a request arrives loses that request, and nobody can
//! tell whether it was read. Servers announce when they will close, or close after 5 s by custom; we stop
//! using a connection before that. One on which anything arrives while it is idle is dropped: bytes that
//! nobody asked for would be taken for the next response.
//!
//! Nobody drives an idle connection, so whether it has ended is found out when it is wanted, and once a
//! second, so that one that its server has closed does not stay half open for longer than that.

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

/// How often connections that went unused too long, or were closed by the server, are closed.
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
        loop {
            let mut idle = self.state().idle.pop_back()?;
            if now < idle.until && idle.connection.is_open() {
                return Some(idle.connection);
            }
            idle.connection.end();
        }
    }

    /// Keeps a connection for at most `keep`.
    pub(crate) fn check_in(self: &Arc<Self>, connection: Connection, keep: Duration) {
        if keep.is_zero() || self.connections_max == 0 {
            return connection.end();
        }
        let mut state = self.state();
        if state.idle.len() >= self.connections_max
            && let Some(oldest) = state.idle.pop_front()
        {
            oldest.connection.end();
        }
        let until = Instant::now() + keep;
        state.idle.push_back(Idle { connection, until });
        if !state.is_swept {
            state.is_swept = true;
            tokio::spawn(sweep(Arc::downgrade(self)));
        }
    }

    /// Ends what is too old or was closed; false once nothing is left to look after.
    fn sweep(&self) -> bool {
        let now = Instant::now();
        let mut state = self.state();
        for mut idle in std::mem::take(&mut state.idle) {
            if now < idle.until && idle.connection.is_open() {
                state.idle.push_back(idle);
            } else {
                idle.connection.end();
            }
        }
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
