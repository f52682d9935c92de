//! Names that become another field's name inside the upstream.
//!
//! CGI, WSGI and their descendants turn `Idempotency-Key` and `Idempotency_Key` into the same
//! `HTTP_IDEMPOTENCY_KEY`. A client that sends the second could pass a key by the guard, or an address by
//! the trust rules for `X-Forwarded-For`.

use http::HeaderName;
use http::header::HeaderMap;

use super::remove_where;

/// Fields whose underscore twins are never passed on.
pub const PROTECTED: [&str; 23] = [
    "authorization",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "cookie",
    "forwarded",
    "host",
    "idempotency-key",
    "idempotency-outcome",
    "proxy-authorization",
    "transfer-encoding",
    "via",
    "x-api-key",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-prefix",
    "x-forwarded-proto",
    "x-forwarded-server",
    "x-forwarded-ssl",
    "x-idempotency-key",
    "x-real-ip",
];

/// Removes fields whose name, with `_` read as `-`, is in [`PROTECTED`] or `also`.
pub fn drop_ambiguous(headers: &mut HeaderMap, also: &[HeaderName]) {
    // Nearly no request has such a name: nothing is allocated for those that have not.
    let is_twin = |name: &HeaderName| {
        let name = name.as_str();
        name.contains('_') && {
            let plain = name.replace('_', "-");
            PROTECTED.contains(&plain.as_str()) || also.iter().any(|other| other == plain.as_str())
        }
    };
    remove_where(headers, is_twin);
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    /// A field that strangers are not believed in is not believed under its other name either.
    #[test]
    fn what_strangers_may_not_say_has_no_twin() {
        for name in crate::headers::forwarded::SAID_BY_PEERS {
            assert!(PROTECTED.contains(&name), "{name}");
        }
    }

    #[test]
    fn only_twins_of_protected_names_go() {
        let mut headers = HeaderMap::new();
        for name in [
            "idempotency_key",
            "idempotency-key",
            "x-forwarded_for",
            "x_forwarded_for",
            "content_length",
            "x_request_token",
            "x_own_key",
            "x_own-thing",
        ] {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static("1"));
        }
        drop_ambiguous(&mut headers, &[HeaderName::from_static("x-own-key")]);
        let mut kept: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        kept.sort_unstable();
        assert_eq!(kept, ["idempotency-key", "x_own-thing", "x_request_token"]);
    }
}
