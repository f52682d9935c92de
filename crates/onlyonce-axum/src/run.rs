//! One request: the handler is called with its transaction at hand, its response is held, and what becomes of the
//! transaction is decided by that response.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt;
use http::response::Parts;
use http::{Request, Response, StatusCode};
use http_body::Body;
use onlyonce::classify::{Verdict, classify};
use onlyonce::evidence::Recorded;
use onlyonce::{BoxError, Deadline, Evidence, Policy, RecordId, StoredResponse};
use onlyonce_sqlx::postgres::transaction::{self, Taking};
use tokio::task::spawn_blocking;
use tokio::time::timeout_at;
use tower_service::Service;

use crate::answer::Failed;
use crate::body::{Held, HeldBody};
use crate::connection::Open;
use crate::ending::{Schedule, commit};
use crate::settings::Settings;
use crate::slot::{Left, Slot};
use crate::store::TransactionStore;
use crate::work::{Record, Work};

/// Above this, a thread that may block writes the response down.
const INLINE_BYTES_MAX: usize = 128 << 10;

/// Which statuses commit what the handler did.
pub(crate) type Commits = dyn Fn(StatusCode) -> bool + Send + Sync;

/// What every request of a route obeys.
pub(crate) struct Route {
    pub(crate) settings: Arc<Settings>,
    pub(crate) store: TransactionStore,
    pub(crate) policy: Policy,
    pub(crate) commits: Arc<Commits>,
}

/// What becomes of a request with a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Course {
    /// What it did and its response are kept.
    Commit,
    /// What it did is undone; its response is kept.
    KeepAnswer,
    /// Nothing is kept.
    RollBack,
}

type Answer<R> = Response<HeldBody<R>>;

impl Route {
    /// Calls a service that is ready.
    pub(crate) async fn run<S, B, R>(
        &self,
        service: S,
        request: Request<B>,
    ) -> Result<Answer<R>, S::Error>
    where
        S: Service<Request<B>, Response = Response<R>>,
        R: Body<Data = Bytes>,
        R::Error: Into<BoxError>,
    {
        let extensions = request.extensions();
        let guarded = extensions.get::<RecordId>().copied();
        match (guarded, extensions.get::<Deadline>().copied()) {
            (Some(id), Some(deadline)) => self.guarded(service, request, id, deadline).await,
            _ => self.unguarded(service, request).await,
        }
    }

    async fn guarded<S, B, R>(
        &self,
        mut service: S,
        mut request: Request<B>,
        id: RecordId,
        deadline: Deadline,
    ) -> Result<Answer<R>, S::Error>
    where
        S: Service<Request<B>, Response = Response<R>>,
        R: Body<Data = Bytes>,
        R::Error: Into<BoxError>,
    {
        let Some(mut work) = self.store.take(&id) else {
            return Ok(Failed::NoTransaction.guarded(&self.policy, id));
        };
        if let Some(record) = &mut work.record {
            record.key = request.headers().get(self.policy.key_header()).cloned();
        }
        let schedule = Schedule::of(&deadline);
        let slot = Slot::ready(work);
        request.extensions_mut().insert(slot.clone());
        let max = self.policy.response_bytes_max();
        let called = AssertUnwindSafe(async {
            let (parts, body) = service.call(request).await?.into_parts();
            let held = if has_no_body(parts.status) {
                Held::whole(Bytes::new())
            } else {
                Held::read(body, max).await
            };
            Ok((parts, held))
        });
        let ended = timeout_at(schedule.work, called.catch_unwind()).await;
        let left = slot.close();
        let failed = match ended {
            Ok(Ok(Ok((parts, held)))) => {
                return Ok(self.conclude(id, parts, held, left, schedule).await);
            }
            Ok(Ok(Err(error))) => {
                roll_back(left).await;
                return Err(error);
            }
            Ok(Err(_panic)) => {
                tracing::error!(record = %id, "the handler panicked; its transaction is rolled back");
                roll_back(left).await;
                Failed::Panicked
            }
            Err(_elapsed) => {
                tracing::warn!(record = %id, "the handler took too long; its transaction is rolled back");
                // It may have been in the middle of a statement: closing ends that, waiting for it might not.
                drop(left);
                Failed::Deadline
            }
        };
        Ok(failed.guarded(&self.policy, id))
    }

    async fn conclude<R>(
        &self,
        id: RecordId,
        mut parts: Parts,
        held: Held<R>,
        left: Left,
        schedule: Schedule,
    ) -> Answer<R> {
        let course = match classify(&mut parts, self.policy.statuses()) {
            _ if held.is_broken() => Course::RollBack,
            Verdict::Keep if (self.commits)(parts.status) => Course::Commit,
            Verdict::Keep if !parts.status.is_server_error() => Course::KeepAnswer,
            Verdict::Keep | Verdict::Release | Verdict::Unknown => Course::RollBack,
        };
        let body = held.kept();
        let kept = match (course, left) {
            (Course::RollBack, left) => {
                roll_back(left).await;
                Ok(false)
            }
            (Course::Commit, Left::Used(work)) | (_, Left::Untouched(Some(work))) => {
                let response = self.record(&parts, body).await;
                commit(&self.settings, work, &response, schedule)
                    .await
                    .map(|()| true)
            }
            (Course::KeepAnswer, Left::Used(work)) => {
                let response = self.record(&parts, body).await;
                Ok(self.keep_answer(work, &response, schedule).await)
            }
            (_, Left::Missing | Left::Untouched(None)) => {
                tracing::error!(
                    record = %id,
                    "the handler answered, and something still holds its transaction: it is rolled back"
                );
                Err(Failed::Misused)
            }
        };
        match kept {
            Err(failed) => return failed.guarded(&self.policy, id),
            Ok(true) => parts.extensions.insert(Recorded).map(drop),
            // None of its effects remains, whatever it says: the key is free.
            Ok(false) => parts.extensions.insert(Evidence::Refused).map(drop),
        };
        Response::from_parts(parts, HeldBody::from(held))
    }

    /// The response, as it is written down.
    async fn record(&self, parts: &Parts, body: Option<Bytes>) -> Bytes {
        let response = StoredResponse {
            status: parts.status,
            headers: self.policy.response_headers().record(&parts.headers),
            body,
        };
        let length = response.body.as_ref().map_or(0, Bytes::len);
        if length <= INLINE_BYTES_MAX {
            return response.encode();
        }
        let response = Arc::new(response);
        let there = Arc::clone(&response);
        let encoded = spawn_blocking(move || there.encode()).await;
        // The runtime is shutting down, and takes no more of those.
        encoded.unwrap_or_else(|_| response.encode())
    }

    /// Undoes what the handler did, and keeps its answer all the same. Where that is not to be had the answer holds
    /// for this client alone, and a retry executes again: nothing speaks against it.
    async fn keep_answer(&self, work: Box<Work>, response: &Bytes, schedule: Schedule) -> bool {
        let Work { open, record, .. } = *work;
        open.roll_back().await;
        let Some(record) = record else {
            return false;
        };
        let again = timeout_at(schedule.commit, self.take_again(record)).await;
        let Ok(Some(work)) = again else {
            return false;
        };
        commit(&self.settings, work, response, schedule)
            .await
            .is_ok()
    }

    async fn take_again(&self, record: Record) -> Option<Box<Work>> {
        let Settings {
            pool, isolation, ..
        } = &*self.settings;
        let mut open = Open::begin(pool, *isolation).await.ok()?;
        let statements = self.settings.statements();
        match transaction::claim(open.connection(), statements, &record.claim).await {
            Ok(Taking::Taken(taken)) => {
                let record = Some(Record { taken, ..record });
                Some(Box::new(Work::new(open, &self.settings, record)))
            }
            Ok(Taking::Present(_)) | Err(_) => {
                open.roll_back().await;
                None
            }
        }
    }

    /// A request without a key: a transaction is begun when the handler asks for one.
    async fn unguarded<S, B, R>(
        &self,
        mut service: S,
        mut request: Request<B>,
    ) -> Result<Answer<R>, S::Error>
    where
        S: Service<Request<B>, Response = Response<R>>,
        R: Body<Data = Bytes>,
        R::Error: Into<BoxError>,
    {
        let slot = Slot::unbegun(Arc::clone(&self.settings));
        request.extensions_mut().insert(slot.clone());
        let response = match service.call(request).await {
            Ok(response) => response,
            Err(error) => {
                roll_back(slot.close()).await;
                return Err(error);
            }
        };
        if slot.is_unbegun() {
            return Ok(response.map(HeldBody::passed));
        }
        let (parts, body) = response.into_parts();
        let held = Held::read(body, self.policy.response_bytes_max()).await;
        let commits = (self.commits)(parts.status) && !held.is_broken();
        let ended = match slot.close() {
            Left::Used(work) if commits => {
                let schedule = Schedule::unlimited();
                commit(&self.settings, work, &Bytes::new(), schedule).await
            }
            Left::Missing if commits => {
                tracing::error!("the handler answered, and something still holds its transaction");
                Err(Failed::Misused)
            }
            left => {
                roll_back(left).await;
                Ok(())
            }
        };
        Ok(match ended {
            Ok(()) => Response::from_parts(parts, HeldBody::from(held)),
            Err(failed) => failed.unguarded(&self.policy),
        })
    }
}

/// The head is the whole response, whatever body the handler gave it.
fn has_no_body(status: StatusCode) -> bool {
    matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

async fn roll_back(left: Left) {
    match left {
        Left::Untouched(Some(work)) | Left::Used(work) => work.open.roll_back().await,
        // Whoever holds it finds the slot closed.
        Left::Untouched(None) | Left::Missing => {}
    }
}
