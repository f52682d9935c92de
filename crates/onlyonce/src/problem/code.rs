//! The kinds of problem, and all that is constant about each.

use http::StatusCode;

/// What went wrong. The texts, statuses and `retryable` are a contract with clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Code {
    /// The route requires a key.
    KeyMissing,
    /// The key breaks the syntax, is too long, or is there twice.
    KeyInvalid,
    /// The key was used for another request.
    KeyReused,
    /// The first request with this key is still in flight.
    RequestInProgress,
    /// Nobody can tell whether the request was executed.
    OutcomeUnknown,
    /// The request was executed, but its response was not kept.
    ResponseUnavailable,
    /// The request was executed, under another credential that does not vouch for this caller.
    ReplayWithheld,
    /// The body is over the route's limit. Nothing was claimed.
    BodyTooLarge,
    /// The body stopped arriving. Nothing was claimed.
    BodyTimeout,
    /// The body ended before it was complete, or is broken. Nothing was claimed.
    BodyIncomplete,
    /// The store cannot take a claim, so nothing was forwarded.
    StoreUnavailable,
    /// The upstream was not reached: provably nothing was sent.
    UpstreamUnreachable,
    /// The upstream did not answer an unguarded request in time.
    UpstreamTimeout,
    /// The connection to the upstream broke under an unguarded request.
    UpstreamFailed,
    /// The transaction that would have held the request's effects was rolled back: none of them remains.
    RolledBack,
}

impl Code {
    /// All of them.
    pub const ALL: [Self; 15] = [
        Self::KeyMissing,
        Self::KeyInvalid,
        Self::KeyReused,
        Self::RequestInProgress,
        Self::OutcomeUnknown,
        Self::ResponseUnavailable,
        Self::ReplayWithheld,
        Self::BodyTooLarge,
        Self::BodyTimeout,
        Self::BodyIncomplete,
        Self::StoreUnavailable,
        Self::UpstreamUnreachable,
        Self::UpstreamTimeout,
        Self::UpstreamFailed,
        Self::RolledBack,
    ];

    /// The name in `code` and at the end of `type`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::KeyMissing => "idempotency-key-missing",
            Self::KeyInvalid => "idempotency-key-invalid",
            Self::KeyReused => "idempotency-key-reused",
            Self::RequestInProgress => "request-in-progress",
            Self::OutcomeUnknown => "outcome-unknown",
            Self::ResponseUnavailable => "response-unavailable",
            Self::ReplayWithheld => "replay-withheld",
            Self::BodyTooLarge => "body-too-large",
            Self::BodyTimeout => "body-timeout",
            Self::BodyIncomplete => "body-incomplete",
            Self::StoreUnavailable => "store-unavailable",
            Self::UpstreamUnreachable => "upstream-unreachable",
            Self::UpstreamTimeout => "upstream-timeout",
            Self::UpstreamFailed => "upstream-failed",
            Self::RolledBack => "rolled-back",
        }
    }

    /// The usual status; [`OutcomeUnknown`](Self::OutcomeUnknown) is 502 or 504 for its first caller.
    pub const fn status(self) -> StatusCode {
        match self {
            Self::KeyMissing | Self::KeyInvalid | Self::BodyIncomplete => StatusCode::BAD_REQUEST,
            Self::KeyReused => StatusCode::UNPROCESSABLE_ENTITY,
            Self::RequestInProgress
            | Self::OutcomeUnknown
            | Self::ResponseUnavailable
            | Self::ReplayWithheld => StatusCode::CONFLICT,
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::BodyTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::StoreUnavailable | Self::RolledBack => StatusCode::SERVICE_UNAVAILABLE,
            Self::UpstreamUnreachable | Self::UpstreamFailed => StatusCode::BAD_GATEWAY,
            Self::UpstreamTimeout => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    /// Whether the same request with the same key may succeed later, and is safe to send again.
    pub const fn retryable(self) -> bool {
        matches!(
            self,
            Self::RequestInProgress
                | Self::BodyTimeout
                | Self::StoreUnavailable
                | Self::UpstreamUnreachable
                | Self::RolledBack
        )
    }

    /// What the answer says of its request's execution, for another guard in front of this one: without it
    /// that guard would record "in progress" as the outcome. `None`: it is the answer, and may be recorded.
    pub(super) const fn outcome(self) -> Option<&'static str> {
        match self {
            Self::OutcomeUnknown | Self::UpstreamTimeout | Self::UpstreamFailed => Some("unknown"),
            _ if self.retryable() => Some("not-executed"),
            _ => None,
        }
    }

    /// A short summary, the same every time (RFC 9457 section 3.1.3).
    pub const fn title(self) -> &'static str {
        match self {
            Self::KeyMissing => "An idempotency key is required",
            Self::KeyInvalid => "The idempotency key is invalid",
            Self::KeyReused => "The idempotency key was used for another request",
            Self::RequestInProgress => "The request is in progress",
            Self::OutcomeUnknown => "The outcome is unknown",
            Self::ResponseUnavailable => "The response was not kept",
            Self::ReplayWithheld => "The response is withheld",
            Self::BodyTooLarge => "The body is too large",
            Self::BodyTimeout => "The body did not arrive in time",
            Self::BodyIncomplete => "The body is incomplete",
            Self::StoreUnavailable => "The store of idempotency keys is unavailable",
            Self::UpstreamUnreachable => "The upstream cannot be reached",
            Self::UpstreamTimeout => "The upstream did not answer in time",
            Self::UpstreamFailed => "The connection to the upstream broke",
            Self::RolledBack => "The transaction was rolled back",
        }
    }

    /// What happened and what to do, where nothing more precise is known.
    pub(super) const fn advice(self) -> &'static str {
        match self {
            Self::KeyMissing => {
                "this route needs a key: send one, unique to the operation, and repeat it with every retry"
            }
            Self::KeyInvalid => "the key cannot be read: nothing was executed",
            Self::KeyReused => {
                "the key was first used with another query, content type or body: use a new key for a new \
                 request"
            }
            Self::RequestInProgress => {
                "the first request with this key is still running: repeat the request later, with the same key"
            }
            Self::OutcomeUnknown => {
                "the request may have been executed: find out from the service before sending it under any key"
            }
            Self::ResponseUnavailable => {
                "the request was executed, but its response was not kept: ask the service for the result"
            }
            Self::ReplayWithheld => {
                "the request was executed under another credential: repeat it with that one, or ask the \
                 service for the result"
            }
            Self::BodyTooLarge => "the body is over this route's limit: nothing was executed",
            Self::BodyTimeout => {
                "the rest of the body did not arrive: nothing was executed, send the request again"
            }
            Self::BodyIncomplete => "the body broke off or is malformed: nothing was executed",
            Self::StoreUnavailable => {
                "the key cannot be recorded at the moment: nothing was executed, repeat the request later"
            }
            Self::UpstreamUnreachable => {
                "nothing was sent to the service: repeat the request, with the same key"
            }
            Self::UpstreamTimeout => "the request was sent and may have been executed",
            Self::UpstreamFailed => "the request may have been executed",
            Self::RolledBack => {
                "nothing that the request did remains: repeat it, with the same key"
            }
        }
    }

    /// Whether the documentation of keys helps.
    pub(super) const fn is_about_key(self) -> bool {
        matches!(
            self,
            Self::KeyMissing
                | Self::KeyInvalid
                | Self::KeyReused
                | Self::RequestInProgress
                | Self::OutcomeUnknown
                | Self::ResponseUnavailable
                | Self::ReplayWithheld
        )
    }

    /// The error type of RFC 9209 section 2.3 that comes nearest.
    pub(super) fn proxy_error(self, status: StatusCode) -> &'static str {
        match self {
            Self::OutcomeUnknown if status == StatusCode::GATEWAY_TIMEOUT => {
                "http_response_timeout"
            }
            Self::OutcomeUnknown if status == StatusCode::BAD_GATEWAY => "connection_terminated",
            Self::KeyReused
            | Self::RequestInProgress
            | Self::OutcomeUnknown
            | Self::ResponseUnavailable
            | Self::ReplayWithheld => "http_request_denied",
            Self::KeyMissing
            | Self::KeyInvalid
            | Self::BodyTooLarge
            | Self::BodyTimeout
            | Self::BodyIncomplete => "http_request_error",
            Self::StoreUnavailable | Self::RolledBack => "proxy_internal_error",
            Self::UpstreamUnreachable => "destination_unavailable",
            Self::UpstreamTimeout => "http_response_timeout",
            Self::UpstreamFailed => "connection_terminated",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn g2_the_contract_of_codes() {
        let contract = [
            ("idempotency-key-missing", 400, false),
            ("idempotency-key-invalid", 400, false),
            ("idempotency-key-reused", 422, false),
            ("request-in-progress", 409, true),
            ("outcome-unknown", 409, false),
            ("response-unavailable", 409, false),
            ("replay-withheld", 409, false),
            ("body-too-large", 413, false),
            ("body-timeout", 408, true),
            ("body-incomplete", 400, false),
            ("store-unavailable", 503, true),
            ("upstream-unreachable", 502, true),
            ("upstream-timeout", 504, false),
            ("upstream-failed", 502, false),
            ("rolled-back", 503, true),
        ];
        let codes = Code::ALL.map(|code| (code.as_str(), code.status().as_u16(), code.retryable()));
        assert_eq!(codes, contract);
    }
}
