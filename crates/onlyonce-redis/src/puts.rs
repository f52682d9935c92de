//! Entries on their way to Redis: nobody waits for them.
//!
//! A queue with a bound takes them; what does not fit is dropped. One task at a time empties it, many entries
//! to a round trip, and ends when it is empty. What Redis refuses, because its memory is full for example, is
//! dropped too: it is a cache.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use onlyonce::RecordId;
use onlyonce::cached::Entry;
use onlyonce::store::Generation;
use redis::{Pipeline, Value};
use tokio::time::timeout;

use crate::link::{Failure, Link};
use crate::value;

/// What may wait: this many entries, of this many bytes together.
const WAITING_MAX: usize = 4096;
const WAITING_BYTES_MAX: usize = 16 << 20;

/// What goes in one round trip.
const BATCH_MAX: usize = 128;
const BATCH_BYTES_MAX: usize = 256 << 10;

/// How long a round trip may take. Nobody waits for it but the queue.
const DEADLINE: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(crate) struct Put {
    pub(crate) generation: Generation,
    pub(crate) id: RecordId,
    pub(crate) entry: Entry,
    pub(crate) ttl: Duration,
}

impl Put {
    const fn bytes(&self) -> usize {
        value::HEAD_BYTES + self.entry.response.len()
    }
}

#[derive(Debug)]
pub(crate) struct Puts {
    link: Arc<Link>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Put>,
    bytes: usize,
    writing: bool,
    /// Whether the last batch was refused, and that was said.
    refused: bool,
}

impl Puts {
    pub(crate) fn new(link: Arc<Link>) -> Self {
        Self {
            link,
            state: Mutex::default(),
        }
    }

    /// Whether it was taken. Must be called inside a Tokio runtime.
    pub(crate) fn put(self: &Arc<Self>, put: Put) -> bool {
        let mut state = self.state();
        if state.waiting.len() == WAITING_MAX || state.bytes + put.bytes() > WAITING_BYTES_MAX {
            return false;
        }
        state.bytes += put.bytes();
        state.waiting.push_back(put);
        if !state.writing {
            state.writing = true;
            let writing = Writing {
                puts: Arc::clone(self),
                over: false,
            };
            tokio::spawn(writing.run());
        }
        true
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each change is one step: a panic elsewhere cannot leave it half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn write(&self, batch: &[Put]) {
        // While the server is left alone, what comes is dropped: a queue would only hold old news.
        let Some(mut up) = self.link.connected().await else {
            return;
        };
        let commands = pipeline(batch);
        let answers = up.requests.send_packed_commands(&commands, 0, batch.len());
        let answers = match timeout(DEADLINE, answers).await {
            Ok(Ok(answers)) => answers,
            Ok(Err(error)) => return self.link.failed(&up, &error.into()),
            Err(_elapsed) => return self.link.failed(&up, &Failure::Late),
        };
        self.link.succeeded(&up);
        let refusal = answers.into_iter().find_map(|answer| match answer {
            Value::ServerError(error) => Some(error),
            _ => None,
        });
        let refused = std::mem::replace(&mut self.state().refused, refusal.is_some());
        if let (Some(error), false) = (refusal, refused) {
            tracing::warn!(%error, "Redis does not keep entries; they are dropped until it does");
        }
    }
}

fn pipeline(batch: &[Put]) -> Pipeline {
    let mut commands = Pipeline::with_capacity(batch.len());
    for put in batch {
        let milliseconds = u64::try_from(put.ttl.as_millis()).unwrap_or(u64::MAX);
        commands
            .cmd("SET")
            .arg(value::name(&put.generation, &put.id))
            .arg(value::seal(&put.generation, &put.id, &put.entry))
            .arg("PX")
            .arg(milliseconds.max(1));
    }
    commands
}

/// The task that empties the queue. Where its runtime drops it, the next put starts another.
#[derive(Debug)]
struct Writing {
    puts: Arc<Puts>,
    over: bool,
}

impl Writing {
    async fn run(mut self) {
        loop {
            let batch = self.next();
            if batch.is_empty() {
                return;
            }
            self.puts.write(&batch).await;
        }
    }

    /// The next batch. Where there is none, it is over: the next put starts another task.
    fn next(&mut self) -> Vec<Put> {
        let mut state = self.puts.state();
        let mut batch = Vec::new();
        let mut bytes = 0;
        while let Some(put) = state.waiting.pop_front_if(|put| {
            batch.is_empty() || batch.len() < BATCH_MAX && bytes + put.bytes() <= BATCH_BYTES_MAX
        }) {
            bytes += put.bytes();
            batch.push(put);
        }
        state.bytes -= bytes;
        self.over = batch.is_empty();
        state.writing = !self.over;
        batch
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        if !self.over {
            self.puts.state().writing = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use onlyonce::{CredentialHash, Fingerprint, Timestamp};
    use tokio::runtime::Builder;

    use super::*;
    use crate::dial::Dialer;

    fn put(len: usize) -> Put {
        Put {
            generation: Generation::random(),
            id: RecordId::from_bytes([1; 16]),
            entry: Entry {
                fingerprint: Fingerprint::from_bytes([2; 32]),
                credential: CredentialHash::from_bytes([3; 32]),
                expires_at: Timestamp::from_micros(4),
                response: Bytes::from(vec![0; len]),
            },
            ttl: Duration::from_secs(1),
        }
    }

    fn puts() -> Arc<Puts> {
        let settings = "redis://127.0.0.1:1".parse().unwrap();
        let dialer = Arc::new(Dialer::new(settings).unwrap());
        Arc::new(Puts::new(Arc::new(Link::new(dialer))))
    }

    /// Processes with several runtimes stop them one after the other.
    #[test]
    fn a_runtime_that_ends_takes_no_other_runtimes_puts_along() {
        let puts = puts();
        let runtime = || Builder::new_current_thread().enable_all().build().unwrap();
        let first = runtime();
        first.block_on(async { assert!(puts.put(put(0))) });
        assert!(puts.state().writing);
        drop(first);
        assert!(!puts.state().writing);
        runtime().block_on(async {
            assert!(puts.put(put(0)));
            while puts.state().writing {
                tokio::task::yield_now().await;
            }
            assert_eq!(puts.state().bytes, 0);
            assert!(puts.state().waiting.is_empty());
        });
    }

    #[tokio::test]
    async fn the_queue_is_bounded_by_entries_and_by_bytes() {
        // Nothing is awaited, so nothing is taken out.
        for (len, fit) in [(0, WAITING_MAX), (1 << 20, 15), (WAITING_BYTES_MAX, 0)] {
            let puts = puts();
            let taken = (0..2 * WAITING_MAX).take_while(|_| puts.put(put(len)));
            assert_eq!(taken.count(), fit, "{len}");
        }
    }

    #[tokio::test]
    async fn batches_are_bounded_by_entries_and_by_bytes_and_never_empty() {
        for (len, together) in [(0, BATCH_MAX), (100 << 10, 2), (1 << 20, 1)] {
            let puts = puts();
            for _ in 0..2 * BATCH_MAX {
                puts.put(put(len));
            }
            let mut writing = Writing { puts, over: false };
            assert_eq!(writing.next().len(), together, "{len}");
        }
    }
}
