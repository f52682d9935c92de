//! Where commands take their settings from: a file, the environment, flags of their own.

use std::path::PathBuf;

use clap::Args;

use crate::config::{Outbox, Sources, Store};

use super::Failure;

/// The file and the environment, for every command alike.
#[derive(Debug, Args)]
pub(super) struct ConfigArgs {
    /// A file of settings. Each can also be set by a variable `ONLYONCE__SECTION__KEY`; flags win.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl ConfigArgs {
    pub(super) fn sources(&self) -> Sources {
        let mut sources = Sources::default();
        if let Some(path) = &self.config {
            sources.file(path);
        }
        // Not `vars`: it panics where a variable is not UTF-8, and most are none of our business.
        let text = |text: std::ffi::OsString| text.to_string_lossy().into_owned();
        sources.variables(std::env::vars_os().map(|(name, value)| (text(name), text(value))));
        sources
    }
}

/// The store that a command works on.
#[derive(Debug, Args)]
pub(super) struct StoreArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Where records are kept: `sqlite://PATH` or `postgres://…` [default: sqlite://onlyonce.db]
    #[arg(long, value_name = "URL")]
    store: Option<String>,
}

impl StoreArgs {
    pub(super) fn load(&self) -> Result<Store, Failure> {
        load_store(&self.config, self.store.as_deref())
    }
}

/// The outbox that a command works on.
#[derive(Debug, Args)]
pub(super) struct OutboxArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Where the outbox is: `postgres://…` [default: the store's, where that is Postgres]
    #[arg(long, value_name = "URL")]
    database: Option<String>,
}

impl OutboxArgs {
    pub(super) fn load(&self) -> Result<Outbox, Failure> {
        load_outbox(&self.config, self.database.as_deref(), None)
    }
}

pub(super) fn load_store(config: &ConfigArgs, store: Option<&str>) -> Result<Store, Failure> {
    let mut sources = config.sources();
    if let Some(url) = store {
        sources.flag("--store", "store.url", url);
    }
    Ok(Store::load(sources)?)
}

pub(super) fn load_outbox(
    config: &ConfigArgs,
    database: Option<&str>,
    store: Option<&str>,
) -> Result<Outbox, Failure> {
    let mut sources = config.sources();
    if let Some(url) = store {
        sources.flag("--store", "store.url", url);
    }
    if let Some(url) = database {
        sources.flag("--database", "relay.database", url);
    }
    Ok(Outbox::load(sources)?)
}
