//! The service between the core and the handler.

use std::fmt;
use std::future::Future;
use std::mem::replace;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use onlyonce::BoxError;
use onlyonce::body::RequestBody;
use tower_service::Service;

use crate::body::HeldBody;
use crate::run::Route;

/// Calls a service with a transaction at hand, and ends the transaction by what it answers. Made by
/// [`TransactionalLayer`](crate::TransactionalLayer), inside an [`Idempotency`](onlyonce::Idempotency).
#[derive(Clone)]
pub struct InTransaction<S> {
    inner: S,
    route: Arc<Route>,
}

impl<S> InTransaction<S> {
    pub(crate) const fn new(inner: S, route: Arc<Route>) -> Self {
        Self { inner, route }
    }
}

impl<S: fmt::Debug> fmt::Debug for InTransaction<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InTransaction")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}

impl<S, B, R> Service<Request<RequestBody<B>>> for InTransaction<S>
where
    S: Service<Request<RequestBody<B>>, Response = Response<R>> + Clone + Send + 'static,
    S::Error: Send,
    S::Future: Send,
    B: Send + 'static,
    R: Body<Data = Bytes> + Send + 'static,
    R::Error: Into<BoxError>,
{
    type Response = Response<HeldBody<R>>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<RequestBody<B>>) -> Self::Future {
        let clone = self.inner.clone();
        let ready = replace(&mut self.inner, clone);
        let route = Arc::clone(&self.route);
        Box::pin(async move { route.run(ready, request).await })
    }
}
