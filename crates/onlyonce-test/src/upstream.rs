//! [`Legacy`]: an HTTP service that knows nothing of idempotency keys and counts its effects.
//!
//! Whether a guard works is decided here and nowhere else: a request that the service has read to its
//! end is an *effect* (money moved), whatever happens to the answer. Nothing that the guard says about
//! itself is evidence; tests compare [`effects`](Legacy::effects) and the [`journal`](Legacy::journal).
//!
//! It is written over TCP by hand, since an HTTP library would keep it from misbehaving: it can reset or
//! end a connection at each point of an exchange ([`At`], [`Break`]), stay silent, answer late (when a
//! [`Gate`](crate::event::Gate) opens), lie about lengths, stream under the test's control, and close
//! idle connections on command. What it does next is taken from a queue of [`Reply`] values, then from
//! a function of the request if there is one, then from a default (`200`).
//!
//! ```
//! use onlyonce_test::client;
//! use onlyonce_test::upstream::{At, Break, Legacy, Reply};
//!
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! let legacy = Legacy::start().await;
//! legacy.script(Reply::new(201).body("charged").breaks(At::AfterRequest, Break::Reset));
//!
//! let lost = client::post(legacy.addr(), "/charges", "key-1", "amount=100").await;
//! assert!(lost.is_err(), "the answer was lost");
//! assert_eq!(legacy.effects_of("key-1"), 1, "and the money was moved all the same");
//! # });
//! ```

use std::collections::VecDeque;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

use crate::event::Counter;
use crate::http1::Fields;

mod connection;
mod in_process;
mod reply;

pub use self::in_process::{Died, ReplyBody};
pub use self::reply::{At, Break, Reply, Stream};

/// A request that the service has read to its end.
#[derive(Debug, Clone)]
pub struct Received {
    /// Which accepted connection it came on, from 1.
    pub connection: usize,
    /// The method, as sent.
    pub method: String,
    /// The request target, byte for byte.
    pub target: String,
    /// The fields in the order, case and spelling in which they came.
    pub fields: Fields,
    /// The head's exact bytes, from the request line to the blank line.
    pub head: Bytes,
    /// The body after transfer decoding.
    pub body: Bytes,
    /// Trailer fields of a chunked body.
    pub trailers: Fields,
}

impl Received {
    /// The `Idempotency-Key` as it came.
    pub fn key(&self) -> Option<&str> {
        self.fields.get("idempotency-key")
    }
}

type Answer = dyn FnMut(&Received) -> Reply + Send;

/// The legacy service. It stops, and its connections end, when it is dropped.
pub struct Legacy {
    addr: SocketAddr,
    shared: Arc<Shared>,
    accepting: AbortHandle,
}

struct Shared {
    state: Mutex<State>,
    effects: Counter,
    requests: Counter,
    connections: Counter,
    broken: Counter,
    /// Counts the commands to close idle connections; the newest says how.
    closing: watch::Sender<(usize, Break)>,
}

struct State {
    queue: VecDeque<Reply>,
    answer: Box<Answer>,
    journal: Vec<Received>,
    effects: Vec<Option<String>>,
}

impl Legacy {
    /// Starts a service on a free loopback port that answers `200` to everything.
    ///
    /// # Panics
    /// If no loopback port can be had.
    pub async fn start() -> Self {
        Self::answering(|_| Reply::new(200).body("done")).await
    }

    /// Starts a service that answers what `answer` makes of each request.
    ///
    /// # Panics
    /// If no loopback port can be had.
    pub async fn answering(answer: impl FnMut(&Received) -> Reply + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await;
        let listener = listener.expect("a free loopback port is needed");
        let addr = listener
            .local_addr()
            .expect("a bound listener has an address");
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                queue: VecDeque::new(),
                answer: Box::new(answer),
                journal: Vec::new(),
                effects: Vec::new(),
            }),
            effects: Counter::default(),
            requests: Counter::default(),
            connections: Counter::default(),
            broken: Counter::default(),
            closing: watch::Sender::new((0, Break::Finish)),
        });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&shared))).abort_handle();
        Self {
            addr,
            shared,
            accepting,
        }
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Where it listens, as an origin: `http://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Appends a reply to the queue: the next request that has none yet gets it.
    pub fn script(&self, reply: Reply) {
        self.shared.state().queue.push_back(reply);
    }

    /// From now on, requests for which nothing is scripted get what `answer` makes of them.
    pub fn answer_with(&self, answer: impl FnMut(&Received) -> Reply + Send + 'static) {
        self.shared.state().answer = Box::new(answer);
    }

    /// How many requests had an effect: those read to the end, but for [`Reply::without_effect`].
    pub fn effects(&self) -> usize {
        self.shared.effects.get()
    }

    /// How many effects there were under exactly this `Idempotency-Key`.
    pub fn effects_of(&self, key: &str) -> usize {
        let effects = &self.shared.state().effects;
        effects
            .iter()
            .filter(|own| own.as_deref() == Some(key))
            .count()
    }

    /// Waits until there were at least `count` effects.
    ///
    /// # Panics
    /// After [`crate::event::PATIENCE`].
    pub async fn wait_for_effects(&self, count: usize) {
        self.shared
            .effects
            .reach(count, "effects in the upstream")
            .await;
    }

    /// Every request read to its end, in order, with or without effect.
    pub fn journal(&self) -> Vec<Received> {
        self.shared.state().journal.clone()
    }

    /// How many requests have begun, read to the end or not.
    pub fn requests(&self) -> usize {
        self.shared.requests.get()
    }

    /// Waits until at least `count` requests have begun.
    ///
    /// # Panics
    /// After [`crate::event::PATIENCE`].
    pub async fn wait_for_requests(&self, count: usize) {
        self.shared
            .requests
            .reach(count, "requests at the upstream")
            .await;
    }

    /// How many requests broke off before their end. They had no effect.
    pub fn broken_requests(&self) -> usize {
        self.shared.broken.get()
    }

    /// How many connections were accepted.
    pub fn connections(&self) -> usize {
        self.shared.connections.get()
    }

    /// Waits until at least `count` connections were accepted.
    ///
    /// # Panics
    /// After [`crate::event::PATIENCE`].
    pub async fn wait_for_connections(&self, count: usize) {
        self.shared
            .connections
            .reach(count, "connections to the upstream")
            .await;
    }

    /// Ends all connections that are idle now, as servers do with keep-alive connections.
    pub fn close_idle(&self, how: Break) {
        self.shared.closing.send_modify(|(commands, with)| {
            *commands += 1;
            *with = how;
        });
    }

    /// Stops listening and ends every connection: from now on the port refuses.
    pub fn stop(&self) {
        self.accepting.abort();
    }
}

impl Drop for Legacy {
    fn drop(&mut self) {
        self.stop();
    }
}

impl fmt::Debug for Legacy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Legacy")
            .field("addr", &self.addr)
            .field("effects", &self.effects())
            .finish_non_exhaustive()
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // Every change is complete when it is made, even if an `answer` function panics.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the queue has for the request that begins now.
    fn begin(&self) -> Option<Reply> {
        let scripted = self.state().queue.pop_front();
        self.requests.add();
        scripted
    }

    /// Journals a whole request, counts its effect, and says how to answer.
    fn complete(&self, request: Received, scripted: Option<Reply>) -> Reply {
        let mut state = self.state();
        let reply = scripted.unwrap_or_else(|| (state.answer)(&request));
        if reply.has_effect() {
            state.effects.push(request.key().map(str::to_owned));
        }
        state.journal.push(request);
        drop(state);
        if reply.has_effect() {
            self.effects.add();
        }
        reply
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    // Dropped with this task, and its connections with it.
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            continue;
        };
        let number = shared.connections.add();
        connections.spawn(connection::serve(stream, number, Arc::clone(&shared)));
        while connections.try_join_next().is_some() {}
    }
}

/// A loopback address where nobody listens: connecting is refused.
///
/// # Panics
/// If no loopback port can be had.
pub async fn refusing_addr() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await;
    let listener = listener.expect("a free loopback port is needed");
    listener
        .local_addr()
        .expect("a bound listener has an address")
}
