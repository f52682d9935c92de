//! The load: wrk with small scripts, and what it says at its end.
//!
//! wrk sends the next request on a connection when it has the answer to the last one, so the latencies
//! are those of a closed loop: they say how long a client waits, not how an open stream would queue up.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;

use serde::Deserialize;
use tempfile::TempDir;
use tokio::process::Command;

use crate::Failure;
use crate::subject::Traffic;

/// Replays go round so many keys, for each connection and at the least: one must not come again while it
/// is asked for.
const KEYS_PER_CONNECTION: u32 = 32;
const KEYS_MIN: u32 = 4_096;

/// The bytes of a request's body.
const BODY: usize = 300;

/// A kind of load, written down as a script.
#[derive(Debug)]
pub(crate) struct Load {
    directory: TempDir,
    target: String,
    traffic: Traffic,
    connections: u32,
    runs: u32,
}

/// What wrk counted.
#[derive(Debug, Clone, Copy, Deserialize)]
pub(crate) struct Counted {
    /// Answers that came.
    pub(crate) requests: u64,
    /// For so long.
    pub(crate) micros: u64,
    pub(crate) p50: u64,
    pub(crate) p99: u64,
    /// Keys that were used for the first time.
    pub(crate) fresh: u64,
    /// By status, where the script looks: 2xx, 409, others.
    pub(crate) accepted: u64,
    pub(crate) conflicts: u64,
    pub(crate) others: u64,
    /// Answers of 400 and above.
    pub(crate) refused: u64,
    /// Connections that failed, and answers that did not come in time.
    pub(crate) broken: u64,
}

impl Load {
    /// Load of a kind, for a target path, on so many connections.
    pub(crate) fn new(traffic: Traffic, target: &str, connections: u32) -> io::Result<Self> {
        Ok(Self {
            directory: tempfile::Builder::new()
                .prefix("onlyonce-load-")
                .tempdir()?,
            target: target.to_owned(),
            traffic,
            connections,
            runs: 0,
        })
    }

    /// The requests whose answers are replayed afterwards.
    pub(crate) fn requests_to_replay(&self) -> Vec<String> {
        let (before, after) = self.around_key();
        let prefix = self.prefix();
        (0..self.keys())
            .map(|number| format!("{before}{prefix}{number}{after}"))
            .collect()
    }

    /// Runs wrk. Each run has keys of its own, except for replays.
    pub(crate) async fn run(&mut self, addr: SocketAddr, seconds: u64) -> Result<Counted, Failure> {
        self.runs += 1;
        let script = self.script()?;
        let threads = if self.connections < 16 { 1 } else { 2 };
        let output = Command::new("wrk")
            .args(["--threads", &threads.to_string()])
            .args(["--connections", &self.connections.to_string()])
            .args(["--duration", &format!("{seconds}s"), "--timeout", "10s"])
            .arg("--script")
            .arg(script)
            .arg(format!("http://{addr}"))
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await?;
        let text = String::from_utf8_lossy(&output.stdout);
        let counted = text.lines().rev().find(|line| line.starts_with('{'));
        match counted {
            Some(line) if output.status.success() => Ok(serde_json::from_str(line)?),
            _ => Err(format!("wrk: {text}{}", String::from_utf8_lossy(&output.stderr)).into()),
        }
    }

    fn script(&self) -> io::Result<PathBuf> {
        let (before, after) = self.around_key();
        let plain = self.request_without_key();
        // Rust and Lua escape what stands here in the same way.
        let text = format!(
            "local BEFORE_KEY = {before:?}\nlocal AFTER_KEY = {after:?}\nlocal WITHOUT_KEY = {plain:?}\n\
             local PREFIX = {:?}\nlocal KEYS = {}\n{}{}",
            self.prefix(),
            self.keys(),
            include_str!("load/common.lua"),
            match self.traffic {
                Traffic::Plain => include_str!("load/plain.lua"),
                Traffic::Fresh => include_str!("load/fresh.lua"),
                Traffic::Replays => include_str!("load/replays.lua"),
                Traffic::Storm => include_str!("load/storm.lua"),
            }
        );
        let path = self.directory.path().join("load.lua");
        std::fs::write(&path, text)?;
        Ok(path)
    }

    /// An even number, for two threads.
    fn keys(&self) -> u32 {
        (KEYS_PER_CONNECTION * self.connections).max(KEYS_MIN)
    }

    fn prefix(&self) -> String {
        match self.traffic {
            Traffic::Replays => "again-".to_owned(),
            Traffic::Plain | Traffic::Fresh | Traffic::Storm => format!("{}-", self.runs),
        }
    }

    fn around_key(&self) -> (String, String) {
        let plain = self.request_without_key();
        let (head, rest) = plain.split_once("Content-Type").unwrap_or((&plain, ""));
        (
            format!("{head}Idempotency-Key: "),
            format!("\r\nContent-Type{rest}"),
        )
    }

    fn request_without_key(&self) -> String {
        let start = r#"{"amount":1250,"currency":"EUR","note":""#;
        let note = "x".repeat(BODY - start.len() - 2);
        format!(
            "POST {} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nContent-Length: {BODY}\r\n\r\n\
             {start}{note}\"}}",
            self.target
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_has_the_length_that_it_says() {
        let load = Load::new(Traffic::Fresh, "/charges", 1).unwrap();
        let (before, after) = load.around_key();
        let request = format!("{before}k{after}");
        let (head, body) = request.split_once("\r\n\r\n").unwrap();
        assert_eq!(body.len(), BODY);
        assert!(head.contains("\r\nIdempotency-Key: k\r\nContent-Type: application/json\r\n"));
        assert_eq!(head.matches("Content-Length: 300").count(), 1);
    }
}
