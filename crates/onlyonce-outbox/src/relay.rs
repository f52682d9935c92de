//! [`Relay`]: publishes what was committed, to one sink.
//!
//! Any number of relays for the same sink may run, in any number of processes: they share the 64 shards of keys
//! among themselves, and take over those of one that is gone. An event that fails is put aside with the later
//! ones of its key, and tried again; everything else flows.

mod age;
mod backoff;
mod breaker;
mod cursor;
mod flights;
mod holdings;
mod lanes;
mod lease;
mod options;
mod pace;
mod park;
mod poll;
mod position;
mod shift;
mod stats;
mod upkeep;

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

pub use self::options::{OnDead, RelayOptions, Start};
pub use self::stats::RelayStats;

use self::age::Age;
use self::backoff::Backoff;
use self::breaker::Breaker;
use self::lease::Identity;
use self::shift::{Context, End, Memory, Shift, Stop};
use self::stats::Counters;
use crate::connector::{Connector, Session};
use crate::error::Error;
use crate::sink::Sink;
use crate::{restore, schema};

pub(crate) use self::park::PROMOTE;
pub(crate) use self::poll::{SEQUENCE, envelope};

/// The wait before the database is asked again after it failed.
const RECONNECT: Backoff = Backoff {
    base: Duration::from_millis(100),
    cap: Duration::from_secs(10),
};

/// Publishes the outbox's events to a sink, from inside the application or from a process of its own.
///
/// ```no_run
/// use onlyonce_outbox::{Relay, RelayOptions, Wake, sinks::Stdout};
///
/// # async fn example(pool: sqlx::PgPool) -> Result<(), onlyonce_outbox::Error> {
/// let wake = Wake::default();
/// let options = RelayOptions::default().wake(wake.clone());
/// let relay = Relay::new(&pool, Stdout::new("/payments"), options)?;
/// let monitor = relay.monitor();
/// let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
/// let running = tokio::spawn(relay.run(async move { let _ = stopped.await; }));
/// // … after each commit with events: wake.wake() …
/// println!("{} delivered", monitor.stats().delivered);
/// let _ = stop.send(());
/// running.await.expect("the relay does not panic")?;
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Relay<S> {
    connector: Connector,
    context: Context<S>,
}

/// Reads what a relay counts, while it runs and afterwards.
#[derive(Debug, Clone)]
pub struct Monitor(Arc<Counters>);

impl Monitor {
    /// The numbers now.
    pub fn stats(&self) -> RelayStats {
        self.0.read()
    }
}

impl<S: Sink> Relay<S> {
    /// A relay to `sink`, from the database of a pool, of the driver's options, or of a URL.
    ///
    /// # Errors
    /// [`Error::Settings`] where the options contradict each other.
    pub fn new(
        connector: impl Into<Connector>,
        sink: S,
        options: RelayOptions,
    ) -> Result<Self, Error> {
        options.validate()?;
        let me = Identity {
            sink: sink.name().to_owned(),
            relay: Uuid::now_v7(),
        };
        Ok(Self {
            connector: connector.into(),
            context: Context {
                sink: Arc::new(sink),
                me,
                options,
                counters: Arc::default(),
            },
        })
    }

    /// What it counts.
    pub fn monitor(&self) -> Monitor {
        Monitor(Arc::clone(&self.context.counters))
    }

    /// Publishes until `shutdown` is ready; then waits for what is under way, writes down how far it came, and
    /// gives its shards to others. A database that fails is asked again, ever more seldom.
    ///
    /// Dropping this future stops it too, as a crash would: its shards are free when their leases lapse, and
    /// what it delivered last comes twice.
    ///
    /// # Errors
    /// [`Error::Schema`] where the tables are missing or too new: it cannot work, and waiting does not help.
    /// [`Error::Database`] where it has never worked and the server refuses it: an unknown role or database, a
    /// wrong password, rights that are missing. Once it has worked it goes on trying then too, since passwords are
    /// changed while relays run, and says so as errors.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<(), Error> {
        let mut shutdown = pin!(shutdown);
        let mut stop = Stop::new(shutdown.as_mut());
        let mut memory = Memory {
            breaker: Breaker::new(self.context.options.breaker),
            age: Age::new(),
        };
        let mut upkeep = None;
        let mut failures = 0;
        loop {
            let begun = Instant::now();
            let error = match self.shift(&mut stop, &mut memory, &mut upkeep).await {
                Ok(End::Stopped) => return Ok(()),
                Ok(End::Lost) if stop.stopped => return Ok(()),
                Ok(End::Lost) => {
                    tracing::info!(
                        sink = self.context.me.sink,
                        "shards were lost; starting over"
                    );
                    continue;
                }
                Err(error @ Error::Schema(_)) => return Err(error),
                // It has never worked.
                Err(error) if upkeep.is_none() && error.is_refusal() => return Err(error),
                Err(error) => error,
            };
            if begun.elapsed() > RECONNECT.cap {
                failures = 0;
            }
            failures += 1;
            self.context.counters.database_failures.add(1);
            let wait = RECONNECT.after(failures);
            told(&error, wait);
            if stop.stopped {
                return Ok(());
            }
            tokio::select! {
                () = sleep(wait) => {}
                () = stop.told() => return Ok(()),
            }
        }
    }

    async fn shift<F: Future<Output = ()>>(
        &self,
        stop: &mut Stop<'_, F>,
        memory: &mut Memory,
        upkeep: &mut Option<JoinSet<()>>,
    ) -> Result<End, Error> {
        let (session, sequence) = tokio::select! {
            prepared = self.prepare() => prepared?,
            () = stop.told() => return Ok(End::Stopped),
        };
        // The tables are there by now.
        let retention = self.context.options.retention;
        upkeep.get_or_insert_with(|| upkeep::start(self.connector.clone(), retention));
        Shift::new(&self.context, session, sequence, memory)
            .work(stop)
            .await
    }

    /// A connection to a database that is fit for work, and where its sequence is.
    async fn prepare(&self) -> Result<(Session, i64), Error> {
        let Context { me, options, .. } = &self.context;
        let mut session = self.connector.open(options.call_timeout).await?;
        schema::check(session.connection()).await?;
        if restore::resync(&mut session).await? {
            self.context.counters.resyncs.add(1);
        }
        lease::register(&mut session, me, options).await?;
        let sequence = poll::sequence(&mut session).await?;
        Ok((session, sequence))
    }
}

/// What an operator has to do something about is an error.
fn told(error: &Error, wait: Duration) {
    let cause = error as &dyn std::error::Error;
    if error.is_refusal() {
        tracing::error!(
            error = cause,
            ?wait,
            "the relay's database refuses it, and nothing is delivered"
        );
    } else {
        tracing::warn!(error = cause, ?wait, "the relay's database failed");
    }
}
