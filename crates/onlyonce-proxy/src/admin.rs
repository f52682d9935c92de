//! The admin listener: `/livez`, `/readyz` and, where the process has numbers, `/metrics`, for whoever
//! supervises the process.
//!
//! `/livez` answers 200 as long as the process runs its tasks. `/readyz` answers 200 or 503, with a body
//! such as `{"status":"not-ready","reason":"store"}`. There is no authentication: bind it where only
//! those who may ask can reach it.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tracing::warn;

use crate::listener::ListenError;
use crate::readiness::NotReady;

/// Supervisors ask rarely; whoever comes beyond this waits in the system's backlog.
const CONNECTIONS_MAX: usize = 64;

const HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// What a supervisor can ask of a process.
pub trait Supervised: Send + Sync + 'static {
    /// Whether it can do its work now; if not, why.
    fn ready(&self) -> impl Future<Output = Result<(), NotReady>> + Send;

    /// Its numbers, as Prometheus reads them; `None` where it has none.
    fn metrics(&self) -> impl Future<Output = Option<String>> + Send;
}

/// The listener, bound and not yet serving.
#[derive(Debug)]
pub struct Admin(TcpListener);

impl Admin {
    /// Binds the listener.
    ///
    /// # Errors
    /// Where the address cannot be had.
    pub async fn bind(address: SocketAddr) -> std::io::Result<Self> {
        TcpListener::bind(address).await.map(Self)
    }

    /// Binds the listener; it, and the address with the port that was taken.
    pub(crate) async fn bind_at(address: SocketAddr) -> Result<(Self, SocketAddr), ListenError> {
        let failed = |source| ListenError { address, source };
        let admin = Self::bind(address).await.map_err(failed)?;
        let address = admin.address().map_err(failed)?;
        Ok((admin, address))
    }

    /// Where it listens.
    ///
    /// # Errors
    /// Where the system does not say.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.0.local_addr()
    }

    /// Answers until the future is dropped, and its connections with it.
    pub async fn serve(self, process: Arc<impl Supervised>) -> Infallible {
        let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let mut connections = JoinSet::new();
        loop {
            // The semaphore is never closed, so there is always a permit in the end.
            let slot = Arc::clone(&slots).acquire_owned().await;
            let stream = match self.0.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    warn!(%error, "could not accept a connection to the admin listener");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let process = Arc::clone(&process);
            connections.spawn(async move {
                let _slot = slot;
                let service = service_fn(|request| answer(request, &*process));
                // A supervisor that hangs up is no event.
                let _ = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(HEADER_TIMEOUT)
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
            while connections.try_join_next().is_some() {}
        }
    }
}

async fn answer(
    request: Request<Incoming>,
    process: &impl Supervised,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let asked = matches!(*request.method(), Method::GET | Method::HEAD);
    let page = match request.uri().path() {
        "/livez" | "/readyz" if !asked => None,
        "/livez" => Some(json(StatusCode::OK, r#"{"status":"live"}"#)),
        "/readyz" => Some(readiness(process.ready().await)),
        "/metrics" => match process.metrics().await {
            Some(numbers) if asked => Some(page(StatusCode::OK, METRICS, numbers)),
            Some(_) => None,
            None => Some(not_found()),
        },
        _ => Some(not_found()),
    };
    Ok(page.unwrap_or_else(|| {
        let mut refused = json(
            StatusCode::METHOD_NOT_ALLOWED,
            r#"{"error":"method not allowed"}"#,
        );
        let allowed = HeaderValue::from_static("GET, HEAD");
        refused.headers_mut().insert(ALLOW, allowed);
        refused
    }))
}

fn readiness(ready: Result<(), NotReady>) -> Response<Full<Bytes>> {
    let body = match ready {
        Ok(()) => return json(StatusCode::OK, r#"{"status":"ready"}"#),
        Err(NotReady::Draining) => r#"{"status":"not-ready","reason":"draining"}"#,
        Err(NotReady::Store) => r#"{"status":"not-ready","reason":"store"}"#,
        Err(NotReady::Database) => r#"{"status":"not-ready","reason":"database"}"#,
    };
    json(StatusCode::SERVICE_UNAVAILABLE, body)
}

fn not_found() -> Response<Full<Bytes>> {
    json(StatusCode::NOT_FOUND, r#"{"error":"no such page"}"#)
}

/// The text format of Prometheus.
const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";

fn json(status: StatusCode, body: &'static str) -> Response<Full<Bytes>> {
    page(status, "application/json", body)
}

fn page(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
