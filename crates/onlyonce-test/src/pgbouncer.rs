//! A throw-away PgBouncer in transaction mode: the harshest pooler that production puts in between.
//!
//! Debian 12 has version 1.18, which knows no prepared statements in transaction mode: a statement
//! parsed on one server connection does not exist on the next.
//!
//! ```no_run
//! use onlyonce_test::pgbouncer::PgBouncer;
//!
//! let bouncer = PgBouncer::start(5432, 2)?; // two connections to the server on 127.0.0.1:5432
//! println!("postgres://postgres@127.0.0.1:{}/app", bouncer.port());
//! # Ok::<(), std::io::Error>(())
//! ```

use std::env;
use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::thread;
use std::time::Duration;

use rustix::process::Signal;
use tempfile::TempDir;

use crate::postgres::Account;

const POLL: Duration = Duration::from_millis(20);
const START_POLLS: u32 = 500;

/// A running PgBouncer. Dropping it stops it.
#[derive(Debug)]
pub struct PgBouncer {
    directory: TempDir,
    port: u16,
    process: Child,
}

impl PgBouncer {
    /// Starts one in front of the server on `127.0.0.1:server_port`, with at most `pool_size` server
    /// connections for each database. The superuser `postgres` may use it, and its admin console.
    ///
    /// # Errors
    /// Where PgBouncer is missing or does not start; the message carries its log.
    pub fn start(server_port: u16, pool_size: u16) -> io::Result<Self> {
        let program = find()
            .ok_or_else(|| io::Error::other("no pgbouncer in PATH, /usr/sbin or /usr/bin"))?;
        let account = Account::unprivileged()?;
        let directory = tempfile::Builder::new().prefix("onlyonce-pgb-").tempdir()?;
        account.own(directory.path())?;
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
            .local_addr()?
            .port();
        let file = directory.path().join("pgbouncer.ini");
        fs::write(&file, configuration(port, server_port, pool_size))?;
        account.own(&file)?;
        let log = File::create(directory.path().join("log"))?;
        let process = account
            .command(&program, directory.path())
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let mut started = Self {
            directory,
            port,
            process,
        };
        started.wait_ready()?;
        Ok(started)
    }

    /// The port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The address of its admin console: `KILL db`, `RESUME db`, `RECONNECT`, `SHOW POOLS`. It speaks the
    /// simple query protocol only.
    pub fn admin_url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/pgbouncer", self.port)
    }

    /// Its log so far.
    pub fn log(&self) -> String {
        let text = fs::read(self.directory.path().join("log")).unwrap_or_default();
        String::from_utf8_lossy(&text).into_owned()
    }

    fn wait_ready(&mut self) -> io::Result<()> {
        for _ in 0..START_POLLS {
            if TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_ok() {
                return Ok(());
            }
            if let Some(status) = self.process.try_wait()? {
                let log = self.log();
                return Err(io::Error::other(format!(
                    "pgbouncer ended ({status}):\n{log}"
                )));
            }
            thread::sleep(POLL);
        }
        let log = self.log();
        Err(io::Error::other(format!(
            "pgbouncer did not start in time:\n{log}"
        )))
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        // TERM is its immediate shutdown.
        let _ = crate::postgres::send(&self.process, Signal::TERM);
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn configuration(port: u16, server_port: u16, pool_size: u16) -> String {
    // No `ignore_startup_parameters`: what it does not track it refuses, as it would anywhere.
    format!(
        "[databases]\n* = host=127.0.0.1 port={server_port} user=postgres\n\
         [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n\
         auth_type = any\nadmin_users = postgres\npool_mode = transaction\n\
         default_pool_size = {pool_size}\nmax_client_conn = 500\n"
    )
}

fn find() -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/usr/bin".into()])
        .map(|dir| dir.join("pgbouncer"))
        .find(|program| Path::is_file(program))
}
