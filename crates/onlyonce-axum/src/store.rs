//! The store behind the layer: a claim is an open transaction, and a settlement its end.
//!
//! The core claims, forwards and settles, and knows nothing of transactions. Here its claim begins one, writes the
//! record in it and puts it aside until the service that the core then calls ([`InTransaction`](crate::InTransaction))
//! takes it out; that service commits, so there is nothing left to settle. Where the core never calls it, since time
//! is up or the process stops, the settlement rolls back.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use onlyonce::store::operator::LEASE_MARGIN;
use onlyonce::store::{
    Claim, Claimed, Completed, Present, Settled, Settlement, Store, StoreError, StoreErrorKind,
};
use onlyonce::{Epoch, RecordId};
use onlyonce_sqlx::postgres::transaction::named::is_forgotten;
use onlyonce_sqlx::postgres::transaction::{self, Taking};
use tokio::time::timeout_at;

use crate::connection::Open;
use crate::line::Connection;
use crate::settings::Settings;
use crate::upkeep::Upkeep;
use crate::work::{Record, Work};

/// The records of a layer, as transactions. Clones are the same.
#[derive(Debug, Clone)]
pub(crate) struct TransactionStore(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    settings: Arc<Settings>,
    /// Claimed, and not yet at work.
    aside: Mutex<HashMap<RecordId, Box<Work>>>,
    upkeep: Upkeep,
}

impl TransactionStore {
    pub(crate) fn new(settings: Arc<Settings>) -> Self {
        Self(Arc::new(Inner {
            settings,
            aside: Mutex::default(),
            upkeep: Upkeep::default(),
        }))
    }

    /// The transaction of a record that was claimed.
    pub(crate) fn take(&self, id: &RecordId) -> Option<Box<Work>> {
        self.0.aside().remove(id)
    }

    /// Begins what the tables need, where that is due.
    pub(crate) fn look_after(&self) {
        self.0.upkeep.look_after(&self.0.settings.pool);
    }
}

impl Inner {
    fn aside(&self) -> MutexGuard<'_, HashMap<RecordId, Box<Work>>> {
        // Insert and remove are single steps.
        self.aside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn claim(&self, claim: &Claim) -> Result<Claimed, StoreError> {
        let (open, taking) = self.begin(claim).await?;
        match taking {
            Taking::Taken(taken) => {
                let epoch = taken.epoch();
                let record = Record {
                    taken,
                    claim: claim.clone(),
                    key: None,
                };
                let work = Box::new(Work::new(open, &self.settings, Some(record)));
                let before = self.aside().insert(claim.id, work);
                drop(before);
                Ok(Claimed::Acquired(epoch))
            }
            Taking::Present(present) => {
                open.roll_back().await;
                Ok(Claimed::Present(present))
            }
        }
    }

    /// Begins a transaction with the claim.
    async fn begin(&self, claim: &Claim) -> Result<(Open, Taking), StoreError> {
        match self.try_begin(claim).await {
            // Nothing was executed yet: somebody else's transaction has left the connection like this.
            Err(error) if is_forgotten(&error) => {
                self.settings.forget();
                Box::pin(self.try_begin(claim)).await
            }
            begun => begun,
        }
    }

    async fn try_begin(&self, claim: &Claim) -> Result<(Open, Taking), StoreError> {
        let Settings {
            line, isolation, ..
        } = &*self.settings;
        let (open, taking) = match line.connection().await.map_err(unavailable)? {
            Connection::Passed(mut open) if self.settings.may_prepare() => {
                let taking = open.claim_anew(*isolation, claim).await;
                (open, taking)
            }
            other => Box::pin(self.begin_first(other, claim)).await?,
        };
        match taking {
            Ok(taking) => Ok((open, taking)),
            Err(error) => {
                // Closed where the driver's statements are forgotten, which it does not know.
                if !is_forgotten(&error) {
                    open.roll_back().await;
                }
                Err(error)
            }
        }
    }

    /// Begins, and takes the record then, with statements of the driver's.
    async fn begin_first(
        &self,
        connection: Connection,
        claim: &Claim,
    ) -> Result<(Open, Result<Taking, StoreError>), StoreError> {
        let isolation = self.settings.isolation;
        let open = match connection {
            Connection::Borrowed(borrowed) => Open::begin_on(borrowed, isolation).await,
            Connection::Passed(open) => open.begin_again(isolation).await,
        };
        let mut open = open.map_err(unavailable)?;
        let statements = self.settings.statements();
        let taking = transaction::claim(open.connection(), statements, claim).await;
        Ok((open, taking))
    }

    async fn find(&self, id: &RecordId) -> Result<Option<Present>, StoreError> {
        // Whatever level the requests run at: this one looks again with each statement.
        let begun = Open::begin(&self.settings.pool, Default::default()).await;
        let mut open = begun.map_err(unavailable)?;
        let found = transaction::find(open.connection(), id).await;
        open.roll_back().await;
        found
    }
}

/// Nothing was written: whatever was begun is rolled back.
fn unavailable(error: sqlx::Error) -> StoreError {
    let kind = match &error {
        sqlx::Error::PoolTimedOut => StoreErrorKind::Timeout,
        _ => StoreErrorKind::Unavailable,
    };
    StoreError::not_applied(kind, error)
}

impl Store for TransactionStore {
    /// Its records are elsewhere.
    fn recall(&self, _: &RecordId) -> Option<Completed> {
        None
    }

    async fn claim(&self, claim: &Claim) -> Result<Claimed, StoreError> {
        self.look_after();
        // Within what the core would wait: it would have to take a claim that it cuts short for one that may have
        // been written, and no claim here is.
        let start_by = claim.lease.saturating_sub(LEASE_MARGIN) / 2;
        let until = claim.asked_at + self.0.settings.claim_patience.min(start_by);
        // Boxed here and below: what is large or seldom would otherwise be moved about with every request.
        let claimed = timeout_at(until, Box::pin(self.0.claim(claim))).await;
        claimed.unwrap_or_else(|elapsed| {
            Err(StoreError::not_applied(StoreErrorKind::Timeout, elapsed))
        })
    }

    /// What is still aside was not begun with, and is rolled back. What was is over.
    async fn settle(
        &self,
        claim: &Claim,
        _: Epoch,
        settlement: &Settlement,
    ) -> Result<Settled, StoreError> {
        if let Some(work) = self.take(&claim.id) {
            work.open.roll_back().await;
        }
        Ok(match settlement {
            Settlement::Released | Settlement::Unknown => Settled::Done,
            // A response that was not committed by its service must not look like a success.
            Settlement::Completed(_) => Settled::Stale,
        })
    }

    async fn find(&self, id: &RecordId) -> Result<Option<Present>, StoreError> {
        self.0.find(id).await
    }
}
