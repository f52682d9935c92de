//! Opens connections to the upstream.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;

use super::ForwardSettings;
use super::connection::Connection;
use super::settings::Upstream;
use super::tls::{TlsError, connector};
use super::wire::{CountedIo, Wire};
use crate::listener::BUFFER_BYTES_MAX;

/// Everything needed to reach the upstream.
pub(crate) struct Dialer {
    upstream: Upstream,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    timeout: std::time::Duration,
    http1: http1::Builder,
}

/// Why there is no connection. No request was sent.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    #[error("could not resolve the upstream's name")]
    Resolve(#[source] io::Error),
    #[error("the upstream's name has no address")]
    NoAddress,
    #[error("could not connect to the upstream")]
    Connect(#[source] io::Error),
    #[error("no TLS with the upstream")]
    Tls(#[source] io::Error),
    #[error("could not set up HTTP on the new connection")]
    Http(#[source] hyper::Error),
    #[error("no connection to the upstream in time")]
    Timeout,
}

impl Dialer {
    pub(crate) fn new(settings: &ForwardSettings) -> Result<Self, TlsError> {
        let upstream = settings.upstream.clone();
        let tls = match upstream.is_tls {
            true => Some((
                connector(settings.ca_file.as_deref())?,
                ServerName::try_from(upstream.host.clone())?,
            )),
            false => None,
        };
        let mut http1 = http1::Builder::new();
        http1
            .max_header_size(settings.response_header_bytes_max)
            .max_buf_size(settings.response_header_bytes_max.max(BUFFER_BYTES_MAX));
        Ok(Self {
            upstream,
            tls,
            timeout: settings.connect_timeout,
            http1,
        })
    }

    /// Opens a connection, by `limit` at the latest.
    pub(crate) async fn dial(&self, limit: Option<Instant>) -> Result<Connection, DialError> {
        let own_limit = Instant::now() + self.timeout;
        let limit = limit.map_or(own_limit, |limit| limit.min(own_limit));
        timeout_at(limit, self.connect(limit))
            .await
            .unwrap_or(Err(DialError::Timeout))
    }

    async fn connect(&self, limit: Instant) -> Result<Connection, DialError> {
        let tcp = self.connect_tcp(limit).await?;
        // Requests are written whole: waiting for more to send only delays them.
        tcp.set_nodelay(true).map_err(DialError::Connect)?;
        let wire = Wire::new(self.tls.is_some());
        let io = CountedIo::new(tcp, Arc::clone(&wire));
        match &self.tls {
            None => self.handshake(io, wire).await,
            Some((connector, name)) => {
                let tls = connector.connect(name.clone(), io);
                self.handshake(tls.await.map_err(DialError::Tls)?, wire)
                    .await
            }
        }
    }

    /// Tries one address after the other; each gets its share of the time, so that the first, if it
    /// swallows packets, leaves some for the others.
    async fn connect_tcp(&self, limit: Instant) -> Result<TcpStream, DialError> {
        let addresses = tokio::net::lookup_host((self.upstream.host.as_str(), self.upstream.port));
        let addresses: Vec<SocketAddr> = addresses.await.map_err(DialError::Resolve)?.collect();
        let mut last_error = DialError::NoAddress;
        for (tried, address) in addresses.iter().enumerate() {
            let left = u32::try_from(addresses.len() - tried).unwrap_or(u32::MAX);
            let share = limit.saturating_duration_since(Instant::now()) / left;
            match tokio::time::timeout(share, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => last_error = DialError::Connect(error),
                Err(_) => last_error = DialError::Timeout,
            }
        }
        Err(last_error)
    }

    async fn handshake<T>(&self, io: T, wire: Arc<Wire>) -> Result<Connection, DialError>
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let handshake = self.http1.handshake(TokioIo::new(io));
        let (sender, connection) = handshake.await.map_err(DialError::Http)?;
        let driver = Box::pin(connection.with_upgrades());
        Ok(Connection::new(sender, driver, wire))
    }
}
