//! Accepts connections and serves HTTP/1.1 on them, until told to drain.
//!
//! Everything a stranger can do to a socket is bounded here: the number of connections, the size of a
//! request's head and the time it takes to arrive, how long a client may leave its response unread and a
//! closed connection lingers. Requests that
//! hyper lets through and HTTP forbids (no `Host`, two, an unknown transfer coding) are answered before
//! any service sees them, so that they leave no record. A service that panics costs its client a 500 and
//! nobody else anything.
//!
//! Two connections' ends differ from hyper's own. A response to a request whose body was not read is not
//! destroyed by a TCP reset: the connection lingers until the client has seen it. A response that broke
//! off *is* ended by a reset, since to an HTTP/1.0 client an orderly end would say that it was complete.
//!
//! What follows an unread body is never taken for a request: hyper closes such a connection.
//!
//! ```
//! use std::convert::Infallible;
//! use bytes::Bytes;
//! use http_body_util::Full;
//! use onlyonce_proxy::listener::{Listener, ListenerSettings};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let hello = |_client| tower::service_fn(async |_request| {
//!     Ok::<_, Infallible>(http::Response::new(Full::new(Bytes::from("hello"))))
//! });
//! let listener = Listener::bind("127.0.0.1:0".parse()?, ListenerSettings::default()).await?;
//! println!("listening on {}", listener.local_addr());
//! let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
//! let serving = tokio::spawn(listener.serve(hello, async { drop(stopped.await) }));
//! stop.send(()).expect("the listener waits for this");
//! assert_eq!(serving.await?.aborted, 0);
//! # Ok(())
//! # }
//! ```

mod connection;
mod io;
mod response_body;
mod screen;
mod signal;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use onlyonce::BoxError;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower_service::Service;
use tracing::{debug, warn};

use self::connection::Connection;
use self::io::IoLimits;
use self::signal::Signal;
use crate::workers::Worker;

/// The limits of a [`Listener`].
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ListenerSettings {
    /// How many connections are served at once; more wait in the system's queue. Default: 10 000.
    pub connections_max: usize,
    /// How long a request's head may take to arrive, counted from when the connection began to wait for
    /// it: hence also how long an unused connection stays open. Default: 30 s.
    pub head_timeout: Duration,
    /// The largest head of a request, in bytes; 431 above. Default: 64 KiB.
    pub head_bytes_max: usize,
    /// The most fields in a request's head; 431 above. Default: 100.
    pub headers_max: usize,
    /// How long a client may refuse to read its response, without taking a byte, before it is cut off.
    /// Default: 60 s.
    pub write_timeout: Duration,
    /// How long a connection that we ended waits for the client to have read the response. Default: 2 s.
    pub linger: Duration,
    /// How long requests in progress may take to end once a drain has begun. Default: 30 s.
    pub drain: Duration,
}

impl Default for ListenerSettings {
    fn default() -> Self {
        Self {
            connections_max: 10_000,
            head_timeout: Duration::from_secs(30),
            head_bytes_max: 64 << 10,
            headers_max: DEFAULT_HEADERS_MAX,
            write_timeout: Duration::from_secs(60),
            linger: Duration::from_secs(2),
            drain: Duration::from_secs(30),
        }
    }
}

/// hyper's own; saying it anew would cost an allocation for each request.
const DEFAULT_HEADERS_MAX: usize = 100;

/// What is read at once from a connection, or waits to be written to it; a head may need more. hyper's own
/// limit is 408 KiB, which ten thousand busy connections would turn into 4 GiB, and as much again upstream.
pub(crate) const BUFFER_BYTES_MAX: usize = 64 << 10;

/// How long accepting pauses when the process has run out of something, such as file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A socket that is bound and listens.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    address: SocketAddr,
    settings: ListenerSettings,
}

/// Why there is no [`Listener`].
#[derive(Debug, thiserror::Error)]
#[error("could not listen on {address}")]
pub struct ListenError {
    /// The address that was asked for.
    pub address: SocketAddr,
    /// What the system said: mostly that the address is in use by another process.
    #[source]
    pub source: std::io::Error,
}

/// How a drain ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub struct Drained {
    /// How many connections were cut off with a request in progress.
    pub aborted: usize,
}

impl Listener {
    /// Binds an address. Port 0 takes a free one.
    ///
    /// A port that another process serves is an error, whether or not that process allows to share it:
    /// sharing (`SO_REUSEPORT`) takes both, and we do not ask for it. `SO_REUSEADDR`, which is set, only
    /// lets a restart take over a port whose old connections are still dying.
    ///
    /// # Errors
    /// Where the address is taken, not ours or not permitted.
    pub async fn bind(
        address: SocketAddr,
        settings: ListenerSettings,
    ) -> Result<Self, ListenError> {
        let failed = |source| ListenError { address, source };
        let socket = TcpListener::bind(address).await.map_err(failed)?;
        let address = socket.local_addr().map_err(failed)?;
        Ok(Self {
            socket,
            address,
            settings,
        })
    }

    /// The address that was bound, with the port that was taken.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `stop` completes, then drains: accepts nothing more, lets requests in progress end,
    /// and cuts off what is left when the drain's time is over. Returns when no connection is left.
    /// `service_for` makes the service of each connection from the client's address.
    ///
    /// Tunnels are not waited for; they left their connection behind when they switched.
    pub async fn serve<M, S, B>(self, service_for: M, stop: impl Future<Output = ()>) -> Drained
    where
        M: Fn(SocketAddr) -> S,
        S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send,
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        self.serve_on(&[(Worker::here(), service_for)], stop).await
    }

    /// Like [`serve`](Self::serve), on several workers with services of their own. Each new connection
    /// goes to the worker that has the fewest.
    ///
    /// # Panics
    /// Without a worker.
    pub async fn serve_on<M, S, B>(
        self,
        workers: &[(Worker, M)],
        stop: impl Future<Output = ()>,
    ) -> Drained
    where
        M: Fn(SocketAddr) -> S,
        S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send,
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let connections = TaskTracker::new();
        let draining = Signal::default();
        let aborting = CancellationToken::new();
        let http1 = connection::http1(&self.settings);
        let limits = IoLimits {
            write: self.settings.write_timeout,
            linger: self.settings.linger,
        };
        let start = |(stream, peer), place| {
            let (worker, service_for) = workers
                .iter()
                .min_by_key(|(worker, _)| worker.connections())
                .expect("there is a worker");
            let connection = Connection {
                service: service_for(peer),
                http1: http1.clone(),
                limits,
                draining: draining.clone(),
                aborting: aborting.clone(),
            };
            let seat = worker.seat();
            let served = async move {
                connection.serve(stream).await;
                drop((seat, place));
            };
            connections.spawn_on(served, worker.runtime());
        };
        tokio::select! {
            () = accept(&self.socket, self.settings.connections_max, start) => {}
            () = stop => {}
        }
        drop(self.socket);
        draining.give();
        connections.close();
        if tokio::time::timeout(self.settings.drain, connections.wait())
            .await
            .is_ok()
        {
            return Drained { aborted: 0 };
        }
        let aborted = connections.len();
        aborting.cancel();
        connections.wait().await;
        Drained { aborted }
    }
}

/// Accepts for ever, and has each connection started, with its place among those that there may be.
async fn accept(
    socket: &TcpListener,
    connections_max: usize,
    start: impl Fn((std::net::TcpStream, SocketAddr), OwnedSemaphorePermit),
) {
    let places = Arc::new(Semaphore::new(connections_max.min(Semaphore::MAX_PERMITS)));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return; // the semaphore is never closed
        };
        // Taken from this runtime: it is waited for on its worker's.
        let accepted = socket.accept().await;
        match accepted.and_then(|(stream, peer)| Ok((stream.into_std()?, peer))) {
            Ok(accepted) => start(accepted, place),
            Err(error) => pause_after(&error).await,
        }
    }
}

/// Connections that died while they waited to be accepted are no reason to pause; everything else is.
async fn pause_after(error: &std::io::Error) {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    match error.kind() {
        ConnectionAborted | ConnectionRefused | ConnectionReset => {
            debug!(%error, "connection lost before it was accepted");
        }
        _ => {
            warn!(%error, "could not accept a connection");
            tokio::time::sleep(ACCEPT_PAUSE).await;
        }
    }
}

/// Answers small writes at once: they are ends of responses.
fn prepare(stream: &TcpStream) {
    if let Err(error) = stream.set_nodelay(true) {
        debug!(%error, "could not set TCP_NODELAY");
    }
}
