//! The body of a response on its way to the client.

use std::convert::Infallible;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderName;
use http::header::{AUTHORIZATION, CONTENT_LENGTH, HOST, HeaderMap, TRANSFER_ENCODING};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::sync::oneshot;
use tokio::time::{Instant, Sleep, sleep_until};

use super::connection::{Connection, unheard};
use super::pool::Pool;

/// A response's body: streamed from the upstream, or one of our own.
///
/// It ends cleanly only if the upstream's did. Once it has, the connection goes back to the pool; dropped
/// earlier, it closes the connection.
pub struct ForwardBody(Kind);

enum Kind {
    Own(Option<Bytes>),
    Upstream(Box<Streamed>),
}

struct Streamed {
    incoming: Incoming,
    /// None once the body has ended, or where somebody else drives the connection.
    source: Option<Source>,
    /// Dropped when the body is over, where a task of its own drives the connection.
    apart: Option<oneshot::Sender<Infallible>>,
    /// What it broke off with, if that was not told yet.
    broken: Option<hyper::Error>,
    idle_max: Duration,
    end: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
    is_armed: bool,
    /// Names that the response's `Connection` listed: unwelcome in the trailer section as well.
    hop_by_hop: Vec<HeaderName>,
}

/// The connection that a body arrives on, and what becomes of it when the body has ended.
pub(crate) struct Source {
    pub(crate) connection: Connection,
    pub(crate) pool: Arc<Pool>,
    pub(crate) keep: Duration,
    /// How long an upload may stand still once the response is over.
    pub(crate) idle_max: Duration,
}

/// Who drives the connection that a body arrives on.
pub(crate) enum Drive {
    /// The body itself.
    Body(Source),
    /// A task of its own, which is told when the body is over.
    Apart(oneshot::Sender<Infallible>),
}

/// Why a response's body did not end cleanly.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ForwardBodyError {
    /// The upstream broke it off, or framed it wrongly.
    #[error("the upstream's response broke off")]
    Broken(#[source] hyper::Error),
    /// Nothing came for too long, or the request's time was over.
    #[error("the upstream's response did not arrive in time")]
    Timeout,
}

impl ForwardBody {
    pub(crate) fn streamed(
        incoming: Incoming,
        drive: Drive,
        idle_max: Duration,
        end: Option<Instant>,
        hop_by_hop: Vec<HeaderName>,
    ) -> Self {
        let (source, apart) = match drive {
            Drive::Body(source) => (Some(source), None),
            Drive::Apart(apart) => (None, Some(apart)),
        };
        if incoming.is_end_stream() {
            if let Some(source) = source {
                source.give_back();
            }
            return Self(Kind::Own(None));
        }
        Self(Kind::Upstream(Box::new(Streamed {
            incoming,
            source,
            apart,
            broken: None,
            idle_max,
            end,
            timer: None,
            is_armed: false,
            hop_by_hop,
        })))
    }
}

impl From<Bytes> for ForwardBody {
    fn from(bytes: Bytes) -> Self {
        Self(Kind::Own(Some(bytes).filter(|bytes| !bytes.is_empty())))
    }
}

impl Body for ForwardBody {
    type Data = Bytes;
    type Error = ForwardBodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ForwardBodyError>>> {
        match &mut self.0 {
            Kind::Own(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Kind::Upstream(streamed) => streamed.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Own(bytes) => bytes.is_none(),
            Kind::Upstream(streamed) => streamed.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Own(bytes) => {
                let len = bytes.as_ref().map_or(0, Bytes::len);
                SizeHint::with_exact(len.try_into().unwrap_or(u64::MAX))
            }
            Kind::Upstream(streamed) => streamed.incoming.size_hint(),
        }
    }
}

impl Streamed {
    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ForwardBodyError>>> {
        if let Some(error) = self.broken.take() {
            return Poll::Ready(Some(Err(ForwardBodyError::Broken(error))));
        }
        let Poll::Ready(frame) = self.poll_incoming(cx) else {
            ready!(self.poll_timer(cx));
            self.source = None;
            return Poll::Ready(Some(Err(ForwardBodyError::Timeout)));
        };
        self.is_armed = false;
        match frame {
            Some(Ok(frame)) => {
                if self.incoming.is_end_stream() {
                    self.give_back();
                }
                Poll::Ready(Some(Ok(self.clean(frame))))
            }
            Some(Err(error)) => {
                self.source = None;
                // What came before it is to reach the client: whoever passes that on gets a turn to do so.
                self.broken = Some(error);
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            None => {
                self.give_back();
                Poll::Ready(None)
            }
        }
    }

    fn poll_incoming(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let mut incoming = Pin::new(&mut self.incoming);
        let Some(source) = &mut self.source else {
            return incoming.poll_frame(cx);
        };
        // Small bodies are here already: they came with the head. To be told that there is room for more
        // is no use: if more is wanted, we ask for it.
        source.connection.hush();
        if let Poll::Ready(frame) = incoming.as_mut().poll_frame(&mut unheard()) {
            return Poll::Ready(frame);
        }
        source.connection.drive(cx);
        incoming.poll_frame(&mut unheard())
    }

    /// Ready when the body has paused too long. The timer is touched only where the body has to wait.
    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.is_armed {
            let due = Instant::now() + self.idle_max;
            let due = self.end.map_or(due, |end| end.min(due));
            match &mut self.timer {
                Some(timer) => timer.as_mut().reset(due),
                None => self.timer = Some(Box::pin(sleep_until(due))),
            }
            self.is_armed = true;
        }
        match &mut self.timer {
            Some(timer) => timer.as_mut().poll(cx),
            None => Poll::Pending,
        }
    }

    fn give_back(&mut self) {
        self.apart = None;
        if let Some(source) = self.source.take() {
            source.give_back();
        }
    }

    /// Removes from a trailer section what has no business there (RFC 9110 section 6.5.1).
    fn clean(&self, frame: Frame<Bytes>) -> Frame<Bytes> {
        match frame.into_trailers() {
            Ok(trailers) => Frame::trailers(self.clean_trailers(trailers)),
            Err(frame) => frame,
        }
    }

    fn clean_trailers(&self, mut trailers: HeaderMap) -> HeaderMap {
        crate::headers::strip_hop_by_hop(&mut trailers);
        let unwelcome = [AUTHORIZATION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING];
        for name in self.hop_by_hop.iter().chain(&unwelcome) {
            trailers.remove(name);
        }
        trailers
    }
}

impl Source {
    fn give_back(self) {
        match self.connection.is_ready() {
            true => {
                // It is nobody's now: a task that has ended is not to be kept in memory by it either.
                self.connection.hush();
                self.pool.check_in(self.connection, self.keep);
            }
            false => drop(self.drive_apart()),
        }
    }

    /// Drives the connection until the exchange is over on both sides, and then gives it back. What is returned is to
    /// be dropped when the response is over: from then on an upload that stands still is waited for no longer than a
    /// response would be.
    pub(crate) fn drive_apart(mut self) -> oneshot::Sender<Infallible> {
        let (response, over) = oneshot::channel();
        tokio::spawn(async move {
            if self.connection.becomes_ready(over, self.idle_max).await {
                self.pool.check_in(self.connection, self.keep);
            }
        });
        response
    }
}

impl fmt::Debug for ForwardBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.0 {
            Kind::Own(_) => "own",
            Kind::Upstream(_) => "upstream",
        };
        f.debug_tuple("ForwardBody").field(&kind).finish()
    }
}
