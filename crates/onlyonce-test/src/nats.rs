//! A throw-away NATS server with JetStream: on a free loopback port, its streams kept in files as long as it is
//! there, stopped or not.
//!
//! ```no_run
//! let nats = onlyonce_test::nats::Server::start()?;
//! println!("{}", nats.url());
//! # Ok::<(), std::io::Error>(())
//! ```

use std::io::{self, Read};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::daemon::{self, Daemon, free_port};

/// A running NATS server, or one that was stopped and can be started again with the same port and streams.
#[derive(Debug)]
pub struct Server {
    // Before the directory, which it writes to until the end.
    process: Daemon,
    directory: TempDir,
    port: u16,
}

impl Server {
    /// Starts one. Blocks until it answers.
    ///
    /// # Errors
    /// Where `nats-server` is missing or does not start; the message carries its log.
    pub fn start() -> io::Result<Self> {
        let directory = tempfile::Builder::new()
            .prefix("onlyonce-nats-")
            .tempdir()?;
        let mut server = Self {
            process: Daemon::new("nats-server", directory.path().join("log")),
            directory,
            port: free_port()?,
        };
        server.launch()?;
        Ok(server)
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// Where it listens, as `nats://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("nats://{}", self.addr())
    }

    /// Starts it, with its streams, where it was stopped.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn launch(&mut self) -> io::Result<()> {
        let program =
            find().ok_or_else(|| io::Error::other("no nats-server in PATH or /usr/sbin"))?;
        let addr = self.addr();
        let mut command = Command::new(program);
        command
            .args(["-a", "127.0.0.1", "-p", &self.port.to_string(), "-js"])
            .arg("-sd")
            .arg(self.directory.path());
        self.process.launch(&mut command, |_| greets(addr))
    }

    /// Stops it at once; what it acknowledged and did not write to disk yet is gone.
    pub fn stop(&mut self) {
        self.process.stop();
    }

    /// Freezes it (`kill -STOP`) until it is thawed. Blocks until it is frozen.
    ///
    /// # Panics
    /// Where it is stopped.
    pub fn freeze(&self) {
        self.process.freeze();
    }

    /// Lets it go on (`kill -CONT`).
    ///
    /// # Panics
    /// Where it is stopped.
    pub fn thaw(&self) {
        self.process.thaw();
    }
}

/// The server speaks first.
fn greets(addr: SocketAddr) -> bool {
    let greeting = || -> io::Result<[u8; 4]> {
        let mut stream = TcpStream::connect_timeout(&addr, Duration::from_secs(1))?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        let mut greeting = [0; 4];
        stream.read_exact(&mut greeting)?;
        Ok(greeting)
    };
    greeting().is_ok_and(|greeting| &greeting == b"INFO")
}

/// Where `nats-server` is on this machine.
pub fn find() -> Option<PathBuf> {
    daemon::find("nats-server", &["/usr/sbin", "/usr/bin", "/usr/local/bin"])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_answers_stops_freezes_and_starts_again() {
        let mut nats = Server::start().unwrap();
        assert!(greets(nats.addr()));
        nats.stop();
        assert!(!greets(nats.addr()));
        nats.launch().unwrap();
        nats.freeze();
        nats.thaw();
        assert!(greets(nats.addr()));
    }
}
