//! A throw-away Redis server: in memory, on a free loopback port, gone when dropped.
//!
//! ```no_run
//! let redis = onlyonce_test::redis::Server::start()?;
//! println!("{}", redis.url());
//! # Ok::<(), std::io::Error>(())
//! ```

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::str::FromStr;
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

const POLL: Duration = Duration::from_millis(20);
const START_POLLS: u32 = 500;
const ANSWER: Duration = Duration::from_secs(1);

/// A running Redis, or one that was stopped and can be started again with the same port and no data.
#[derive(Debug)]
pub struct Server {
    directory: TempDir,
    port: u16,
    args: Vec<String>,
    process: Option<Child>,
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
        let directory = tempfile::Builder::new()
            .prefix("onlyonce-redis-")
            .tempdir()?;
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
            .local_addr()?
            .port();
        let mut server = Self {
            directory,
            port,
            args: args.iter().map(|&arg| arg.to_owned()).collect(),
            process: None,
        };
        server.launch()?;
        Ok(server)
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// Where it listens, as `redis://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("redis://{}", self.addr())
    }

    /// Its process id; `None` where it is stopped.
    pub fn id(&self) -> Option<u32> {
        self.process.as_ref().map(Child::id)
    }

    /// Stops it at once; connections are reset and the data is gone.
    pub fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            // Both fail only where it has ended already.
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    /// Freezes it (`kill -STOP`): it still accepts connections, by way of the kernel, and answers nothing
    /// until it is thawed. Blocks until it is frozen.
    ///
    /// # Panics
    /// Where it is stopped.
    pub fn freeze(&self) {
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
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    /// To this process only, by its id.
    fn signal(&self, signal: Signal) -> u32 {
        let process = self.process.as_ref().expect("the server is running");
        kill_process(Pid::from_child(process), signal)
            .expect("a child that was not waited for can be signalled");
        process.id()
    }

    /// Starts it, empty, where it was stopped.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn launch(&mut self) -> io::Result<()> {
        self.stop();
        let program =
            find().ok_or_else(|| io::Error::other("no redis-server in PATH or /usr/bin"))?;
        let log = File::create(self.log_file())?;
        let process = Command::new(program)
            .args(["--bind", "127.0.0.1", "--port", &self.port.to_string()])
            .args(["--save", "", "--appendonly", "no", "--dir"])
            .arg(self.directory.path())
            .args(&self.args)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let id = self.process.insert(process).id();
        self.wait_ready(id)
    }

    fn wait_ready(&mut self, id: u32) -> io::Result<()> {
        for _ in 0..START_POLLS {
            if self
                .process_id_from_info()
                .is_ok_and(|answering| answering == id)
            {
                return Ok(());
            }
            if let Some(process) = &mut self.process
                && let Some(status) = process.try_wait()?
            {
                let log = self.log();
                return Err(io::Error::other(format!(
                    "redis-server ended ({status}):\n{log}"
                )));
            }
            thread::sleep(POLL);
        }
        Err(io::Error::other(format!(
            "redis-server did not start in time:\n{}",
            self.log()
        )))
    }

    /// How many reads have found something since it was started.
    ///
    /// # Errors
    /// Where it does not answer.
    pub fn hits(&self) -> io::Result<u64> {
        self.info("stats", "keyspace_hits")
    }

    /// Who answers on the port: it could be a server that took it before ours.
    fn process_id_from_info(&self) -> io::Result<u32> {
        self.info("server", "process_id")
    }

    /// One number that it says about itself.
    fn info<T: FromStr>(&self, section: &str, name: &str) -> io::Result<T> {
        let answer = self.run(&format!("INFO {section}"))?;
        let value = answer
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        value
            .and_then(|value| value.trim().parse().ok())
            .ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// What it answers to a command, as it comes over the wire. The command is written as one would type it:
    /// words, or text in quotation marks.
    ///
    /// # Errors
    /// Where it is not there, or does not answer within a second.
    pub fn run(&self, command: &str) -> io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&self.addr(), ANSWER)?;
        stream.set_read_timeout(Some(ANSWER))?;
        write!(stream, "{command}\r\nQUIT\r\n")?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }

    fn log_file(&self) -> PathBuf {
        self.directory.path().join("log")
    }

    fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.log_file()).unwrap_or_default()).into_owned()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Where `redis-server` is on this machine.
pub fn find() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/bin".into(), "/usr/local/bin".into()])
        .map(|dir| dir.join("redis-server"))
        .find(|program| Path::is_file(program))
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
        stream.set_read_timeout(Some(POLL)).unwrap();
        assert!(stream.read(&mut [0]).is_err());
        redis.thaw();
        stream.set_read_timeout(Some(ANSWER)).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.contains("20971520"), "{answer}");
    }
}
