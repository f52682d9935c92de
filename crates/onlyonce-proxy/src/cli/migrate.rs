//! `onlyonce migrate`.

use std::time::Duration;

use clap::Args;
use onlyonce_sqlx::postgres::MigrationLimits;

use super::settings::{ConfigArgs, load_outbox, load_store};
use super::{Failure, print, runtime};
use crate::config::value::Setting;
use crate::relay;
use crate::store;

/// Of the store or of the outbox: who has the one need not have the other.
#[derive(Debug, Args)]
pub(super) struct Migrate {
    #[command(flatten)]
    config: ConfigArgs,
    /// Where records are kept: `sqlite://PATH` or `postgres://…` [default: sqlite://onlyonce.db]
    #[arg(long, value_name = "URL")]
    store: Option<String>,
    /// Make the tables of the outbox, not those of the store
    #[arg(long)]
    outbox: bool,
    /// With --outbox, where: `postgres://…` [default: the store's, where that is Postgres]
    #[arg(long, value_name = "URL", requires = "outbox")]
    database: Option<String>,
    /// How long to wait for requests in progress to let go of the tables; later ones wait behind [default: 1m]
    #[arg(long, value_name = "DURATION", value_parser = limit, conflicts_with = "outbox")]
    lock_timeout: Option<Duration>,
    /// How long each step may take, in which nothing can be claimed. What takes longer is undone [default: 1m]
    #[arg(long, value_name = "DURATION", value_parser = limit, conflicts_with = "outbox")]
    statement_timeout: Option<Duration>,
}

impl Migrate {
    pub(super) fn run(&self) -> Result<(), Failure> {
        let (store, database) = (self.store.as_deref(), self.database.as_deref());
        let place = if self.outbox {
            let settings = load_outbox(&self.config, database, store)?;
            runtime()?.block_on(relay::migrate(&settings))?;
            format!("the outbox at {}", settings.url)
        } else {
            let settings = load_store(&self.config, store)?;
            runtime()?.block_on(store::migrate(&settings, self.limits()))?;
            settings.url.to_string()
        };
        print(&format!("{place} is up to date\n"));
        Ok(())
    }

    fn limits(&self) -> MigrationLimits {
        let default = MigrationLimits::default();
        MigrationLimits {
            lock: self.lock_timeout.unwrap_or(default.lock),
            statement: self.statement_timeout.unwrap_or(default.statement),
        }
    }
}

fn limit(text: &str) -> Result<Duration, String> {
    let limit = Duration::parse(text).filter(|limit| !limit.is_zero());
    limit.ok_or_else(|| format!("not {} above zero", Duration::expected()))
}
