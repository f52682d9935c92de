//! Which part of a response is recorded, and how it is sent again.
//!
//! A replay is a new message about an old result. It repeats status, body and every header that describes
//! the result. It does not repeat what belonged to the first connection (RFC 9110 section 7.6.1), to the
//! first moment (`Date`, `Age`, rate limits, request ids), or to the first receiver: `Set-Cookie` would
//! hand a session to whoever retries.
//!
//! This is not a cache: a replay never carries `Age`, and `Cache-Control` decides nothing here.
//!
//! ```
//! use http::{HeaderMap, StatusCode};
//! use onlyonce::codec::StoredResponse;
//! use onlyonce::policy::Policy;
//! use onlyonce::replay::{HeaderFilter, replay};
//!
//! let mut headers = HeaderMap::new();
//! headers.insert("location", "/charges/1".parse().unwrap());
//! headers.insert("set-cookie", "session=1".parse().unwrap());
//! let stored = StoredResponse {
//!     status: StatusCode::CREATED,
//!     headers: HeaderFilter::default().record(&headers),
//!     body: Some("paid".into()),
//! };
//! let again = replay(stored, &Policy::default()).expect("the body was kept");
//! assert_eq!(again.headers()["location"], "/charges/1");
//! assert_eq!(again.headers()["content-length"], "4");
//! assert_eq!(again.headers()["idempotent-replayed"], "true");
//! assert!(!again.headers().contains_key("set-cookie"));
//! ```

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};

use crate::codec::StoredResponse;
use crate::policy::Policy;

/// Fields of one connection or one message: recorded under no settings. Sorted.
const NEVER: [&str; 14] = [
    "age",
    "connection",
    "content-length",
    "date",
    "idempotency-outcome",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authentication-info",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Fields of the first moment or the first receiver: dropped unless a route keeps them. Sorted.
const BY_DEFAULT: [&str; 15] = [
    "alt-svc",
    "authentication-info",
    "clear-site-data",
    "nel",
    "report-to",
    "reporting-endpoints",
    "retry-after",
    "server-timing",
    "set-cookie",
    "traceparent",
    "tracestate",
    "via",
    "www-authenticate",
    "x-correlation-id",
    "x-request-id",
];

/// Families of such fields.
const BY_DEFAULT_PREFIXES: [&str; 3] = ["access-control-", "ratelimit", "x-ratelimit-"];

/// Which response headers are recorded. The default follows RFC 9110 and what replays elsewhere have broken.
///
/// Kept: everything that is not in one of these groups.
///
/// * Never recorded: `Connection` and every field that it names, `Keep-Alive`, `Proxy-Connection`, `TE`,
///   `Trailer`, `Transfer-Encoding`, `Upgrade`, `Proxy-Authenticate`, `Proxy-Authentication-Info`,
///   `Proxy-Authorization`, `Content-Length` (made anew), `Date` (made anew), `Age`, `Idempotency-Outcome`.
/// * Dropped unless a route keeps them: `Set-Cookie`, `WWW-Authenticate`, `Authentication-Info`, `Via`,
///   `Alt-Svc`, `Server-Timing`, `RateLimit*`, `X-RateLimit-*`, `Retry-After`, `X-Request-Id`,
///   `X-Correlation-Id`, `traceparent`, `tracestate`, `NEL`, `Report-To`, `Reporting-Endpoints`,
///   `Clear-Site-Data`, `Access-Control-*`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HeaderFilter {
    kept: Vec<HeaderName>,
    dropped: Vec<HeaderName>,
}

impl HeaderFilter {
    /// Fields that are recorded though they are dropped by default. Those of one connection or message
    /// stay out all the same.
    #[must_use]
    pub fn with_kept(mut self, names: impl IntoIterator<Item = HeaderName>) -> Self {
        self.kept.extend(names);
        self
    }

    /// Further fields that are not recorded. They win over [`with_kept`](Self::with_kept).
    #[must_use]
    pub fn with_dropped(mut self, names: impl IntoIterator<Item = HeaderName>) -> Self {
        self.dropped.extend(names);
        self
    }

    /// The headers to record. Lines of one name stay apart and keep their order.
    pub fn record(&self, headers: &HeaderMap) -> HeaderMap {
        let connection = connection_fields(headers);
        headers
            .iter()
            .filter(|(name, _)| self.records(name) && !connection.contains(*name))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect()
    }

    fn records(&self, name: &HeaderName) -> bool {
        if NEVER.binary_search(&name.as_str()).is_ok() || self.dropped.contains(name) {
            return false;
        }
        self.kept.contains(name) || !is_dropped_by_default(name.as_str())
    }
}

fn is_dropped_by_default(name: &str) -> bool {
    BY_DEFAULT.binary_search(&name).is_ok()
        || BY_DEFAULT_PREFIXES
            .iter()
            .any(|prefix| name.starts_with(prefix))
}

/// The fields that any `Connection` line names: they end here (RFC 9110 section 7.6.1).
fn connection_fields(headers: &HeaderMap) -> Vec<HeaderName> {
    headers
        .get_all(CONNECTION)
        .iter()
        .flat_map(|line| line.as_bytes().split(|byte| *byte == b','))
        .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
        .collect()
}

/// The response to a retry; `None` where the body was not kept.
///
/// `Date` is left to the server, which adds the moment of this message.
pub fn replay(stored: StoredResponse, policy: &Policy) -> Option<Response<Bytes>> {
    let StoredResponse {
        status,
        headers,
        body,
    } = stored;
    let body = body?;
    let bodiless = is_bodiless(status);
    let mut response = Response::new(if bodiless { Bytes::new() } else { body });
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    let length = HeaderValue::from(response.body().len());
    let headers = response.headers_mut();
    headers.remove(CONTENT_LENGTH);
    if !bodiless {
        headers.insert(CONTENT_LENGTH, length);
    }
    for name in &policy.replay_markers {
        headers.insert(name, HeaderValue::from_static("true"));
    }
    Some(response)
}

/// Whether a response of this status ends with its head (RFC 9112 section 6.3).
fn is_bodiless(status: StatusCode) -> bool {
    status.is_informational()
        || status == StatusCode::NO_CONTENT
        || status == StatusCode::NOT_MODIFIED
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    fn one(name: &str) -> HeaderMap {
        let name: HeaderName = name.parse().unwrap();
        HeaderMap::from_iter([(name, HeaderValue::from_static("x"))])
    }

    const P3: &[&str] = &[
        "Connection",
        "Keep-Alive",
        "Proxy-Connection",
        "TE",
        "Trailer",
        "Transfer-Encoding",
        "Upgrade",
        "Proxy-Authenticate",
        "Proxy-Authentication-Info",
        "Proxy-Authorization",
        "Content-Length",
        "Date",
        "Age",
        "Idempotency-Outcome",
    ];

    const P5_P6: &[&str] = &[
        "Set-Cookie",
        "WWW-Authenticate",
        "Authentication-Info",
        "Via",
        "Alt-Svc",
        "Server-Timing",
        "RateLimit",
        "RateLimit-Policy",
        "RateLimit-Remaining",
        "X-RateLimit-Reset",
        "Retry-After",
        "X-Request-Id",
        "traceparent",
        "NEL",
        "Report-To",
        "Clear-Site-Data",
        "Access-Control-Allow-Origin",
        "Access-Control-Expose-Headers",
    ];

    const P7: &[&str] = &[
        "Content-Type",
        "Content-Encoding",
        "Content-Language",
        "Content-Location",
        "Location",
        "ETag",
        "Last-Modified",
        "Link",
        "Vary",
        "Cache-Control",
        "Content-Digest",
        "Repr-Digest",
        "Preference-Applied",
        "Operation-Location",
        "X-Anything",
    ];

    #[test]
    fn the_lists_can_be_searched() {
        assert!(NEVER.is_sorted() && BY_DEFAULT.is_sorted());
    }

    #[test]
    fn p3_p8_p9_fields_of_one_message_are_never_recorded() {
        for name in P3 {
            let kept = HeaderFilter::default().with_kept([name.parse().unwrap()]);
            assert!(kept.record(&one(name)).is_empty(), "{name}");
            assert!(
                HeaderFilter::default().record(&one(name)).is_empty(),
                "{name}"
            );
        }
    }

    #[test]
    fn p5_p6_p7_defaults_and_their_exceptions() {
        for name in P5_P6 {
            let kept = HeaderFilter::default().with_kept([name.parse().unwrap()]);
            assert!(
                HeaderFilter::default().record(&one(name)).is_empty(),
                "{name}"
            );
            assert_eq!(kept.record(&one(name)), one(name), "{name}");
        }
        for name in P7 {
            let dropped = HeaderFilter::default()
                .with_kept([name.parse().unwrap()])
                .with_dropped([name.parse().unwrap()]);
            assert_eq!(
                HeaderFilter::default().record(&one(name)),
                one(name),
                "{name}"
            );
            assert!(dropped.record(&one(name)).is_empty(), "{name}");
        }
    }

    #[test]
    fn p3_fields_named_by_connection_are_dropped() {
        let headers = map(&[
            ("connection", "close, X-A,x-b ,, not a name"),
            ("connection", "X-C\t"),
            ("x-a", "1"),
            ("x-b", "1"),
            ("x-c", "1"),
            ("x-c", "2"),
            ("x-d", "1"),
        ]);
        let filter = HeaderFilter::default().with_kept([HeaderName::from_static("x-a")]);
        assert_eq!(filter.record(&headers), map(&[("x-d", "1")]));
    }

    #[test]
    fn p5_lines_stay_apart_and_in_order() {
        let cookies = map(&[
            ("set-cookie", "a=1, x"),
            ("set-cookie", "b=2"),
            ("set-cookie", "a=1"),
        ]);
        let filter = HeaderFilter::default().with_kept([http::header::SET_COOKIE]);
        let recorded = filter.record(&cookies);
        let lines: Vec<_> = recorded.get_all("set-cookie").iter().collect();
        assert_eq!(lines, ["a=1, x", "b=2", "a=1"]);
    }

    fn stored(
        status: u16,
        lines: &[(&'static str, &'static str)],
        body: &'static str,
    ) -> StoredResponse {
        StoredResponse {
            status: StatusCode::from_u16(status).unwrap(),
            headers: map(lines),
            body: Some(Bytes::from_static(body.as_bytes())),
        }
    }

    #[test]
    fn p1_p2_p4_a_replay_is_the_recorded_response_with_a_marker() {
        // A length in the record can only be wrong: the replay counts for itself.
        let lines = [
            ("location", "/1"),
            ("content-length", "99"),
            ("idempotent-replayed", "false"),
        ];
        let response = replay(stored(201, &lines, "paid"), &Policy::default()).unwrap();
        assert_eq!(response.status(), 201);
        assert_eq!(response.body(), "paid");
        let expected = [
            ("location", "/1"),
            ("content-length", "4"),
            ("idempotent-replayed", "true"),
        ];
        assert_eq!(*response.headers(), map(&expected));
    }

    #[test]
    fn p2_markers_can_be_named() {
        let names = ["idempotency-replayed", "x-replay"].map(HeaderName::from_static);
        let policy = Policy::default().with_replay_markers(names);
        let response = replay(stored(200, &[], ""), &policy).unwrap();
        let expected = [
            ("content-length", "0"),
            ("idempotency-replayed", "true"),
            ("x-replay", "true"),
        ];
        assert_eq!(*response.headers(), map(&expected));
    }

    #[test]
    fn p4_p14_statuses_without_a_body_have_no_length() {
        let policy = Policy::default().with_replay_markers([]);
        for status in [100, 103, 204, 304] {
            let response = replay(stored(status, &[("content-length", "4")], "oops"), &policy);
            let response = response.unwrap();
            assert!(
                response.headers().is_empty() && response.body().is_empty(),
                "{status}"
            );
        }
        for status in [201, 205, 303, 404, 500] {
            let response = replay(stored(status, &[], ""), &policy).unwrap();
            assert_eq!(response.headers()["content-length"], "0", "{status}");
        }
    }

    #[test]
    fn p16_a_body_that_was_not_kept_cannot_be_replayed() {
        let response = StoredResponse {
            body: None,
            ..stored(200, &[], "")
        };
        assert!(replay(response, &Policy::default()).is_none());
    }
}
