//! A cache that other processes use as well: what it says is believed only as far as the store bears it out.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use onlyonce::RecordId;
use onlyonce::cached::{CONFIRMED_FOR, Cached, Entry, SharedCache};
use onlyonce::store::{Claimed, Generation, Present, Store};
use tokio::time::sleep;

use crate::fixture::{Asked, RETENTION, claim, confirmed, execute, forget, replayed, started};

const SECOND: Duration = Duration::from_secs(1);
const MILLI: Duration = Duration::from_millis(1);

type Entries = HashMap<([u8; 32], RecordId), (Entry, Duration)>;

/// Entries by generation and id, given out after a while. Clones share them.
#[derive(Debug, Clone, Default)]
struct Slow {
    entries: Arc<Mutex<Entries>>,
    delay: Arc<Mutex<Duration>>,
    asked: Arc<Mutex<usize>>,
}

impl Slow {
    fn set_delay(&self, delay: Duration) {
        *self.delay.lock().unwrap() = delay;
    }

    fn asked(&self) -> usize {
        *self.asked.lock().unwrap()
    }

    fn remaining(&self) -> Vec<Duration> {
        self.entries
            .lock()
            .unwrap()
            .values()
            .map(|(_, left)| *left)
            .collect()
    }
}

impl SharedCache for Slow {
    async fn get(&self, generation: &Generation, id: &RecordId) -> Option<Entry> {
        *self.asked.lock().unwrap() += 1;
        let found = self
            .entries
            .lock()
            .unwrap()
            .get(&(*generation.as_bytes(), *id))
            .cloned();
        let delay = *self.delay.lock().unwrap();
        sleep(delay).await;
        found.map(|(entry, _)| entry)
    }

    fn put(&self, generation: &Generation, id: &RecordId, entry: &Entry, remaining: Duration) {
        let key = (*generation.as_bytes(), *id);
        self.entries
            .lock()
            .unwrap()
            .insert(key, (entry.clone(), remaining));
    }
}

async fn process(asked: &Asked, shared: &Slow) -> Cached<Asked> {
    started(Cached::new(asked.clone()).with_shared(shared.clone())).await
}

/// Executed by one process, replayed by another, without a word to the store; the next time from its own memory.
#[tokio::test(start_paused = true)]
async fn what_one_process_executed_another_replays() {
    let (asked, shared) = (Asked::new(), Slow::default());
    let (first, second) = (
        process(&asked, &shared).await,
        process(&asked, &shared).await,
    );
    execute(&first, &claim(1), "answer").await;
    let left = shared.remaining();
    assert!(matches!(left[..], [left] if left <= RETENTION && left > RETENTION - SECOND));
    let reads = asked.reads();
    assert_eq!(replayed(&second, 1).await, Some("answer".into()));
    let shared_asked = shared.asked();
    assert_eq!(replayed(&second, 1).await, Some("answer".into()));
    assert_eq!((asked.reads(), shared.asked()), (reads, shared_asked));
}

/// What the store said to one process is there for the others, too.
#[tokio::test(start_paused = true)]
async fn what_one_process_read_another_replays() {
    let (asked, shared) = (Asked::new(), Slow::default());
    let (first, second) = (
        process(&asked, &shared).await,
        process(&asked, &shared).await,
    );
    execute(asked.elsewhere(), &claim(1), "answer").await;
    replayed(&first, 1).await;
    let reads = asked.reads();
    assert_eq!(replayed(&second, 1).await, Some("answer".into()));
    assert_eq!(asked.reads(), reads);
}

/// The generation changes while the answer is on its way, and the process hears of it meanwhile: the answer is
/// not used, and not kept either.
#[tokio::test(start_paused = true)]
async fn an_answer_that_comes_after_the_generation_changed_is_not_used() {
    let (asked, shared) = (Asked::new(), Slow::default());
    let (first, second) = (
        process(&asked, &shared).await,
        process(&asked, &shared).await,
    );
    execute(&first, &claim(1), "old").await;
    shared.set_delay(SECOND);
    let slow = tokio::spawn({
        let second = second.clone();
        async move { second.claim(&claim(1)).await.unwrap() }
    });
    sleep(MILLI).await;
    forget(asked.elsewhere(), 1).await;
    let claimed = slow.await.unwrap();
    assert!(
        matches!(claimed, Claimed::Present(Present::InFlight { .. })),
        "{claimed:?}"
    );
    sleep(3 * SECOND).await;
    let new = claim(1);
    execute(&second, &new, "new").await;
    assert_eq!(replayed(&second, 1).await, Some("new".into()));
}

/// So slow that nothing is confirmed any more when the answer comes.
#[tokio::test(start_paused = true)]
async fn an_answer_that_comes_when_nothing_is_confirmed_is_not_used() {
    let (asked, shared) = (Asked::new(), Slow::default());
    let (first, second) = (
        process(&asked, &shared).await,
        process(&asked, &shared).await,
    );
    execute(&first, &claim(1), "answer").await;
    shared.set_delay(CONFIRMED_FOR);
    asked.hold_confirmations();
    let reads = asked.reads();
    assert_eq!(replayed(&second, 1).await, Some("answer".into()));
    assert_eq!(asked.reads(), reads + 1, "the store was asked");
}

/// Retention ends while the answer is on its way, or has ended though the entry is still there.
#[tokio::test(start_paused = true)]
async fn an_answer_past_its_retention_is_not_used() {
    let (asked, shared) = (Asked::new(), Slow::default());
    let (first, second) = (
        process(&asked, &shared).await,
        process(&asked, &shared).await,
    );
    execute(&first, &claim(1), "old").await;
    sleep(RETENTION - 500 * MILLI).await;
    shared.set_delay(SECOND);
    let claimed = second.claim(&claim(1)).await.unwrap();
    assert!(matches!(claimed, Claimed::Acquired(_)), "{claimed:?}");
    assert!(!shared.remaining().is_empty(), "it is still there");
}

/// Nothing of it is used where nothing is confirmed, and it is not even asked.
#[tokio::test(start_paused = true)]
async fn a_shared_cache_is_not_asked_while_nothing_is_confirmed() {
    let (asked, shared) = (Asked::new(), Slow::default());
    let process = process(&asked, &shared).await;
    execute(&process, &claim(1), "answer").await;
    asked.hold_confirmations();
    sleep(CONFIRMED_FOR).await;
    let before = shared.asked();
    replayed(&process, 1).await;
    execute(&process, &claim(2), "answer").await;
    assert_eq!(shared.asked(), before);
    assert_eq!(shared.remaining().len(), 1, "nothing was added");
}

/// Where the process's memory is off, every retry asks the shared one.
#[tokio::test(start_paused = true)]
async fn it_works_without_memory_of_the_process() {
    let (asked, shared) = (Asked::new(), Slow::default());
    let cached = Cached::new(asked.clone())
        .with_memory_max(0)
        .with_shared(shared.clone());
    let cached = started(cached).await;
    execute(&cached, &claim(1), "answer").await;
    let (reads, before) = (asked.reads(), shared.asked());
    for _ in 0..3 {
        assert_eq!(replayed(&cached, 1).await, Some("answer".into()));
    }
    assert_eq!((asked.reads(), shared.asked()), (reads, before + 3));
    drop(confirmed(&asked).await);
}
