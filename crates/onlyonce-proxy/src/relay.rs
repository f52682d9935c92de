//! `onlyonce relay`: a process that publishes the events of an outbox to one sink.
//!
//! Any number of them may run for the same sink, on any number of machines: they share its 64 shards, and take
//! over those of one that is gone. All that they have in common is in the database.
//!
//! A database that is away is no reason not to start, nor to end: the relay asks again, ever more seldom, and
//! is not ready meanwhile. Tables that are missing are one, and so is a server that refuses the relay at its
//! start: waiting does not help.

mod metrics;
mod piped;
mod sink;
mod vitals;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use onlyonce_outbox::Error;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use self::sink::ChosenSink;
use self::vitals::Vitals;
use crate::admin::Admin;
use crate::config::{Outbox, OutboxUrl, Relay, RelayConfig};
use crate::forward::TlsError;
use crate::listener::ListenError;

/// What others have to wait for.
const LATER: &str =
    "what was under way comes again, and the shards are free when their leases lapse";

const CONNECT: Duration = Duration::from_secs(10);

/// How long a statement of a migration may take.
const MIGRATION: Duration = Duration::from_secs(600);

/// The process, with its port.
#[derive(Debug)]
pub struct RelayApp {
    settings: Relay,
    relay: onlyonce_outbox::Relay<ChosenSink>,
    admin: Option<(Admin, SocketAddr)>,
    /// Cancelled where standard output is the sink, and its reader has left.
    closed: CancellationToken,
}

/// Why the process does not relay.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RelayError {
    /// The settings name a file, and something is wrong with what is in it.
    #[error("{0}")]
    Settings(String),
    /// The sink can never work.
    #[error("the sink cannot be used")]
    Sink(#[source] Error),
    /// An `https` endpoint, and no way to check its certificate.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A port cannot be had.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The outbox can never work.
    #[error(transparent)]
    Outbox(OutboxError),
    /// Standard output is the sink, and whoever read it has left.
    #[error("nobody reads standard output any more")]
    Closed,
    /// A second signal came while events were under way.
    #[error("stopped at once by a second {0}; what was under way comes again")]
    Interrupted(&'static str),
}

/// An outbox cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the outbox at {url} cannot be used{}", advice(.source))]
pub struct OutboxError {
    /// Where it is, without passwords.
    pub(crate) url: OutboxUrl,
    /// What is wrong with it.
    #[source]
    pub(crate) source: Error,
}

/// The command for what the library can only name.
const fn advice(source: &Error) -> &'static str {
    match source {
        Error::Schema(_) => {
            " (`onlyonce migrate --outbox` makes its tables, and brings them up to date)"
        }
        _ => "",
    }
}

impl RelayApp {
    /// Opens the sink and the port. The database is not asked yet.
    ///
    /// # Errors
    /// Where it cannot relay, and waiting would not help.
    pub async fn bind(config: RelayConfig) -> Result<Self, RelayError> {
        let settings = config.relay;
        for warning in settings.warnings() {
            warn!("{warning}");
        }
        let closed = CancellationToken::new();
        let sink = ChosenSink::open(&settings, closed.clone())?;
        let options = settings.timing.options(&settings.sink);
        let connector = settings.outbox.connector();
        let relay = onlyonce_outbox::Relay::new(connector, sink, options);
        let admin = match settings.admin {
            Some(address) => Some(Admin::bind_at(address).await?),
            None => None,
        };
        Ok(Self {
            relay: relay.map_err(RelayError::Sink)?,
            settings,
            admin,
            closed,
        })
    }

    /// Where readiness is asked for, with the port that was taken.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin.as_ref().map(|(_, address)| *address)
    }

    /// Publishes until `signal` first returns (the signal's name), then finishes what is under way and gives its
    /// shards to others. Returns when that is done, or the time for it is over.
    ///
    /// # Errors
    /// Where `signal` returns a second time, the outbox's tables are missing, the server refuses the relay at its
    /// start, or nobody reads standard output.
    pub async fn run(
        self,
        mut signal: impl AsyncFnMut() -> &'static str,
    ) -> Result<(), RelayError> {
        let Self {
            settings,
            relay,
            admin,
            closed,
        } = self;
        let vitals = Arc::new(Vitals::new(&settings, relay.monitor()));
        let stop = CancellationToken::new();
        let mut running = pin!(relay.run(stop.clone().cancelled_owned()));
        let mut beside = pin!(beside(admin.map(|(admin, _)| admin), Arc::clone(&vitals)));
        let ended = |result: Result<(), Error>| {
            let url = settings.outbox.url.clone();
            result.map_err(|source| RelayError::Outbox(OutboxError { url, source }))
        };
        info!(name = %settings.name, sink = %settings.sink, database = %settings.outbox.url, "relaying");
        let outcome = tokio::select! {
            result = &mut running => return ended(result),
            never = &mut beside => match never {},
            () = closed.cancelled() => Err(RelayError::Closed),
            name = signal() => {
                info!(signal = name, "draining");
                Ok(())
            }
        };
        vitals.drain();
        stop.cancel();
        tokio::select! {
            result = &mut running => {
                ended(result)?;
                // Where the database was away, there was nobody to hand over to.
                if vitals.works() {
                    info!("drained; the shards are free");
                } else {
                    warn!("stopped while the database is away; {LATER}");
                }
            }
            never = &mut beside => match never {},
            name = signal() => return Err(RelayError::Interrupted(name)),
            () = sleep(settings.drain) => warn!("the time to drain is over; {LATER}"),
        }
        outcome
    }
}

/// Makes the outbox's tables, or brings them up to date.
pub(crate) async fn migrate(outbox: &Outbox) -> Result<(), RelayError> {
    let migrated = async {
        let mut connection = outbox.connector().connect(CONNECT, MIGRATION).await?;
        onlyonce_outbox::migrate(&mut connection).await
    };
    let url = outbox.url.clone();
    let failed = |source| RelayError::Outbox(OutboxError { url, source });
    migrated.await.map_err(failed)
}

/// What goes on beside the relay.
async fn beside(admin: Option<Admin>, vitals: Arc<Vitals>) -> Infallible {
    let watching = Arc::clone(&vitals);
    let answer = async {
        match admin {
            Some(admin) => admin.serve(vitals).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        never = watching.watch() => never,
        never = answer => never,
    }
}
