//! The admin listener: `/livez` and `/readyz`, for whoever supervises the process.
//!
//! `/livez` answers 200 as long as the process runs its tasks. `/readyz` answers 200 or 503, with a body
//! such as `{"status":"not-ready","reason":"store"}`. There is no authentication: bind it where only
//! those who may ask can reach it.

use std::convert::Infallible;
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
use onlyonce::store::Store;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tracing::warn;

use crate::readiness::{NotReady, Readiness};

/// Supervisors ask rarely; whoever comes beyond this waits in the system's backlog.
const CONNECTIONS_MAX: usize = 64;

const HEADER_TIMEOUT: Duration = Duration::from_secs(5);

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

    /// Where it listens.
    ///
    /// # Errors
    /// Where the system does not say.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.0.local_addr()
    }

    /// Answers until the future is dropped, and its connections with it.
    pub async fn serve<S: Store>(self, readiness: Arc<Readiness<S>>) -> Infallible {
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
            let readiness = Arc::clone(&readiness);
            connections.spawn(async move {
                let _slot = slot;
                let service = service_fn(|request| answer(request, &readiness));
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

async fn answer<S: Store>(
    request: Request<Incoming>,
    readiness: &Readiness<S>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let known = matches!(request.uri().path(), "/livez" | "/readyz");
    if known && !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut refused = json(
            StatusCode::METHOD_NOT_ALLOWED,
            r#"{"error":"method not allowed"}"#,
        );
        refused
            .headers_mut()
            .insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return Ok(refused);
    }
    Ok(match request.uri().path() {
        "/livez" => json(StatusCode::OK, r#"{"status":"live"}"#),
        "/readyz" => match readiness.check().await {
            Ok(()) => json(StatusCode::OK, r#"{"status":"ready"}"#),
            Err(NotReady::Draining) => json(
                StatusCode::SERVICE_UNAVAILABLE,
                r#"{"status":"not-ready","reason":"draining"}"#,
            ),
            Err(NotReady::Store) => json(
                StatusCode::SERVICE_UNAVAILABLE,
                r#"{"status":"not-ready","reason":"store"}"#,
            ),
        },
        _ => json(StatusCode::NOT_FOUND, r#"{"error":"no such page"}"#),
    })
}

fn json(status: StatusCode, body: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(body.as_bytes())));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
