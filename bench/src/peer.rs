//! `idempotent-proxy-server` from crates.io: a proxy with the same purpose that keeps its records in Redis.
//!
//! Redis writes every command to its disk before it answers (`appendfsync always`), which is the
//! durability that Postgres has here. The program's own log is off, like ours.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use onlyonce_test::redis;
use tokio::process::{Child, Command};

use crate::nginx::Nginx;
use crate::{Failure, root};

const VERSION: &str = "1.2.2";

/// It takes its targets from variables of this prefix, and a request names one by its path.
pub(crate) const TARGET: &str = "/URL_SERVICE";

/// A running one. It ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Peer {
    process: Child,
    addr: SocketAddr,
}

impl Peer {
    pub(crate) const PROGRAM: &str = "idempotent-proxy-server";

    /// Starts it in front of a service, on a Redis that it has for itself. Installs it the first time.
    pub(crate) async fn start(
        redis: &redis::Server,
        service: &Nginx,
        directory: &Path,
    ) -> Result<Self, Failure> {
        make_durable(redis)?;
        let addr = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        // It wants this file, though everything in it may come from variables.
        fs::write(directory.join(".env"), "")?;
        let process = Command::new(installed().await?)
            .current_dir(directory)
            .env("SERVER_ADDR", addr.to_string())
            .env("REDIS_URL", redis.url())
            .env("URL_SERVICE", format!("{}/charges", service.url()))
            .env("LOG_LEVEL", "error")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        let mut peer = Self { process, addr };
        peer.wait_ready().await?;
        Ok(peer)
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub(crate) fn id(&self) -> Result<u32, Failure> {
        Ok(self.process.id().ok_or("the peer ended")?)
    }

    async fn wait_ready(&mut self) -> Result<(), Failure> {
        for _ in 0..250 {
            if TcpStream::connect(self.addr).is_ok() {
                return Ok(());
            }
            if let Some(status) = self.process.try_wait()? {
                return Err(format!("{} ended: {status}", Self::PROGRAM).into());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Err(format!("{} does not listen", Self::PROGRAM).into())
    }
}

/// The program, below `target`.
async fn installed() -> Result<PathBuf, Failure> {
    let place = root().join("target/bench-tools");
    let program = place.join("bin").join(Peer::PROGRAM);
    if program.is_file() {
        return Ok(program);
    }
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(["install", "--locked", "--quiet", "--version", VERSION])
        .arg("--root")
        .arg(&place)
        .arg(Peer::PROGRAM)
        .current_dir(root())
        .kill_on_drop(true)
        .status()
        .await?;
    if status.success() {
        return Ok(program);
    }
    Err(format!("{} {VERSION} cannot be installed: {status}", Peer::PROGRAM).into())
}

/// From now on it answers a command when its disk has it.
fn make_durable(redis: &redis::Server) -> Result<(), Failure> {
    let mut stream = TcpStream::connect(redis.addr())?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(b"CONFIG SET appendfsync always\r\nCONFIG SET appendonly yes\r\nQUIT\r\n")?;
    let mut answers = String::new();
    stream.read_to_string(&mut answers)?;
    if answers == "+OK\r\n+OK\r\n+OK\r\n" {
        return Ok(());
    }
    Err(format!("Redis takes no durability: {answers}").into())
}
