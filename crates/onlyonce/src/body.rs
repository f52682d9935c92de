//! The bodies on both sides of the layer.
//!
//! An unguarded request keeps its own body, wrapped without a box. A guarded request's body is in memory
//! before anything is claimed; its response is read by a detached task, so that a client that leaves
//! cannot stop the recording, and the client reads what that task has captured.
//!
//! ```
//! use http_body_util::{BodyExt, Full};
//! use onlyonce::body::RequestBody;
//!
//! # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
//! let body = RequestBody::from(Full::new(bytes::Bytes::from_static(b"{}")));
//! assert_eq!(body.collect().await.unwrap().to_bytes(), "{}");
//! # });
//! ```

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use pin_project_lite::pin_project;

use crate::BoxError;
use crate::capture::Reader;

pin_project! {
    /// The body that the inner service receives.
    #[derive(Debug)]
    pub struct RequestBody<B> {
        #[pin]
        kind: RequestKind<B>,
    }
}

pin_project! {
    #[derive(Debug)]
    #[project = RequestKindProj]
    enum RequestKind<B> {
        Streamed { #[pin] inner: B },
        Buffered { #[pin] inner: Full<Bytes> },
    }
}

impl<B> RequestBody<B> {
    pub(crate) fn buffered(bytes: Bytes) -> Self {
        Self {
            kind: RequestKind::Buffered {
                inner: Full::new(bytes),
            },
        }
    }
}

impl<B> From<B> for RequestBody<B> {
    /// Wraps a body that is streamed as it is.
    fn from(inner: B) -> Self {
        Self {
            kind: RequestKind::Streamed { inner },
        }
    }
}

impl<B> Body for RequestBody<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Poll::Ready(match self.project().kind.project() {
            RequestKindProj::Streamed { inner } => {
                ready!(inner.poll_frame(cx)).map(|frame| frame.map_err(Into::into))
            }
            RequestKindProj::Buffered { inner } => {
                ready!(inner.poll_frame(cx)).map(|frame| frame.map_err(|never| match never {}))
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            RequestKind::Streamed { inner } => inner.is_end_stream(),
            RequestKind::Buffered { inner } => inner.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            RequestKind::Streamed { inner } => inner.size_hint(),
            RequestKind::Buffered { inner } => inner.size_hint(),
        }
    }
}

pin_project! {
    /// The body that the layer's caller receives.
    #[derive(Debug)]
    pub struct ResponseBody<R> {
        #[pin]
        kind: ResponseKind<R>,
    }
}

pin_project! {
    #[derive(Debug)]
    #[project = ResponseKindProj]
    enum ResponseKind<R> {
        Streamed { #[pin] inner: R },
        Whole { #[pin] inner: Full<Bytes> },
        Captured { #[pin] inner: Reader },
    }
}

impl<R> ResponseBody<R> {
    pub(crate) fn whole(bytes: Bytes) -> Self {
        Self {
            kind: ResponseKind::Whole {
                inner: Full::new(bytes),
            },
        }
    }

    pub(crate) fn captured(inner: Reader) -> Self {
        Self {
            kind: ResponseKind::Captured { inner },
        }
    }
}

impl<R> From<R> for ResponseBody<R> {
    /// Wraps a body that is streamed as it is.
    fn from(inner: R) -> Self {
        Self {
            kind: ResponseKind::Streamed { inner },
        }
    }
}

impl<R> Body for ResponseBody<R>
where
    R: Body<Data = Bytes>,
    R::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Poll::Ready(match self.project().kind.project() {
            ResponseKindProj::Streamed { inner } => {
                ready!(inner.poll_frame(cx)).map(|frame| frame.map_err(Into::into))
            }
            ResponseKindProj::Whole { inner } => {
                ready!(inner.poll_frame(cx)).map(|frame| frame.map_err(|never| match never {}))
            }
            ResponseKindProj::Captured { inner } => ready!(inner.poll_frame(cx)),
        })
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            ResponseKind::Streamed { inner } => inner.is_end_stream(),
            ResponseKind::Whole { inner } => inner.is_end_stream(),
            ResponseKind::Captured { inner } => inner.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            ResponseKind::Streamed { inner } => inner.size_hint(),
            ResponseKind::Whole { inner } => inner.size_hint(),
            ResponseKind::Captured { inner } => inner.size_hint(),
        }
    }
}
