//! The process of a throw-away server: started, watched until it answers, frozen, ended.
//!
//! One that starts others (RabbitMQ is a script that starts a virtual machine) leads a process group, so that
//! they are frozen and ended with it. The others stay in the group of the test, which may be killed as a whole.

use std::env;
use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

const POLL: Duration = Duration::from_millis(20);
const START_POLLS: u32 = 1_500;

/// A process, or one that was stopped and can be started again. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Daemon {
    name: &'static str,
    log: PathBuf,
    process: Option<Child>,
    starts_others: bool,
}

impl Daemon {
    /// Nothing that runs yet; its output will go to the file.
    pub(crate) fn new(name: &'static str, log: PathBuf) -> Self {
        Self {
            name,
            log,
            process: None,
            starts_others: false,
        }
    }

    /// The same, for a program that starts others.
    pub(crate) fn of_many(name: &'static str, log: PathBuf) -> Self {
        let mut daemon = Self::new(name, log);
        daemon.starts_others = true;
        daemon
    }

    /// Starts it, in the other's place where it runs. Blocks until it is `ready`, which is asked with the
    /// process's id.
    pub(crate) fn launch(
        &mut self,
        command: &mut Command,
        mut ready: impl FnMut(u32) -> bool,
    ) -> io::Result<()> {
        self.stop();
        let log = File::create(&self.log)?;
        command.stdin(Stdio::null());
        if self.starts_others {
            command.process_group(0);
        }
        let process = command.stdout(log.try_clone()?).stderr(log).spawn()?;
        let process = self.process.insert(process);
        for _ in 0..START_POLLS {
            if ready(process.id()) {
                return Ok(());
            }
            if let Some(status) = process.try_wait()? {
                return Err(self.failed(&format!("ended ({status})")));
            }
            thread::sleep(POLL);
        }
        Err(self.failed("did not start in time"))
    }

    fn failed(&self, what: &str) -> io::Error {
        let log = fs::read(&self.log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        io::Error::other(format!("{} {what}:\n{log}", self.name))
    }

    /// Its id; `None` where it is stopped.
    pub(crate) fn id(&self) -> Option<u32> {
        self.process.as_ref().map(Child::id)
    }

    /// Ends it at once (`kill -KILL`), with what it started.
    pub(crate) fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            // Both fail only where it has ended already.
            let _ = self.send(&process, Signal::KILL);
            let _ = process.wait();
        }
    }

    /// Freezes it (`kill -STOP`). Blocks until it is frozen.
    ///
    /// # Panics
    /// Where it is stopped.
    pub(crate) fn freeze(&self) {
        let id = self.signal(Signal::STOP);
        let stat = format!("/proc/{id}/stat");
        // "4711 (redis-server) T …": the kernel has no event for this that needs no unsafe code.
        while !fs::read_to_string(&stat).is_ok_and(|stat| stat.contains(") T ")) {
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Lets it go on (`kill -CONT`).
    ///
    /// # Panics
    /// Where it is stopped.
    pub(crate) fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    /// To this process and what it started only, by its id.
    fn signal(&self, signal: Signal) -> u32 {
        let process = self.process.as_ref().expect("the server is running");
        self.send(process, signal)
            .expect("a child that was not waited for can be signalled");
        process.id()
    }

    fn send(&self, process: &Child, signal: Signal) -> Result<(), rustix::io::Errno> {
        let id = Pid::from_child(process);
        if self.starts_others {
            kill_process_group(id, signal)
        } else {
            kill_process(id, signal)
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A port on loopback that nobody uses just now.
pub(crate) fn free_port() -> io::Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    Ok(listener.local_addr()?.port())
}

/// Where a program is: in `PATH`, or in one of these directories.
pub(crate) fn find(program: &str, dirs: &[&str]) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(dirs.iter().map(PathBuf::from))
        .map(|dir| dir.join(program))
        .find(|program| Path::is_file(program))
}
