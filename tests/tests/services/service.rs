//! A third-party service as a child process, and what its access log says.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use onlyonce_test::event::{PATIENCE, within};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::process::{Child, Command};

/// A running service. It is killed when dropped; [`stop`](Self::stop) it to see its log to the end.
pub(crate) struct Service {
    child: Child,
    addr: SocketAddr,
    directory: TempDir,
}

/// One line of an access log: `KEY STATUS METHOD TARGET`, the key `-` where there was none.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Access {
    pub(crate) key: String,
    pub(crate) status: u16,
    pub(crate) request: String,
}

/// The interpreter of the environment that has httpbin.
pub(crate) fn python() -> PathBuf {
    let variable = "ONLYONCE_TEST_PYTHON";
    let python = std::env::var_os(variable);
    python.map(PathBuf::from).unwrap_or_else(|| {
        panic!("{variable} is not set: run `cargo xtask test`, or see `cargo xtask servers`")
    })
}

impl Service {
    /// httpbin, under gunicorn with several workers.
    pub(crate) async fn httpbin() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let addr = free_addr();
        let mut gunicorn = Command::new(python());
        gunicorn
            .args(["-m", "gunicorn", "--workers", "2", "--threads", "8"])
            .args(["--bind", &addr.to_string(), "--keep-alive", "2"])
            .args(["--access-logfile", "access.log"])
            .args([
                "--access-logformat",
                "%({idempotency-key}i)s %(s)s %(m)s %(U)s",
            ])
            .args(["--error-logfile", "error.log", "httpbin:app"]);
        Self::start(gunicorn, addr, directory).await
    }

    /// nginx with this in its `server` block.
    pub(crate) async fn nginx(server: &str) -> Self {
        // As root its workers would become somebody else, who cannot write to the directory.
        let user = if is_root() { "user root;" } else { "" };
        let directory = tempfile::tempdir().expect("a directory");
        let addr = free_addr();
        let config = CONFIG
            .replace("ADDR", &addr.to_string())
            .replace("SERVER", server);
        let config = format!("{user}{config}");
        std::fs::write(directory.path().join("nginx.conf"), config).expect("written");
        std::fs::create_dir(directory.path().join("files")).expect("made");
        let mut nginx = Command::new("nginx");
        nginx
            .arg("-p")
            .arg(directory.path())
            .args(["-c", "nginx.conf", "-e", "error.log"]);
        Self::start(nginx, addr, directory).await
    }

    async fn start(mut command: Command, addr: SocketAddr, directory: TempDir) -> Self {
        let child = command
            .current_dir(directory.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn();
        let child = child.unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let mut service = Self {
            child,
            addr,
            directory,
        };
        within("a service to listen", async {
            while TcpStream::connect(addr).is_err() {
                let ended = service.child.try_wait().expect("a child can be asked");
                assert!(
                    ended.is_none(),
                    "{command:?} ended; {}",
                    service.read("error.log")
                );
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        })
        .await;
        service
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// A file of the service's directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// Lets it finish what it is at, and answers all requests that it has ever had.
    pub(crate) async fn stop(mut self) -> Vec<Access> {
        let id = self
            .child
            .id()
            .and_then(|id| i32::try_from(id).ok())
            .and_then(Pid::from_raw);
        let id = id.unwrap_or_else(|| panic!("it ended by itself; {}", self.read("error.log")));
        // Both take this as: answer what is in progress, then go.
        let signal = if self.path("nginx.conf").exists() {
            Signal::QUIT
        } else {
            Signal::TERM
        };
        kill_process(id, signal).expect("a child can be signalled");
        let ended = tokio::time::timeout(PATIENCE, self.child.wait()).await;
        ended
            .expect("it stops in time")
            .expect("a child can be waited for");
        self.read("access.log").lines().map(parse).collect()
    }
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

fn parse(line: &str) -> Access {
    let mut words = line.splitn(3, ' ');
    let mut word = || {
        words
            .next()
            .unwrap_or_else(|| panic!("odd line {line:?}"))
            .to_owned()
    };
    Access {
        key: word(),
        status: word().parse().expect("a status"),
        request: word(),
    }
}

/// These services do not say which port they took, so it is chosen here.
fn free_addr() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free loopback port");
    listener.local_addr().expect("it is bound")
}

/// Connections are closed after a few requests and after a second: often just as the next one is written.
const CONFIG: &str = r#"
daemon off;
worker_processes 2;
pid nginx.pid;
events { worker_connections 512; }
http {
    log_format effects '$idempotency_key $status $request_method $request_uri';
    map $http_idempotency_key $idempotency_key { '' '-'; default $http_idempotency_key; }
    access_log access.log effects;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    client_max_body_size 64m;
    keepalive_requests 7;
    keepalive_timeout 1s;
    server {
        listen ADDR;
        SERVER
    }
}
"#;

/// The proxy in front, on a store of its own.
pub(crate) async fn guard(service: &Service, directory: &TempDir) -> onlyonce_test::process::Proxy {
    let store = format!(
        "sqlite://{}",
        directory.path().join("onlyonce.db").display()
    );
    let launch =
        onlyonce_test::process::Launch::serve(["--upstream", &service.url(), "--store", &store]);
    launch
        .env("ONLYONCE__POLICY__METHODS", "POST,PUT,PATCH")
        .start()
        .await
}

/// No key has more than one line, and each of `keys` has one.
#[track_caller]
pub(crate) fn assert_once(log: &[Access], keys: &[String]) {
    for key in keys {
        let lines: Vec<_> = log.iter().filter(|access| access.key == *key).collect();
        assert_eq!(lines.len(), 1, "{key}: {lines:?}");
    }
}
