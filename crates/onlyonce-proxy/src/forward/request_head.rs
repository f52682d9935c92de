//! Turns the head a client sent into the one the upstream gets.

use http::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, HOST, HeaderValue, MAX_FORWARDS, TE, TRAILER,
    TRANSFER_ENCODING, UPGRADE,
};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{Method, StatusCode, Uri, Version};
use http_body::Body as _;

use super::outgoing::Outgoing;
use super::settings::{ForwardSettings, HostPolicy};
use crate::headers::{
    Forwarding, Peer, accepts_trailers, drop_ambiguous, states_length, strip_hop_by_hop,
    upgrade_protocol,
};

/// Why a request is not forwarded at all: the answer to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    pub(crate) detail: &'static str,
}

/// Rewrites a request's head. Returns the protocol to switch to, if that was asked for and `may_upgrade`.
///
/// The target stays as it is, byte for byte, less the authority of the absolute form: that decides `Host`
/// and never where the request goes.
pub(crate) fn prepare(
    parts: &mut Parts,
    settings: &ForwardSettings,
    peer: Option<&Peer>,
    may_upgrade: bool,
) -> Result<Option<HeaderValue>, Refusal> {
    refuse_methods(&parts.method)?;
    if settings.via.has_passed(&parts.headers) {
        return Err(Refusal {
            status: StatusCode::LOOP_DETECTED,
            detail: "the request has passed through this proxy before",
        });
    }
    count_down(parts)?;
    let asked_host = asked_host(parts);
    let received = parts.version;
    parts.uri = origin_form(&parts.uri, &parts.method);
    parts.version = Version::HTTP_11;
    // What others left there is not for the upstream, and hyper reads some of it.
    parts.extensions.clear();

    let headers = &mut parts.headers;
    let may_upgrade = may_upgrade && received == Version::HTTP_11;
    let upgrade = may_upgrade
        .then(|| upgrade_protocol(headers))
        .flatten()
        .and_then(|protocol| HeaderValue::from_str(protocol).ok());
    let wants_trailers = accepts_trailers(headers);

    // For the fields below, at once.
    headers.reserve(FIELDS_ADDED);
    // First strip, then add: see `crate::headers`.
    strip_hop_by_hop(headers);
    drop_ambiguous(headers, &settings.protected_names);
    // Our server has answered it, and request trailers are discarded.
    headers.remove(EXPECT);
    headers.remove(TRAILER);

    if let Some(peer) = peer {
        let forwarding = Forwarding {
            peer,
            host: asked_host.as_ref(),
            scheme: "http",
        };
        forwarding.write(headers);
    }
    settings.via.append(headers, received);
    let host = match (settings.host, asked_host) {
        (HostPolicy::Preserve, Some(host)) => host,
        _ => settings.upstream.authority.clone(),
    };
    headers.insert(HOST, host);
    if wants_trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
        headers.insert(CONNECTION, HeaderValue::from_static("te"));
    }
    if let Some(protocol) = &upgrade {
        headers.insert(UPGRADE, protocol.clone());
        headers.append(CONNECTION, HeaderValue::from_static("upgrade"));
    }
    Ok(upgrade)
}

/// The most fields that a request gets more than it had: forwarding, `Via`, `TE`, `Connection` and framing.
const FIELDS_ADDED: usize = 9;

/// States the body's framing, which is ours whatever the client's was.
pub(crate) fn frame(parts: &mut Parts, body: &Outgoing) {
    let exact = body.size_hint().exact();
    let mut stated = parts.headers.get_all(CONTENT_LENGTH).iter();
    if let (Some(length), Some(value), None) = (exact, stated.next(), stated.next())
        && states_length(value, length)
    {
        return;
    }
    let had_length = parts.headers.remove(CONTENT_LENGTH).is_some();
    match exact {
        Some(0) if !had_length && !expects_content(&parts.method) => {}
        Some(length) => drop(parts.headers.insert(CONTENT_LENGTH, length.into())),
        // Said here because hyper would send a GET without its chunks.
        None => {
            let chunked = HeaderValue::from_static("chunked");
            parts.headers.insert(TRANSFER_ENCODING, chunked);
        }
    }
}

/// Methods whose requests without content say so (RFC 9110 section 8.6).
fn expects_content(method: &Method) -> bool {
    matches!(*method, Method::POST | Method::PUT | Method::PATCH)
}

fn refuse_methods(method: &Method) -> Result<(), Refusal> {
    match *method {
        // A tunnel to anywhere is not what this proxy is for.
        Method::CONNECT => Err(Refusal {
            status: StatusCode::NOT_IMPLEMENTED,
            detail: "CONNECT is not supported",
        }),
        // It would show the client the fields that were added on the way.
        Method::TRACE => Err(Refusal {
            status: StatusCode::METHOD_NOT_ALLOWED,
            detail: "TRACE is not allowed",
        }),
        _ => Ok(()),
    }
}

/// `Max-Forwards` (RFC 9110 section 7.6.2), which counts for `OPTIONS` only.
fn count_down(parts: &mut Parts) -> Result<(), Refusal> {
    if parts.method != Method::OPTIONS {
        return Ok(());
    }
    let Some(value) = parts.headers.get(MAX_FORWARDS) else {
        return Ok(());
    };
    let left: Option<u32> = value.to_str().ok().and_then(|value| value.parse().ok());
    match left {
        Some(0) => Err(Refusal {
            status: StatusCode::NO_CONTENT,
            detail: "",
        }),
        Some(left) => {
            parts.headers.insert(MAX_FORWARDS, (left - 1).into());
            Ok(())
        }
        None => Ok(()),
    }
}

/// The authority that the client asked for: the target's, if it has one, else `Host` (RFC 9112 section
/// 3.2.2).
fn asked_host(parts: &Parts) -> Option<HeaderValue> {
    match parts.uri.authority() {
        Some(authority) => HeaderValue::from_str(authority.as_str()).ok(),
        None => parts.headers.get(HOST).cloned(),
    }
}

/// The target without scheme and authority.
fn origin_form(uri: &Uri, method: &Method) -> Uri {
    let target = match uri.path_and_query() {
        // `OPTIONS http://host` asks about the server as a whole (RFC 9112 section 3.2.4).
        _ if *method == Method::OPTIONS && uri.authority().is_some() && has_no_path(uri) => {
            PathAndQuery::from_static("*")
        }
        Some(target) => target.clone(),
        None => PathAndQuery::from_static("/"),
    };
    Uri::from(target)
}

fn has_no_path(uri: &Uri) -> bool {
    // `Uri::path` says `/` for both; what is printed tells them apart only by length.
    uri.path_and_query()
        .is_none_or(|target| target.as_str() == "/")
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn settings() -> ForwardSettings {
        let mut settings = ForwardSettings::new("http://upstream:9000".parse().unwrap());
        settings.via = crate::headers::Via::new("edge").unwrap();
        settings
    }

    fn request(method: &str, target: &str, lines: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().method(method).uri(target);
        for (name, value) in lines {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn prepared(mut parts: Parts) -> Parts {
        let peer = Peer::new("192.0.2.1".parse().unwrap(), false);
        prepare(&mut parts, &settings(), Some(&peer), true).unwrap();
        parts
    }

    #[test]
    fn targets_stay_byte_for_byte() {
        for target in [
            "/",
            "//",
            "/a//b",
            "/./a/../b",
            "/%2F%2f",
            "/a;b=c",
            "/a?",
            "/?",
            "/a?b?c",
            "/a+b?c+d",
            "/%FF%00",
            "/a?%",
            "/a%",
            "/~!$&'()*,=:@",
            "/{x}|\"",
            "/ä",
        ] {
            let parts = prepared(request("GET", target, &[("host", "shop")]));
            assert_eq!(parts.uri.to_string(), target);
        }
    }

    #[test]
    fn an_absolute_target_decides_host_and_nothing_else() {
        let cases = [
            ("GET", "http://bank.example/x?y", "/x?y"),
            ("GET", "http://bank.example", "/"),
            ("GET", "http://bank.example?y", "/?y"),
            ("OPTIONS", "http://bank.example", "*"),
        ];
        for (method, given, expected) in cases {
            let parts = prepared(request(method, given, &[("host", "shop")]));
            assert_eq!(parts.uri.to_string(), expected, "{given}");
            assert_eq!(parts.headers[HOST], "bank.example");
            assert_eq!(parts.headers["x-forwarded-host"], "bank.example");
        }
        let parts = prepared(request("OPTIONS", "*", &[("host", "shop")]));
        assert_eq!(
            (parts.uri.to_string().as_str(), &parts.headers[HOST]),
            ("*", &"shop".parse().unwrap())
        );
    }

    #[test]
    fn connection_can_not_name_away_what_we_add() {
        let hostile =
            "host, via, x-forwarded-for, forwarded, x-real-ip, content-length, idempotency-key";
        let parts = prepared(request(
            "POST",
            "/",
            &[
                ("host", "shop"),
                ("connection", hostile),
                ("idempotency-key", "k"),
                ("x-real-ip", "1"),
            ],
        ));
        assert_eq!(parts.headers[HOST], "shop");
        assert_eq!(parts.headers["via"], "1.1 edge");
        assert_eq!(parts.headers["x-forwarded-for"], "192.0.2.1");
        assert_eq!(parts.headers["x-real-ip"], "192.0.2.1");
        assert!(!parts.headers.contains_key("idempotency-key"));
        assert!(!parts.headers.contains_key(CONNECTION));
    }

    #[test]
    fn host_is_preserved_or_rewritten() {
        let mut rewriting = settings();
        rewriting.host = HostPolicy::Rewrite;
        let mut parts = request("GET", "/", &[("host", "shop")]);
        let peer = Peer::new("192.0.2.1".parse().unwrap(), false);
        prepare(&mut parts, &rewriting, Some(&peer), false).unwrap();
        assert_eq!(parts.headers[HOST], "upstream:9000");
        assert_eq!(parts.headers["x-forwarded-host"], "shop");
        // HTTP/1.0 may come without any.
        assert_eq!(
            prepared(request("GET", "/", &[])).headers[HOST],
            "upstream:9000"
        );
    }

    #[test]
    fn some_requests_end_here() {
        let cases = [
            (request("CONNECT", "a:1", &[]), 501),
            (request("TRACE", "/", &[]), 405),
            (request("GET", "/", &[("via", "1.1 edge")]), 508),
            (request("OPTIONS", "/", &[("max-forwards", "0")]), 204),
        ];
        for (mut parts, status) in cases {
            let refusal = prepare(&mut parts, &settings(), None, true).unwrap_err();
            assert_eq!(refusal.status, status);
        }
        let parts = prepared(request("OPTIONS", "/", &[("max-forwards", "7")]));
        assert_eq!(parts.headers[MAX_FORWARDS], "6");
        let parts = prepared(request("GET", "/", &[("max-forwards", "0")]));
        assert_eq!(parts.headers[MAX_FORWARDS], "0");
    }

    #[test]
    fn expectation_and_trailer_announcement_are_not_passed_on() {
        let lines = [
            ("expect", "100-continue"),
            ("trailer", "x"),
            ("te", "trailers, gzip"),
        ];
        let parts = prepared(request("POST", "/", &lines));
        assert!(!parts.headers.contains_key(EXPECT));
        assert!(!parts.headers.contains_key(TRAILER));
        assert_eq!(parts.headers[TE], "trailers");
        assert_eq!(parts.headers[CONNECTION], "te");
    }

    #[test]
    fn framing_is_stated_anew() {
        type Case = (
            &'static str,
            &'static [(&'static str, &'static str)],
            Outgoing,
            Option<&'static str>,
        );
        let cases: &[Case] = &[
            ("GET", &[], Outgoing::Empty, None),
            (
                "GET",
                &[("content-length", "0")],
                Outgoing::Empty,
                Some("0"),
            ),
            ("POST", &[], Outgoing::Empty, Some("0")),
            ("DELETE", &[], Outgoing::Whole("abc".into()), Some("3")),
            (
                "POST",
                &[("content-length", "9")],
                Outgoing::Whole("abc".into()),
                Some("3"),
            ),
        ];
        for (method, lines, body, length) in cases {
            let mut parts = request(method, "/", lines);
            frame(&mut parts, body);
            let stated = parts
                .headers
                .get(CONTENT_LENGTH)
                .map(|value| value.to_str().unwrap());
            assert_eq!(stated, *length, "{method} {lines:?}");
        }
    }
}
