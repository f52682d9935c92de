//! The service: passes a request through, answers it, or guards it.

use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tokio::time::Instant;
use tower_service::Service;

use crate::BoxError;
use crate::body::{RequestBody, ResponseBody};
use crate::execution::{Execution, LogLine, Outcome};
use crate::future::ResponseFuture;
use crate::key::IdempotencyKey;
use crate::policy::KeyRequirement;
use crate::problem::{Code, Problem};
use crate::resources::Guard;

/// A service whose keyed requests are executed once. Made by [`IdempotencyLayer`](crate::IdempotencyLayer).
#[derive(Debug, Clone)]
pub struct Idempotency<S> {
    inner: S,
    guard: Arc<Guard>,
}

/// What is done with a request, by its head alone.
enum Course {
    PassThrough,
    Refuse(Outcome, Problem),
    Guard(IdempotencyKey),
}

impl<S> Idempotency<S> {
    pub(crate) const fn new(inner: S, guard: Arc<Guard>) -> Self {
        Self { inner, guard }
    }

    fn course<B>(&self, request: &Request<B>) -> Course {
        let policy = &self.guard.policy;
        if !policy.methods.contains(request.method()) {
            return Course::PassThrough;
        }
        match IdempotencyKey::from_headers(
            request.headers(),
            &policy.key_header,
            &policy.key_syntax,
        ) {
            Ok(Some(key)) => Course::Guard(key),
            Ok(None) if policy.requirement == KeyRequirement::Optional => Course::PassThrough,
            Ok(None) => Course::Refuse(
                Outcome::KeyMissing,
                Problem::new(Code::KeyMissing).with_detail(format!(
                    "this request needs the header {}; send a new unique value for each operation, \
                     and the same one when you retry it",
                    policy.key_header
                )),
            ),
            // On optional routes too: executing it unguarded would deceive a client that sent a key.
            Err(error) => Course::Refuse(
                Outcome::KeyInvalid,
                Problem::new(Code::KeyInvalid).with_detail(error.to_string()),
            ),
        }
    }
}

impl<S, B, R> Service<Request<B>> for Idempotency<S>
where
    S: Service<Request<RequestBody<B>>, Response = Response<R>> + Clone + Send + 'static,
    S::Error: Send + 'static,
    S::Future: Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
    R: Body<Data = Bytes> + Send + 'static,
    R::Error: Into<BoxError>,
{
    type Response = Response<ResponseBody<R>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future, R, S::Error>;

    /// Ready when the inner service is. The store is never asked here.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let course = self.course(&request);
        if let Course::PassThrough = course {
            return ResponseFuture::unguarded(self.inner.call(request.map(RequestBody::from)));
        }
        // The ready service is dropped, not kept: it may hold a permit, and a guarded request has an
        // upload and a claim to wait for. Its task makes a clone ready when it is about to forward.
        let service = self.inner.clone();
        self.inner = service.clone();
        match course {
            Course::Guard(key) => {
                let execution = Execution {
                    guard: Arc::clone(&self.guard),
                    key,
                };
                ResponseFuture::guarded(execution.run(service, request))
            }
            Course::Refuse(outcome, problem) => {
                let method = request.method().clone();
                let response = self.guard.policy.answer(problem);
                let line = LogLine {
                    record: None,
                    method,
                    started: Instant::now(),
                };
                line.write(outcome, response.status());
                ResponseFuture::answered(response.map(ResponseBody::whole))
            }
            Course::PassThrough => unreachable!("passed through above"),
        }
    }
}
