//! What Postgres alone needs for a guarded request: pgbench, which makes the same two commits (an
//! insertion; an update with an insertion) on tables like ours, from one connection.

use std::fs;
use std::path::Path;
use std::process::Stdio;

use onlyonce_test::postgres::{Database, find_bin_dirs};
use sqlx::Executor;
use tokio::process::Command;

use crate::Failure;

const TABLES: &str = "
create table records (
    id uuid primary key, token uuid not null, claimed_at timestamptz not null, lease_until timestamptz not null,
    expires_at timestamptz not null, settled_at timestamptz, epoch integer not null, state smallint not null,
    fingerprint bytea not null, credential bytea not null
) with (fillfactor = 50);
create index on records (expires_at);
create table responses (
    expires_at timestamptz not null, token uuid not null, epoch integer not null, response bytea not null,
    primary key (expires_at, token, epoch)
);
";

/// One guarded request. Latencies are of the whole script.
const SCRIPT: &str = r"
\set number random(1, 9223372036854775807)
insert into records values (lpad(to_hex(:number::bigint), 32, '0')::uuid, lpad(to_hex(:number::bigint), 32, '1')::uuid, statement_timestamp(), statement_timestamp() + interval '65 s', statement_timestamp() + interval '1 day', null, 1, 1, decode(repeat('61', 32), 'hex'), decode(repeat('62', 32), 'hex'));
with settled as (update records set state = 2, settled_at = statement_timestamp() where id = lpad(to_hex(:number::bigint), 32, '0')::uuid and epoch = 1 and state = 1 returning token, epoch, expires_at) insert into responses select expires_at, token, epoch, decode(repeat('63', 200), 'hex') from settled;
";

/// A database for it.
#[derive(Debug)]
pub(crate) struct TwoCommits {
    database: Database,
    directory: tempfile::TempDir,
}

impl TwoCommits {
    pub(crate) async fn set_up(server: &str) -> Result<Self, Failure> {
        let database = Database::fresh_at(server).await;
        database.connect().await.execute(TABLES).await?;
        let directory = tempfile::tempdir()?;
        fs::write(directory.path().join("script.sql"), SCRIPT)?;
        Ok(Self {
            database,
            directory,
        })
    }

    /// The median latency over a stretch, in microseconds.
    pub(crate) async fn p50(&self, seconds: u64) -> Result<f64, Failure> {
        let directory = self.directory.path();
        remove_logs(directory)?;
        let bin_dirs = find_bin_dirs();
        let bin_dir = bin_dirs.first().ok_or("there is no Postgres server")?;
        let output = Command::new(bin_dir.join("pgbench"))
            .args(["--client=1", "--protocol=prepared", "--no-vacuum", "--log"])
            .args([&format!("--time={seconds}"), "--file=script.sql"])
            .arg(self.database.url())
            .current_dir(directory)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await?;
        if !output.status.success() {
            return Err(format!("pgbench: {}", String::from_utf8_lossy(&output.stderr)).into());
        }
        let mut latencies = Vec::new();
        for log in logs(directory)? {
            // "client transaction latency-in-µs script seconds µs"
            let text = fs::read_to_string(log)?;
            let latency = |line: &str| line.split(' ').nth(2)?.parse::<f64>().ok();
            latencies.extend(text.lines().filter_map(latency));
        }
        let spread = crate::results::Spread::of(latencies);
        Ok(spread.ok_or("pgbench logged nothing")?.median)
    }
}

fn logs(directory: &Path) -> Result<Vec<std::path::PathBuf>, Failure> {
    let mut logs = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry
            .file_name()
            .to_string_lossy()
            .starts_with("pgbench_log.")
        {
            logs.push(entry.path());
        }
    }
    Ok(logs)
}

fn remove_logs(directory: &Path) -> Result<(), Failure> {
    for log in logs(directory)? {
        fs::remove_file(log)?;
    }
    Ok(())
}
