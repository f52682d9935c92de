//! Requests that hyper lets through and HTTP does not.

use http::header::{HOST, HeaderValue, TRANSFER_ENCODING};
use http::uri::Authority;
use http::{Method, Request, StatusCode, Version};

/// Looks at a request's framing and `Host` (RFC 9112 sections 3.2 and 6.1).
///
/// # Errors
/// The status to answer with, and why. The connection must end with that answer: what follows on it is a
/// matter of opinion.
pub(crate) fn screen<B>(request: &Request<B>) -> Result<(), (StatusCode, &'static str)> {
    let bad = |reason| Err((StatusCode::BAD_REQUEST, reason));
    // What a client sends behind it is meant for a tunnel, and may look like a request.
    if request.method() == Method::CONNECT {
        return Err((StatusCode::NOT_IMPLEMENTED, "CONNECT is not supported"));
    }
    let mut codings = request.headers().get_all(TRANSFER_ENCODING).iter();
    if let Some(coding) = codings.next() {
        if codings.next().is_some() {
            return bad("more than one Transfer-Encoding field");
        }
        if !coding.as_bytes().eq_ignore_ascii_case(b"chunked") {
            return Err((
                StatusCode::NOT_IMPLEMENTED,
                "a transfer coding other than chunked",
            ));
        }
    }

    let mut hosts = request.headers().get_all(HOST).iter();
    match (hosts.next(), hosts.next()) {
        (Some(_), Some(_)) => return bad("more than one Host field"),
        (Some(host), None) if !is_host(host) => return bad("the Host field is no host"),
        (None, _) if request.version() == Version::HTTP_11 => return bad("no Host field"),
        _ => {}
    }

    let uri = request.uri();
    if uri
        .authority()
        .is_some_and(|authority| authority.as_str().contains('@'))
    {
        return bad("credentials in the request target");
    }
    if uri.scheme().is_some() && !matches!(uri.scheme_str(), Some("http" | "https")) {
        return bad("a scheme other than http and https");
    }
    let is_asterisk = uri.path() == "*";
    if is_asterisk && request.method() != Method::OPTIONS {
        return bad("the target * is for OPTIONS only");
    }
    // `http` takes a bare `host:port` for a target too; only CONNECT has those.
    if uri.authority().is_some() && uri.scheme().is_none() {
        return bad("the request target is no path");
    }
    Ok(())
}

/// A host with an optional port. Empty is allowed: it is what a target without authority calls for.
fn is_host(value: &HeaderValue) -> bool {
    let Ok(text) = value.to_str() else {
        return false;
    };
    if is_plain_host(text) {
        return true;
    }
    text.is_empty()
        || (!text.contains('@') && text.parse::<Authority>().is_ok_and(has_port_or_none))
}

/// Nearly all are: a name or an IPv4 address, with or without a port. Saves the general parser's copy.
fn is_plain_host(text: &str) -> bool {
    let (host, port) = text.split_once(':').unwrap_or((text, "1"));
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-');
    !host.is_empty()
        && host.bytes().all(is_plain)
        && port.bytes().all(|byte| byte.is_ascii_digit())
        && port.parse::<u16>().is_ok()
}

fn has_port_or_none(authority: Authority) -> bool {
    let rest = &authority.as_str()[authority.host().len()..];
    !authority.host().is_empty()
        && (rest.is_empty() || rest == ":" || authority.port_u16().is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(method: &str, target: &str, lines: &[(&str, &str)]) -> Request<()> {
        let mut request = Request::builder().method(method).uri(target);
        for (name, value) in lines {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap()
    }

    #[test]
    fn one_valid_host() {
        let cases: &[(&[(&str, &str)], bool)] = &[
            (&[], false),
            (&[("host", "a")], true),
            (&[("host", "a:8080")], true),
            (&[("host", "a:")], true),
            (&[("host", "[::1]:80")], true),
            (&[("host", "")], true),
            (&[("host", "a"), ("host", "a")], false),
            (&[("host", "a b")], false),
            (&[("host", "a/b")], false),
            (&[("host", "a,b")], true), // a sub-delimiter of RFC 3986: a strange host, but one
            (&[("host", "u@a")], false),
            (&[("host", ":80")], false),
            (&[("host", "a:x")], false),
            (&[("host", "a:99999")], false),
            (&[("host", "a?")], false),
        ];
        for (lines, valid) in cases {
            let outcome = screen(&request("GET", "/", lines));
            assert_eq!(outcome.is_ok(), *valid, "{lines:?} {outcome:?}");
        }
        let mut old = request("GET", "/", &[]);
        *old.version_mut() = Version::HTTP_10;
        screen(&old).unwrap();
    }

    #[test]
    fn targets_fit_their_method() {
        let host = [("host", "a")];
        for (method, target, valid) in [
            ("GET", "/", true),
            ("GET", "http://b/c", true),
            ("GET", "ftp://b/c", false),
            ("GET", "http://u@b/c", false),
            ("GET", "*", false),
            ("OPTIONS", "*", true),
            ("GET", "a:80", false),
            ("CONNECT", "a:80", false),
        ] {
            let outcome = screen(&request(method, target, &host));
            assert_eq!(outcome.is_ok(), valid, "{method} {target} {outcome:?}");
        }
    }

    #[test]
    fn chunked_is_the_only_transfer_coding() {
        for (lines, status) in [
            (&[("transfer-encoding", "Chunked")][..], None),
            (&[("transfer-encoding", "gzip, chunked")], Some(501)),
            (&[("transfer-encoding", "xchunked")], Some(501)),
            (
                &[
                    ("transfer-encoding", "chunked"),
                    ("transfer-encoding", "chunked"),
                ],
                Some(400),
            ),
        ] {
            let mut request = request("POST", "/", lines);
            request
                .headers_mut()
                .insert(HOST, HeaderValue::from_static("a"));
            let refused = screen(&request).err().map(|(status, _)| status.as_u16());
            assert_eq!(refused, status, "{lines:?}");
        }
    }
}
