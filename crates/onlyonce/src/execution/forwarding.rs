//! The detached task: claim, forward once, classify, settle.
//!
//! Hazard: every way on from a claim that was acquired must settle. They are few and named: the
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
use super::claiming::{NotClaimed, abandon, acquire};
use super::settling::Held;
use super::streaming::has_no_body;
use super::{Inner, LogLine, Outcome, Reply, store_unavailable};
use crate::BoxError;
use crate::body::{RequestBody, ResponseBody};
use crate::budget::Reservation;
use crate::classify::{Verdict, classify};
use crate::evidence::{Deadline, Recorded};
use crate::in_flight::{Presence, Told};
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

/// What came of forwarding.
enum Forwarded<R, E> {
    Answered(Response<R>),
    /// Nothing was sent.
    Unsent(Reply<R, E>),
    /// It may have been executed, and there is no answer.
    Lost(Lost<E>),
}

/// How the inner service ended, short of an answer.
enum Lost<E> {
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
    ///
    /// One step after the other, none inside another: a future has room for all that it may hold at one time,
    /// and a step that waits for the next would hold its own meanwhile.
    pub(super) async fn run<S, B, R>(
        mut self: Box<Self>,
        service: S,
        request: Request<RequestBody<B>>,
        answer: Answer<R, S::Error>,
    ) where
        S: Inner<B, R>,
        B: Send + 'static,
        R: Body<Data = Bytes> + Send + 'static,
        R::Error: Into<BoxError>,
    {
        let Self {
            guard,
            alarm,
            claim,
            deadline,
            ..
        } = &mut *self;
        let epoch = match acquire(&guard.resources, alarm, claim, deadline).await {
            Ok(Claimed::Acquired(epoch)) => epoch,
            Ok(Claimed::Present(present)) => {
                if let Some(presence) = self.presence.take() {
                    presence.tell(self.claim.asked_at, Told::Present(present.clone()));
                }
                let _ = answer.send(Reply::Present(present));
                return;
            }
            Err(not_claimed) => {
                // Boxed: few come here, and it would make every request's future larger.
                let reply = Box::pin(self.without_claim(not_claimed, service, request));
                let _ = answer.send(reply.await);
                return;
            }
        };
        self.presence.as_ref().inspect(|presence| presence.own());
        crate::failpoint!("after_claim");
        match self.forward(service, request).await {
            Forwarded::Answered(response) => self.answered(epoch, response, answer).await,
            Forwarded::Unsent(reply) => self.unsent(epoch, reply, answer).await,
            Forwarded::Lost(lost) => self.lost(epoch, lost, answer).await,
        }
    }

    async fn without_claim<S, B, R>(
        &mut self,
        not_claimed: NotClaimed,
        service: S,
        request: Request<RequestBody<B>>,
    ) -> Reply<R, S::Error>
    where
        S: Inner<B, R>,
    {
        let presence = self.presence.take();
        if not_claimed.may_have_applied {
            self.abandon_in_background();
        }
        if self.guard.policy.on_store_failure == OnStoreFailure::Forward {
            // Each twin asks for itself: the store may be back.
            drop(presence);
            return self.forward_unguarded(service, request).await;
        }
        if let Some(presence) = presence {
            let refused = Told::Refused(not_claimed.error.clone());
            presence.tell(self.claim.asked_at, refused);
        }
        let problem = store_unavailable(&not_claimed.error);
        self.problem(Outcome::StoreUnavailable, problem)
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
        mut service: S,
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
        &mut self,
        mut service: S,
        mut request: Request<RequestBody<B>>,
    ) -> Forwarded<R, S::Error>
    where
        S: Inner<B, R>,
    {
        // A clone is made ready only now: one made earlier might have held a permit through the upload.
        let ready = AssertUnwindSafe(poll_fn(|cx| service.poll_ready(cx))).catch_unwind();
        let (abort, start_by) = (&self.guard.resources.abort, self.deadline.start_by());
        match self.alarm.limit(abort, start_by, ready).await {
            Ok(Ok(Ok(()))) if self.may_start() => {}
            Ok(Ok(Err(error))) => {
                self.line.write(Outcome::Released, FAILED);
                return Forwarded::Unsent(Reply::Failed(error));
            }
            Ok(Err(panic)) => {
                self.line.write(Outcome::Released, FAILED);
                return Forwarded::Unsent(Reply::Panicked(panic));
            }
            Ok(Ok(Ok(()))) | Err(_) => {
                return Forwarded::Unsent(self.problem(Outcome::StoreUnavailable, too_late()));
            }
        }
        crate::failpoint!("before_forward");
        request.extensions_mut().insert(self.deadline);
        request.extensions_mut().insert(self.claim.id);
        let called = AssertUnwindSafe(async { service.call(request).await }).catch_unwind();
        let (abort, end) = (&self.guard.resources.abort, self.deadline.end());
        match self.alarm.limit(abort, end, called).or_aborted().await {
            Ok(Ok(Ok(response))) => Forwarded::Answered(response),
            Ok(Ok(Err(error))) => Forwarded::Lost(Lost::Failed(error)),
            Ok(Err(panic)) => Forwarded::Lost(Lost::Panicked(panic)),
            Err(Cut::Elapsed) => Forwarded::Lost(Lost::TimedOut),
            Err(Cut::Aborted) => Forwarded::Lost(Lost::GivenUp),
        }
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
    async fn lost<R, E>(mut self: Box<Self>, epoch: Epoch, lost: Lost<E>, answer: Answer<R, E>) {
        self.uploaded.give_back();
        let (reply, status) = match lost {
            Lost::TimedOut | Lost::GivenUp => {
                let problem = unknown_to_first_caller(matches!(lost, Lost::TimedOut));
                let status = problem.status();
                (Reply::Problem(problem), status)
            }
            Lost::Failed(error) => (Reply::Failed(error), FAILED),
            Lost::Panicked(panic) => (Reply::Panicked(panic), FAILED),
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
        if parts.extensions.remove::<Recorded>().is_some() {
            // The twins that wait here look at the record only now.
            drop(self.presence.take());
            self.line.write(Outcome::Fresh, parts.status);
            let response = Response::from_parts(parts, ResponseBody::from(body));
            let _ = answer.send(Reply::Answered(response));
            return;
        }
        let (settlement, outcome) = match classify(&mut parts, &self.guard.policy.statuses) {
            Verdict::Keep if has_no_body(&self.line.method, &parts, &body) => {
                return self.keep_head(epoch, parts, answer).await;
            }
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
