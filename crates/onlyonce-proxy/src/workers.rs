//! One runtime per core: where connections live.
//!
//! A worker is a thread with a single-threaded runtime. A connection is given to one of them when it is
//! accepted and stays there with everything that its requests need: their tasks, and connections to the
//! upstream that no other worker uses. So a request takes no part in the stealing and waking by which a
//! multi-threaded runtime keeps its threads busy, and that costs a proxy more than the work it spreads.
//!
//! What the requests of all workers have in common stays shared: the guard with its records and bounds,
//! and the number of connections.
//!
//! Hazard: nobody helps out a worker whose requests are heavy. Work that takes longer than a write to a
//! socket belongs on a thread of its own (`spawn_blocking`).
//!
//! ```
//! use std::num::NonZero;
//! use onlyonce_proxy::workers::Workers;
//!
//! let workers = Workers::start(NonZero::<usize>::MIN)?;
//! let [worker] = workers.all() else { unreachable!("one was asked for") };
//! let name = worker.runtime().spawn(async { std::thread::current().name().map(str::to_owned) });
//! # let rt = tokio::runtime::Builder::new_current_thread().build()?;
//! assert_eq!(rt.block_on(name)?.as_deref(), Some("worker-0"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::io;
use std::num::NonZero;
use std::sync::Arc;
use std::thread;

use tokio::runtime::{Builder, Handle};
use tokio_util::sync::{CancellationToken, DropGuard};

/// The threads that serve connections. They end, with all that still runs on them, when this is dropped.
#[derive(Debug)]
pub struct Workers {
    all: Vec<Worker>,
    _stop: DropGuard,
}

/// A runtime that connections can be given to.
#[derive(Debug, Clone)]
pub struct Worker {
    runtime: Handle,
    connections: Arc<()>,
}

/// Counts among its worker's connections until it is dropped.
#[derive(Debug)]
pub(crate) struct Seat(#[expect(dead_code, reason = "its existence is what counts")] Arc<()>);

impl Workers {
    /// Starts the threads.
    ///
    /// # Errors
    /// Where the system has no thread, or nothing to wait with, to give.
    pub fn start(count: NonZero<usize>) -> io::Result<Self> {
        let stop = CancellationToken::new();
        // Before the first of them: where one cannot be had, those that could are to end.
        let guard = stop.clone().drop_guard();
        let all = (0..count.get())
            .map(|number| start(number, stop.clone()))
            .collect::<io::Result<_>>()?;
        Ok(Self { all, _stop: guard })
    }

    /// Each worker.
    pub fn all(&self) -> &[Worker] {
        &self.all
    }
}

fn start(number: usize, stop: CancellationToken) -> io::Result<Worker> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let worker = Worker::of(runtime.handle().clone());
    thread::Builder::new()
        .name(format!("worker-{number}"))
        .spawn(move || {
            runtime.block_on(stop.cancelled());
            // What a request left with the system, a name that is looked up for one, is not waited for.
            runtime.shutdown_background();
        })?;
    Ok(worker)
}

impl Worker {
    /// The runtime that this is called on, with whatever threads it has.
    ///
    /// # Panics
    /// Outside of a runtime.
    pub fn here() -> Self {
        Self::of(Handle::current())
    }

    fn of(runtime: Handle) -> Self {
        Self {
            runtime,
            connections: Arc::new(()),
        }
    }

    /// What to spawn on.
    pub const fn runtime(&self) -> &Handle {
        &self.runtime
    }

    /// How many connections it has.
    pub(crate) fn connections(&self) -> usize {
        Arc::strong_count(&self.connections) - 1
    }

    /// Takes one more connection.
    pub(crate) fn seat(&self) -> Seat {
        Seat(Arc::clone(&self.connections))
    }
}
