//! The receiver of a webhook, which keeps a book and may be difficult.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use onlyonce_test::event::{Gate, PATIENCE};
use onlyonce_test::upstream::{At, Break, Legacy, Received, Reply};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::book::{Book, Entry};

/// The header by which a relay says which one it is.
pub(crate) const RELAY: &str = "X-Relay";

/// A message that arrives.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) entry: Entry,
    /// How often it has come before, taken or not.
    pub(crate) before: u32,
    /// Which relay it comes from, where it says so.
    pub(crate) relay: String,
}

/// What becomes of it.
#[derive(Debug, Clone)]
pub(crate) enum Verdict {
    Take,
    /// It is taken, and the connection breaks before the answer.
    TakeAndBreak,
    /// It is not taken.
    Refuse(u16),
    /// It is not taken, and the connection breaks.
    Break,
    /// The answer waits for the gate. Taken if it is a success.
    Hold(Gate, u16),
}

type Judge = dyn FnMut(&Message) -> Verdict + Send;

/// The receiver.
pub(crate) struct Endpoint {
    legacy: Legacy,
    book: Arc<watch::Sender<Book>>,
    judge: Arc<Mutex<Box<Judge>>>,
}

impl Endpoint {
    /// One that takes everything.
    pub(crate) async fn start() -> Self {
        let book = Arc::new(watch::Sender::new(Book::default()));
        let judge: Arc<Mutex<Box<Judge>>> = Arc::new(Mutex::new(Box::new(|_| Verdict::Take)));
        let (books, judges) = (Arc::clone(&book), Arc::clone(&judge));
        let mut tries = HashMap::<String, u32>::new();
        let legacy = Legacy::answering(move |received| {
            let message = message(received, &mut tries);
            let verdict = (lock(&judges))(&message);
            let (taken, reply) = match verdict {
                Verdict::Take => (true, Reply::new(200)),
                Verdict::TakeAndBreak => {
                    let broken = Reply::new(200).breaks(At::AfterRequest, Break::Reset);
                    (true, broken)
                }
                Verdict::Refuse(status) => (false, Reply::new(status)),
                Verdict::Break => {
                    let broken = Reply::new(503).breaks(At::AfterRequest, Break::Reset);
                    (false, broken)
                }
                Verdict::Hold(gate, status) => (status < 300, Reply::new(status).held_at(&gate)),
            };
            if taken {
                books.send_modify(|book: &mut Book| book.enter(message.entry));
            }
            reply
        });
        Self {
            legacy: legacy.await,
            book,
            judge,
        }
    }

    /// From now on this decides.
    pub(crate) fn judge(&self, judge: impl FnMut(&Message) -> Verdict + Send + 'static) {
        *lock(&self.judge) = Box::new(judge);
    }

    pub(crate) fn url(&self) -> String {
        self.legacy.url()
    }

    pub(crate) fn book(&self) -> watch::Ref<'_, Book> {
        self.book.borrow()
    }

    /// Waits until the book is as `is` wants it.
    pub(crate) async fn until(&self, what: &str, is: impl Fn(&Book) -> bool) {
        self.until_later(PATIENCE, what, is).await;
    }

    /// The same, with other patience.
    pub(crate) async fn until_later(
        &self,
        patience: Duration,
        what: &str,
        is: impl Fn(&Book) -> bool,
    ) {
        let mut book = self.book.subscribe();
        let waited = timeout(patience, book.wait_for(|book| is(book))).await;
        assert!(waited.is_ok(), "waited {patience:?} in vain for {what}");
    }

    /// Waits until all of these have been taken.
    pub(crate) async fn has(&self, what: &str, entries: &[Entry]) {
        self.until(what, |book| {
            entries.iter().all(|entry| book.known.contains(entry))
        })
        .await;
    }
}

fn message(received: &Received, tries: &mut HashMap<String, u32>) -> Message {
    let field = |name| received.fields.get(name).unwrap_or_default().to_owned();
    let id = field("webhook-id");
    let tried = tries.entry(id.clone()).or_default();
    *tried += 1;
    Message {
        before: *tried - 1,
        relay: field(RELAY),
        entry: Entry {
            key: field("ce-subject"),
            number: serde_json::from_slice(&received.body).expect("a number"),
            id,
        },
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
