//! The body of a request on its way to the upstream.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use onlyonce::BoxError;

use crate::activity::Activity;

/// One type for all request bodies, since a pool's connections can carry only one.
pub(crate) enum Outgoing {
    /// Without content.
    Empty,
    /// Here in full; can be sent again as long as nothing was sent.
    Whole(Bytes),
    /// Passed on as it arrives. The trailer section is discarded (RFC 9110 section 6.5.1).
    Stream {
        body: Pin<Box<dyn Body<Data = Bytes, Error = BoxError> + Send>>,
        upload: Arc<Upload>,
    },
}

/// How a streamed upload is doing.
#[derive(Debug)]
pub(crate) struct Upload {
    /// Touched by every frame.
    pub(crate) activity: Activity,
    state: AtomicU8,
}

const FLOWING: u8 = 0;
const STARVED: u8 = 1;
const BROKEN: u8 = 2;
const OVER: u8 = 3;

impl Upload {
    fn new() -> Self {
        Self {
            activity: Activity::new(),
            state: AtomicU8::new(FLOWING),
        }
    }

    /// Whether the client is the one that everybody waits for.
    pub(crate) fn is_starved(&self) -> bool {
        self.state.load(Ordering::Relaxed) == STARVED
    }

    /// Whether the client broke the upload off.
    pub(crate) fn is_broken(&self) -> bool {
        self.state.load(Ordering::Relaxed) == BROKEN
    }

    /// Whether all of it was taken from the client.
    pub(crate) fn is_over(&self) -> bool {
        self.state.load(Ordering::Relaxed) == OVER
    }

    fn set(&self, state: u8) {
        self.state.store(state, Ordering::Relaxed);
        // Asking in vain is no progress, however often it is done.
        if matches!(state, FLOWING | OVER) {
            self.activity.touch();
        }
    }
}

impl Outgoing {
    /// Passes a body on as it arrives.
    pub(crate) fn stream<B>(body: B) -> Self
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        if body.is_end_stream() {
            return Self::Empty;
        }
        Self::Stream {
            body: Box::pin(body.map_err(Into::into)),
            upload: Arc::new(Upload::new()),
        }
    }

    /// Waits for the whole body. Guarded bodies are complete already, and bounded.
    pub(crate) async fn whole<B>(body: B) -> Result<Self, BoxError>
    where
        B: Body<Data = Bytes>,
        B::Error: Into<BoxError>,
    {
        let bytes = body.collect().await.map_err(Into::into)?.to_bytes();
        Ok(if bytes.is_empty() {
            Self::Empty
        } else {
            Self::Whole(bytes)
        })
    }

    /// How the upload is doing, if it is one.
    pub(crate) const fn upload(&self) -> Option<&Arc<Upload>> {
        match self {
            Self::Empty | Self::Whole(_) => None,
            Self::Stream { upload, .. } => Some(upload),
        }
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut *self {
            Self::Empty => Poll::Ready(None),
            Self::Whole(bytes) => {
                let bytes = std::mem::take(bytes);
                *self = Self::Empty;
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Self::Stream { body, upload } => poll_stream(body.as_mut(), upload, cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Whole(_) => false,
            Self::Stream { body, .. } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Whole(bytes) => SizeHint::with_exact(bytes.len().try_into().unwrap_or(u64::MAX)),
            Self::Stream { body, .. } => body.size_hint(),
        }
    }
}

impl fmt::Debug for Outgoing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "Empty",
            Self::Whole(_) => "Whole",
            Self::Stream { .. } => "Stream",
        })
    }
}

fn poll_stream(
    mut body: Pin<&mut (dyn Body<Data = Bytes, Error = BoxError> + Send)>,
    upload: &Upload,
    cx: &mut Context<'_>,
) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
    loop {
        let Poll::Ready(frame) = body.as_mut().poll_frame(cx) else {
            upload.set(STARVED);
            return Poll::Pending;
        };
        match frame {
            Some(Ok(frame)) if frame.is_trailers() => continue,
            Some(Err(error)) => {
                upload.set(BROKEN);
                return Poll::Ready(Some(Err(error)));
            }
            frame => {
                // Whoever takes the last frame may not ask again.
                let is_over = frame.is_none() || body.is_end_stream();
                upload.set(if is_over { OVER } else { FLOWING });
                return Poll::Ready(frame);
            }
        }
    }
}
