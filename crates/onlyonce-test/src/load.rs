//! Load that is judged by the memory of whoever serves it: many connections that do nothing, and many
//! uploads at once.
//!
//! For benchmarks, so failures are counted and returned. Ten thousand connections take as many file
//! descriptors on each side: `ulimit -n 20000` first, for both processes.
//!
//! ```
//! use onlyonce_test::load::{Uploads, concurrent_uploads, hold_idle_connections};
//! use onlyonce_test::upstream::Legacy;
//!
//! # tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(async {
//! let legacy = Legacy::start().await;
//! let idle = hold_idle_connections(legacy.addr(), 20).await?;
//! assert_eq!(idle.len(), 20);
//!
//! let uploads = Uploads { path: "/charges", count: 8, bytes: 1 << 20, at_once: true };
//! let outcomes = concurrent_uploads(legacy.addr(), uploads).await;
//! assert_eq!(outcomes.by_status.get(&200), Some(&8));
//! # Ok::<(), std::io::Error>(()) }).unwrap();
//! ```

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Barrier;
use tokio::task::JoinSet;

use crate::client::Raw;

/// Requests with large bodies.
#[derive(Debug, Clone, Copy)]
pub struct Uploads {
    /// Where they go.
    pub path: &'static str,
    /// How many, each on a connection and with a key of its own.
    pub count: usize,
    /// The size of each body.
    pub bytes: usize,
    /// Whether nobody sends its last byte before everybody has sent all others, or was refused.
    pub at_once: bool,
}

/// What became of uploads.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcomes {
    /// How many were answered with each status.
    pub by_status: BTreeMap<u16, usize>,
    /// How many connections ended without a status.
    pub unanswered: usize,
}

/// Opens connections one after the other, has one request answered on each (so that whoever serves them
/// has made its buffers), and returns them, idle.
///
/// # Errors
/// Where one cannot be opened or is not answered.
pub async fn hold_idle_connections(addr: SocketAddr, count: usize) -> io::Result<Vec<Raw>> {
    let mut idle = Vec::with_capacity(count);
    for _ in 0..count {
        let mut client = Raw::try_connect(addr).await?;
        client.send("GET / HTTP/1.1\r\nHost: load\r\n\r\n").await;
        client.response().await?;
        idle.push(client);
    }
    Ok(idle)
}

/// Sends uploads, all at the same time, and counts what comes back.
pub async fn concurrent_uploads(addr: SocketAddr, uploads: Uploads) -> Outcomes {
    let piece = Bytes::from(vec![b'x'; 64 << 10]);
    let all_but_done = Arc::new(Barrier::new(uploads.count));
    let mut running = JoinSet::new();
    for number in 0..uploads.count {
        let (piece, barrier) = (piece.clone(), Arc::clone(&all_but_done));
        running.spawn(async move { upload(addr, uploads, number, &piece, &barrier).await });
    }
    let mut outcomes = Outcomes::default();
    while let Some(ended) = running.join_next().await {
        match ended {
            Ok(Some(status)) => *outcomes.by_status.entry(status).or_default() += 1,
            Ok(None) | Err(_) => outcomes.unanswered += 1,
        }
    }
    outcomes
}

/// Sends one upload; the status, if one came.
async fn upload(
    addr: SocketAddr,
    uploads: Uploads,
    number: usize,
    piece: &[u8],
    all_but_done: &Barrier,
) -> Option<u16> {
    let Ok(mut stream) = TcpStream::connect(addr).await else {
        wait_for_others(uploads, all_but_done).await;
        return None;
    };
    let (mut receive, mut send) = stream.split();
    let sending = async {
        let sent = send_all_but_one(&mut send, uploads, number, piece).await;
        wait_for_others(uploads, all_but_done).await;
        if sent.is_ok() {
            let _ = send.write_all(b"x").await;
        }
    };
    let mut head = [0; 12];
    // Both to their ends: one that was refused early is still waited for by the others.
    let ((), received) = tokio::join!(sending, receive.read_exact(&mut head));
    received.ok()?;
    std::str::from_utf8(&head[9..]).ok()?.parse().ok()
}

async fn send_all_but_one(
    send: &mut (impl AsyncWriteExt + Unpin),
    uploads: Uploads,
    number: usize,
    piece: &[u8],
) -> io::Result<()> {
    let head = format!(
        "POST {} HTTP/1.1\r\nHost: load\r\nIdempotency-Key: upload-{number}\r\nContent-Length: {}\r\n\r\n",
        uploads.path, uploads.bytes
    );
    send.write_all(head.as_bytes()).await?;
    let mut left = uploads.bytes.saturating_sub(1);
    while left > 0 {
        let size = left.min(piece.len());
        send.write_all(&piece[..size]).await?;
        left -= size;
    }
    Ok(())
}

async fn wait_for_others(uploads: Uploads, all_but_done: &Barrier) {
    if uploads.at_once {
        all_but_done.wait().await;
    }
}
