//! Where a Redis is, and how a connection to it is made.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, ConnectionAddr, IntoConnectionInfo};
use tokio::net::TcpStream;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_util::task::AbortOnDropHandle;

use super::BoxError;
use super::durability::Durability;
use crate::error::Error;
use crate::sinks::trust::Trust;

/// A server.
pub(super) struct Server {
    client: Client,
    tls: Option<Tls>,
}

/// What `rediss://` says besides.
struct Tls {
    host: String,
    port: u16,
    name: ServerName<'static>,
    trust: Trust,
}

/// A connection, and where we speak TLS ourselves the task that serves it for as long as this is kept.
pub(super) struct Connection {
    pub(super) commands: MultiplexedConnection,
    _driver: Option<AbortOnDropHandle<()>>,
}

impl Server {
    pub(super) fn at(url: &str) -> Result<Self, Error> {
        // Not the client's words: they may hold the password.
        let refused = || Error::Settings("the URL of Redis cannot be understood".to_owned());
        // The client as it is built here has no TLS, and its URLs none of ours.
        let (url, secure) = match url.strip_prefix("rediss://") {
            Some(rest) if !rest.contains('#') => (format!("redis://{rest}"), true),
            Some(_) => return Err(refused()),
            None => (url.to_owned(), false),
        };
        let server = url.into_connection_info().map_err(|_| refused())?;
        let tls = match server.addr() {
            ConnectionAddr::Tcp(host, port) if secure => Some(Tls {
                host: host.clone(),
                port: *port,
                name: ServerName::try_from(host.clone()).map_err(|_| refused())?,
                trust: Trust::default(),
            }),
            _ => None,
        };
        let client = Client::open(server).map_err(|_| refused())?;
        Ok(Self { client, tls })
    }

    /// Concerns `rediss` only.
    pub(super) fn trust(&mut self, config: ClientConfig) {
        if let Some(tls) = &mut self.tls {
            tls.trust = config.into();
        }
    }

    /// `answer_max` is how long a command may take. What the server has to be able to do is asked first, before
    /// anything is appended.
    pub(super) async fn connect(
        &self,
        connect_max: Duration,
        answer_max: Duration,
        durability: Durability,
    ) -> Result<Connection, BoxError> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(connect_max))
            .set_response_timeout(Some(answer_max));
        let mut connection = match &self.tls {
            None => {
                let connecting = self
                    .client
                    .get_multiplexed_async_connection_with_config(&config);
                Connection {
                    commands: connecting.await?,
                    _driver: None,
                }
            }
            Some(tls) => self.secured(tls, config).await?,
        };
        durability.check(&mut connection.commands).await?;
        Ok(connection)
    }

    async fn secured(
        &self,
        tls: &Tls,
        config: AsyncConnectionConfig,
    ) -> Result<Connection, BoxError> {
        let connector = tls.trust.connector().await?;
        let stream = TcpStream::connect((tls.host.as_str(), tls.port)).await?;
        stream.set_nodelay(true)?;
        let stream = connector.connect(tls.name.clone(), stream).await?;
        let settings = self.client.get_connection_info().redis_settings();
        let (commands, driver) =
            MultiplexedConnection::new_with_config(settings, stream, config).await?;
        Ok(Connection {
            commands,
            _driver: Some(AbortOnDropHandle::new(tokio::spawn(driver))),
        })
    }
}
