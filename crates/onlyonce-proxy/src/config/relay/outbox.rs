//! Where the outbox's tables are.

use onlyonce_outbox::Connector;
use onlyonce_sqlx::postgres::Settings;

use super::SinkName;
use crate::config::url::{DatabaseUrl, StoreUrl};
use crate::config::value::{Setting, Written};
use crate::telemetry::causes;

/// An outbox, and what is needed to look into it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outbox {
    /// Its database.
    pub url: OutboxUrl,
    /// Whether a pooler in transaction mode (PgBouncer) is in between.
    pub pooler: bool,
    /// The sink that is meant where none is named.
    pub sink: Option<SinkName>,
}

/// The URL of one Postgres, shown without its password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboxUrl(DatabaseUrl);

impl Outbox {
    /// How to reach it.
    pub fn connector(&self) -> Connector {
        let connector = self.url.connector();
        // The URL may say so too.
        if self.pooler {
            connector.with_pooler(true)
        } else {
            connector
        }
    }
}

impl OutboxUrl {
    /// How to reach it.
    ///
    /// # Panics
    /// Never: what is no such URL does not become an [`OutboxUrl`].
    pub fn connector(&self) -> Connector {
        let connector = self.0.expose().parse();
        connector.expect("the URL was understood when the setting was read")
    }

    /// The store's database, where that is one Postgres; else why it is none.
    pub(super) fn of_store(store: &StoreUrl) -> Result<Self, &'static str> {
        let StoreUrl::Postgres(url) = store else {
            return Err(
                "not set, and store.url is no Postgres; name the outbox's database, with --database URL or in the \
                 file",
            );
        };
        Self::parse(url.expose()).ok_or(
            "not set, and store.url has several servers; name the one that takes writes, or an address that \
             leads there",
        )
    }
}

/// Several servers, of which the store would find the primary.
fn is_several(text: &str) -> bool {
    text.contains(",postgres")
}

impl Setting for OutboxUrl {
    fn expected() -> String {
        "postgres://USER:PASSWORD@HOST[:PORT]/DATABASE".to_owned()
    }

    fn parse(text: &str) -> Option<Self> {
        // The store's settings refuse parameters that the driver would only warn of.
        let understood = text.parse::<Settings>().is_ok() && text.parse::<Connector>().is_ok();
        (understood && !is_several(text)).then(|| Self(DatabaseUrl::new(text)))
    }

    fn refusal(written: &Written) -> String {
        let Written::One(text) = written else {
            return format!("expected one URL, {}", Self::expected());
        };
        if is_several(text) {
            return format!("expected one URL, {}", Self::expected());
        }
        match text.parse::<Settings>() {
            // Neither the store nor the driver quotes the URL.
            Err(error) if text.starts_with("postgres") => causes(&error),
            _ => format!("expected {}", Self::expected()),
        }
    }

    fn show(&self) -> String {
        self.0.to_string()
    }
}

impl std::fmt::Display for OutboxUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}
