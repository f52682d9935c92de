//! A throw-away RabbitMQ node: on free loopback ports, with a name registry (`epmd`) of its own, so that it
//! neither finds nor disturbs another node of this machine.
//!
//! ```no_run
//! let rabbitmq = onlyonce_test::rabbitmq::Server::start()?;
//! println!("{}", rabbitmq.url());
//! # Ok::<(), std::io::Error>(())
//! ```

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::daemon::{self, Daemon, free_port};

/// The start of AMQP 0-9-1 by its section 4.2.2; a server answers with its first method.
const PROTOCOL_HEADER: &[u8] = b"AMQP\x00\x00\x09\x01";

/// A running node, or one that was stopped and can be started again with the same port and queues.
#[derive(Debug)]
pub struct Server {
    // Before the directory, which they write to until the end.
    node: Daemon,
    registry: Daemon,
    directory: TempDir,
    port: u16,
    distribution_port: u16,
    registry_port: u16,
}

impl Server {
    /// Starts one, which takes some seconds. Blocks until it answers.
    ///
    /// # Errors
    /// Where RabbitMQ is missing or does not start; the message carries its log.
    pub fn start() -> io::Result<Self> {
        let directory = tempfile::Builder::new()
            .prefix("onlyonce-rabbitmq-")
            .tempdir()?;
        let path = |name| directory.path().join(name);
        fs::write(path("plugins"), "[].")?;
        fs::write(path("rabbitmq.conf"), "")?;
        let mut server = Self {
            node: Daemon::of_many("rabbitmq-server", path("log")),
            registry: Daemon::new("epmd", path("epmd.log")),
            directory,
            port: free_port()?,
            distribution_port: free_port()?,
            registry_port: free_port()?,
        };
        let mut registry = Command::new(find_registry().ok_or_else(missing)?);
        registry.args(["-address", "127.0.0.1", "-port"]);
        registry.arg(server.registry_port.to_string());
        let registry_addr = SocketAddr::from((Ipv4Addr::LOCALHOST, server.registry_port));
        let answers = |_| TcpStream::connect(registry_addr).is_ok();
        server.registry.launch(&mut registry, answers)?;
        server.launch()?;
        Ok(server)
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// Where it listens, as `amqp://guest:guest@127.0.0.1:PORT/%2f`.
    pub fn url(&self) -> String {
        format!("amqp://guest:guest@{}/%2f", self.addr())
    }

    /// Starts it, with its queues, where it was stopped.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn launch(&mut self) -> io::Result<()> {
        let path = |name| self.directory.path().join(name);
        let mut command = Command::new(find().ok_or_else(missing)?);
        command
            .env("HOME", self.directory.path())
            .env("ERL_EPMD_PORT", self.registry_port.to_string())
            .env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", "-start_epmd false")
            .env(
                "RABBITMQ_NODENAME",
                format!("onlyonce-{}@localhost", self.port),
            )
            .env("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1")
            .env("RABBITMQ_NODE_PORT", self.port.to_string())
            .env("RABBITMQ_DIST_PORT", self.distribution_port.to_string())
            .env("RABBITMQ_MNESIA_BASE", path("mnesia"))
            .env("RABBITMQ_LOG_BASE", path("logs"))
            .env("RABBITMQ_PID_FILE", path("pid"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", path("plugins"))
            .env("RABBITMQ_CONFIG_FILE", path("rabbitmq.conf"))
            .env("RABBITMQ_CONF_ENV_FILE", path("rabbitmq-env.conf"));
        let addr = self.addr();
        self.node.launch(&mut command, |_| answers(addr))
    }

    /// Stops it at once. What it confirmed is on disk.
    pub fn stop(&mut self) {
        self.node.stop();
    }

    /// Freezes it (`kill -STOP`) until it is thawed.
    ///
    /// # Panics
    /// Where it is stopped.
    pub fn freeze(&self) {
        self.node.freeze();
    }

    /// Lets it go on (`kill -CONT`).
    ///
    /// # Panics
    /// Where it is stopped.
    pub fn thaw(&self) {
        self.node.thaw();
    }
}

fn answers(addr: SocketAddr) -> bool {
    let first = || -> io::Result<[u8; 1]> {
        let mut stream = TcpStream::connect_timeout(&addr, Duration::from_secs(1))?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        stream.write_all(PROTOCOL_HEADER)?;
        let mut first = [0];
        stream.read_exact(&mut first)?;
        Ok(first)
    };
    // A frame that carries a method; `A` would be the header that the server speaks instead.
    first().is_ok_and(|first| first == [1])
}

/// Where RabbitMQ's start script is on this machine: not the wrapper in `PATH`, which changes accounts.
pub fn find() -> Option<PathBuf> {
    let dirs = ["/usr/lib/rabbitmq/bin", "/usr/local/lib/rabbitmq/bin"];
    let found = dirs.map(|dir| PathBuf::from(dir).join("rabbitmq-server"));
    found.into_iter().find(|program| program.is_file())
}

fn find_registry() -> Option<PathBuf> {
    daemon::find("epmd", &["/usr/bin", "/usr/local/bin"])
}

fn missing() -> io::Error {
    io::Error::other("no rabbitmq-server in /usr/lib/rabbitmq/bin, or no epmd")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_answers_stops_and_starts_again() {
        let mut rabbitmq = Server::start().unwrap();
        assert!(answers(rabbitmq.addr()));
        rabbitmq.freeze();
        rabbitmq.thaw();
        assert!(answers(rabbitmq.addr()));
        rabbitmq.stop();
        assert!(!answers(rabbitmq.addr()));
        rabbitmq.launch().unwrap();
        assert!(answers(rabbitmq.addr()));
    }
}
