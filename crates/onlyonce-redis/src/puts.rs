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
            let writing = Writing(Arc::clone(self));
            tokio::spawn(async move { writing.run().await });
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
struct Writing(Arc<Puts>);

impl Writing {
    async fn run(self) {
        loop {
            let batch = self.next();
            if batch.is_empty() {
                return;
            }
            self.0.write(&batch).await;
        }
    }

    /// The next batch. Where there is none, it is over: the next put starts another task.
    fn next(&self) -> Vec<Put> {
        let mut state = self.0.state();
        let mut batch = Vec::new();
        let mut bytes = 0;
        while let Some(put) = state.waiting.pop_front_if(|put| {
            batch.is_empty() || batch.len() < BATCH_MAX && bytes + put.bytes() <= BATCH_BYTES_MAX
        }) {
            bytes += put.bytes();
            batch.push(put);
        }
        state.bytes -= bytes;
        state.writing = !batch.is_empty();
        batch
    }
}
