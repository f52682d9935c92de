//! `[store]`: where records are kept, and their upkeep.

use std::time::Duration;

use onlyonce_sqlx::postgres::Settings;

use super::fault::Faults;
use super::section::{Reader, Section};
use super::sources::Sources;
use super::url::StoreUrl;
use crate::telemetry::causes;

/// The store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Store {
    /// Which, and where.
    pub url: StoreUrl,
    /// Whether `serve` brings Postgres's tables up to date. Otherwise `onlyonce migrate` has to.
    pub migrate: bool,
    /// Postgres: whether a pooler in transaction mode (PgBouncer) is in between.
    pub pooler: bool,
    /// Postgres: how many connections at the most.
    pub connections: u32,
    /// Whether writes that wait at the same time share a statement and a commit. Off only to compare: it is
    /// several times slower and no safer.
    pub group_commit: bool,
    /// In memory: how many records at the most, of 2.6 KiB on average. No key is claimed beyond.
    pub records_max: u32,
    /// How often expired records are deleted.
    pub sweep_interval: Duration,
    /// How many are deleted in one statement.
    pub sweep_batch: u32,
}

impl Store {
    /// Understands only this section, for the commands that need no more.
    ///
    /// # Errors
    /// Everything that is wrong in it, at once.
    pub fn load(mut sources: Sources) -> Result<Self, Faults> {
        sources.keep_section("store");
        let reader = Reader::new(sources);
        let store = Self::read(reader.section("store"));
        reader.finish().map(|_| store)
    }

    /// The settings as the store in Postgres takes them.
    ///
    /// # Errors
    /// What is wrong with the URL, without it.
    pub(crate) fn postgres(&self) -> Result<Settings, String> {
        let StoreUrl::Postgres(url) = &self.url else {
            return Err(format!("{} is not in Postgres", self.url));
        };
        let settings: Settings = url.expose().parse().map_err(|error| causes(&error))?;
        let settings = settings
            .with_connections(self.connections)
            .with_group_commit(self.group_commit);
        // The URL may say so too, for each server.
        Ok(if self.pooler {
            settings.with_pooler(true)
        } else {
            settings
        })
    }

    pub(super) fn read(section: Section<'_>) -> Self {
        Self {
            url: section.get("url", StoreUrl::Sqlite("onlyonce.db".into())),
            migrate: section.get("migrate", true),
            pooler: section.get("pooler", false),
            connections: section.above_zero("connections", 16),
            group_commit: section.get("group-commit", true),
            records_max: section.above_zero("records-max", 100_000),
            sweep_interval: section.above_zero("sweep-interval", Duration::from_secs(60)),
            sweep_batch: section.above_zero("sweep-batch", 500),
        }
    }
}
