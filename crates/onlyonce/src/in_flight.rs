//! The requests that this process has in flight: who is asked before the store is.
//!
//! Two uses. A duplicate that arrives while its twin is at work *here* gets its 409 without its body
//! being read and without a word to the store. And of twins that arrive together only one claims, so
//! that a storm of retries does not become a storm of statements.
//!
//! This is an optimisation and never the authority: the store's constraint decides, and an entry that is
//! wrong costs a 409, never an execution.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::record::RecordId;

type Twins = HashMap<RecordId, watch::Sender<()>>;

/// The records that this process works on.
#[derive(Debug, Clone, Default)]
pub(crate) struct InFlight(Arc<Mutex<Twins>>);

impl InFlight {
    /// Enters a request; `Err` with its twin where there is one.
    pub(crate) fn enter(&self, id: RecordId) -> Result<Presence, Twin> {
        match self.twins().entry(id) {
            Entry::Occupied(twin) => Err(Twin(twin.get().subscribe())),
            Entry::Vacant(vacant) => {
                vacant.insert(watch::Sender::new(()));
                Ok(Presence {
                    id,
                    of: self.clone(),
                })
            }
        }
    }

    /// The twin of a request, where there is one.
    pub(crate) fn twin(&self, id: RecordId) -> Option<Twin> {
        self.twins().get(&id).map(|twin| Twin(twin.subscribe()))
    }

    fn twins(&self) -> MutexGuard<'_, Twins> {
        // Insert and remove are single steps: a panic elsewhere leaves the map whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request that is in flight here. Dropping it ends that, and wakes those who wait.
#[derive(Debug)]
pub(crate) struct Presence {
    id: RecordId,
    of: InFlight,
}

impl Drop for Presence {
    fn drop(&mut self) {
        self.of.twins().remove(&self.id);
    }
}

/// A request of this process that has the same record.
#[derive(Debug)]
pub(crate) struct Twin(watch::Receiver<()>);

impl Twin {
    /// Waits until the twin is no longer in flight.
    pub(crate) async fn gone(mut self) {
        // Nothing is ever sent: the error of a dropped sender is the event.
        while self.0.changed().await.is_ok() {}
    }
}
