//! The body of a response that was held back until its transaction had committed.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use onlyonce::BoxError;
use pin_project_lite::pin_project;

pin_project! {
    /// A response's body: as it is, or as much of it as was read before the commit, and then the rest.
    #[derive(Debug)]
    pub struct HeldBody<R> {
        #[pin]
        source: Source<R>,
    }
}

pin_project! {
    #[derive(Debug)]
    #[project = SourceProj]
    enum Source<R> {
        Passed { #[pin] inner: R },
        Held { held: Held<R> },
    }
}

/// What was read of a body.
#[derive(Debug)]
pub(crate) struct Held<R> {
    data: Bytes,
    trailers: Option<HeaderMap>,
    rest: Rest<R>,
}

/// What follows.
#[derive(Debug)]
enum Rest<R> {
    Nothing,
    /// More than is kept.
    More(Pin<Box<R>>),
    /// It broke off.
    Broken(Option<BoxError>),
}

impl<R> Held<R>
where
    R: Body<Data = Bytes>,
    R::Error: Into<BoxError>,
{
    /// Reads a body to its end, or until it is longer than `max` bytes.
    pub(crate) async fn read(body: R, max: usize) -> Self {
        let mut body = Box::pin(body);
        let mut pieces = Pieces::default();
        let mut trailers = None;
        let rest = loop {
            if pieces.len() > max {
                break Rest::More(body);
            }
            match body.frame().await {
                None => break Rest::Nothing,
                Some(Err(error)) => break Rest::Broken(Some(error.into())),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => pieces.push(data),
                    Err(frame) => trailers = frame.into_trailers().ok(),
                },
            }
        };
        Self {
            data: pieces.whole(),
            trailers,
            rest,
        }
    }
}

impl<R> Held<R> {
    pub(crate) fn whole(data: Bytes) -> Self {
        Self {
            data,
            trailers: None,
            rest: Rest::Nothing,
        }
    }

    /// The whole body, as it is recorded; `None` where it is too long.
    pub(crate) fn kept(&self) -> Option<Bytes> {
        matches!(self.rest, Rest::Nothing).then(|| self.data.clone())
    }

    /// Whether it broke off.
    pub(crate) fn is_broken(&self) -> bool {
        matches!(self.rest, Rest::Broken(_))
    }
}

/// A body as it comes. In one piece, as most do, it is not copied.
#[derive(Default)]
struct Pieces {
    first: Bytes,
    joined: BytesMut,
}

impl Pieces {
    fn len(&self) -> usize {
        self.first.len() + self.joined.len()
    }

    fn push(&mut self, piece: Bytes) {
        if self.len() == 0 {
            self.first = piece;
            return;
        }
        let first = std::mem::take(&mut self.first);
        self.joined.extend_from_slice(&first);
        self.joined.extend_from_slice(&piece);
    }

    fn whole(self) -> Bytes {
        if self.joined.is_empty() {
            self.first
        } else {
            self.joined.freeze()
        }
    }
}

impl<R> HeldBody<R> {
    pub(crate) fn passed(inner: R) -> Self {
        Self {
            source: Source::Passed { inner },
        }
    }
}

impl<R> From<Held<R>> for HeldBody<R> {
    fn from(held: Held<R>) -> Self {
        Self {
            source: Source::Held { held },
        }
    }
}

impl<R> Body for HeldBody<R>
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
        match self.project().source.project() {
            SourceProj::Passed { inner } => poll(inner, cx),
            SourceProj::Held { held } => held.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Passed { inner } => inner.is_end_stream(),
            Source::Held { held } => {
                let nothing_follows = matches!(held.rest, Rest::Nothing | Rest::Broken(None));
                held.data.is_empty() && held.trailers.is_none() && nothing_follows
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Passed { inner } => inner.size_hint(),
            Source::Held { held } => held.size_hint(),
        }
    }
}

impl<R> Held<R>
where
    R: Body<Data = Bytes>,
    R::Error: Into<BoxError>,
{
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if !self.data.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut self.data)))));
        }
        match &mut self.rest {
            Rest::Nothing => Poll::Ready(self.trailers.take().map(|t| Ok(Frame::trailers(t)))),
            Rest::More(inner) => poll(inner.as_mut(), cx),
            Rest::Broken(error) => Poll::Ready(error.take().map(Err)),
        }
    }

    fn size_hint(&self) -> SizeHint {
        let read = u64::try_from(self.data.len()).unwrap_or(u64::MAX);
        match &self.rest {
            Rest::Nothing if self.trailers.is_none() => SizeHint::with_exact(read),
            // A server that knows the length sends it, and HTTP/1 has no trailers then.
            Rest::Nothing | Rest::Broken(_) => {
                let mut hint = SizeHint::new();
                hint.set_lower(read);
                hint
            }
            Rest::More(inner) => {
                let rest = inner.size_hint();
                let mut hint = SizeHint::new();
                hint.set_lower(rest.lower().saturating_add(read));
                if let Some(upper) = rest.upper() {
                    hint.set_upper(upper.saturating_add(read));
                }
                hint
            }
        }
    }
}

fn poll<R>(body: Pin<&mut R>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>>
where
    R: Body<Data = Bytes>,
    R::Error: Into<BoxError>,
{
    let frame = body.poll_frame(cx);
    frame.map(|frame| frame.map(|frame| frame.map_err(Into::into)))
}
