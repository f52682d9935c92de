//! The answers that are ours: the transaction did not commit, and so the handler's answer does not hold.

use bytes::Bytes;
use http::{Response, StatusCode};
use onlyonce::classify::OUTCOME;
use onlyonce::problem::Code;
use onlyonce::{Evidence, Policy, Problem, RecordId};

use crate::body::{Held, HeldBody};

/// Why the handler's answer is not the client's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failed {
    /// The core has claimed a record, and its transaction is not there.
    NoTransaction,
    /// The handler took too long.
    Deadline,
    /// The handler panicked.
    Panicked,
    /// Another transaction was in the way: the same again may succeed.
    Conflict,
    /// The database failed, or did not answer in time.
    Database,
    /// The handler did something that cannot be committed, which the log tells: it is rolled back.
    Misused,
    /// The handler ended the transaction itself, and so may have committed it.
    Ended,
    /// The commit was sent, and nobody says what became of it.
    Unconfirmed,
}

impl Failed {
    fn problem(self) -> Problem {
        let rolled_back = Problem::new(Code::RolledBack);
        match self {
            Self::NoTransaction => Problem::new(Code::StoreUnavailable)
                .with_detail("there is no transaction for this request; nothing was executed"),
            Self::Deadline => rolled_back
                .with_status(StatusCode::GATEWAY_TIMEOUT)
                .with_detail(
                    "the request took too long, and nothing that it did remains; \
                     it can be sent again, with the same key if it had one",
                ),
            Self::Panicked => rolled_back
                .with_status(StatusCode::INTERNAL_SERVER_ERROR)
                .with_detail(
                    "the service failed, and nothing that the request did remains; \
                     it can be sent again, with the same key if it had one",
                ),
            Self::Misused => rolled_back
                .without_retry()
                .with_status(StatusCode::INTERNAL_SERVER_ERROR)
                .with_detail(
                    "the service did what cannot be committed, and nothing that the request did remains; \
                     sent again it fails again, until the service is mended",
                ),
            Self::Ended => Problem::new(Code::OutcomeUnknown)
                .with_status(StatusCode::INTERNAL_SERVER_ERROR)
                .with_detail(
                    "the service ended the request's transaction itself, so what the request did may be \
                     committed or not",
                ),
            Self::Conflict => rolled_back
                .with_retry_after(std::time::Duration::ZERO)
                .with_detail(
                    "another request was in the way, and nothing that this one did remains; \
                     send it again, with the same key if it had one",
                ),
            Self::Database => rolled_back
                .with_retry_after(std::time::Duration::ZERO)
                .with_detail(
                    "the database did not commit, and nothing that the request did remains; \
                     send it again, with the same key if it had one",
                ),
            Self::Unconfirmed => Problem::new(Code::RequestInProgress)
                .with_status(StatusCode::SERVICE_UNAVAILABLE)
                .with_detail(
                    "the database has not said yet whether it committed; send the request again with the \
                     same key, under which it takes effect once at most",
                ),
        }
    }

    /// The answer, for a request with a key.
    pub(crate) fn guarded<R>(self, policy: &Policy, id: RecordId) -> Response<HeldBody<R>> {
        let mut response = held(policy.answer(self.problem().with_record(id)));
        if self == Self::Unconfirmed {
            // Nobody knows that it was not executed. A guard in front goes by the rest: a retry is safe.
            response.headers_mut().remove(OUTCOME);
        }
        // Whatever became of it: the core has nothing to write.
        response.extensions_mut().insert(Evidence::Refused);
        response
    }

    /// The answer, for a request without one: the client cannot find out, and may not simply repeat it.
    pub(crate) fn unguarded<R>(self, policy: &Policy) -> Response<HeldBody<R>> {
        if self == Self::Unconfirmed {
            let problem = Problem::new(Code::OutcomeUnknown)
                .with_status(StatusCode::BAD_GATEWAY)
                .with_detail(
                    "the database has not said whether it committed, and the request had no key",
                );
            return held(policy.answer(problem));
        }
        held(policy.answer(self.problem()))
    }
}

fn held<R>(response: Response<Bytes>) -> Response<HeldBody<R>> {
    response.map(|body| HeldBody::from(Held::whole(body)))
}
