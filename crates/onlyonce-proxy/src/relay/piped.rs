//! Standard output that notices when nobody reads it any more.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncWrite, Stdout};
use tokio_util::sync::CancellationToken;

/// Standard output, as far as somebody reads it. A pipe whose reader has left never comes back, while the relay
/// would try for ever: so it is told.
#[derive(Debug)]
pub(super) struct Piped {
    out: Stdout,
    closed: CancellationToken,
}

impl Piped {
    /// `closed` is cancelled when the reader has left.
    pub(super) fn new(closed: CancellationToken) -> Self {
        Self {
            out: tokio::io::stdout(),
            closed,
        }
    }

    fn noticing<T>(&self, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if let Poll::Ready(Err(error)) = &polled
            && error.kind() == io::ErrorKind::BrokenPipe
        {
            self.closed.cancel();
        }
        polled
    }
}

impl AsyncWrite for Piped {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.out).poll_write(cx, buf);
        self.noticing(polled)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.out).poll_flush(cx);
        self.noticing(polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.out).poll_shutdown(cx);
        self.noticing(polled)
    }
}
