//! The detached task: claim, forward once, classify, settle.
//!
//! Hazard: every way out of [`Task::forward`] after the claim must settle. They are few and named: the
//! service is not ready, time is up, drain gives up, the service fails or panics, or it answers.

use std::any::Any;
use std::future::poll_fn;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt;
use http::{Request, Response, StatusCode};
use http_body::Body;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::alarm::{Alarm, Cut};
use super::answer::unknown_to_first_caller;
use super::claiming::{NotClaimed, abandon, claim};
use super::settling::Held;
use super::{Inner, LogLine, Outcome, Reply, store_unavailable};
use crate::BoxError;
use crate::body::{RequestBody, ResponseBody};
use crate::budget::Reservation;
use crate::classify::{Verdict, classify};
use crate::evidence::Deadline;
use crate::in_flight::Presence;
use crate::policy::OnStoreFailure;
use crate::problem::{Code, Problem};
use crate::record::Epoch;
use crate::resources::Guard;
use crate::store::{Claim, Claimed, Settlement};

/// A claimed request's task. Boxed, since each of its methods that waits holds it, one inside the other.
pub(super) struct Task {
    pub(super) guard: Arc<Guard>,
    pub(super) alarm: Alarm,
    pub(super) claim: Claim,
    pub(super) deadline: Deadline,
    pub(super) line: LogLine,
    /// What the request's body takes of the memory that all may use.
    pub(super) uploaded: Reservation,
    pub(super) presence: Option<Presence>,
    pub(super) slot: OwnedSemaphorePermit,
}

/// How the inner service ended, short of an answer.
enum Ended<E> {
    TimedOut,
    GivenUp,
    Failed(E),
    Panicked(Box<dyn Any + Send>),
}

/// What the log says where the service gave no status: it failed or panicked.
const FAILED: StatusCode = StatusCode::INTERNAL_SERVER_ERROR;

type Answer<R, E> = oneshot::Sender<Reply<R, E>>;

impl Task {
    /// Claims, and forwards if the claim is acquired.
    pub(super) async fn run<S, B, R>(
        mut self: Box<Self>,
        mut service: S,
        request: Request<RequestBody<B>>,
        answer: Answer<R, S::Error>,
    ) where
        S: Inner<B, R>,
        B: Send + 'static,
        R: Body<Data = Bytes> + Send + 'static,
        R::Error: Into<BoxError>,
    {
        let this = &mut *self;
        match claim(
            &this.guard.resources,
            &mut this.alarm,
            &this.claim,
            &this.deadline,
        )
        .await
        {
            Ok(Claimed::Acquired(epoch)) => {
                self.presence.as_ref().inspect(|presence| presence.own());
                crate::failpoint!("after_claim");
                self.forward(epoch, service, request, answer).await;
            }
            Ok(Claimed::Present(present)) => {
                if let Some(presence) = self.presence.take() {
                    presence.tell(self.claim.asked_at, &present);
                }
                let _ = answer.send(Reply::Present(present));
            }
            Err(NotClaimed {
                error,
                may_have_applied,
            }) => {
                drop(self.presence.take());
                if may_have_applied {
                    self.abandon_in_background();
                }
                if self.guard.policy.on_store_failure == OnStoreFailure::Forward {
                    let _ = answer.send(self.forward_unguarded(&mut service, request).await);
                } else {
                    let reply = self.problem(Outcome::StoreUnavailable, store_unavailable(&error));
                    let _ = answer.send(reply);
                }
            }
        }
    }

    fn abandon_in_background(&mut self) {
        let abandoned = abandon(Arc::clone(&self.guard.resources), self.claim.clone());
        // The slot goes along: claims of unknown fate are bounded like unsettled ones.
        let slot = self.slot.split(1);
        self.guard.resources.tasks.spawn(async move {
            let _slot = slot;
            abandoned.await;
        });
    }

    async fn forward_unguarded<S, B, R>(
        &self,
        service: &mut S,
        request: Request<RequestBody<B>>,
    ) -> Reply<R, S::Error>
    where
        S: Inner<B, R>,
    {
        let forwarded = async {
            poll_fn(|cx| service.poll_ready(cx)).await?;
            service.call(request).await
        };
        match AssertUnwindSafe(forwarded).catch_unwind().await {
            Ok(Ok(response)) => {
                self.line.write(Outcome::Unguarded, response.status());
                Reply::Answered(response.map(ResponseBody::from))
            }
            Ok(Err(error)) => Reply::Failed(error),
            Err(panic) => Reply::Panicked(panic),
        }
    }

    async fn forward<S, B, R>(
        mut self: Box<Self>,
        epoch: Epoch,
        mut service: S,
        mut request: Request<RequestBody<B>>,
        answer: Answer<R, S::Error>,
    ) where
        S: Inner<B, R>,
        B: Send + 'static,
        R: Body<Data = Bytes> + Send + 'static,
        R::Error: Into<BoxError>,
    {
        // A clone is made ready only now: one made earlier might have held a permit through the upload.
        let ready = AssertUnwindSafe(poll_fn(|cx| service.poll_ready(cx))).catch_unwind();
        let (abort, start_by) = (&self.guard.resources.abort, self.deadline.start_by());
        match self.alarm.limit(abort, start_by, ready).await {
            Ok(Ok(Ok(()))) if self.may_start() => {}
            Ok(Ok(Err(error))) => {
                self.line.write(Outcome::Released, FAILED);
                return self.unsent(epoch, Reply::Failed(error), answer).await;
            }
            Ok(Err(panic)) => {
                self.line.write(Outcome::Released, FAILED);
                return self.unsent(epoch, Reply::Panicked(panic), answer).await;
            }
            Ok(Ok(Ok(()))) | Err(_) => {
                let reply = self.problem(Outcome::StoreUnavailable, too_late());
                return self.unsent(epoch, reply, answer).await;
            }
        }
        crate::failpoint!("before_forward");
        request.extensions_mut().insert(self.deadline);
        request.extensions_mut().insert(self.claim.id);
        let called = AssertUnwindSafe(async { service.call(request).await }).catch_unwind();
        let (abort, end) = (&self.guard.resources.abort, self.deadline.end());
        let ended = match self.alarm.limit(abort, end, called).or_aborted().await {
            Ok(Ok(Ok(response))) => return self.answered(epoch, response, answer).await,
            Ok(Ok(Err(error))) => Ended::Failed(error),
            Ok(Err(panic)) => Ended::Panicked(panic),
            Err(Cut::Elapsed) => Ended::TimedOut,
            Err(Cut::Aborted) => Ended::GivenUp,
        };
        self.unknown(epoch, ended, answer).await;
    }

    /// The last look before the service is called.
    fn may_start(&self) -> bool {
        self.deadline.may_start() && !self.guard.resources.abort.is_said()
    }

    /// An answer of our own. Logged here, for the client may have left.
    fn problem<R, E>(&self, outcome: Outcome, problem: Problem) -> Reply<R, E> {
        self.line.write(outcome, problem.status());
        Reply::Problem(problem)
    }

    /// Nothing was sent: the key is free again.
    async fn unsent<R, E>(
        mut self: Box<Self>,
        epoch: Epoch,
        reply: Reply<R, E>,
        answer: Answer<R, E>,
    ) {
        self.settle_then(epoch, &Settlement::Released, |_| {
            let _ = answer.send(reply);
        })
        .await;
    }

    /// It may have been executed, and there is no answer.
    async fn unknown<R, E>(
        mut self: Box<Self>,
        epoch: Epoch,
        ended: Ended<E>,
        answer: Answer<R, E>,
    ) {
        self.uploaded.give_back();
        let (reply, status) = match ended {
            Ended::TimedOut | Ended::GivenUp => {
                let problem = unknown_to_first_caller(matches!(ended, Ended::TimedOut));
                let status = problem.status();
                (Reply::Problem(problem), status)
            }
            Ended::Failed(error) => (Reply::Failed(error), FAILED),
            Ended::Panicked(panic) => (Reply::Panicked(panic), FAILED),
        };
        self.line.write(Outcome::Unknown, status);
        self.settle_then(epoch, &Settlement::Unknown, |_| {
            let _ = answer.send(reply);
        })
        .await;
    }

    async fn answered<R, E>(
        mut self: Box<Self>,
        epoch: Epoch,
        response: Response<R>,
        answer: Answer<R, E>,
    ) where
        R: Body<Data = Bytes> + Send + 'static,
        R::Error: Into<BoxError>,
    {
        crate::failpoint!("after_forward");
        self.uploaded.give_back();
        let (mut parts, body) = response.into_parts();
        let (settlement, outcome) = match classify(&mut parts, &self.guard.policy.statuses) {
            Verdict::Keep => return self.keep(epoch, parts, body, answer).await,
            Verdict::Release => (Settlement::Released, Outcome::Released),
            Verdict::Unknown => (Settlement::Unknown, Outcome::Unknown),
        };
        let line = self.line.clone();
        // Settled at the head: what the body says changes nothing, so it need not be read here.
        self.settle_then(epoch, &settlement, |held| {
            let outcome = if held == Held::Stale {
                Outcome::Stale
            } else {
                outcome
            };
            line.write(outcome, parts.status);
            let response = Response::from_parts(parts, ResponseBody::from(body));
            let _ = answer.send(Reply::Answered(response));
        })
        .await;
    }
}

fn too_late() -> Problem {
    Problem::new(Code::StoreUnavailable)
        .with_detail("the request could not be sent in time; nothing was executed")
}
