//! [`PgFault`]: faults between a store and its Postgres, placed by statement rather than by time.
//!
//! A proxy that cuts TCP connections at random hits the interesting moment (after `COMMIT`, before its
//! reply) once in a thousand runs. This one reads the protocol (version 3, simple and extended), knows
//! which statement each message executes, and breaks exactly there: before the server sees it, after the
//! server has committed it, or much later. Besides, it can black-hole, refuse and reset connections.
//!
//! It answers `N` to requests for TLS, so that it can read what follows; query cancellation is passed on.
//! A statement that was prepared earlier is recognised when it is executed.
//!
//! ```no_run
//! use onlyonce_test::fault::{Action, PgFault};
//!
//! # async fn test(url: &str) {
//! let fault = PgFault::start(url).await;
//! let url = fault.url(); // give this one to the store
//!
//! let cut = fault.on_next(|sql| sql.contains("insert into onlyonce_records"), Action::CutAfter);
//! // … a claim: its answer is lost, and yet it is committed …
//! cut.happened(1).await;
//! # }
//! ```

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::net::{TcpListener, lookup_host};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

use crate::event::{Counter, Gate};

mod link;
mod message;

/// What to do with a statement that a rule matches.
#[derive(Debug, Clone)]
pub enum Action {
    /// The server never sees it, and both connections are reset.
    CutBefore,
    /// The server executes it, up to the `ReadyForQuery` that follows its commit. The reply is swallowed,
    /// and both connections are reset.
    CutAfter,
    /// It waits here until the gate is open, then goes on, even where its client has left meanwhile.
    Hold(Gate),
    /// Its client is reset at once, and it reaches the server once the gate is open: a late statement,
    /// as from a network that delays.
    Late(Gate),
}

/// A Postgres-aware fault proxy in front of one server. It ends when it is dropped.
pub struct PgFault {
    addr: SocketAddr,
    url: String,
    shared: Arc<Shared>,
    accepting: AbortHandle,
}

struct Shared {
    server: SocketAddr,
    rules: Mutex<Vec<Rule>>,
    seen: Mutex<Vec<String>>,
    flow: watch::Sender<Flow>,
    resets: watch::Sender<usize>,
    connections: Counter,
}

/// What passes now.
#[derive(Debug, Clone, Copy)]
struct Flow {
    to_server: bool,
    to_client: bool,
    connect: bool,
}

const PASS: Flow = Flow {
    to_server: true,
    to_client: true,
    connect: true,
};

/// A rule that was set. Clones are the same rule; it stays in force when they are dropped.
#[derive(Clone)]
pub struct Rule {
    matches: Arc<dyn Fn(&str) -> bool + Send + Sync>,
    action: Action,
    left: Arc<Mutex<usize>>,
    hits: Counter,
}

impl Rule {
    /// Waits until the rule has had its effect `times`: the connections were cut, the statement was
    /// delivered late, or it began to wait.
    ///
    /// # Panics
    /// After [`crate::event::PATIENCE`].
    pub async fn happened(&self, times: usize) {
        self.hits.reach(times, "hits of a database fault").await;
    }

    /// How often it has had its effect.
    pub fn hits(&self) -> usize {
        self.hits.get()
    }

    /// Ends the rule.
    pub fn stop(&self) {
        *lock(&self.left) = 0;
    }

    fn takes(&self, sql: &str) -> bool {
        let mut left = lock(&self.left);
        let takes = *left > 0 && (self.matches)(sql);
        *left -= usize::from(takes);
        takes
    }
}

impl fmt::Debug for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rule")
            .field("action", &self.action)
            .field("hits", &self.hits())
            .finish_non_exhaustive()
    }
}

impl PgFault {
    /// Starts a proxy on a free loopback port, in front of the server of this `postgres://` URL.
    ///
    /// # Panics
    /// If the URL has no host that resolves, or no loopback port can be had.
    pub async fn start(url: &str) -> Self {
        let host = authority(url).unwrap_or_else(|| panic!("{url} names no host"));
        let with_port = if host.contains(':') {
            host.to_owned()
        } else {
            format!("{host}:5432")
        };
        let server = lookup_host(with_port.as_str()).await.ok();
        let server = server.and_then(|mut found| found.find(SocketAddr::is_ipv4));
        let server = server.unwrap_or_else(|| panic!("{with_port} has no IPv4 address"));
        let listener = TcpListener::bind("127.0.0.1:0").await;
        let listener = listener.expect("a free loopback port is needed");
        let addr = listener
            .local_addr()
            .expect("a bound listener has an address");
        let shared = Arc::new(Shared {
            server,
            rules: Mutex::default(),
            seen: Mutex::default(),
            flow: watch::Sender::new(PASS),
            resets: watch::Sender::new(0),
            connections: Counter::default(),
        });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&shared))).abort_handle();
        let url = url.replacen(host, &addr.to_string(), 1);
        Self {
            addr,
            url,
            shared,
            accepting,
        }
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The server's URL, through this proxy.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Does `action` to the next statement whose SQL text `matches`.
    pub fn on_next(
        &self,
        matches: impl Fn(&str) -> bool + Send + Sync + 'static,
        action: Action,
    ) -> Rule {
        self.rule(matches, action, 1)
    }

    /// Does `action` to each statement whose SQL text `matches`, until [`Rule::stop`].
    pub fn on_each(
        &self,
        matches: impl Fn(&str) -> bool + Send + Sync + 'static,
        action: Action,
    ) -> Rule {
        self.rule(matches, action, usize::MAX)
    }

    fn rule(
        &self,
        matches: impl Fn(&str) -> bool + Send + Sync + 'static,
        action: Action,
        times: usize,
    ) -> Rule {
        let rule = Rule {
            matches: Arc::new(matches),
            action,
            left: Arc::new(Mutex::new(times)),
            hits: Counter::default(),
        };
        lock(&self.shared.rules).push(rule.clone());
        rule
    }

    /// Nothing passes in either direction, and no connection ends: packets are lost. New connections are
    /// accepted and stay silent. What was held back passes after [`heal`](Self::heal).
    pub fn black_hole(&self) {
        self.flow(Flow {
            to_server: false,
            to_client: false,
            connect: true,
        });
    }

    /// As [`black_hole`](Self::black_hole), but the server's messages still reach the client.
    pub fn black_hole_to_server(&self) {
        self.flow(Flow {
            to_server: false,
            ..PASS
        });
    }

    /// As [`black_hole`](Self::black_hole), but statements still reach the server, which executes them.
    pub fn black_hole_to_client(&self) {
        self.flow(Flow {
            to_client: false,
            ..PASS
        });
    }

    /// Resets new connections at once, as if the server were down; those that are open go on.
    pub fn refuse(&self) {
        self.flow(Flow {
            connect: false,
            ..PASS
        });
    }

    /// Everything passes again.
    pub fn heal(&self) {
        self.flow(PASS);
    }

    /// Resets all connections that are open, on both sides.
    pub fn reset_all(&self) {
        self.shared.resets.send_modify(|count| *count += 1);
    }

    fn flow(&self, flow: Flow) {
        self.shared.flow.send_replace(flow);
    }

    /// The SQL of every statement that a client sent to be executed, in order.
    pub fn statements(&self) -> Vec<String> {
        lock(&self.shared.seen).clone()
    }

    /// How many connections were accepted.
    pub fn connections(&self) -> usize {
        self.shared.connections.get()
    }
}

impl Drop for PgFault {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl fmt::Debug for PgFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PgFault")
            .field("addr", &self.addr)
            .finish_non_exhaustive()
    }
}

impl Shared {
    /// Notes statements that are about to be executed; answers the first rule that takes one of them.
    fn judge(&self, statements: &[String]) -> Option<Rule> {
        lock(&self.seen).extend_from_slice(statements);
        let rules = lock(&self.rules);
        let takes = |rule: &&Rule| statements.iter().any(|sql| rule.takes(sql));
        rules.iter().find(takes).cloned()
    }

    async fn until(&self, passes: impl Fn(&Flow) -> bool) {
        let mut flow = self.flow.subscribe();
        // The sender lives as long as `self`, so the wait cannot fail.
        let _ = flow.wait_for(passes).await;
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    // Dropped with this task, and the connections with it.
    let mut links = JoinSet::new();
    loop {
        let Ok((client, _)) = listener.accept().await else {
            continue;
        };
        shared.connections.add();
        if !shared.flow.borrow().connect {
            let _ = client.set_zero_linger();
            continue;
        }
        links.spawn(link::run(client, Arc::clone(&shared)));
        while links.try_join_next().is_some() {}
    }
}

/// Host and port of a URL.
fn authority(url: &str) -> Option<&str> {
    let (_, rest) = url.split_once("://")?;
    let authority = rest.split(['/', '?']).next()?;
    let host = authority.rsplit('@').next()?;
    (!host.is_empty()).then_some(host)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
