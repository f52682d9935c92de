//! A part of the system as a process of its own, so that it can be killed.

use std::env;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

/// A process of this program, or one that was killed and can be started again.
#[derive(Debug)]
pub(crate) struct Part {
    args: Vec<String>,
    process: Option<Child>,
}

impl Part {
    /// Starts one.
    ///
    /// # Errors
    /// Where the system starts no process.
    pub(crate) fn start(args: impl IntoIterator<Item = String>) -> io::Result<Self> {
        let mut part = Self {
            args: args.into_iter().collect(),
            process: None,
        };
        part.start_again()?;
        Ok(part)
    }

    /// Starts it where it does not run.
    ///
    /// # Errors
    /// Where the system starts no process.
    pub(crate) fn start_again(&mut self) -> io::Result<()> {
        if let Some(process) = &mut self.process
            && process.try_wait()?.is_none()
        {
            return Ok(());
        }
        let mut command = Command::new(env::current_exe()?);
        command
            .args(&self.args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .kill_on_drop(true);
        self.process = Some(command.spawn()?);
        Ok(())
    }

    /// Its name: the first word of its command line.
    pub(crate) fn name(&self) -> &str {
        self.args.first().map_or("", String::as_str)
    }

    /// `kill -STOP`: it freezes between two instructions.
    ///
    /// # Errors
    /// Where the system refuses.
    pub(crate) fn freeze(&self) -> io::Result<()> {
        self.signal(Signal::STOP)
    }

    /// `kill -CONT`, frozen or not.
    ///
    /// # Errors
    /// Where the system refuses.
    pub(crate) fn thaw(&self) -> io::Result<()> {
        self.signal(Signal::CONT)
    }

    fn signal(&self, signal: Signal) -> io::Result<()> {
        let id = self.process.as_ref().and_then(Child::id);
        let pid = id.and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        // Without one it has ended.
        pid.map_or(Ok(()), |pid| Ok(kill_process(pid, signal)?))
    }

    /// `kill -9`.
    ///
    /// # Errors
    /// Where it cannot be waited for.
    pub(crate) async fn kill(&mut self) -> io::Result<()> {
        match self.process.take() {
            Some(mut process) => process.kill().await,
            None => Ok(()),
        }
    }
}

/// An address on loopback that nobody uses just now.
///
/// # Errors
/// Where there is none.
pub(crate) fn free_address() -> io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}
