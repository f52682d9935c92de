//! Fields that concern one connection and end at it.

use http::header::{CONNECTION, HeaderMap, HeaderName, TE, UPGRADE};

use super::{members, remove_where};

/// Removed whether or not `Connection` names them (RFC 9110 section 7.6.1).
///
/// `Trailer` stays: it describes the trailer section, which is passed on in responses.
fn is_hop_by_hop(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection"
            | "keep-alive"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "proxy-connection"
            | "te"
            | "transfer-encoding"
            | "upgrade"
    )
}

/// Removes connection-level fields: those named by *every* `Connection` line, then the fixed list.
///
/// Returns the further names that `Connection` listed; they are unwelcome in the trailer section too.
pub fn strip_hop_by_hop(headers: &mut HeaderMap) -> Vec<HeaderName> {
    if !headers.keys().any(is_hop_by_hop) {
        return Vec::new();
    }
    // All lines are read before the first is removed: `remove` would take them all at once.
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .flat_map(members)
        // By far the most frequent, and removed in any case.
        .filter(|name| !name.eq_ignore_ascii_case("keep-alive"))
        .filter_map(|name| HeaderName::from_bytes(name.as_bytes()).ok())
        .collect();
    remove_where(headers, is_hop_by_hop);
    // One by one: a sender can name tens of thousands, which are not to be compared with each field's.
    for name in &named {
        headers.remove(name);
    }
    named
}

/// Whether the sender takes a trailer section (`TE: trailers`).
pub fn accepts_trailers(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(TE).iter().flat_map(members);
    codings.any(|coding| coding.eq_ignore_ascii_case("trailers"))
}

/// The protocol that the sender wants to switch to, if it asked properly: one `Upgrade` field of one
/// protocol, with `Connection: upgrade`.
///
/// Never `h2c`: the bytes behind it would be requests that nobody here has looked at.
pub fn upgrade_protocol(headers: &HeaderMap) -> Option<&str> {
    let mut protocols = headers.get_all(UPGRADE).iter().flat_map(members);
    let mut options = headers.get_all(CONNECTION).iter().flat_map(members);
    match (protocols.next(), protocols.next()) {
        (Some(protocol), None)
            if options.any(|option| option.eq_ignore_ascii_case("upgrade"))
                && !protocol.eq_ignore_ascii_case("h2c") =>
        {
            Some(protocol)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    type Lines = &'static [(&'static str, &'static str)];

    fn headers(lines: Lines) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in lines {
            map.append(*name, HeaderValue::from_static(value));
        }
        map
    }

    /// The names left, sorted: removal reorders fields of different names, which have no order.
    fn stripped(lines: Lines) -> Vec<String> {
        let mut map = headers(lines);
        strip_hop_by_hop(&mut map);
        let mut names: Vec<_> = map.keys().map(|name| name.as_str().to_owned()).collect();
        names.sort();
        names
    }

    #[test]
    fn names_of_every_connection_line_go() {
        let cases: &[(Lines, &[&str])] = &[
            (
                &[
                    ("connection", "close, X-Foo"),
                    ("x-foo", "1"),
                    ("x-bar", "2"),
                ],
                &["x-bar"],
            ),
            (
                &[
                    ("connection", "x-a"),
                    ("connection", "x-b"),
                    ("x-a", "1"),
                    ("x-b", "1"),
                ],
                &[],
            ),
            (
                &[("connection", " ,x-a\t,, x-b "), ("x-a", "1"), ("x-b", "1")],
                &[],
            ),
            (&[("x-a", "1"), ("x-a", "2"), ("connection", "x-a")], &[]),
            (&[("connection", "not a name, x-a"), ("x-a", "1")], &[]),
            (
                &[
                    ("connection", "host, content-length"),
                    ("host", "a"),
                    ("content-length", "1"),
                ],
                &[],
            ),
            (
                &[("connection", "idempotency-key"), ("idempotency-key", "k")],
                &[],
            ),
        ];
        for (given, kept) in cases {
            assert_eq!(&stripped(given), kept, "{given:?}");
        }
    }

    #[test]
    fn fixed_list_goes_unlisted_and_the_rest_stays() {
        let given: Lines = &[
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "close"),
            ("proxy-authenticate", "Basic"),
            ("proxy-authorization", "Basic QQ=="),
            ("te", "gzip"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "websocket"),
            ("trailer", "x-sum"),
            ("x-unknown", "kept"),
            ("authorization", "kept"),
        ];
        assert_eq!(stripped(given), ["authorization", "trailer", "x-unknown"]);
    }

    #[test]
    fn upgrades_need_both_fields_and_one_protocol() {
        let cases: &[(Lines, Option<&str>)] = &[
            (
                &[
                    ("connection", "keep-alive, Upgrade"),
                    ("upgrade", "websocket"),
                ],
                Some("websocket"),
            ),
            (
                &[
                    ("connection", "a"),
                    ("connection", "upgrade"),
                    ("upgrade", "x"),
                ],
                Some("x"),
            ),
            (&[("upgrade", "websocket")], None),
            (&[("connection", "upgrade")], None),
            (&[("connection", "upgrade"), ("upgrade", "h2c")], None),
            (&[("connection", "upgrade"), ("upgrade", "H2C")], None),
            (
                &[("connection", "upgrade"), ("upgrade", "websocket, h2c")],
                None,
            ),
        ];
        for (given, protocol) in cases {
            assert_eq!(upgrade_protocol(&headers(given)), *protocol, "{given:?}");
        }
    }

    #[test]
    fn trailers_are_accepted_by_te() {
        assert!(accepts_trailers(&headers(&[(
            "te",
            "gzip;q=0.5, Trailers"
        )])));
        assert!(!accepts_trailers(&headers(&[("te", "gzip")])));
    }
}
