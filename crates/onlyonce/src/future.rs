//! The layer's future: the inner service's own, an answer at hand, or a guarded request.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::Response;
use pin_project_lite::pin_project;

use crate::body::ResponseBody;

type Guarded<R, E> = Pin<Box<dyn Future<Output = Result<Response<ResponseBody<R>>, E>> + Send>>;

pin_project! {
    /// The response future of [`Idempotency`](crate::Idempotency).
    ///
    /// Only guarded requests are boxed: they wait for a database anyway.
    pub struct ResponseFuture<F, R, E> {
        #[pin]
        kind: Kind<F, R, E>,
    }
}

pin_project! {
    #[project = KindProj]
    enum Kind<F, R, E> {
        Unguarded { #[pin] inner: F },
        Answered { response: Option<Response<ResponseBody<R>>> },
        Guarded { run: Guarded<R, E> },
    }
}

impl<F, R, E> ResponseFuture<F, R, E> {
    pub(crate) fn unguarded(inner: F) -> Self {
        Self {
            kind: Kind::Unguarded { inner },
        }
    }

    pub(crate) fn answered(response: Response<ResponseBody<R>>) -> Self {
        Self {
            kind: Kind::Answered {
                response: Some(response),
            },
        }
    }

    pub(crate) fn guarded(
        run: impl Future<Output = Result<Response<ResponseBody<R>>, E>> + Send + 'static,
    ) -> Self {
        Self {
            kind: Kind::Guarded { run: Box::pin(run) },
        }
    }
}

impl<F, R, E> Future for ResponseFuture<F, R, E>
where
    F: Future<Output = Result<Response<R>, E>>,
{
    type Output = Result<Response<ResponseBody<R>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().kind.project() {
            KindProj::Unguarded { inner } => inner
                .poll(cx)
                .map_ok(|response| response.map(ResponseBody::from)),
            KindProj::Answered { response } => Poll::Ready(Ok(response
                .take()
                .expect("a future is not polled after it was ready"))),
            KindProj::Guarded { run } => run.as_mut().poll(cx),
        }
    }
}

impl<F, R, E> fmt::Debug for ResponseFuture<F, R, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &self.kind {
            Kind::Unguarded { .. } => "unguarded",
            Kind::Answered { .. } => "answered",
            Kind::Guarded { .. } => "guarded",
        };
        f.debug_struct("ResponseFuture")
            .field("kind", &kind)
            .finish_non_exhaustive()
    }
}
