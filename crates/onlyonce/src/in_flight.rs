//! The requests that this process has in flight: who is asked before the store is.
//!
//! Two uses. A duplicate that arrives while its twin is being executed *here* gets its 409 without its body
//! being read and without a word to the store. And of twins that arrive together only one asks the store: what
//! it is told there is told to all of them, so that a storm of retries does not become a storm of statements.
//!
//! This is an optimisation and never the authority: the store's constraint decides, and an entry that is
//! wrong costs a 409, never an execution.
//!
//! Hazard: what a twin was told is shared only with those that came within [`SHARED_FOR`] of its question. An
//! operator may have freed the key since, and a freed key rests for
//! [`FREED_REST`](crate::store::operator::FREED_REST), which is longer: nobody is shown the answer of before
//! once a new execution may have begun.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use foldhash::fast::RandomState;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::cached::CONFIRMED_FOR;
use crate::record::RecordId;
use crate::store::{OnUnknown, Present, StoreError};

/// Counted from before the store was asked to when the other request came. The same number as for what is kept
/// of a record, for the argument is the same.
const SHARED_FOR: Duration = CONFIRMED_FOR;

/// What is said of a record that this process works on.
pub(crate) const IN_FLIGHT_HERE: Present = Present::InFlight {
    lease_remaining: Duration::ZERO,
};

/// Threads that work on different records seldom meet at one of so many maps.
const SHARDS: usize = 16;

/// Ids are hashes already, of what a client may choose: a seed of our own is all they need.
type Requests = HashMap<RecordId, Request, RandomState>;

/// How far a request has come.
#[derive(Debug, Clone, Default)]
enum Phase {
    /// It has asked the store, or is about to.
    #[default]
    Asking,
    /// The record is its own.
    Owning,
    /// What the store told it, in answer to a question that was asked then.
    Told(Instant, Told),
}

/// What a request that gets no record of its own was told, and its twins with it.
#[derive(Debug, Clone)]
pub(crate) enum Told {
    /// Another request has the record.
    Present(Present),
    /// The store took no claim.
    Refused(StoreError),
}

/// A request that is in flight. Most have no twin, and need nothing that a twin could wait at.
#[derive(Debug)]
enum Request {
    Alone(Phase),
    Followed(watch::Sender<Phase>),
}

impl Request {
    fn is_owning(&self) -> bool {
        match self {
            Self::Alone(phase) => matches!(phase, Phase::Owning),
            Self::Followed(phase) => matches!(*phase.borrow(), Phase::Owning),
        }
    }

    fn enters(&mut self, phase: Phase) {
        match self {
            Self::Alone(own) => *own = phase,
            Self::Followed(followed) => {
                followed.send_replace(phase);
            }
        }
    }

    fn followed(&mut self) -> Twin {
        if let Self::Alone(phase) = self {
            *self = Self::Followed(watch::Sender::new(std::mem::take(phase)));
        }
        match self {
            Self::Followed(phase) => Twin(phase.subscribe()),
            Self::Alone(_) => unreachable!("it has just been followed"),
        }
    }
}

/// The records that this process works on.
#[derive(Debug, Clone, Default)]
pub(crate) struct InFlight(Arc<[Mutex<Requests>; SHARDS]>);

impl InFlight {
    /// Enters a request; `Err` with its twin where there is one.
    pub(crate) fn enter(&self, id: RecordId) -> Result<Presence, Twin> {
        match self.requests(&id).entry(id) {
            Entry::Occupied(mut twin) => Err(twin.get_mut().followed()),
            Entry::Vacant(vacant) => {
                vacant.insert(Request::Alone(Phase::default()));
                Ok(Presence {
                    id,
                    of: self.clone(),
                })
            }
        }
    }

    /// The twin of a request, where there is one.
    pub(crate) fn twin(&self, id: &RecordId) -> Option<Twin> {
        self.requests(id).get_mut(id).map(Request::followed)
    }

    /// Whether the record is being executed here, as far as is known.
    pub(crate) fn is_owned(&self, id: &RecordId) -> bool {
        (self.requests(id).get(id)).is_some_and(Request::is_owning)
    }

    fn requests(&self, id: &RecordId) -> MutexGuard<'_, Requests> {
        let shard = &self.0[usize::from(id.as_bytes()[0]) % SHARDS];
        // Insert and remove are single steps: a panic elsewhere leaves the map whole.
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request that is in flight here. Dropping it ends that, and wakes those who wait.
#[derive(Debug)]
pub(crate) struct Presence {
    id: RecordId,
    of: InFlight,
}

impl Presence {
    /// Says that the claim was acquired.
    pub(crate) fn own(&self) {
        self.enters(Phase::Owning);
    }

    /// Says what the store said, to those who came meanwhile, and leaves.
    pub(crate) fn tell(self, asked_at: Instant, told: Told) {
        self.enters(Phase::Told(asked_at, told));
    }

    fn enters(&self, phase: Phase) {
        if let Some(request) = self.of.requests(&self.id).get_mut(&self.id) {
            request.enters(phase);
        }
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        self.of.requests(&self.id).remove(&self.id);
    }
}

/// A request of this process that has the same record.
#[derive(Debug)]
pub(crate) struct Twin(watch::Receiver<Phase>);

impl Twin {
    /// Waits until it is known whose the record is. `None` where that has to be asked anew: the twin is gone
    /// without a word, or asked too long before `came`; or the outcome is unknown, and whoever asks may be allowed
    /// to execute it again.
    pub(crate) async fn told(mut self, came: Instant, on_unknown: OnUnknown) -> Option<Told> {
        let is_over = |phase: &Phase| !matches!(phase, Phase::Asking);
        // A sender that is gone is an end too, after the last that it said.
        let _ = self.0.wait_for(is_over).await;
        match &*self.0.borrow() {
            Phase::Asking => None,
            Phase::Owning => Some(Told::Present(IN_FLIGHT_HERE)),
            Phase::Told(_, Told::Present(Present::Unknown { .. }))
                if on_unknown == OnUnknown::Reexecute =>
            {
                None
            }
            Phase::Told(asked_at, told) => {
                (came.saturating_duration_since(*asked_at) < SHARED_FOR).then(|| told.clone())
            }
        }
    }

    /// Waits until the twin is no longer in flight.
    pub(crate) async fn gone(mut self) {
        // The error of a dropped sender is the event.
        while self.0.changed().await.is_ok() {}
    }
}
