//! A response body on its way from the task that reads it to the client, and into the record.
//!
//! The task must never wait for the client while it captures: a client that reads slowly, or has left,
//! would keep the record unsettled and so its own retry unanswerable. So frames are queued without a
//! bound of their own; the capture limit bounds them. Past that limit nothing is recorded any more, and
//! the writer waits for [`room`](Writer::room) like any stream.
//!
//! Hazard: a dropped [`Writer`] must read as a *broken* body, never as a clean end. Its `Drop` sees to it.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
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
    frames: VecDeque<Frame<Bytes>>,
    queued_bytes: usize,
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
        state.queued_bytes += frame.data_ref().map_or(0, Bytes::len);
        state.frames.push_back(frame);
        wake(&mut state.reader);
    }

    /// Waits until the client has read enough, or has left.
    pub(crate) async fn room(&self) {
        poll_fn(|cx| {
            let mut state = self.0.state();
            if state.reader_gone || state.queued_bytes < QUEUED_BYTES_MAX {
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
        if let Some(frame) = state.frames.pop_front() {
            let length = frame.data_ref().map_or(0, Bytes::len);
            state.queued_bytes -= length;
            if let Some(remaining) = &mut state.remaining {
                *remaining = remaining.saturating_sub(u64::try_from(length).unwrap_or(u64::MAX));
            }
            if state.queued_bytes < QUEUED_BYTES_MAX {
                wake(&mut state.writer);
            }
            return Poll::Ready(Some(Ok(frame)));
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
        state.frames.is_empty() && state.ended && !matches!(state.end, Some(Err(_)))
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
        state.frames.clear();
        state.queued_bytes = 0;
        wake(&mut state.writer);
    }
}

/// A body as it is captured for the record, until it is too large.
#[derive(Debug)]
pub(crate) struct Capture {
    chunks: Option<Vec<Bytes>>,
    reserved: Reservation,
    bytes_max: usize,
}

impl Capture {
    pub(crate) fn new(bytes_max: usize, budget: &Budget) -> Self {
        Self {
            chunks: Some(Vec::new()),
            reserved: budget.reservation(),
            bytes_max,
        }
    }

    /// Keeps a chunk, or gives up what was kept when it is too much.
    pub(crate) fn push(&mut self, chunk: &Bytes) {
        let Some(chunks) = &mut self.chunks else {
            return;
        };
        let fits = self.reserved.bytes() + chunk.len() <= self.bytes_max;
        if fits && self.reserved.grow(chunk.len()) {
            chunks.push(chunk.clone());
        } else {
            self.chunks = None;
            self.reserved.give_back();
        }
    }

    /// Whether the body is too large to keep.
    pub(crate) const fn is_over(&self) -> bool {
        self.chunks.is_none()
    }

    /// The body in one piece; `None` where it was too large. Without a copy where it came in one piece.
    pub(crate) fn body(&self) -> Option<Bytes> {
        let chunks = self.chunks.as_ref()?;
        if let [only] = chunks.as_slice() {
            return Some(only.clone());
        }
        let mut whole = BytesMut::with_capacity(self.reserved.bytes());
        chunks
            .iter()
            .for_each(|chunk| whole.extend_from_slice(chunk));
        Some(whole.freeze())
    }
}
