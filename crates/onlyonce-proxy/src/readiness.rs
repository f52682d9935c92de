//! Whether the process can do its work now: its store takes a claim, and it is not draining.
//!
//! A connection to the store is no proof: a standby answers reads, a full disk answers everything but
//! writes. So a record of our own is claimed and released, for real, at most once a second.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use onlyonce::store::{Claim, Claimed, OnUnknown, Settlement, Store, StoreError};
use onlyonce::{CredentialHash, Fingerprint, RecordId, Token};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};
use tracing::{info, warn};

use crate::admin::Supervised;
use crate::telemetry::causes;

/// How long a verdict holds.
const FRESH: Duration = Duration::from_secs(1);

/// How long the store may take.
const PATIENCE: Duration = Duration::from_secs(3);

/// What the ids of probes begin with; that a key hashes to it takes 2⁶⁴ keys.
const PROBE: [u8; 8] = [0; 8];

/// Why the process is not ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotReady {
    /// It was told to stop.
    Draining,
    /// Its store cannot take a claim.
    Store,
    /// A relay's database does not do what it is asked.
    Database,
}

/// Asks the store, and remembers the answer for a moment.
#[derive(Debug)]
pub struct Readiness<S> {
    store: S,
    probe: Claim,
    draining: AtomicBool,
    verdict: Mutex<Option<(Instant, bool)>>,
}

/// Whether a record is a probe's, and none of a client's.
pub(crate) fn is_probe(id: &RecordId) -> bool {
    id.as_bytes().starts_with(&PROBE)
}

impl<S: Store> Readiness<S> {
    /// Readiness by this store.
    pub fn new(store: S) -> Self {
        // One id and one token for the process's life: a probe whose answer was lost is found again as
        // its own. Another process has another id, so probes never meet.
        let mut id = *Token::random().as_bytes();
        id[..PROBE.len()].copy_from_slice(&PROBE);
        let probe = Claim {
            id: RecordId::from_bytes(id),
            token: Token::random(),
            fingerprint: Fingerprint::from_bytes([0; 32]),
            credential: CredentialHash::from_bytes([0; 32]),
            lease: Duration::from_secs(10),
            retention: Duration::from_secs(60),
            on_unknown: OnUnknown::Reexecute,
            asked_at: Instant::now(),
        };
        Self {
            store,
            probe,
            draining: AtomicBool::new(false),
            verdict: Mutex::new(None),
        }
    }

    /// From now on the process is not ready any more.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::SeqCst);
    }

    /// Whether the process is ready. Callers at the same time share one probe.
    ///
    /// # Errors
    /// Why it is not.
    pub async fn check(&self) -> Result<(), NotReady> {
        if self.draining.load(Ordering::SeqCst) {
            return Err(NotReady::Draining);
        }
        let mut verdict = self.verdict.lock().await;
        if let Some((at, ready)) = *verdict
            && at.elapsed() < FRESH
        {
            return said(ready);
        }
        let ready = self.ask(verdict.map(|(_, ready)| ready)).await;
        *verdict = Some((Instant::now(), ready));
        said(ready)
    }

    async fn ask(&self, before: Option<bool>) -> bool {
        let error = match timeout(PATIENCE, self.probe()).await {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(causes(&error)),
            Err(_) => Some("the store did not answer in time".to_owned()),
        };
        match (before, &error) {
            (Some(true) | None, Some(error)) => {
                warn!(%error, "not ready: the store takes no claims")
            }
            (Some(false), None) => info!("ready: the store takes claims again"),
            _ => {}
        }
        error.is_none()
    }

    async fn probe(&self) -> Result<(), StoreError> {
        match self.store.claim(&self.probe).await? {
            Claimed::Acquired(epoch) => {
                let released = &Settlement::Released;
                self.store
                    .settle(&self.probe, epoch, released)
                    .await
                    .map(|_| ())
            }
            // Somebody else's record at our random id: the store answered, which is what was asked.
            Claimed::Present(_) => Ok(()),
        }
    }
}

impl<S: Store> Supervised for Readiness<S> {
    async fn ready(&self) -> Result<(), NotReady> {
        self.check().await
    }

    /// There are none yet: each guarded request leaves a line in the log.
    async fn metrics(&self) -> Option<String> {
        None
    }
}

const fn said(ready: bool) -> Result<(), NotReady> {
    if ready { Ok(()) } else { Err(NotReady::Store) }
}

#[cfg(test)]
mod tests {
    use onlyonce::store::MemoryStore;
    use onlyonce::store::operator::{Filter, Operator};
    use onlyonce::{StoredState, clock::SystemClock};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_store_that_takes_claims_is_ready_and_keeps_one_free_record() {
        let store = MemoryStore::default();
        let readiness = Readiness::new(store.clone());
        for _ in 0..3 {
            assert_eq!(readiness.check().await, Ok(()));
            tokio::time::advance(FRESH).await;
        }
        let records = store
            .list(&Filter {
                state: None,
                limit: 9,
            })
            .await
            .expect("listed");
        assert_eq!(records.len(), 1);
        assert_eq!(records[0].state, StoredState::Free);
        assert!(is_probe(&records[0].id));
        // The first verdict was fresh for its second only: each check probed.
        assert_eq!(records[0].epoch.get(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_verdict_holds_for_a_second() {
        let store = MemoryStore::default();
        let readiness = Readiness::new(store.clone());
        for _ in 0..3 {
            assert_eq!(readiness.check().await, Ok(()));
        }
        let records = store
            .list(&Filter {
                state: None,
                limit: 9,
            })
            .await
            .expect("listed");
        assert_eq!(records[0].epoch.get(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_store_is_not_ready_and_neither_is_a_draining_process() {
        let readiness = Readiness::new(MemoryStore::new(0, 0, SystemClock));
        assert_eq!(readiness.check().await, Err(NotReady::Store));
        readiness.drain();
        assert_eq!(readiness.check().await, Err(NotReady::Draining));
    }
}
