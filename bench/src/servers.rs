//! The servers that all cases share, started for this run alone: Postgres, the service behind, nginx as
//! a proxy; and what is read from them around each measured stretch.

use std::path::PathBuf;
use std::time::Duration;

use onlyonce_test::postgres::{Cluster, Options, find_bin_dirs};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions, Executor};

use crate::Failure;
use crate::nginx::Nginx;

/// What must have ended by itself before a stretch is measured.
const SETTLED: &str =
    "select count(*) from pg_stat_activity where backend_type = 'autovacuum worker'";

/// How long that is waited for.
const SETTLE_POLLS: u32 = 100;
const SETTLE_POLL: Duration = Duration::from_millis(50);

/// Transactions that were given an id, which only those that write are; and the end of the log.
const WRITTEN: &str = "select pg_snapshot_xmax(pg_current_snapshot())::text::bigint, \
                       (pg_current_wal_lsn() - '0/0'::pg_lsn)::bigint";

/// Running servers. They end when this is dropped.
#[derive(Debug)]
pub(crate) struct Servers {
    pub(crate) postgres: Cluster,
    /// The service that executes: it counts what reaches it.
    pub(crate) service: Nginx,
    /// nginx in front of it.
    pub(crate) front: Nginx,
    /// The `onlyonce` that is measured.
    pub(crate) program: PathBuf,
    session: PgConnection,
}

/// How much Postgres has written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Written {
    pub(crate) transactions: i64,
    pub(crate) log_bytes: i64,
}

impl Servers {
    pub(crate) async fn start(program: PathBuf) -> Result<Self, Failure> {
        let bin_dirs = find_bin_dirs();
        let bin_dir = bin_dirs.first().ok_or("there is no Postgres server")?;
        // As a packaged server comes; the tests' are smaller.
        let postgres = Options::default()
            .set("shared_buffers", "128MB")
            .set("max_connections", "100")
            .start(bin_dir)?;
        let service = Nginx::service()?;
        let options: PgConnectOptions = postgres.url("postgres").parse()?;
        Ok(Self {
            session: options.connect().await?,
            front: Nginx::in_front_of(service.addr())?,
            postgres,
            service,
            program,
        })
    }

    /// The program of the package `bench/service`, which is built like the `onlyonce` beside it.
    pub(crate) fn beside(&self) -> Result<PathBuf, Failure> {
        let program = self.program.with_file_name("onlyonce-bench-service");
        if program.is_file() {
            return Ok(program);
        }
        let program = program.display();
        Err(format!("there is no {program}: use `cargo xtask bench`").into())
    }

    /// Leaves Postgres nothing to do: what was written is on its way to the disk no longer, and no table
    /// is being vacuumed. Else one stretch would pay for the one before it.
    pub(crate) async fn settle(&mut self) -> Result<(), Failure> {
        self.session.execute("checkpoint").await?;
        for _ in 0..SETTLE_POLLS {
            let working: i64 = sqlx::query_scalar(SETTLED)
                .fetch_one(&mut self.session)
                .await?;
            if working == 0 {
                break;
            }
            tokio::time::sleep(SETTLE_POLL).await;
        }
        Ok(())
    }

    /// What Postgres has written until now, in all databases.
    pub(crate) async fn written(&mut self) -> Result<Written, Failure> {
        let (transactions, log_bytes) =
            sqlx::query_as(WRITTEN).fetch_one(&mut self.session).await?;
        Ok(Written {
            transactions,
            log_bytes,
        })
    }
}
