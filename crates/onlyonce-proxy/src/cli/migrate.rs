//! `onlyonce migrate`.

use clap::Args;

use super::settings::{ConfigArgs, load_outbox, load_store};
use super::{Failure, print, runtime};
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
            runtime()?.block_on(store::migrate(&settings))?;
            settings.url.to_string()
        };
        print(&format!("{place} is up to date\n"));
        Ok(())
    }
}
