//! nginx, twice: as the service behind, which answers and counts, and as the reverse proxy that others
//! are compared with.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

const POLL: Duration = Duration::from_millis(20);
const POLLS: u32 = 250;
const ANSWER: Duration = Duration::from_secs(5);

/// A running nginx with a worker for each core. Stopped, workers and all, when dropped.
#[derive(Debug)]
pub(crate) struct Nginx {
    // Before the directory: it is written to until the end.
    process: Child,
    addr: SocketAddr,
    directory: TempDir,
}

impl Nginx {
    /// A service that answers every request with 201 and a small body.
    pub(crate) fn service() -> io::Result<Self> {
        Self::start(
            "",
            r#"default_type application/json; return 201 '{"id":"ch_1","status":"succeeded"}';"#,
        )
    }

    /// A reverse proxy, set up as its manual says for connections that are kept.
    pub(crate) fn in_front_of(upstream: SocketAddr) -> io::Result<Self> {
        Self::start(
            &format!(
                "upstream service {{ server {upstream}; keepalive 1024; keepalive_requests 1000000000; }}"
            ),
            "proxy_pass http://service; proxy_http_version 1.1; proxy_set_header Connection '';",
        )
    }

    fn start(http: &str, location: &str) -> io::Result<Self> {
        let directory = tempfile::Builder::new()
            .prefix("onlyonce-nginx-")
            .tempdir()?;
        let addr = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let user = if rustix::process::geteuid().is_root() {
            "user root;"
        } else {
            ""
        };
        let config = CONFIG
            .replace("USER", user)
            .replace("HTTP", http)
            .replace("ADDR", &addr.to_string())
            .replace("LOCATION", location);
        fs::write(directory.path().join("nginx.conf"), config)?;
        let process = Command::new("nginx")
            .arg("-p")
            .arg(directory.path())
            .args(["-c", "nginx.conf", "-e", "error.log"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let mut nginx = Self {
            process,
            addr,
            directory,
        };
        nginx.wait_ready()?;
        Ok(nginx)
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// The id of its first process, whose children do the work.
    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// The requests that it has had so far, this question included.
    pub(crate) fn requests(&self) -> io::Result<u64> {
        let mut stream = TcpStream::connect_timeout(&self.addr, ANSWER)?;
        stream.set_read_timeout(Some(ANSWER))?;
        stream.write_all(b"GET /status HTTP/1.0\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        // "server accepts handled requests\n 3 3 7 \n"
        let mut lines = text.lines().skip_while(|line| !line.contains("requests"));
        let counts = lines.nth(1).unwrap_or_default();
        let requests = counts.split_whitespace().nth(2);
        requests
            .and_then(|count| count.parse().ok())
            .ok_or_else(|| io::Error::other(format!("nginx does not tell its requests: {text}")))
    }

    fn wait_ready(&mut self) -> io::Result<()> {
        for _ in 0..POLLS {
            if TcpStream::connect(self.addr).is_ok() {
                return Ok(());
            }
            if self.process.try_wait()?.is_some() {
                break;
            }
            thread::sleep(POLL);
        }
        let log = fs::read_to_string(self.directory.path().join("error.log")).unwrap_or_default();
        Err(io::Error::other(format!("nginx did not start: {log}")))
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // Not SIGKILL: it would leave the workers.
        let _ = kill_process(Pid::from_child(&self.process), Signal::TERM);
        for _ in 0..POLLS {
            if !matches!(self.process.try_wait(), Ok(None)) {
                return;
            }
            thread::sleep(POLL);
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

const CONFIG: &str = "
daemon off;
USER
worker_processes auto;
worker_rlimit_nofile 8192;
pid nginx.pid;
events { worker_connections 4000; }
http {
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    keepalive_requests 1000000000;
    keepalive_timeout 1h;
    HTTP
    server {
        listen ADDR backlog=4096;
        location = /status { stub_status; }
        location / { LOCATION }
    }
}
";
