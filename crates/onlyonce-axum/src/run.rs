//! One request: the handler is called with its transaction at hand, its response is held, and what becomes of the
//! transaction is decided by that response.

use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::Body;
use onlyonce::body::RequestBody;
use onlyonce::{BoxError, Deadline, Policy, RecordId};
use tower_service::Service;

use crate::body::HeldBody;
use crate::settings::Settings;
use crate::slot::Left;
use crate::store::TransactionStore;

mod guarded;
mod unguarded;

/// Which statuses commit what the handler did.
pub(crate) type Commits = dyn Fn(StatusCode) -> bool + Send + Sync;

type Answer<R> = Response<HeldBody<R>>;

/// What every request of a route obeys.
pub(crate) struct Route {
    pub(crate) settings: Arc<Settings>,
    pub(crate) store: TransactionStore,
    pub(crate) policy: Policy,
    pub(crate) commits: Arc<Commits>,
}

impl Route {
    /// Calls a service that is ready.
    pub(crate) async fn run<S, B, R>(
        &self,
        service: S,
        request: Request<RequestBody<B>>,
    ) -> Result<Answer<R>, S::Error>
    where
        S: Service<Request<RequestBody<B>>, Response = Response<R>> + Clone,
        R: Body<Data = Bytes>,
        R::Error: Into<BoxError>,
    {
        let extensions = request.extensions();
        let guarded = extensions.get::<RecordId>().copied();
        match (guarded, extensions.get::<Deadline>().copied()) {
            (Some(id), Some(deadline)) => self.guarded(service, request, id, deadline).await,
            _ => Box::pin(self.unguarded(service, request)).await,
        }
    }
}

async fn roll_back(left: Left) {
    match left {
        Left::Untouched(Some(work)) | Left::Used(work) => work.open.roll_back().await,
        // Whoever holds it finds the slot closed.
        Left::Untouched(None) | Left::Missing => {}
    }
}
