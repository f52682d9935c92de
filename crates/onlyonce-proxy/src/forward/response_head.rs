//! Turns the head an upstream sent into the one the client gets, or refuses it.

use std::time::Duration;

use http::header::{CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue, TRANSFER_ENCODING};
use http::response::Parts;
use http::{StatusCode, Version};

use crate::headers::{members, states_length, strip_hop_by_hop};

/// What a response's head says to us rather than to the client.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Received {
    /// How long the connection may be kept; zero: not at all.
    pub(crate) keep: Duration,
    /// The names that `Connection` listed.
    pub(crate) hop_by_hop: Vec<HeaderName>,
}

/// A response that no proxy may pass on (RFC 9112 section 6.3): its end is a matter of opinion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InvalidResponse {
    #[error("both Transfer-Encoding and Content-Length")]
    TwoLengths,
    #[error("a transfer coding other than chunked")]
    TransferCoding,
    #[error("a Content-Length that is no number, or several")]
    ContentLength,
    #[error("101 without having been asked to switch protocols")]
    UnsolicitedUpgrade,
}

/// Checks and cleans a response's head. `keep_max` is how long its connection is kept at most.
pub(crate) fn receive(parts: &mut Parts, keep_max: Duration) -> Result<Received, InvalidResponse> {
    check_framing(parts)?;
    let keep = match parts.version {
        // hyper would go on in HTTP/1.0 and cut bodies of unknown length to nothing.
        Version::HTTP_10 => Duration::ZERO,
        _ => announced_keep(&parts.headers).map_or(keep_max, |keep| keep.min(keep_max)),
    };
    parts.version = Version::HTTP_11;
    let hop_by_hop = strip_hop_by_hop(&mut parts.headers);
    Ok(Received { keep, hop_by_hop })
}

/// Stricter than hyper: it lets `Transfer-Encoding` win over `Content-Length`, which would then be
/// passed on with a body of another length.
fn check_framing(parts: &mut Parts) -> Result<(), InvalidResponse> {
    let mut codings = parts.headers.get_all(TRANSFER_ENCODING).iter();
    if let Some(coding) = codings.next() {
        if parts.headers.contains_key(CONTENT_LENGTH) {
            return Err(InvalidResponse::TwoLengths);
        }
        if codings.next().is_some() || !coding.as_bytes().eq_ignore_ascii_case(b"chunked") {
            return Err(InvalidResponse::TransferCoding);
        }
    }
    if parts.status == StatusCode::NO_CONTENT || parts.status.is_informational() {
        parts.headers.remove(CONTENT_LENGTH);
    } else if let Some(length) = one_length(&parts.headers)? {
        let mut stated = parts.headers.get_all(CONTENT_LENGTH).iter();
        let is_plain = stated
            .next()
            .is_some_and(|value| states_length(value, length))
            && stated.next().is_none();
        if !is_plain {
            parts.headers.insert(CONTENT_LENGTH, length.into());
        }
    }
    Ok(())
}

/// The length that all `Content-Length` members agree on.
fn one_length(headers: &HeaderMap) -> Result<Option<u64>, InvalidResponse> {
    let mut agreed = None;
    for line in headers.get_all(CONTENT_LENGTH) {
        let length = agreed_length(line)?;
        if agreed.is_some_and(|agreed| agreed != length) {
            return Err(InvalidResponse::ContentLength);
        }
        agreed = Some(length);
    }
    Ok(agreed)
}

fn agreed_length(line: &HeaderValue) -> Result<u64, InvalidResponse> {
    let mut agreed = None;
    for member in members(line) {
        // `parse` alone would take a sign.
        let is_number = member.bytes().all(|byte| byte.is_ascii_digit());
        let length = member.parse().ok().filter(|_| is_number);
        if length.is_none() || agreed.is_some_and(|agreed| Some(agreed) != length) {
            return Err(InvalidResponse::ContentLength);
        }
        agreed = length;
    }
    agreed.ok_or(InvalidResponse::ContentLength)
}

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

/// What `Keep-Alive: timeout=n` leaves us, with a second for the way.
fn announced_keep(headers: &HeaderMap) -> Option<Duration> {
    let lines = headers.get_all(KEEP_ALIVE).iter();
    let seconds = lines.flat_map(members).find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        let is_timeout = name.trim().eq_ignore_ascii_case("timeout");
        value.trim().parse().ok().filter(|_: &u64| is_timeout)
    })?;
    Some(Duration::from_secs(seconds.saturating_sub(1)))
}

#[cfg(test)]
mod tests {
    use http::Response;

    use super::*;

    const KEEP_MAX: Duration = Duration::from_secs(4);

    fn response(status: u16, lines: &[(&str, &str)]) -> Parts {
        let mut response = Response::builder().status(status);
        for (name, value) in lines {
            response = response.header(*name, *value);
        }
        response.body(()).unwrap().into_parts().0
    }

    #[test]
    fn framing_has_one_reading_or_is_refused() {
        use InvalidResponse::*;
        type Case = (
            &'static [(&'static str, &'static str)],
            Result<Option<&'static str>, InvalidResponse>,
        );
        let cases: &[Case] = &[
            (&[], Ok(None)),
            (&[("content-length", "5")], Ok(Some("5"))),
            (&[("content-length", "5, 5")], Ok(Some("5"))),
            (
                &[("content-length", "5"), ("content-length", "5")],
                Ok(Some("5")),
            ),
            (
                &[("content-length", "5"), ("content-length", "6")],
                Err(ContentLength),
            ),
            (&[("content-length", "5, 6")], Err(ContentLength)),
            (&[("content-length", "+5")], Err(ContentLength)),
            (&[("content-length", "5x")], Err(ContentLength)),
            (&[("content-length", "")], Err(ContentLength)),
            (
                &[("content-length", "99999999999999999999999")],
                Err(ContentLength),
            ),
            (&[("transfer-encoding", "Chunked")], Ok(None)),
            (
                &[("transfer-encoding", "chunked"), ("content-length", "5")],
                Err(TwoLengths),
            ),
            (
                &[("transfer-encoding", "gzip, chunked")],
                Err(TransferCoding),
            ),
            (&[("transfer-encoding", "identity")], Err(TransferCoding)),
            (
                &[
                    ("transfer-encoding", "gzip"),
                    ("transfer-encoding", "chunked"),
                ],
                Err(TransferCoding),
            ),
        ];
        for (lines, expected) in cases {
            let mut parts = response(200, lines);
            let length = receive(&mut parts, KEEP_MAX).map(|_| {
                let length = parts.headers.get(CONTENT_LENGTH);
                length.map(|length| length.to_str().unwrap())
            });
            assert_eq!(length, *expected, "{lines:?}");
        }
    }

    #[test]
    fn no_content_has_no_length() {
        let mut parts = response(204, &[("content-length", "0")]);
        receive(&mut parts, KEEP_MAX).unwrap();
        assert!(parts.headers.is_empty());
    }

    #[test]
    fn connections_are_kept_as_long_as_is_safe() {
        let cases = [
            ("", 4),
            ("timeout=5", 4),
            ("timeout=3", 2),
            ("max=10, Timeout = 2", 1),
            ("timeout=1", 0),
            ("timeout=0", 0),
            ("timeout=x", 4),
        ];
        for (value, expected) in cases {
            let mut parts = response(200, &[("keep-alive", value)]);
            let received = receive(&mut parts, KEEP_MAX).unwrap();
            assert_eq!(received.keep, Duration::from_secs(expected), "{value}");
        }
        let mut old = response(200, &[("connection", "keep-alive")]);
        old.version = Version::HTTP_10;
        assert_eq!(receive(&mut old, KEEP_MAX).unwrap().keep, Duration::ZERO);
    }

    #[test]
    fn hop_by_hop_fields_are_removed_and_remembered() {
        let lines = [
            ("connection", "x-a"),
            ("x-a", "1"),
            ("set-cookie", "a"),
            ("set-cookie", "b"),
        ];
        let mut parts = response(200, &lines);
        let received = receive(&mut parts, KEEP_MAX).unwrap();
        assert_eq!(received.hop_by_hop, ["x-a"]);
        let cookies: Vec<_> = parts.headers.get_all("set-cookie").iter().collect();
        assert_eq!(cookies, ["a", "b"]);
        assert_eq!(parts.headers.len(), 2);
    }
}
