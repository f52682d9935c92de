//! A request with a key. Its transaction is open already, and has written the record.
//!
//! Hazard: whatever happens here, the transaction ends. It is committed, rolled back, or its connection is closed with
//! the future that holds it.

use std::future::poll_fn;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use http::response::Parts;
use http::{Request, Response, StatusCode};
use http_body::Body;
use onlyonce::body::RequestBody;
use onlyonce::classify::{Verdict, classify};
use onlyonce::evidence::Recorded;
use onlyonce::{BoxError, Deadline, Evidence, RecordId, StoredResponse};
use onlyonce_sqlx::postgres::transaction::{self, Taking};
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout_at};
use tower_service::Service;

use super::{Answer, Route, roll_back};
use crate::answer::Failed;
use crate::body::{Held, HeldBody};
use crate::conflict::TryAgain;
use crate::connection::Open;
use crate::ending::{Schedule, commit};
use crate::settings::Settings;
use crate::slot::{Left, Slot};
use crate::work::{Record, Work};

/// Above this, a thread that may block writes the response down.
const INLINE_BYTES_MAX: usize = 128 << 10;

/// Before the first repetition after a conflict; each further one waits longer by as much.
const PAUSE: Duration = Duration::from_millis(5);

/// What becomes of what a handler did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Course {
    /// It is kept, with its response.
    Commit,
    /// It is undone; its response is kept.
    KeepAnswer,
    /// Nothing is kept.
    RollBack,
}

/// What is constant about a request.
#[derive(Debug, Clone, Copy)]
struct Asked {
    id: RecordId,
    schedule: Schedule,
}

/// An answer, and whether the same request may succeed if it is executed again now.
struct Tried<R> {
    answer: Answer<R>,
    conflict: bool,
}

/// What a repetition needs.
struct Spare<S, B> {
    service: S,
    request: Request<RequestBody<B>>,
    record: Record,
}

impl Route {
    pub(super) async fn guarded<S, B, R>(
        &self,
        mut service: S,
        mut request: Request<RequestBody<B>>,
        id: RecordId,
        deadline: Deadline,
    ) -> Result<Answer<R>, S::Error>
    where
        S: Service<Request<RequestBody<B>>, Response = Response<R>> + Clone,
        R: Body<Data = Bytes>,
        R::Error: Into<BoxError>,
    {
        let Some(mut work) = self.store.take(&id) else {
            return Ok(Failed::NoTransaction.guarded(&self.policy, id));
        };
        if let Some(record) = &mut work.record {
            record.key = request.headers().get(self.policy.key_header()).cloned();
        }
        let asked = Asked {
            id,
            schedule: Schedule::of(&deadline),
        };
        for repetition in 1.. {
            let spare = if repetition <= self.settings.conflict_retries {
                spare(&service, &request, &work)
            } else {
                None
            };
            let tried = self.attempt(service, request, work, asked).await?;
            let Some(spare) = spare.filter(|_| tried.conflict) else {
                return Ok(tried.answer);
            };
            tracing::debug!(record = %id, repetition, "a conflict: the request is executed again");
            let again = async {
                sleep(PAUSE * repetition).await;
                self.take_again(spare.record).await
            };
            match timeout_at(asked.schedule.work, Box::pin(again)).await {
                Ok(Some(next)) => work = next,
                Ok(None) | Err(_) => return Ok(tried.answer),
            }
            Spare {
                service,
                request,
                ..
            } = spare;
            poll_fn(|cx| service.poll_ready(cx)).await?;
        }
        unreachable!("the last repetition has no spare, and returns")
    }

    /// Calls the service, and ends the transaction by what it answers.
    async fn attempt<S, B, R>(
        &self,
        mut service: S,
        mut request: Request<B>,
        work: Box<Work>,
        asked: Asked,
    ) -> Result<Tried<R>, S::Error>
    where
        S: Service<Request<B>, Response = Response<R>>,
        R: Body<Data = Bytes>,
        R::Error: Into<BoxError>,
    {
        let Asked { id, schedule } = asked;
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
                return Ok(self.conclude(asked, parts, held, left).await);
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
        Ok(self.failed(asked, failed))
    }

    async fn conclude<R>(
        &self,
        asked: Asked,
        mut parts: Parts,
        held: Held<R>,
        left: Left,
    ) -> Tried<R> {
        let conflict = parts.extensions.remove::<TryAgain>().is_some();
        let course = self.course(&mut parts, held.is_broken() || conflict);
        let body = held.kept();
        let kept = match (course, left) {
            (Course::RollBack, Left::Used(work)) => Box::pin(undo(work)).await.map(|()| false),
            (Course::RollBack, left) => {
                roll_back(left).await;
                Ok(false)
            }
            (Course::Commit, Left::Used(work)) | (_, Left::Untouched(Some(work))) => {
                let response = self.record(&parts, body).await;
                let committed = commit(&self.settings, work, &response, asked.schedule).await;
                committed.map(|()| true)
            }
            (Course::KeepAnswer, Left::Used(work)) => {
                let response = self.record(&parts, body).await;
                let kept = Box::pin(self.keep_answer(work, &response, asked.schedule)).await;
                kept.map(|()| true)
            }
            (_, Left::Missing | Left::Untouched(None)) => {
                tracing::error!(
                    record = %asked.id,
                    "the handler answered, and something still holds its transaction: it is rolled back"
                );
                Err(Failed::Misused)
            }
        };
        match kept {
            Err(failed) => return self.failed(asked, failed),
            Ok(true) => parts.extensions.insert(Recorded).map(drop),
            // None of its effects remains, whatever it says: the key is free.
            Ok(false) => parts.extensions.insert(Evidence::Refused).map(drop),
        };
        Tried {
            answer: Response::from_parts(parts, HeldBody::from(held)),
            conflict,
        }
    }

    fn course(&self, parts: &mut Parts, is_void: bool) -> Course {
        let verdict = classify(parts, self.policy.statuses());
        match verdict {
            _ if is_void => Course::RollBack,
            Verdict::Keep if (self.commits)(parts.status) => Course::Commit,
            Verdict::Keep if !parts.status.is_server_error() => Course::KeepAnswer,
            Verdict::Keep | Verdict::Release | Verdict::Unknown => Course::RollBack,
        }
    }

    fn failed<R>(&self, asked: Asked, failed: Failed) -> Tried<R> {
        Tried {
            answer: failed.guarded(&self.policy, asked.id),
            conflict: failed == Failed::Conflict,
        }
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

    /// Undoes what the handler did, and keeps its answer all the same. Where that is not to be had the answer is not
    /// given either: a retry would execute again, and might be told something else.
    async fn keep_answer(
        &self,
        mut work: Box<Work>,
        response: &Bytes,
        schedule: Schedule,
    ) -> Result<(), Failed> {
        find_out(&mut work).await?;
        let Work { open, record, .. } = *work;
        let again = async {
            // The same connection: for another one it might have to wait behind those who wait for this one.
            let open = open.begin_again(self.settings.isolation).await.ok()?;
            self.claim_again(open, record?).await
        };
        match timeout_at(schedule.commit, again).await {
            Ok(Some(work)) => commit(&self.settings, work, response, schedule).await,
            Ok(None) | Err(_) => Err(Failed::Database),
        }
    }

    /// A new transaction for a record whose transaction was rolled back; `None` where somebody else was faster.
    async fn take_again(&self, record: Record) -> Option<Box<Work>> {
        let Settings {
            pool, isolation, ..
        } = &*self.settings;
        let open = Open::begin(pool, *isolation).await.ok()?;
        self.claim_again(open, record).await
    }

    async fn claim_again(&self, mut open: Open, record: Record) -> Option<Box<Work>> {
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
}

/// Rolls back what the handler did.
async fn undo(mut work: Box<Work>) -> Result<(), Failed> {
    find_out(&mut work).await?;
    work.open.roll_back().await;
    Ok(())
}

/// Whether there is anything left to roll back: a handler that has committed by itself and then refuses the request
/// must not have its refusal believed.
async fn find_out(work: &mut Work) -> Result<(), Failed> {
    let Some(record) = &work.record else {
        return Ok(());
    };
    match record.taken.is_open(work.open.connection()).await {
        Ok(true) => Ok(()),
        Ok(false) => {
            tracing::error!(
                record = %record.taken.id(),
                "the handler ended the request's transaction itself, and answers that it failed: what it wrote may be \
                 committed"
            );
            Err(Failed::Ended)
        }
        // Whatever it was, it is rolled back with its connection.
        Err(_) => Err(Failed::Database),
    }
}

/// Everything that it takes to execute a request once more.
fn spare<S: Clone, B>(
    service: &S,
    request: &Request<RequestBody<B>>,
    work: &Work,
) -> Option<Spare<S, B>> {
    let mut copy = Request::new(request.body().try_clone()?);
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = request.version();
    *copy.headers_mut() = request.headers().clone();
    *copy.extensions_mut() = request.extensions().clone();
    Some(Spare {
        service: service.clone(),
        request: copy,
        record: work.record.clone()?,
    })
}

/// The head is the whole response, whatever body the handler gave it.
fn has_no_body(status: StatusCode) -> bool {
    matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}
