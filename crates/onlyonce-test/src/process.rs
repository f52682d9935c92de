//! The built binary `onlyonce` as a child process: [`Launch`] it, then kill, freeze or question it.
//!
//! Crashes and freezes are only real in a process of its own. The binary is found beside the test
//! program (`target/debug/onlyonce`), where `cargo xtask test` builds it first, with failpoints; it is
//! not built from here, since a test that waits for cargo's file lock waits for itself.
//!
//! ```no_run
//! use onlyonce_test::process::Launch;
//!
//! # async fn test(upstream: &str, store: &str) {
//! let launch = Launch::serve(["--upstream", upstream, "--store", store])
//!     .failpoints("after_claim=abort");
//! let mut proxy = launch.start().await;
//! // … send a request to proxy.addr() …
//! proxy.logged("failpoint after_claim").await;
//! assert!(!proxy.exited().await.success());
//! let again = launch.failpoints("").start().await;
//! # }
//! ```

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{ExitStatus, Output, Stdio};
use std::sync::Arc;

pub use rustix::process::Signal;
use rustix::process::{Pid, kill_process};
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;

use crate::event::{PATIENCE, within};

const FAILPOINTS: &str = "ONLYONCE_FAILPOINTS";

/// How to start the binary. A value: it can be started several times.
#[derive(Debug, Clone)]
pub struct Launch {
    program: Option<PathBuf>,
    under: Vec<String>,
    args: Vec<String>,
    env: Vec<(String, String)>,
}

impl Launch {
    /// Any command: `Launch::of(["records", "list", "--json"])`.
    pub fn of<const N: usize>(args: [&str; N]) -> Self {
        Self {
            program: None,
            under: Vec::new(),
            args: args.map(str::to_owned).into(),
            env: Vec::new(),
        }
    }

    /// `onlyonce serve --listen 127.0.0.1:0` with these arguments after it.
    pub fn serve<const N: usize>(args: [&str; N]) -> Self {
        let mut launch = Self::of(["serve", "--listen", "127.0.0.1:0"]);
        launch.args.extend(args.map(str::to_owned));
        launch
    }

    /// One more argument.
    #[must_use]
    pub fn arg(mut self, arg: &str) -> Self {
        self.args.push(arg.to_owned());
        self
    }

    /// Another build of the binary than the one beside this program.
    #[must_use]
    pub fn program(mut self, path: PathBuf) -> Self {
        self.program = Some(path);
        self
    }

    /// Starts it by way of a program that limits it and then becomes it (`exec`), such as
    /// `["sh", "-c", "ulimit -f 100; exec \"$0\" \"$@\""]`. The binary and its arguments are added.
    #[must_use]
    pub fn under<const N: usize>(mut self, program: [&str; N]) -> Self {
        self.under = program.map(str::to_owned).into();
        self
    }

    /// A variable in its environment, beside those that this process has.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.retain(|(own, _)| own != name);
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// What happens at its failpoints, as `onlyonce::failpoint` reads it. Empty for nothing.
    #[must_use]
    pub fn failpoints(self, list: &str) -> Self {
        self.env(FAILPOINTS, list)
    }

    fn command(&self) -> Command {
        let binary = self.program.clone().unwrap_or_else(binary);
        let mut command = match self.under.split_first() {
            None => Command::new(binary),
            Some((program, args)) => {
                let mut command = Command::new(program);
                command.args(args).arg(binary);
                command
            }
        };
        command
            .args(&self.args)
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    /// Starts it, and waits until it says where it listens (and where its admin listener does, if the
    /// arguments ask for one).
    ///
    /// # Panics
    /// Where it does not start, with what it printed.
    pub async fn start(&self) -> Proxy {
        let mut proxy = self.spawn();
        let admin = self.args.iter().any(|arg| arg.starts_with("--admin"));
        let started = async {
            let mut lines = proxy.log.subscribe();
            let both = |lines: &Vec<String>| {
                listening(lines, false).is_some() && (!admin || listening(lines, true).is_some())
            };
            lines.wait_for(both).await.is_ok()
        };
        let outcome = tokio::select! {
            listens = started => listens,
            _ = tokio::time::sleep(PATIENCE) => false,
            _ = proxy.child.wait() => false,
        };
        assert!(
            outcome,
            "{:?} does not listen; it printed:\n{}",
            self.args,
            proxy.text()
        );
        proxy
    }

    /// Starts it without waiting for anything.
    ///
    /// # Panics
    /// Where there is no such program.
    pub fn spawn(&self) -> Proxy {
        let mut child = self
            .command()
            .spawn()
            .expect("the binary was found and can be executed");
        let log = Arc::new(watch::Sender::new(Vec::new()));
        let stdout = child.stdout.take().expect("stdout was asked for");
        let stderr = child.stderr.take().expect("stderr was asked for");
        tokio::spawn(collect(stdout, Arc::clone(&log)));
        tokio::spawn(collect(stderr, Arc::clone(&log)));
        Proxy { child, log }
    }

    /// Runs it to its end; answers its exit status and what it printed.
    ///
    /// # Panics
    /// Where it does not end within [`PATIENCE`].
    pub async fn output(&self) -> Output {
        let run = within("the command to end", self.command().output());
        run.await.expect("the binary was found and can be executed")
    }
}

/// A running `onlyonce`. It is killed when dropped.
#[derive(Debug)]
pub struct Proxy {
    child: Child,
    log: Arc<watch::Sender<Vec<String>>>,
}

impl Proxy {
    /// Where it listens.
    ///
    /// # Panics
    /// Where it has not said so: [`Launch::start`] waits for that.
    pub fn addr(&self) -> SocketAddr {
        listening(&self.log.borrow(), false).expect("the proxy has said where it listens")
    }

    /// Where its admin listener is.
    ///
    /// # Panics
    /// Where it was started without `--admin`.
    pub fn admin(&self) -> SocketAddr {
        listening(&self.log.borrow(), true).expect("the proxy was started with `--admin`")
    }

    /// Its process id; `None` where it has ended and was waited for.
    pub fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// Sends a signal to it; to this process only, by its id.
    ///
    /// # Panics
    /// Where it has ended and was waited for.
    pub fn signal(&self, signal: Signal) {
        let id = self.child.id().and_then(|id| i32::try_from(id).ok());
        let pid = id
            .and_then(Pid::from_raw)
            .expect("the process was not waited for yet");
        kill_process(pid, signal).expect("a child that was not waited for can be signalled");
    }

    /// `kill -9`, and waits until it is gone.
    pub async fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.exited().await;
    }

    /// `kill -STOP`: it freezes between two instructions, until [`thaw`](Self::thaw).
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// `kill -CONT`.
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    /// Waits until it is frozen, by a failpoint for example.
    ///
    /// # Panics
    /// After [`PATIENCE`].
    pub async fn frozen(&self) {
        let id = self.child.id().expect("the process was not waited for yet");
        let stat = format!("/proc/{id}/stat");
        within("the process to freeze", async {
            // "4711 (onlyonce) T …": the kernel has no event for this that needs no unsafe code.
            while !std::fs::read_to_string(&stat).is_ok_and(|stat| stat.contains(") T ")) {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        })
        .await;
    }

    /// `kill -TERM`, and waits for the exit status after its drain.
    pub async fn terminate(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.exited().await
    }

    /// Waits until it has ended by itself.
    ///
    /// # Panics
    /// After [`PATIENCE`], with what it printed.
    pub async fn exited(&mut self) -> ExitStatus {
        match tokio::time::timeout(PATIENCE, self.child.wait()).await {
            Ok(status) => status.expect("a child can be waited for"),
            Err(_) => panic!("the process does not end; it printed:\n{}", self.text()),
        }
    }

    /// Its lines so far, of stdout and stderr.
    pub fn log(&self) -> Vec<String> {
        self.log.borrow().clone()
    }

    /// Waits until one of its lines contains `text`, and answers that line.
    ///
    /// # Panics
    /// After [`PATIENCE`], with what it printed.
    pub async fn logged(&self, text: &str) -> String {
        let find = |lines: &[String]| lines.iter().find(|line| line.contains(text)).cloned();
        let mut lines = self.log.subscribe();
        let found = lines.wait_for(|lines| find(lines).is_some());
        let found = tokio::time::timeout(PATIENCE, found).await.ok();
        let line = found.and_then(|lines| find(&lines.ok()?));
        line.unwrap_or_else(|| panic!("no line contains {text:?} in:\n{}", self.text()))
    }

    fn text(&self) -> String {
        self.log.borrow().join("\n")
    }
}

async fn collect(stream: impl AsyncRead + Unpin, log: Arc<watch::Sender<Vec<String>>>) {
    let mut lines = BufReader::new(stream).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        log.send_modify(|log| log.push(line));
    }
}

/// The address in a line like `listening on 127.0.0.1:8080`, of the admin listener or of the other.
fn listening(lines: &[String], admin: bool) -> Option<SocketAddr> {
    let of_kind = |line: &&String| line.contains("admin") == admin;
    lines.iter().filter(of_kind).find_map(|line| {
        let (_, rest) = line.split_once("listening on ")?;
        let addr = rest
            .split([' ', ',', '"', '/'])
            .find(|word| word.contains(':'))?;
        addr.parse().ok()
    })
}

/// The binary, beside the directory of this test program.
///
/// # Panics
/// Where it was not built.
pub fn binary() -> PathBuf {
    let test = std::env::current_exe().expect("this program has a path");
    let found = test
        .ancestors()
        .skip(1)
        .take(2)
        .map(|dir| dir.join("onlyonce"));
    found.into_iter().find(|path| path.is_file()).unwrap_or_else(|| {
        panic!(
            "there is no `onlyonce` beside {}: run `cargo build -p onlyonce-proxy --features failpoints`, \
             or `cargo xtask test`",
            test.display()
        )
    })
}
