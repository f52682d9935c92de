//! Connections to an endpoint: each carries one request at a time, and a few are kept for the next.

use std::error::Error as StdError;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::rt::{Read, Write};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_util::task::AbortOnDropHandle;

use super::answer::Answer;
use super::endpoint::Endpoint;
use crate::error::Error;
use crate::sinks::trust::Trust;

/// Servers close connections that rest for 5 s, the most impatient of them.
const IDLE_MAX: Duration = Duration::from_secs(4);

type Body = Full<Bytes>;
type BoxError = Box<dyn StdError + Send + Sync>;

/// The connections that are kept, and how to make others.
pub(super) struct Connections {
    endpoint: Endpoint,
    tls: Option<(Trust, ServerName<'static>)>,
    idle: Mutex<Vec<Idle>>,
}

struct Idle {
    connection: Connection,
    since: Instant,
}

/// One connection, and the task that serves it for as long as this is kept.
struct Connection {
    requests: SendRequest<Body>,
    _driver: AbortOnDropHandle<()>,
}

impl Connections {
    pub(super) fn to(endpoint: Endpoint) -> Result<Self, Error> {
        let tls = if endpoint.tls {
            let name = ServerName::try_from(endpoint.host.clone()).map_err(|_| {
                Error::Settings("the webhook's host cannot be in a certificate".to_owned())
            })?;
            Some((Trust::default(), name))
        } else {
            None
        };
        Ok(Self {
            endpoint,
            tls,
            idle: Mutex::default(),
        })
    }

    pub(super) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Concerns `https` only.
    pub(super) fn trust(&mut self, config: ClientConfig) {
        if let Some((trust, _)) = &mut self.tls {
            *trust = config.into();
        }
    }

    /// Sends a request and reads its answer. A kept connection that breaks is replaced by a new one: the server
    /// may have closed it just then, and the request may be repeated.
    pub(super) async fn send(&self, request: Request<Body>) -> Result<Answer, BoxError> {
        while let Some(mut kept) = self.take() {
            if kept.requests.ready().await.is_err() {
                continue;
            }
            if let Ok(answer) = self.exchange(kept, request.clone()).await {
                return Ok(answer);
            }
            break;
        }
        let connection = self.connect().await?;
        self.exchange(connection, request).await
    }

    async fn exchange(
        &self,
        mut connection: Connection,
        request: Request<Body>,
    ) -> Result<Answer, BoxError> {
        let response = connection.requests.send_request(request).await?;
        let (answer, complete) = Answer::read(response).await;
        if complete {
            self.keep(connection);
        }
        Ok(answer)
    }

    async fn connect(&self) -> Result<Connection, BoxError> {
        let Endpoint { host, port, .. } = &self.endpoint;
        let stream = TcpStream::connect((host.as_str(), *port)).await?;
        stream.set_nodelay(true)?;
        match &self.tls {
            None => handshake(TokioIo::new(stream)).await,
            Some((trust, name)) => {
                let connector = trust.connector().await?;
                let stream = connector.connect(name.clone(), stream).await?;
                handshake(TokioIo::new(stream)).await
            }
        }
    }

    fn take(&self) -> Option<Connection> {
        let mut idle = self.idle();
        idle.retain(|idle| idle.since.elapsed() < IDLE_MAX);
        idle.pop().map(|idle| idle.connection)
    }

    fn keep(&self, connection: Connection) {
        if connection.requests.is_closed() {
            return;
        }
        let since = Instant::now();
        self.idle().push(Idle { connection, since });
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Idle>> {
        // A push, a pop or a retain is whole or did not happen.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn handshake<T>(io: T) -> Result<Connection, BoxError>
where
    T: Read + Write + Unpin + Send + 'static,
{
    let (requests, driver) = http1::handshake(io).await?;
    let driver = tokio::spawn(async {
        // Its error is told to whoever waits for an answer.
        let _ = driver.await;
    });
    Ok(Connection {
        requests,
        _driver: AbortOnDropHandle::new(driver),
    })
}
