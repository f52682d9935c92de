//! A response's body that says when it is under way.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::io::Unfinished;

pin_project! {
    /// Passes a body through, and lets the connection know whether it has ended.
    #[derive(Debug)]
    pub(crate) struct Watched<B> {
        #[pin]
        body: B,
        unfinished: Unfinished,
    }
}

impl<B: Body> Watched<B> {
    pub(crate) fn new(body: B, unfinished: Unfinished) -> Self {
        unfinished.set(!body.is_end_stream());
        Self { body, unfinished }
    }
}

impl<B: Body<Data = Bytes>> Body for Watched<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let mut this = self.project();
        let frame = ready!(this.body.as_mut().poll_frame(cx));
        match &frame {
            None => this.unfinished.set(false),
            Some(Ok(_)) if this.body.is_end_stream() => this.unfinished.set(false),
            Some(_) => {}
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
