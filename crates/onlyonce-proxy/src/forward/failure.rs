//! What a client and the layer are told when the upstream did not answer.

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use onlyonce::classify::OUTCOME;
use onlyonce::policy::Policy;
use onlyonce::problem::{Code, Problem};
use onlyonce::{BoxError, Deadline, Evidence, RecordId};
use tracing::{debug, warn};

use super::body::ForwardBody;
use super::connection::{NotSent, SendError};
use super::dial::DialError;
use super::limits::RanOut;
use super::request_head::Refusal;
use super::response_head::InvalidResponse;
use crate::problem::plain_problem;

/// Why there is no response to pass on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("refused: {}", .0.detail)]
    Refused(Refusal),
    #[error("no connection")]
    Dial(#[from] DialError),
    #[error("not sent")]
    NotSent(#[from] NotSent),
    #[error("too little time left to begin")]
    TooLate,
    #[error("the request's body was not complete")]
    Incomplete(#[source] BoxError),
    #[error("the request's body broke off while it was sent")]
    RequestBody(#[source] BoxError),
    #[error("the client paused its upload for too long")]
    ClientStalled,
    #[error("the connection ended after the request had begun")]
    Broken(#[source] hyper::Error),
    #[error("no response in time")]
    Timeout,
    #[error("the response is invalid")]
    Invalid(#[from] InvalidResponse),
}

/// What decides how a failure is told.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) method: Method,
    pub(crate) is_guarded: bool,
    /// What a guarded request's errors are about.
    pub(crate) record: Option<RecordId>,
}

impl Asked {
    pub(crate) fn by<B>(request: &Request<B>) -> Self {
        Self {
            method: request.method().clone(),
            is_guarded: request.extensions().get::<Deadline>().is_some(),
            record: request.extensions().get::<RecordId>().copied(),
        }
    }
}

impl Failure {
    pub(crate) fn of_send(error: SendError, upload_broke: bool) -> Self {
        match error {
            SendError::Broken(error) if upload_broke => Self::RequestBody(error.into()),
            SendError::NotSent(reason) => Self::NotSent(reason),
            SendError::Broken(error) => Self::Broken(error),
            SendError::RanOut(RanOut::Client) => Self::ClientStalled,
            SendError::RanOut(RanOut::Upstream) => Self::Timeout,
        }
    }

    /// What is known of the request's execution.
    fn evidence(&self) -> Evidence {
        match self {
            Self::Refused(_)
            | Self::Dial(_)
            | Self::NotSent(_)
            | Self::TooLate
            | Self::Incomplete(_) => Evidence::NotSent,
            Self::RequestBody(_)
            | Self::ClientStalled
            | Self::Broken(_)
            | Self::Timeout
            | Self::Invalid(_) => Evidence::Unknown,
        }
    }

    /// The answer. Addresses and reasons are for the log; a client has no use for them.
    pub(crate) fn into_response(self, asked: &Asked, policy: &Policy) -> Response<ForwardBody> {
        let evidence = self.evidence();
        match &self {
            Self::Refused(_) | Self::Incomplete(_) | Self::RequestBody(_) | Self::ClientStalled => {
                debug!(
                    error = &self as &dyn std::error::Error,
                    "request not completed"
                );
            }
            _ => warn!(
                error = &self as &dyn std::error::Error,
                ?evidence,
                "upstream failed"
            ),
        }
        let mut response = self.told(asked, policy).map(ForwardBody::from);
        // For a guard in front of this process, which does not see extensions and may know better than
        // what the status says.
        let outcome = match evidence {
            Evidence::NotSent | Evidence::Refused => "not-executed",
            Evidence::Unknown => "unknown",
        };
        let headers = response.headers_mut();
        headers.insert(OUTCOME, HeaderValue::from_static(outcome));
        response.extensions_mut().insert(evidence);
        response
    }

    fn told(&self, asked: &Asked, policy: &Policy) -> Response<Bytes> {
        let problem = match self {
            Self::Refused(refusal) => return plain_problem(refusal.status, refusal.detail),
            Self::Incomplete(_) | Self::RequestBody(_) => {
                return plain_problem(StatusCode::BAD_REQUEST, "the request's body broke off");
            }
            Self::ClientStalled => {
                let detail = "the request's body did not arrive in time";
                return plain_problem(StatusCode::REQUEST_TIMEOUT, detail);
            }
            Self::Dial(_) | Self::NotSent(_) | Self::TooLate => {
                unreachable("the upstream could not be reached; the request was not sent")
            }
            Self::Timeout if !asked.is_guarded => Problem::new(Code::UpstreamTimeout)
                .with_detail("the upstream did not answer in time"),
            Self::Timeout => unknown(StatusCode::GATEWAY_TIMEOUT),
            // Repeating a safe request harms nobody: the code says so, the status is the same.
            Self::Broken(_) | Self::Invalid(_) if asked.method.is_safe() => {
                unreachable("the upstream gave no valid response")
            }
            Self::Broken(_) | Self::Invalid(_) => unknown(StatusCode::BAD_GATEWAY),
        };
        policy.answer(match asked.record {
            Some(record) => problem.with_record(record),
            None => problem,
        })
    }
}

fn unreachable(detail: &'static str) -> Problem {
    Problem::new(Code::UpstreamUnreachable).with_detail(detail)
}

fn unknown(status: StatusCode) -> Problem {
    Problem::new(Code::OutcomeUnknown)
        .with_status(status)
        .with_detail(
            "the request was sent, but no complete response came back; it may have been executed",
        )
}
