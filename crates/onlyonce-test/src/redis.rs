//! A throw-away Redis server: in memory, on a free loopback port, gone when dropped.
//!
//! ```no_run
//! let redis = onlyonce_test::redis::Server::start()?;
//! println!("{}", redis.url());
//! # Ok::<(), std::io::Error>(())
//! ```

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::str::FromStr;
use std::time::Duration;

use tempfile::TempDir;

use crate::daemon::{self, Daemon, free_port};

const ANSWER: Duration = Duration::from_secs(1);

/// A running Redis, or one that was stopped and can be started again with the same port and no data.
#[derive(Debug)]
pub struct Server {
    // Before the directory, which it writes to until the end.
    process: Daemon,
    directory: TempDir,
    port: u16,
    tls_port: Option<u16>,
    args: Vec<String>,
}

impl Server {
    /// Starts one. Blocks until it answers.
    ///
    /// # Errors
    /// Where `redis-server` is missing or does not start; the message carries its log.
    pub fn start() -> io::Result<Self> {
        Self::start_with(&[])
    }

    /// Starts one with further arguments, such as `["--maxmemory", "10mb"]`.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn start_with(args: &[&str]) -> io::Result<Self> {
        let mut server = Self::stopped()?;
        server.args = args.iter().map(|&arg| arg.to_owned()).collect();
        server.launch()?;
        Ok(server)
    }

    /// Starts one that speaks TLS too, at a port of its own, with this certificate and its key in PEM.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn start_with_tls(certificate: &str, key: &str) -> io::Result<Self> {
        let mut server = Self::stopped()?;
        let path = |name: &str| server.directory.path().join(name);
        fs::write(path("certificate"), certificate)?;
        fs::write(path("key"), key)?;
        let shown = |name: &str| path(name).display().to_string();
        let port = free_port()?;
        server.args = [
            ("--tls-port", port.to_string()),
            ("--tls-cert-file", shown("certificate")),
            ("--tls-key-file", shown("key")),
            ("--tls-auth-clients", "no".to_owned()),
        ]
        .into_iter()
        .flat_map(|(name, value)| [name.to_owned(), value])
        .collect();
        server.tls_port = Some(port);
        server.launch()?;
        Ok(server)
    }

    fn stopped() -> io::Result<Self> {
        let directory = tempfile::Builder::new()
            .prefix("onlyonce-redis-")
            .tempdir()?;
        Ok(Self {
            process: Daemon::new("redis-server", directory.path().join("log")),
            directory,
            port: free_port()?,
            tls_port: None,
            args: Vec::new(),
        })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// Where it listens, as `redis://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("redis://{}", self.addr())
    }

    /// The port where it speaks TLS; `None` where it does not.
    pub fn tls_port(&self) -> Option<u16> {
        self.tls_port
    }

    /// Its process id; `None` where it is stopped.
    pub fn id(&self) -> Option<u32> {
        self.process.id()
    }

    /// Stops it at once; connections are reset and the data is gone.
    pub fn stop(&mut self) {
        self.process.stop();
    }

    /// Freezes it (`kill -STOP`): it still accepts connections, by way of the kernel, and answers nothing
    /// until it is thawed. Blocks until it is frozen.
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

    /// Starts it, empty, where it was stopped.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn launch(&mut self) -> io::Result<()> {
        let program =
            find().ok_or_else(|| io::Error::other("no redis-server in PATH or /usr/bin"))?;
        let mut command = Command::new(program);
        command
            .args(["--bind", "127.0.0.1", "--port", &self.port.to_string()])
            .args(["--save", "", "--appendonly", "no", "--dir"])
            .arg(self.directory.path())
            .args(&self.args);
        let addr = self.addr();
        // Who answers could be a server that took the port before ours.
        let is_it =
            |id| info(addr, "server", "process_id").is_ok_and(|answering: u32| answering == id);
        self.process.launch(&mut command, is_it)
    }

    /// How many reads have found something since it was started.
    ///
    /// # Errors
    /// Where it does not answer.
    pub fn hits(&self) -> io::Result<u64> {
        info(self.addr(), "stats", "keyspace_hits")
    }

    /// What it answers to a command, as it comes over the wire. The command is written as one would type it:
    /// words, or text in quotation marks.
    ///
    /// # Errors
    /// Where it is not there, or does not answer within a second.
    pub fn run(&self, command: &str) -> io::Result<String> {
        run(self.addr(), command)
    }
}

fn run(addr: SocketAddr, command: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&addr, ANSWER)?;
    stream.set_read_timeout(Some(ANSWER))?;
    write!(stream, "{command}\r\nQUIT\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// One number that a server says about itself.
fn info<T: FromStr>(addr: SocketAddr, section: &str, name: &str) -> io::Result<T> {
    let answer = run(addr, &format!("INFO {section}"))?;
    let value = answer
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    value
        .and_then(|value| value.trim().parse().ok())
        .ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Where `redis-server` is on this machine.
pub fn find() -> Option<PathBuf> {
    daemon::find("redis-server", &["/usr/bin", "/usr/local/bin"])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_answers_stops_and_starts_again() {
        let mut redis = Server::start().unwrap();
        TcpStream::connect(redis.addr()).unwrap();
        redis.stop();
        assert!(TcpStream::connect(redis.addr()).is_err());
        redis.launch().unwrap();
        TcpStream::connect(redis.addr()).unwrap();
    }

    #[test]
    fn it_freezes_and_goes_on() {
        let redis = Server::start_with(&["--maxmemory", "20mb"]).unwrap();
        redis.freeze();
        let mut stream = TcpStream::connect(redis.addr()).unwrap();
        stream
            .write_all(b"CONFIG GET maxmemory\r\nQUIT\r\n")
            .unwrap();
        stream
            .set_read_timeout(Some(Duration::from_millis(20)))
            .unwrap();
        assert!(stream.read(&mut [0]).is_err());
        redis.thaw();
        stream.set_read_timeout(Some(ANSWER)).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.contains("20971520"), "{answer}");
    }
}
