//! What a request asks for, in 32 bytes: two requests with one key and different fingerprints are a
//! reused key.
//!
//! Part of it are the raw query, the content type and the content encoding (both normalised as far as
//! RFC 9110 says that spelling does not matter), the headers that the policy names, and the body. Not part
//! of it is how the request travelled: chunks or `Content-Length`, header order, credentials, tracing. Those
//! change between an attempt and its retry.
//!
//! The body counts by its bytes, unless the policy asks for [`json`] by value.
//!
//! ```
//! use onlyonce::fingerprint::fingerprint;
//! use onlyonce::policy::{BodyFingerprint, Policy};
//!
//! let request = http::Request::post("/").header("content-type", "application/json").body(()).unwrap();
//! let (parts, ()) = request.into_parts();
//! let by_value = Policy::default().with_body_fingerprint(BodyFingerprint::CanonicalJson);
//! assert_eq!(
//!     fingerprint(&by_value, &parts, br#"{"amount": 1.0, "to": "a"}"#),
//!     fingerprint(&by_value, &parts, br#"{"to":"a","amount":1}"#),
//! );
//! ```

use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use http::request::Parts;

use crate::fields::{Fields, Purpose};
use crate::policy::{BodyFingerprint, Policy};
use crate::record::Fingerprint;
use crate::scope::Scope;

pub mod json;
mod media_type;

use self::media_type::MediaType;

static FINGERPRINT: Purpose = Purpose::new("onlyonce 2026-11 fingerprint v1");

/// The fingerprint of a request whose body, after transfer decoding, is `body`.
///
/// An absent body is an empty one. In [`Scope::Account`] method and path count too, since there the
/// record's id leaves them out.
pub fn fingerprint(policy: &Policy, parts: &Parts, body: &[u8]) -> Fingerprint {
    let target = policy.target_of(parts);
    let route = match policy.scope {
        Scope::Route => None,
        Scope::Account => Some([parts.method.as_str(), &*target.path]),
    };
    let mut fields = Fields::new(&FINGERPRINT);
    fields
        .list(route.into_iter().flatten())
        .optional(target.query.as_deref())
        .list(&policy.fingerprint_headers);
    for name in &policy.fingerprint_headers {
        fields.list(parts.headers.get_all(name));
    }
    add_body(&mut fields, policy.body_fingerprint, parts, body);
    Fingerprint::from_bytes(fields.finish())
}

fn add_body(fields: &mut Fields, how: BodyFingerprint, parts: &Parts, body: &[u8]) {
    let json = match how {
        BodyFingerprint::Ignored => {
            fields.field("ignored");
            return;
        }
        BodyFingerprint::Raw => None,
        BodyFingerprint::CanonicalJson if !is_plain_json(parts) => None,
        BodyFingerprint::CanonicalJson => json::digest(body),
    };
    match json {
        Some(digest) => described(fields.field("json"), parts).field(digest),
        None => described(fields.field("raw"), parts).field(body),
    };
}

/// Adds the headers that say what the body is.
fn described<'f>(fields: &'f mut Fields, parts: &Parts) -> &'f mut Fields {
    let types = parts.headers.get_all(CONTENT_TYPE).iter();
    let types = types.map(|line| MediaType::normalise(line.as_bytes()));
    fields.list(types).list(content_codings(parts))
}

/// The content codings in order, in lower case (RFC 9110 section 8.4.1).
fn content_codings(parts: &Parts) -> Vec<Vec<u8>> {
    parts
        .headers
        .get_all(CONTENT_ENCODING)
        .iter()
        .flat_map(|line| line.as_bytes().split(|byte| *byte == b','))
        .map(|coding| coding.trim_ascii().to_ascii_lowercase())
        .filter(|coding| !coding.is_empty())
        .collect()
}

/// Whether the body is said to be JSON, once, and not compressed.
fn is_plain_json(parts: &Parts) -> bool {
    let mut types = parts.headers.get_all(CONTENT_TYPE).iter();
    let (Some(line), None) = (types.next(), types.next()) else {
        return false;
    };
    content_codings(parts).is_empty()
        && MediaType::parse(line.as_bytes()).is_some_and(|media_type| media_type.is_json())
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, Request};

    use super::*;

    struct Ask<'a> {
        policy: Policy,
        method: &'a str,
        uri: &'a str,
        headers: &'a [(&'a str, &'a str)],
        body: &'a str,
    }

    fn of(ask: Ask<'_>) -> Fingerprint {
        let mut request = Request::builder().method(ask.method).uri(ask.uri);
        for (name, value) in ask.headers {
            request = request.header(*name, *value);
        }
        let (parts, ()) = request.body(()).unwrap().into_parts();
        fingerprint(&ask.policy, &parts, ask.body.as_bytes())
    }

    fn plain() -> Ask<'static> {
        Ask {
            policy: Policy::default(),
            method: "POST",
            uri: "/a",
            headers: &[],
            body: "",
        }
    }

    fn headers(headers: &[(&str, &str)]) -> Fingerprint {
        of(Ask { headers, ..plain() })
    }

    fn by_value(headers: &[(&str, &str)], body: &str) -> Fingerprint {
        let policy = Policy::default().with_body_fingerprint(BodyFingerprint::CanonicalJson);
        of(Ask {
            policy,
            headers,
            body,
            ..plain()
        })
    }

    const JSON: &[(&str, &str)] = &[("content-type", "application/json")];

    #[test]
    fn m1_m4_m8_what_the_request_asks_for_counts() {
        let all = [
            of(plain()),
            of(Ask {
                body: "x",
                ..plain()
            }),
            of(Ask {
                uri: "/a?",
                ..plain()
            }),
            of(Ask {
                uri: "/a?b=1",
                ..plain()
            }),
            of(Ask {
                uri: "/a?b=%31",
                ..plain()
            }),
            of(Ask {
                uri: "/a?b=1",
                body: "x",
                ..plain()
            }),
            headers(&[("content-type", "text/plain")]),
            headers(&[("content-type", "")]),
            headers(&[("content-type", "a/b"), ("content-type", "a/b")]),
            headers(&[("content-encoding", "gzip")]),
            headers(&[("content-encoding", "gzip, br")]),
            headers(&[("content-encoding", "br, gzip")]),
        ];
        for (i, a) in all.iter().enumerate() {
            for (j, b) in all.iter().enumerate() {
                assert_eq!(a == b, i == j, "{i} {j}");
            }
        }
    }

    #[test]
    fn m6_m9_m15_m19_how_it_travels_does_not() {
        let first = of(plain());
        for line in [
            ("content-length", "0"),
            ("transfer-encoding", "chunked"),
            ("authorization", "Bearer x"),
            ("traceparent", "00-1-2-01"),
            ("user-agent", "curl"),
            ("idempotency-key", "k"),
            ("content-digest", "sha-256=:x:"),
            ("expect", "100-continue"),
        ] {
            assert_eq!(headers(&[line]), first, "{line:?}");
        }
    }

    #[test]
    fn m7_m8_spelling_does_not_count() {
        for (name, a, b) in [
            ("content-type", "application/json", "Application/JSON"),
            (
                "content-type",
                "text/plain;charset=utf-8;a=b",
                "text/plain ; A=\"b\"; Charset=UTF-8",
            ),
            ("content-encoding", "gzip, br", "GZIP,BR"),
            ("content-encoding", "gzip", "gzip, "),
        ] {
            assert_eq!(headers(&[(name, a)]), headers(&[(name, b)]), "{a}");
        }
        let lines = headers(&[("content-encoding", "gzip"), ("content-encoding", "br")]);
        assert_eq!(lines, headers(&[("content-encoding", "gzip, br")]));
    }

    #[test]
    fn m3_m5_the_account_scope_compares_method_and_path() {
        let ask = |method, uri| {
            let policy = Policy::default().with_scope(Scope::Account);
            of(Ask {
                policy,
                method,
                uri,
                ..plain()
            })
        };
        assert_ne!(ask("POST", "/a"), ask("POST", "/b"));
        assert_ne!(ask("POST", "/a"), ask("PATCH", "/a"));
        assert_eq!(ask("POST", "/a"), ask("POST", "http://host/a"));
        assert_eq!(
            of(plain()),
            of(Ask {
                method: "PATCH",
                uri: "/b",
                ..plain()
            })
        );
    }

    #[test]
    fn m20_named_headers_count() {
        let ask = |headers| {
            let names = ["api-version", "x-http-method-override"].map(HeaderName::from_static);
            let policy = Policy::default().with_fingerprint_headers(names);
            of(Ask {
                policy,
                headers,
                ..plain()
            })
        };
        let all = [
            ask(&[]),
            ask(&[("api-version", "1")]),
            ask(&[("api-version", "2")]),
            ask(&[("api-version", "1"), ("api-version", "2")]),
            ask(&[("x-http-method-override", "1")]),
        ];
        for (i, a) in all.iter().enumerate() {
            for (j, b) in all.iter().enumerate() {
                assert_eq!(a == b, i == j, "{i} {j}");
            }
        }
    }

    #[test]
    fn m12_json_counts_by_value_where_asked_for() {
        let (a, b) = (r#"{"a":1,"b":[]}"#, r#" { "b" : [ ] , "a" : 1.0 } "#);
        assert_eq!(by_value(JSON, a), by_value(JSON, b));
        let merge = &[(
            "content-type",
            "application/merge-patch+json; charset=utf-8",
        )];
        assert_eq!(by_value(merge, a), by_value(merge, b));
        for headers in [
            &[][..],
            &[("content-type", "text/plain")],
            &[
                ("content-type", "application/json"),
                ("content-encoding", "gzip"),
            ],
            &[
                ("content-type", "application/json"),
                ("content-type", "application/json"),
            ],
        ] {
            assert_ne!(by_value(headers, a), by_value(headers, b), "{headers:?}");
        }
        assert_ne!(
            of(Ask {
                headers: JSON,
                body: a,
                ..plain()
            }),
            of(Ask {
                headers: JSON,
                body: b,
                ..plain()
            })
        );
    }

    #[test]
    fn m13_json_that_has_no_single_value_counts_by_its_bytes() {
        for (a, b) in [
            (r#"{"a":1,"a":2}"#, r#"{"a":2,"a":1}"#),
            ("{\"a\":1", "{\"a\":1 "),
            ("-0", " -0"),
        ] {
            assert_ne!(by_value(JSON, a), by_value(JSON, b));
            assert_eq!(by_value(JSON, a), by_value(JSON, a));
        }
        let digest = json::digest(b"1").unwrap();
        let (parts, ()) = Request::post("/a")
            .header("content-type", "application/json")
            .body(())
            .unwrap()
            .into_parts();
        let imitation = fingerprint(&Policy::default(), &parts, &digest);
        assert_ne!(by_value(JSON, "1"), imitation, "bytes that are a digest");
    }

    #[test]
    fn m18_an_ignored_body_does_not_count_nor_its_type() {
        let ask = |uri, headers, body| {
            let policy = Policy::default().with_body_fingerprint(BodyFingerprint::Ignored);
            of(Ask {
                policy,
                uri,
                headers,
                body,
                ..plain()
            })
        };
        assert_eq!(ask("/a", &[], "x"), ask("/a", JSON, "y"));
        assert_ne!(ask("/a", &[], "x"), ask("/a?q", &[], "x"));
    }
}
