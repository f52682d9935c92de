//! The client's side of a connection, and how it ends.

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep};

/// Whether a response has begun and not ended. Shared by the IO and the response's body.
#[derive(Debug, Clone, Default)]
pub(crate) struct Unfinished(Arc<AtomicBool>);

impl Unfinished {
    pub(crate) fn set(&self, unfinished: bool) {
        self.0.store(unfinished, Ordering::Relaxed);
    }

    fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// A client's socket whose shutdown lingers, whose death amid a response is a reset, and which does not
/// wait for ever for a client that does not read.
///
/// Closing a socket with unread data makes the system send a reset, which takes the response with it if
/// the client was still busy sending. So after our end is sent, what the client sends is read and thrown
/// away, until it ends as well, or for as long as is bearable.
#[derive(Debug)]
pub(crate) struct ServerIo {
    stream: TcpStream,
    unfinished: Unfinished,
    limits: IoLimits,
    /// Runs while a write waits.
    stall: Option<Pin<Box<Sleep>>>,
    lingering: Option<Lingering>,
}

/// How long a client's socket waits.
#[derive(Debug, Clone, Copy)]
pub(crate) struct IoLimits {
    /// For a client that does not read what it asked for.
    pub(crate) write: Duration,
    /// For a client to end its side after we have ended ours.
    pub(crate) linger: Duration,
}

#[derive(Debug)]
struct Lingering {
    limit: Pin<Box<Sleep>>,
    bytes_left: usize,
}

/// What a client may still send to a connection that lingers.
const LINGER_BYTES_MAX: usize = 16 << 20;

impl ServerIo {
    pub(crate) fn new(stream: TcpStream, unfinished: Unfinished, limits: IoLimits) -> Self {
        Self {
            stream,
            unfinished,
            limits,
            stall: None,
            lingering: None,
        }
    }

    /// Passes a write's outcome on; an error where it has waited too long.
    fn bounded(
        &mut self,
        written: Poll<io::Result<usize>>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.stall = None;
            return written;
        }
        let limit = self.limits.write;
        let stall = self.stall.get_or_insert_with(|| Box::pin(sleep(limit)));
        ready!(stall.as_mut().poll(cx));
        let reason = "the client did not read the response";
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, reason)))
    }

    /// Throws away what arrives; ready when the client has ended, or our patience has.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(lingering) = &mut self.lingering else {
            return Poll::Ready(());
        };
        let mut space = [0; 4096];
        while lingering.bytes_left > 0 && lingering.limit.as_mut().poll(cx).is_pending() {
            let mut buffer = ReadBuf::new(&mut space);
            let read = ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer));
            let count = buffer.filled().len();
            if read.is_err() || count == 0 {
                break;
            }
            lingering.bytes_left = lingering.bytes_left.saturating_sub(count);
        }
        Poll::Ready(())
    }
}

impl AsyncRead for ServerIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for ServerIo {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.bounded(written, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // The system takes one piece faster than a list of one.
        let written = match bufs {
            [buf] => Pin::new(&mut self.stream).poll_write(cx, buf),
            bufs => Pin::new(&mut self.stream).poll_write_vectored(cx, bufs),
        };
        self.bounded(written, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.lingering.is_none() {
            ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
            self.lingering = Some(Lingering {
                limit: Box::pin(sleep(self.limits.linger)),
                bytes_left: LINGER_BYTES_MAX,
            });
        }
        self.poll_linger(cx).map(Ok)
    }
}

impl Drop for ServerIo {
    fn drop(&mut self) {
        if self.lingering.is_none() && self.unfinished.get() {
            // Fails where the socket is dead already, and then it needs no reset.
            let _ = self.stream.set_zero_linger();
        }
    }
}
