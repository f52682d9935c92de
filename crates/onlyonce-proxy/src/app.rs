//! The whole process: bound, run, drained.
//!
//! [`App::bind`] opens the store and the ports, so that everything that can be wrong at the start is wrong
//! there; [`App::run`] serves until it is told to stop, and then finishes what is in flight. The demo and
//! tests use it as `serve` does, on port 0.
//!
//! ```
//! use onlyonce_proxy::app::App;
//! use onlyonce_proxy::config::{Config, Sources};
//!
//! # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut sources = Sources::default();
//! sources.flag("--listen", "listen.address", "127.0.0.1:0");
//! sources.flag("--upstream", "upstream.url", "http://127.0.0.1:3000");
//! sources.flag("--store", "store.url", "memory:");
//! let app = App::bind(Config::load(sources)?).await?;
//! println!("listening on {}", app.address());
//!
//! let mut signals = ["the end of the example"].into_iter();
//! let signal = async || match signals.next() {
//!     Some(name) => name,
//!     None => std::future::pending().await, // a second one would end it at once
//! };
//! app.run(signal).await?;
//! # Ok(())
//! # }
//! ```

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;

use onlyonce::{Idempotency, IdempotencyLayer};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tower::ServiceBuilder;
use tracing::{info, warn};

use crate::admin::Admin;
use crate::config::Config;
use crate::descriptors;
use crate::forward::{Forward, TlsError};
use crate::listener::{ListenError, Listener};
use crate::readiness::Readiness;
use crate::store::{ChosenStore, OpenError};
use crate::upkeep;
use crate::workers::Workers;

/// The process, with its ports and its store.
#[derive(Debug)]
pub struct App {
    config: Config,
    store: ChosenStore,
    store_is_prepared: bool,
    listener: Listener,
    admin: Option<(Admin, SocketAddr)>,
    guard: IdempotencyLayer,
    forward: Forward,
    workers: Workers,
}

/// Why the process does not serve.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AppError {
    /// The store can never work.
    #[error(transparent)]
    Store(#[from] OpenError),
    /// An `https` upstream, and no way to check its certificate.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A `rediss` cache, and no way to check its certificate.
    #[error(transparent)]
    Cache(#[from] onlyonce_redis::TlsError),
    /// A port cannot be had.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The system gives no threads.
    #[error("could not start the workers")]
    Workers(#[source] std::io::Error),
    /// A second signal came while requests were in progress.
    #[error("stopped at once by a second {0}; requests in progress were cut off")]
    Interrupted(&'static str),
}

impl App {
    /// Opens the store, then the ports. A store that is away is no error: the process serves, not ready.
    ///
    /// # Errors
    /// Where it cannot serve, and waiting would not help.
    pub async fn bind(config: Config) -> Result<Self, AppError> {
        for warning in config.warnings() {
            warn!("{warning}");
        }
        if let Some(warning) = descriptors::warning(&config) {
            warn!("{warning}");
        }
        descriptors::raise();
        let store = ChosenStore::open(&config.store)?;
        let store_is_prepared = store.prepare_now(&config.store).await?;
        let forward = Forward::new(config.forward())?;
        let guard = guard(&config, &store)?;
        let listener = Listener::bind(config.listen.address, config.listen.settings()).await?;
        let admin = match config.admin.address {
            Some(address) => Some(Admin::bind_at(address).await?),
            None => None,
        };
        let workers = Workers::start(config.listen.workers()).map_err(AppError::Workers)?;
        Ok(Self {
            config,
            store,
            store_is_prepared,
            listener,
            admin,
            guard,
            forward,
            workers,
        })
    }

    /// Where clients come in, with the port that was taken.
    pub fn address(&self) -> SocketAddr {
        self.listener.local_addr()
    }

    /// Where readiness is asked for, with the port that was taken.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin.as_ref().map(|(_, address)| *address)
    }

    /// Serves until `signal` first returns (the signal's name), then finishes what is in flight. Returns
    /// when that is done, or the time for it is over.
    ///
    /// # Errors
    /// Where `signal` returns a second time, or a store that was away turns out to be unusable.
    pub async fn run(self, mut signal: impl AsyncFnMut() -> &'static str) -> Result<(), AppError> {
        let readiness = Arc::new(Readiness::new(self.store.clone()));
        let mut background = pin!(background(
            &self.config,
            &self.store,
            self.store_is_prepared,
            self.admin.map(|(admin, _)| admin),
            Arc::clone(&readiness),
        ));
        let draining = CancellationToken::new();
        let mut serving = pin!(serve(
            &self.config,
            self.listener,
            self.guard,
            self.forward,
            self.workers,
            draining.clone(),
        ));
        info!(upstream = %self.config.upstream.url, store = %self.config.store.url, "serving");
        tokio::select! {
            Err(error) = &mut background => return Err(error),
            () = &mut serving => return Ok(()),
            name = signal() => info!(signal = name, "draining"),
        }
        readiness.drain();
        draining.cancel();
        tokio::select! {
            Err(error) = &mut background => Err(error),
            () = &mut serving => Ok(()),
            name = signal() => Err(AppError::Interrupted(name)),
        }
    }
}

/// The guard, with the store that it asks: operators and readiness ask the store itself.
fn guard(config: &Config, store: &ChosenStore) -> Result<IdempotencyLayer, AppError> {
    let limits = config.limits.guard();
    let layer = match store.cached(&config.cache)? {
        Some(cached) => IdempotencyLayer::with_limits(cached, limits),
        None => IdempotencyLayer::with_limits(store.clone(), limits),
    };
    Ok(layer.with_policy(config.policy.guard(&config.upstream.name)))
}

/// Every request goes through this, from the outside in.
///
/// Above it the listener has bounded heads and connections and turns a panic into a 500. Inside the guard
/// there must be nothing that answers in the upstream's place without [`Evidence`](onlyonce::Evidence),
/// or a refusal of ours would be recorded as the upstream's answer.
fn stack(guard: IdempotencyLayer, forward: Forward) -> Idempotency<Forward> {
    ServiceBuilder::new()
        .layer(guard) // claims, captures, settles, replays; unguarded requests pass through it
        .service(forward) // one upstream; knows whether a byte was sent
}

/// Serves until `draining`, then finishes what is in flight within the time that the settings give.
async fn serve(
    config: &Config,
    listener: Listener,
    guard: IdempotencyLayer,
    forward: Forward,
    workers: Workers,
    draining: CancellationToken,
) {
    let limit = config.listen.drain;
    // Each worker has upstream connections of its own; records and bounds are those of all.
    let parts = forward.clone().split(config.listen.workers());
    let service_for = |forward: Forward| {
        let guard = guard.clone();
        move |client: SocketAddr| stack(guard.clone(), forward.on_behalf_of(client.ip()))
    };
    let serving = workers.all().iter().cloned();
    let serving: Vec<_> = serving.zip(parts.into_iter().map(service_for)).collect();
    let listening = listener.serve_on(&serving, draining.cancelled());
    // Tunnels have left their connections behind; they get the same time, at the same time.
    let tunnels = async {
        draining.cancelled().await;
        forward.drain(limit).await
    };
    let deadline = async {
        draining.cancelled().await;
        Instant::now() + limit
    };
    let (listened, tunnels, deadline) = tokio::join!(listening, tunnels, deadline);
    // Work that no client waits for any more goes on until it is settled.
    let settled = guard
        .drain(deadline.saturating_duration_since(Instant::now()))
        .await;
    if listened.aborted == 0 && tunnels == 0 && settled {
        info!("drained");
    } else {
        warn!(
            connections = listened.aborted,
            tunnels,
            settled,
            "the time to drain is over: what was in progress is cut off, and its keys are unknown"
        );
    }
}

/// What goes on beside requests. Ends only where the process has to.
async fn background(
    config: &Config,
    store: &ChosenStore,
    store_is_prepared: bool,
    admin: Option<Admin>,
    readiness: Arc<Readiness<ChosenStore>>,
) -> Result<Infallible, AppError> {
    let keep = async {
        if !store_is_prepared {
            store.prepare_later(&config.store).await?;
        }
        let (interval, batch) = (config.store.sweep_interval, config.store.sweep_batch);
        match upkeep::sweep(store, interval, batch).await {}
    };
    let answer = async {
        match admin {
            Some(admin) => admin.serve(readiness).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        ended = keep => ended,
        never = answer => match never {},
    }
}
