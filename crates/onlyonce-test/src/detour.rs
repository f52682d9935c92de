//! [`Detour`]: the way to any TCP server, which can be made slow on purpose.
//!
//! [`PgFault`](crate::fault::PgFault) knows what it carries; this one carries bytes. While it is held, what
//! the server says stays on the way: not a server that is down, which everybody notices, but an answer
//! that was true when it was given and arrives long after. And answers can be [lost](Detour::lose): the server has
//! done what it was asked, and nobody hears of it.
//!
//! ```no_run
//! # async fn test(redis: std::net::SocketAddr) {
//! let detour = onlyonce_test::detour::Detour::to(redis).await;
//! let held = detour.hold();
//! // … a client reads by way of detour.addr() …
//! held.reached(1).await; // the answer is on its way
//! // … and meanwhile the truth changes …
//! held.open();
//! # }
//! ```

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

use crate::event::{Counter, Gate};

/// A relay to one server. It ends, with its connections, when it is dropped.
#[derive(Debug)]
pub struct Detour {
    addr: SocketAddr,
    gate: watch::Sender<Gate>,
    losses: Losses,
    accepting: AbortHandle,
}

/// Answers that are to be lost, and those that were.
#[derive(Debug, Clone, Default)]
struct Losses {
    due: Arc<AtomicUsize>,
    lost: Counter,
}

impl Detour {
    /// Starts one on a free loopback port. Everything passes.
    ///
    /// # Panics
    /// If no loopback port can be had.
    pub async fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await;
        let listener = listener.expect("a free loopback port is needed");
        let addr = listener
            .local_addr()
            .expect("a bound listener has an address");
        let open = Gate::default();
        open.open();
        let gate = watch::Sender::new(open);
        let losses = Losses::default();
        let accepting = accept(listener, server, gate.subscribe(), losses.clone());
        let accepting = tokio::spawn(accepting).abort_handle();
        Self {
            addr,
            gate,
            losses,
            accepting,
        }
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// From now on what the server says waits at this gate. Each piece that arrives there is counted.
    #[must_use = "what is held passes only once the gate is opened"]
    pub fn hold(&self) -> Gate {
        let gate = Gate::default();
        self.gate.send_replace(gate.clone());
        gate
    }

    /// The next answer of the server, on whichever connection, ends here, and its connection with it.
    pub fn lose(&self) {
        self.losses.due.fetch_add(1, Ordering::Relaxed);
    }

    /// How many answers were lost.
    pub fn lost(&self) -> usize {
        self.losses.lost.get()
    }
}

impl Drop for Detour {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Losses {
    /// Whether this one is to be lost.
    fn take(&self) -> bool {
        let less = |due: usize| due.checked_sub(1);
        let taken = self
            .due
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        taken.is_ok()
    }
}

async fn accept(
    listener: TcpListener,
    server: SocketAddr,
    gate: watch::Receiver<Gate>,
    losses: Losses,
) {
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        let (gate, losses) = (gate.clone(), losses.clone());
        connections.spawn(async move {
            let Ok(server) = TcpStream::connect(server).await else {
                return; // and the client's connection ends, as it would without us
            };
            let (mut from_client, to_client) = client.into_split();
            let (from_server, mut to_server) = server.into_split();
            tokio::select! {
                _ = copy(&mut from_client, &mut to_server) => {}
                () = answers(from_server, to_client, gate, losses) => {}
            }
        });
    }
}

async fn answers(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    gate: watch::Receiver<Gate>,
    losses: Losses,
) {
    let mut piece = vec![0; 64 << 10];
    while let Ok(length @ 1..) = from.read(&mut piece).await {
        let gate = gate.borrow().clone();
        gate.pass().await;
        if losses.take() {
            losses.lost.add();
            return;
        }
        if to.write_all(&piece[..length]).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::Detour;
    use crate::event::within;

    #[tokio::test]
    async fn what_the_server_says_waits_at_the_gate() {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let detour = Detour::to(server.local_addr().unwrap()).await;
        let mut client = TcpStream::connect(detour.addr()).await.unwrap();
        let (mut accepted, _) = server.accept().await.unwrap();
        let mut said = [0; 2];

        accepted.write_all(b"at").await.unwrap();
        within("what passes", client.read_exact(&mut said))
            .await
            .unwrap();

        let held = detour.hold();
        accepted.write_all(b"on").await.unwrap();
        held.reached(1).await;
        assert_eq!(
            client.try_read(&mut said).unwrap_err().kind(),
            std::io::ErrorKind::WouldBlock
        );
        held.open();
        within("what was held", client.read_exact(&mut said))
            .await
            .unwrap();
        assert_eq!(&said, b"on");
    }

    #[tokio::test]
    async fn a_lost_answer_ends_its_connection_and_no_other() {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let detour = Detour::to(server.local_addr().unwrap()).await;
        detour.lose();
        for said in [&b""[..], b"at"] {
            let mut client = TcpStream::connect(detour.addr()).await.unwrap();
            let (mut accepted, _) = server.accept().await.unwrap();
            accepted.write_all(b"at").await.unwrap();
            if !said.is_empty() {
                accepted.shutdown().await.unwrap();
            }
            let mut heard = Vec::new();
            let end = client.read_to_end(&mut heard);
            within("the end", end).await.unwrap();
            assert_eq!(heard, said);
        }
        assert_eq!(detour.lost(), 1);
    }
}
