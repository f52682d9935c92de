//! The conformance suite on the store in memory.

use std::time::Duration;

use onlyonce::clock::ManualClock;
use onlyonce::store::{MemoryStore, Store};
use onlyonce_test::conformance::{Fixture, sample};

const RECORDS_MAX: usize = 2000;

struct Memory {
    store: MemoryStore,
    second: MemoryStore,
    clock: ManualClock,
}

async fn memory() -> Memory {
    let clock = ManualClock::default();
    let store = MemoryStore::new(RECORDS_MAX, 64 << 20, clock.clone());
    Memory {
        second: store.clone(),
        store,
        clock,
    }
}

impl Fixture for Memory {
    type Store = MemoryStore;

    fn store(&self) -> &MemoryStore {
        &self.store
    }

    fn second(&self) -> &MemoryStore {
        &self.second
    }

    async fn advance(&self, by: Duration) {
        self.clock.advance(by);
    }

    async fn fill(&self) -> bool {
        for number in 10_000.. {
            if self.store.claim(&sample::claim(number)).await.is_err() {
                return true;
            }
        }
        false
    }
}

onlyonce_test::store_conformance!(memory);
