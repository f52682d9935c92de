//! The answers that come from a record, and from us.
//!
//! Whether a request is a duplicate and whether its sender may see the answer are two questions. The
//! second is asked first: to one who may not see it, a record says nothing about its request either.

use bytes::Bytes;
use http::{Response, StatusCode};

use super::recorded::{self, Unread};
use super::{Asked, Execution, Outcome, Requester, in_progress};
use crate::body::ResponseBody;
use crate::codec::StoredResponse;
use crate::problem::{Code, Problem};
use crate::replay::replay;
use crate::store::{Completed, OnUnknown, Present};

impl Execution {
    /// Answers a request whose record another request has.
    pub(super) async fn answer_from_record<R>(
        &self,
        requester: &Requester,
        asked: &Asked,
        present: Present,
    ) -> Response<ResponseBody<R>> {
        let (outcome, problem) = match present {
            Present::Completed(completed) => match self.disclose(requester, asked, completed).await
            {
                Ok(response) => {
                    requester.line.write(Outcome::Replayed, response.status());
                    return self.finished(requester, response.map(ResponseBody::whole));
                }
                Err(refusal) => refusal,
            },
            Present::InFlight { .. } => (Outcome::InProgress, in_progress()),
            Present::Unknown { fingerprint, .. }
                if self.guard.policy.on_unknown == OnUnknown::Reexecute
                    && fingerprint != asked.fingerprint =>
            {
                (Outcome::Reused, reused())
            }
            Present::Unknown { .. } => (
                Outcome::Unknown,
                Problem::new(Code::OutcomeUnknown).with_detail(
                    "an earlier request with this key may or may not have been executed; \
                     do not retry, neither with this key nor with a new one, before finding out",
                ),
            ),
        };
        self.problem(requester, outcome, &problem)
    }

    async fn disclose(
        &self,
        requester: &Requester,
        asked: &Asked,
        completed: Completed,
    ) -> Result<Response<Bytes>, (Outcome, Problem)> {
        if completed.credential != asked.credential && !requester.principal.is_verified() {
            let problem = Problem::new(Code::ReplayWithheld).with_detail(
                "the request with this key was executed under another credential; \
                 nothing was executed again",
            );
            return Err((Outcome::Withheld, problem));
        }
        if completed.fingerprint != asked.fingerprint {
            return Err((Outcome::Reused, reused()));
        }
        let stored = match completed.response {
            Some(encoded) => self.read(requester, encoded).await?,
            None => None,
        };
        stored
            .and_then(|stored| replay(stored, &self.guard.policy))
            .ok_or_else(|| {
                let problem = Problem::new(Code::ResponseUnavailable).with_detail(
                    "the request with this key was executed, but its response was not kept; \
                 nothing was executed again",
                );
                (Outcome::ResponseUnavailable, problem)
            })
    }

    /// Reads a recorded response; `None` where nobody can.
    async fn read(
        &self,
        requester: &Requester,
        encoded: Bytes,
    ) -> Result<Option<StoredResponse>, (Outcome, Problem)> {
        match recorded::decode(encoded, &self.guard.resources.replayed).await {
            Ok(stored) => Ok(Some(stored)),
            Err(Unread::Damaged(error)) => {
                tracing::error!(
                    record = %requester.id,
                    error = &error as &dyn std::error::Error,
                    "a recorded response cannot be read"
                );
                Ok(None)
            }
            Err(Unread::Crowded) => {
                let problem = Problem::new(Code::StoreUnavailable).with_detail(
                    "too many large responses are being sent again; the request with this key was \
                     executed, and nothing was executed again",
                );
                Err((Outcome::StoreUnavailable, problem))
            }
        }
    }

    /// An answer of our own, with its log line.
    pub(super) fn problem<R>(
        &self,
        requester: &Requester,
        outcome: Outcome,
        problem: &Problem,
    ) -> Response<ResponseBody<R>> {
        requester.line.write(outcome, problem.status());
        self.answer_problem(requester, problem)
    }

    /// An answer of our own that is logged already.
    pub(super) fn answer_problem<R>(
        &self,
        requester: &Requester,
        problem: &Problem,
    ) -> Response<ResponseBody<R>> {
        let problem = problem.clone().with_record(requester.id);
        self.finished(
            requester,
            self.guard.policy.answer(problem).map(ResponseBody::whole),
        )
    }

    /// Repeats the key as it was sent, where the policy says so.
    pub(super) fn finished<T>(
        &self,
        requester: &Requester,
        mut response: Response<T>,
    ) -> Response<T> {
        if self.guard.policy.echo_key
            && let Some(key) = &requester.key
        {
            let name = self.guard.policy.key_header.clone();
            response.headers_mut().insert(name, key.clone());
        }
        response
    }
}

fn reused() -> Problem {
    Problem::new(Code::KeyReused)
        .with_detail("this key was used for a different request; use a new key for a new request")
}

/// The status of an unknown outcome for the first caller: 504 where time ran out, else 502.
pub(super) fn unknown_to_first_caller(timed_out: bool) -> Problem {
    let status = if timed_out {
        StatusCode::GATEWAY_TIMEOUT
    } else {
        StatusCode::BAD_GATEWAY
    };
    Problem::new(Code::OutcomeUnknown)
        .with_status(status)
        .with_detail(
            "the request was sent, and it cannot be known whether it was executed; \
         do not retry before finding out",
        )
}
