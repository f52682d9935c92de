//! What a request works with: its transaction, the events it has emitted, and the record that it has taken.

use http::HeaderValue;
use onlyonce::store::Claim;
use onlyonce_outbox::{Buffer, Origin};
use onlyonce_sqlx::postgres::transaction::Taken;

use crate::connection::Open;
use crate::settings::Settings;

/// An open transaction and what belongs to it.
#[derive(Debug)]
pub(crate) struct Work {
    pub(crate) open: Open,
    pub(crate) events: Buffer,
    /// `None` for a request without a key.
    pub(crate) record: Option<Record>,
}

/// A record that is the transaction's, if it commits.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    pub(crate) taken: Taken,
    /// What it was taken with, to take it again.
    pub(crate) claim: Claim,
    /// The key, as it was sent.
    pub(crate) key: Option<HeaderValue>,
}

impl Work {
    pub(crate) fn new(open: Open, settings: &Settings, record: Option<Record>) -> Self {
        Self {
            open,
            events: settings.events(),
            record,
        }
    }
}

impl Record {
    /// What the outbox keeps of where its events came from.
    pub(crate) fn origin(&self) -> Origin {
        let key = self.key.as_ref().and_then(|key| key.to_str().ok());
        Origin::new(self.taken.id().to_string(), key.unwrap_or_default())
    }
}
