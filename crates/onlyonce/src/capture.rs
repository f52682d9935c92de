//! A response body on its way from the task that reads it to the client, and into the record.
//!
//! The task must never wait for the client while it captures: a client that reads slowly, or has left,
//! would keep the record unsettled and so its own retry unanswerable. So frames are queued without a
//! bound of their own; the capture limit bounds them. Past that limit nothing is recorded any more, and
//! the writer waits for [`room`](Writer::room) like any stream.
//!
//! An upstream that sends a byte at a time would cost a hundred for each, in frames and in the buffers
//! that they keep alive. So what waits, for the client or for the record, is joined where it is small.
//!
//! Hazard: a dropped [`Writer`] must read as a *broken* body, never as a clean end. Its `Drop` sees to it.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};

use crate::BoxError;
use crate::budget::{Budget, Reservation};

/// What may be queued for the client once nothing is captured any more.
const QUEUED_BYTES_MAX: usize = 256 << 10;

/// A body in transit. `exact` is its length where that is known.
pub(crate) fn channel(exact: Option<u64>) -> (Writer, Reader) {
    let transit = Arc::new(Transit(Mutex::new(State {
        remaining: exact,
        ..State::default()
    })));
    (Writer(Arc::clone(&transit)), Reader(transit))
}

#[derive(Debug)]
struct Transit(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    data: Pieces,
    /// They come last.
    trailers: Option<HeaderMap>,
    remaining: Option<u64>,
    end: Option<Result<(), BoxError>>,
    ended: bool,
    reader_gone: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Transit {
    fn state(&self) -> MutexGuard<'_, State> {
        // Each change is one step: a panic elsewhere cannot leave it half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The side of the task that reads the upstream.
#[derive(Debug)]
pub(crate) struct Writer(Arc<Transit>);

impl Writer {
    /// Hands a frame to the client, at once.
    pub(crate) fn push(&self, frame: Frame<Bytes>) {
        let mut state = self.0.state();
        if state.reader_gone {
            return;
        }
        match frame.into_data() {
            Ok(data) => state.data.push(data),
            Err(frame) => state.trailers = frame.into_trailers().ok(),
        }
        wake(&mut state.reader);
    }

    /// Waits until the client has read enough, or has left.
    pub(crate) async fn room(&self) {
        poll_fn(|cx| {
            let mut state = self.0.state();
            if state.reader_gone || state.data.bytes < QUEUED_BYTES_MAX {
                return Poll::Ready(());
            }
            state.writer = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// Ends the body: cleanly, or broken with an error.
    pub(crate) fn finish(self, end: Result<(), BoxError>) {
        self.end(end);
    }

    fn end(&self, end: Result<(), BoxError>) {
        let mut state = self.0.state();
        if !state.ended {
            state.ended = true;
            state.end = Some(end);
            wake(&mut state.reader);
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.end(Err("the response broke off".into()));
    }
}

fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}

/// The client's side: a body.
#[derive(Debug)]
pub(crate) struct Reader(Arc<Transit>);

impl Body for Reader {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut state = self.0.state();
        if let Some(data) = state.data.pop() {
            if let Some(remaining) = &mut state.remaining {
                let length = u64::try_from(data.len()).unwrap_or(u64::MAX);
                *remaining = remaining.saturating_sub(length);
            }
            if state.data.bytes < QUEUED_BYTES_MAX {
                wake(&mut state.writer);
            }
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        if let Some(trailers) = state.trailers.take() {
            return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
        }
        match state.end.take() {
            Some(Ok(())) => Poll::Ready(None),
            Some(Err(error)) => Poll::Ready(Some(Err(error))),
            None if state.ended => Poll::Ready(None),
            None => {
                state.reader = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        let state = self.0.state();
        state.data.is_empty()
            && state.trailers.is_none()
            && state.ended
            && !matches!(state.end, Some(Err(_)))
    }

    fn size_hint(&self) -> SizeHint {
        self.0
            .state()
            .remaining
            .map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.reader_gone = true;
        state.data = Pieces::default();
        state.trailers = None;
        wake(&mut state.writer);
    }
}

/// Bytes in the pieces in which they came, without a copy; small ones that have to wait are joined.
#[derive(Debug, Default)]
struct Pieces {
    /// Before all others; most bodies have no other.
    first: Bytes,
    whole: VecDeque<Bytes>,
    /// Small pieces behind those, in one.
    joined: BytesMut,
    bytes: usize,
}

/// Pieces below this are worth a copy.
const SMALL_BYTES: usize = 4 << 10;

impl Pieces {
    fn push(&mut self, piece: Bytes) {
        let is_waiting = !self.is_empty();
        self.bytes += piece.len();
        if !is_waiting {
            self.first = piece;
            return;
        }
        if piece.len() < SMALL_BYTES {
            self.joined.extend_from_slice(&piece);
            return;
        }
        if let Some(joined) = self.take_joined() {
            self.whole.push_back(joined);
        }
        self.whole.push_back(piece);
    }

    fn pop(&mut self) -> Option<Bytes> {
        let piece = if self.first.is_empty() {
            self.whole.pop_front().or_else(|| self.take_joined())?
        } else {
            std::mem::take(&mut self.first)
        };
        self.bytes -= piece.len();
        Some(piece)
    }

    /// The bytes in one piece; without a copy where they came in one.
    fn concat(&self) -> Bytes {
        if self.first.len() == self.bytes {
            return self.first.clone();
        }
        let mut all = BytesMut::with_capacity(self.bytes);
        all.extend_from_slice(&self.first);
        for piece in &self.whole {
            all.extend_from_slice(piece);
        }
        all.extend_from_slice(&self.joined);
        all.freeze()
    }

    const fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    fn take_joined(&mut self) -> Option<Bytes> {
        let joined = std::mem::take(&mut self.joined);
        (!joined.is_empty()).then(|| joined.freeze())
    }
}

/// A body as it is captured for the record, until it is too large.
#[derive(Debug)]
pub(crate) struct Capture {
    kept: Option<Pieces>,
    reserved: Reservation,
    bytes_max: usize,
}

impl Capture {
    pub(crate) fn new(bytes_max: usize, budget: &Budget) -> Self {
        Self {
            kept: Some(Pieces::default()),
            reserved: budget.reservation(),
            bytes_max,
        }
    }

    /// Keeps a chunk, or gives up what was kept when it is too much.
    pub(crate) fn push(&mut self, chunk: &Bytes) {
        let Some(kept) = &mut self.kept else {
            return;
        };
        let fits = self.reserved.bytes() + chunk.len() <= self.bytes_max;
        if fits && self.reserved.grow(chunk.len()) {
            kept.push(chunk.clone());
        } else {
            self.kept = None;
            self.reserved.give_back();
        }
    }

    /// Whether the body is too large to keep.
    pub(crate) const fn is_over(&self) -> bool {
        self.kept.is_none()
    }

    /// The body in one piece; `None` where it was too large.
    pub(crate) fn body(&self) -> Option<Bytes> {
        self.kept.as_ref().map(Pieces::concat)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use http_body_util::BodyExt;

    use super::*;

    fn byte_by_byte(body: &Bytes) -> impl Iterator<Item = Bytes> {
        (0..body.len()).map(|at| body.slice(at..at + 1))
    }

    #[test]
    fn small_pieces_that_wait_are_joined_and_large_ones_are_not_copied() {
        let large = Bytes::from(vec![b'-'; SMALL_BYTES]);
        let small = Bytes::from_static(b"0123456789");
        let mut pieces = Pieces::default();
        byte_by_byte(&small).for_each(|byte| pieces.push(byte));
        pieces.push(large.clone());
        byte_by_byte(&small).for_each(|byte| pieces.push(byte));
        pieces.push(Bytes::new());
        let expected = [&b"0123456789"[..], &large, b"0123456789"].concat();
        assert_eq!(
            (pieces.bytes, pieces.concat()),
            (expected.len(), expected.into())
        );
        let popped: Vec<_> = std::iter::from_fn(|| pieces.pop()).collect();
        assert_eq!(popped, [&b"0"[..], b"123456789", &large, b"0123456789"]);
        assert_eq!(popped[2].as_ptr(), large.as_ptr());
        assert!(pieces.is_empty());
    }

    #[test]
    fn one_piece_is_kept_as_it_came() {
        let budget = Budget::new(10);
        let mut capture = Capture::new(10, &budget);
        let chunk = Bytes::from(vec![b'x'; 10]);
        capture.push(&chunk);
        assert_eq!(capture.body().unwrap().as_ptr(), chunk.as_ptr());
    }

    #[test]
    fn a_client_that_reads_gets_each_frame_and_one_that_does_not_gets_all() {
        let (writer, mut reader) = channel(None);
        let mut next = || reader.frame().now_or_never();
        for event in ["a", "b"] {
            writer.push(Frame::data(event.into()));
            let frame = next().unwrap().unwrap().unwrap();
            assert_eq!(frame.into_data().unwrap(), event);
            assert!(next().is_none());
        }
        for event in ["c", "d", "e"] {
            writer.push(Frame::data(event.into()));
        }
        writer.push(Frame::trailers(HeaderMap::new()));
        writer.finish(Ok(()));
        let rest = reader.collect().now_or_never().unwrap().unwrap();
        assert!(rest.trailers().is_some());
        assert_eq!(rest.to_bytes(), "cde");
    }
}
