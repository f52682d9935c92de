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
        source: Source<B>,
    }
}

impl<B> RequestBody<B> {
    pub(crate) fn buffered(bytes: Bytes) -> Self {
        Self {
            source: Source::whole(bytes),
        }
    }

    /// The same body once more, where it is in memory: a guarded request's, of which nothing was read yet.
    pub fn try_clone(&self) -> Option<Self> {
        match &self.source {
            Source::Whole { inner } => Some(Self {
                source: Source::Whole {
                    inner: inner.clone(),
                },
            }),
            Source::Streamed { .. } | Source::Captured { .. } => None,
        }
    }
}

pin_project! {
    /// The body that the layer's caller receives.
    #[derive(Debug)]
    pub struct ResponseBody<R> {
        #[pin]
        source: Source<R>,
    }
}

impl<R> ResponseBody<R> {
    pub(crate) fn whole(bytes: Bytes) -> Self {
        Self {
            source: Source::whole(bytes),
        }
    }

    pub(crate) fn captured(inner: Reader) -> Self {
        Self {
            source: Source::Captured { inner },
        }
    }
}

pin_project! {
    /// Where a body's bytes come from.
    #[derive(Debug)]
    #[project = SourceProj]
    enum Source<B> {
        Streamed { #[pin] inner: B },
        Whole { #[pin] inner: Full<Bytes> },
        Captured { #[pin] inner: Reader },
    }
}

impl<B> Source<B> {
    fn whole(bytes: Bytes) -> Self {
        Self::Whole {
            inner: Full::new(bytes),
        }
    }
}

impl<B> Body for Source<B>
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
        Poll::Ready(match self.project() {
            SourceProj::Streamed { inner } => {
                ready!(inner.poll_frame(cx)).map(|frame| frame.map_err(Into::into))
            }
            SourceProj::Whole { inner } => {
                ready!(inner.poll_frame(cx)).map(|frame| frame.map_err(|never| match never {}))
            }
            SourceProj::Captured { inner } => ready!(inner.poll_frame(cx)),
        })
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Streamed { inner } => inner.is_end_stream(),
            Self::Whole { inner } => inner.is_end_stream(),
            Self::Captured { inner } => inner.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Streamed { inner } => inner.size_hint(),
            Self::Whole { inner } => inner.size_hint(),
            Self::Captured { inner } => inner.size_hint(),
        }
    }
}

macro_rules! body_of_source {
    ($name:ident) => {
        impl<B> From<B> for $name<B> {
            /// Wraps a body that is streamed as it is.
            fn from(inner: B) -> Self {
                Self {
                    source: Source::Streamed { inner },
                }
            }
        }

        impl<B> Body for $name<B>
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
                self.project().source.poll_frame(cx)
            }

            fn is_end_stream(&self) -> bool {
                self.source.is_end_stream()
            }

            fn size_hint(&self) -> SizeHint {
                self.source.size_hint()
            }
        }
    };
}

body_of_source!(RequestBody);
body_of_source!(ResponseBody);
