//! A guarded request from its key to its answer: the one place where the order of work is written down.
//!
//! ```text
//! key ─▶ twin here? ─▶ body, bounded ─▶ fingerprint ─▶ known here? ─▶ ┌ claim ─▶ forward once ─▶ classify ─▶ settle ┐ ─▶ answer
//!         409                413, 400                   replay, 422     │  └─ another has the record: replay, 409, 422 │
//!                                                                       └─────────────── detached task ────────────────┘
//! ```
//!
//! Up to the claim the client's future does the work, and a client that leaves takes everything with it:
//! nothing was claimed, nothing is left. From the claim on a tracked task does, because a claim must end
//! in a settlement whether or not anybody is listening.

use std::sync::Arc;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderValue, Request, Response};
use http_body::Body;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};
use tower_service::Service;

use crate::BoxError;
use crate::body::{RequestBody, ResponseBody};
use crate::budget::Reservation;
use crate::evidence::Deadline;
use crate::fingerprint::fingerprint;
use crate::in_flight::{IN_FLIGHT_HERE, Presence, Told, Twin};
use crate::key::IdempotencyKey;
use crate::policy::{BodyFingerprint, OnDuplicate};
use crate::problem::{Code, Problem};
use crate::record::{CredentialHash, Fingerprint, RecordId, Token};
use crate::resources::{Guard, Resources};
use crate::scope::{Credential, Principal, record_id};
use crate::store::{Claim, Present, Store, StoreError};

mod alarm;
mod answer;
mod claiming;
mod forwarding;
mod outcome;
mod recorded;
mod settling;
mod streaming;
mod upload;
mod waiting;

use self::alarm::Alarm;
use self::upload::Upload;

pub(crate) use self::outcome::{LogLine, Outcome};

/// The inner service, as the execution needs it.
pub(crate) trait Inner<B, R>:
    Service<Request<RequestBody<B>>, Response = Response<R>, Error: Send, Future: Send> + Send + 'static
{
}

impl<S, B, R> Inner<B, R> for S where
    S: Service<Request<RequestBody<B>>, Response = Response<R>, Error: Send, Future: Send>
        + Send
        + 'static
{
}

/// What the detached task tells the client's future, once.
pub(crate) enum Reply<R, E> {
    /// The inner service answered.
    Answered(Response<ResponseBody<R>>),
    /// Another request has the record.
    Present(Present),
    /// An answer of our own, already logged.
    Problem(Problem),
    /// The inner service failed; the layer passes its error on.
    Failed(E),
    /// The inner service panicked; so does the caller.
    Panicked(Box<dyn std::any::Any + Send>),
}

/// Above this, canonical JSON is worked out on a thread that may block.
const CANONICAL_INLINE_BYTES_MAX: usize = 128 << 10;

/// One guarded request.
pub(crate) struct Execution {
    pub(crate) guard: Arc<Guard>,
    pub(crate) key: IdempotencyKey,
}

/// What a request asks for, and who asks: what a record is compared with.
struct Asked {
    fingerprint: Fingerprint,
    credential: CredentialHash,
}

/// Who and what a request is, worked out from its head.
struct Requester {
    id: RecordId,
    principal: Principal,
    credential: Credential,
    /// The key as it was sent, for policies that repeat it.
    key: Option<HeaderValue>,
    line: LogLine,
}

impl Requester {
    /// The answer where no claim was made, and nothing executed.
    fn refused<R, E>(&self, problem: Problem) -> Reply<R, E> {
        self.line.write(Outcome::StoreUnavailable, problem.status());
        Reply::Problem(problem)
    }
}

impl Execution {
    /// Runs the request to its answer.
    pub(crate) async fn run<S, B, R>(
        self,
        service: S,
        request: Request<B>,
    ) -> Result<Response<ResponseBody<R>>, S::Error>
    where
        S: Inner<B, R>,
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
        R: Body<Data = Bytes> + Send + 'static,
        R::Error: Into<BoxError>,
    {
        let (parts, body) = request.into_parts();
        let requester = self.identify(&parts);
        if self.guard.policy.on_duplicate == OnDuplicate::Reject
            && self.guard.resources.in_flight.is_owned(&requester.id)
        {
            // Without reading the body: a duplicate of a large upload costs nothing.
            return Ok(self.problem(&requester, Outcome::InProgress, &in_progress()));
        }
        let (mut alarm, begun) = (Alarm::default(), requester.line.started);
        let upload = upload::read(&self.guard, &mut alarm, begun, &parts.headers, body);
        let upload = match upload.await {
            Ok(upload) => upload,
            Err(problem) => return Ok(self.problem(&requester, Outcome::UploadFailed, &problem)),
        };
        let Upload { bytes, reserved } = upload;
        let (mut parts, fingerprint) = self.fingerprint(parts, &bytes).await;
        let asked = Asked {
            fingerprint,
            credential: requester.credential.hash(&requester.id),
        };
        if let Some(known) = self.guard.resources.store.recall(&requester.id) {
            // Nothing to claim, so nothing to settle: no task either.
            let present = Present::Completed(known);
            return Ok(self.answer_from_record(&requester, &asked, present).await);
        }
        upload::buffered_head(&mut parts, bytes.len());
        let request = Request::from_parts(parts, RequestBody::buffered(bytes));
        let reply = self
            .detach(service, request, reserved, alarm, &requester, &asked)
            .await;
        let present = match reply {
            Reply::Answered(response) => return Ok(self.finished(&requester, response)),
            Reply::Failed(error) => return Err(error),
            Reply::Panicked(panic) => std::panic::resume_unwind(panic),
            Reply::Problem(problem) => return Ok(self.answer_problem(&requester, &problem)),
            Reply::Present(present) => present,
        };
        // Boxed, like all that few requests come to: each would make the future of every request larger.
        Ok(Box::pin(self.conclude(&requester, &asked, present)).await)
    }

    fn identify(&self, parts: &Parts) -> Requester {
        let principal = Principal::of(parts, &self.guard.policy.principal);
        let id = record_id(&self.guard.policy, parts, &principal, &self.key);
        Requester {
            id,
            credential: Credential::of(parts, &self.guard.policy.credential),
            principal,
            key: parts.headers.get(&self.guard.policy.key_header).cloned(),
            line: LogLine {
                record: Some(id),
                method: parts.method.clone(),
                started: Instant::now(),
            },
        }
    }

    /// Canonical JSON of a large body takes long enough to hold up whatever else this thread serves.
    async fn fingerprint(&self, parts: Parts, body: &Bytes) -> (Parts, Fingerprint) {
        if self.guard.policy.body_fingerprint != BodyFingerprint::CanonicalJson
            || body.len() <= CANONICAL_INLINE_BYTES_MAX
        {
            let fingerprint = fingerprint(&self.guard.policy, &parts, body);
            return (parts, fingerprint);
        }
        let (policy, body) = (Arc::clone(&self.guard.policy), body.clone());
        tokio::task::spawn_blocking(move || {
            let fingerprint = fingerprint(&policy, &parts, &body);
            (parts, fingerprint)
        })
        .await
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
    }

    fn claim_of(&self, requester: &Requester, asked: &Asked, asked_at: Instant) -> Claim {
        Claim {
            id: requester.id,
            token: Token::random(),
            fingerprint: asked.fingerprint,
            credential: asked.credential,
            lease: self.guard.policy.lease(),
            retention: self.guard.policy.retention,
            on_unknown: self.guard.policy.on_unknown,
            asked_at,
        }
    }

    /// Hands the request to a tracked task, and waits for what it has to say.
    async fn detach<S, B, R>(
        &self,
        service: S,
        request: Request<RequestBody<B>>,
        uploaded: Reservation,
        alarm: Alarm,
        requester: &Requester,
        asked: &Asked,
    ) -> Reply<R, S::Error>
    where
        S: Inner<B, R>,
        B: Send + 'static,
        R: Body<Data = Bytes> + Send + 'static,
        R::Error: Into<BoxError>,
    {
        let presence = match self.enter(requester.id).await {
            Ok(presence) => presence,
            Err(Told::Present(present)) => return Reply::Present(present),
            Err(Told::Refused(error)) => {
                let problem = store_unavailable(&error);
                return requester.refused(problem);
            }
        };
        let Ok(slot) = Arc::clone(&self.guard.resources.unsettled).try_acquire_owned() else {
            return requester.refused(overloaded());
        };
        let (reply, answer) = oneshot::channel();
        let now = Instant::now();
        let task = Box::new(forwarding::Task {
            guard: Arc::clone(&self.guard),
            alarm,
            claim: self.claim_of(requester, asked, now),
            deadline: Deadline::from(now, self.guard.policy.deadline),
            line: requester.line.clone(),
            uploaded,
            presence: Some(presence),
            slot,
        });
        let span = tracing::Span::current();
        // Boxed: a task's future is moved about several times until the runtime has it in its place.
        self.guard
            .resources
            .tasks
            .spawn(tracing::Instrument::instrument(
                Box::pin(task.run(service, request, reply)),
                span,
            ));
        answer.await.unwrap_or_else(|_| {
            // The runtime dropped the task: it is shutting down, and the lease will lapse.
            Reply::Problem(Problem::new(Code::OutcomeUnknown))
        })
    }

    /// Enters the request among those in flight here; `Err` where a twin has the record, or has been told why it gets
    /// none.
    async fn enter(&self, id: RecordId) -> Result<Presence, Told> {
        match self.guard.resources.in_flight.enter(id) {
            Ok(presence) => Ok(presence),
            Err(twin) => Box::pin(self.enter_after(twin, id)).await,
        }
    }

    async fn enter_after(&self, mut twin: Twin, id: RecordId) -> Result<Presence, Told> {
        let Resources {
            in_flight, limits, ..
        } = &*self.guard.resources;
        let came = Instant::now();
        let entered = async {
            loop {
                if let Some(told) = twin.told(came, self.guard.policy.on_unknown).await {
                    return Err(told);
                }
                twin = match in_flight.enter(id) {
                    Ok(presence) => return Ok(presence),
                    Err(twin) => twin,
                };
            }
        };
        // As long as it would wait for the store itself.
        let entered = timeout(limits.claim_patience, entered).await;
        entered.unwrap_or(Err(Told::Present(IN_FLIGHT_HERE)))
    }

    /// Answers a request that found another's record when it claimed, after waiting for it if the policy says so.
    async fn conclude<R>(
        &self,
        requester: &Requester,
        asked: &Asked,
        present: Present,
    ) -> Response<ResponseBody<R>> {
        let present = match (present, self.guard.policy.on_duplicate) {
            (Present::InFlight { .. }, OnDuplicate::Wait(limit)) => {
                match waiting::wait(&self.guard.resources, &requester.id, limit).await {
                    Some(present) => present,
                    None => return self.problem(requester, Outcome::InProgress, &in_progress()),
                }
            }
            (present, _) => present,
        };
        self.answer_from_record(requester, asked, present).await
    }
}

fn in_progress() -> Problem {
    Problem::new(Code::RequestInProgress)
        .with_detail("a request with this key is in progress; retry with the same key")
}

fn overloaded() -> Problem {
    Problem::new(Code::StoreUnavailable)
        .with_detail("too many requests wait for the store; nothing was executed")
}

fn store_unavailable(error: &StoreError) -> Problem {
    tracing::warn!(
        error = error as &dyn std::error::Error,
        "the store took no claim"
    );
    Problem::new(Code::StoreUnavailable)
        .with_detail("the idempotency store took no claim; nothing was executed")
}
