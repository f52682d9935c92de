//! What a caller showed to be let in, as a hash.
//!
//! A recorded response is shown only to the credential that made the record. The hash is salted with the
//! record's id, so a stolen table tells neither which records belong together nor, without guessing the
//! whole credential once per record, what it was.

use std::fmt;

use http::header::{AUTHORIZATION, COOKIE};
use http::request::Parts;
use http::{HeaderMap, HeaderName};

use crate::fields::{Fields, Purpose};
use crate::record::{CredentialHash, RecordId};

pub(super) const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");

static CREDENTIAL: Purpose = Purpose::new("onlyonce 2026-11 credential v1");
static OF_A_RECORD: Purpose = Purpose::new("onlyonce 2026-11 credential of a record v1");

/// Where the credential is read from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum CredentialSource {
    /// All of `Authorization` and all of `X-Api-Key`; without both all of `Cookie`; else none. Blank lines
    /// do not count: a client that fills in an empty token has shown nothing.
    #[default]
    Default,
    /// A header, all lines.
    Header(HeaderName),
    /// A cookie, where the other cookies change from request to request.
    Cookie(Box<str>),
}

/// What a caller showed to be let in. `Debug` prints nothing of it.
///
/// ```
/// use onlyonce::RecordId;
/// use onlyonce::scope::{Credential, CredentialSource};
///
/// let request = http::Request::post("/").header("authorization", "Bearer a").body(()).unwrap();
/// let (parts, ()) = request.into_parts();
/// let credential = Credential::of(&parts, &CredentialSource::Default);
/// let hash = credential.hash(&RecordId::from_bytes([1; 16]));
/// assert_ne!(hash, credential.hash(&RecordId::from_bytes([2; 16])));
/// ```
#[derive(Clone)]
pub struct Credential([u8; 32]);

impl Credential {
    /// The credential of a request.
    pub fn of(parts: &Parts, source: &CredentialSource) -> Self {
        let headers = &parts.headers;
        match source {
            CredentialSource::Default => Self::by_default(headers),
            CredentialSource::Header(name) => {
                Self::new("header", name.as_str(), lines(headers, name))
            }
            CredentialSource::Cookie(name) => Self::new("cookie", name, cookies(headers, name)),
        }
    }

    /// The hash that a record keeps.
    pub fn hash(&self, id: &RecordId) -> CredentialHash {
        let mut fields = Fields::new(&OF_A_RECORD);
        CredentialHash::from_bytes(fields.field(id.as_bytes()).field(self.0).finish())
    }

    /// Both headers count, because either may be the one that tells callers apart: a token that an edge
    /// gives to everybody goes with a key of each customer's own.
    fn by_default(headers: &HeaderMap) -> Self {
        let mut tokens = filled(headers, &AUTHORIZATION).peekable();
        let mut keys = filled(headers, &X_API_KEY).peekable();
        if tokens.peek().is_none() && keys.peek().is_none() {
            return Self::new("header", COOKIE.as_str(), filled(headers, &COOKIE));
        }
        let mut fields = Fields::new(&CREDENTIAL);
        Self(fields.field("default").list(tokens).list(keys).finish())
    }

    fn new<'a>(kind: &str, name: &str, values: impl Iterator<Item = &'a [u8]>) -> Self {
        let mut fields = Fields::new(&CREDENTIAL);
        Self(fields.field(kind).field(name).list(values).finish())
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credential(..)")
    }
}

/// The values of a header, line by line.
pub(super) fn lines<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
) -> impl Iterator<Item = &'a [u8]> + use<'a> {
    headers
        .get_all(name)
        .into_iter()
        .map(|line| line.as_bytes())
}

/// The lines of a header that say something.
pub(super) fn filled<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
) -> impl Iterator<Item = &'a [u8]> + use<'a> {
    lines(headers, name).filter(|line| !line.trim_ascii().is_empty())
}

/// The values of a cookie, from all lines and as often as it is there (RFC 6265 section 5.4).
pub(super) fn cookies<'a>(headers: &'a HeaderMap, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
    lines(headers, &COOKIE)
        .flat_map(|line| line.split(|byte| *byte == b';'))
        .filter_map(move |pair| {
            let pair = pair.trim_ascii();
            pair.strip_prefix(name.as_bytes())?.strip_prefix(b"=")
        })
}

#[cfg(test)]
mod tests {
    use http::{HeaderValue, Request};

    use super::*;

    fn hash(source: &CredentialSource, headers: &[(&'static str, &'static str)]) -> CredentialHash {
        let (mut parts, ()) = Request::post("/").body(()).unwrap().into_parts();
        for (name, value) in headers {
            parts.headers.append(*name, HeaderValue::from_static(value));
        }
        Credential::of(&parts, source).hash(&RecordId::from_bytes([7; 16]))
    }

    #[test]
    fn every_line_of_what_tells_callers_apart_counts() {
        let all: &[&[(&str, &str)]] = &[
            &[],
            &[("authorization", "a")],
            &[("authorization", "a"), ("authorization", "b")],
            &[("authorization", "b"), ("authorization", "a")],
            &[("authorization", "ab")],
            &[("x-api-key", "a")],
            &[("authorization", "a"), ("x-api-key", "a")],
            &[("authorization", "a"), ("x-api-key", "b")],
            &[("x-api-key", "a"), ("x-api-key", "b")],
            &[("cookie", "a")],
            &[("cookie", "a"), ("cookie", "b")],
            &[("cookie", "a; b")],
        ];
        let source = CredentialSource::Default;
        for (i, a) in all.iter().enumerate() {
            for (j, b) in all.iter().enumerate() {
                assert_eq!(hash(&source, a) == hash(&source, b), i == j, "{a:?} {b:?}");
            }
        }
        let with_cookie = [("cookie", "c"), ("authorization", "a")];
        assert_eq!(hash(&source, &with_cookie), hash(&source, all[1]));
    }

    /// A client that fills in a token which it does not have must not be every other such client.
    #[test]
    fn a_blank_line_is_no_credential() {
        let source = CredentialSource::Default;
        for blank in ["", " \t"] {
            for rest in ["x-api-key", "cookie"] {
                let a = hash(&source, &[("authorization", blank), (rest, "a")]);
                assert_eq!(a, hash(&source, &[(rest, "a")]), "{rest}");
                let b = hash(&source, &[("authorization", blank), (rest, "b")]);
                assert_ne!(a, b, "{rest}");
            }
        }
    }

    #[test]
    fn a_named_cookie_ignores_the_others() {
        let source = CredentialSource::Cookie("sid".into());
        let first = hash(&source, &[("cookie", "seen=1; sid=x")]);
        assert_eq!(first, hash(&source, &[("cookie", "sid=x; seen=2")]));
        assert_ne!(first, hash(&source, &[("cookie", "sid=y; seen=1")]));
        assert_ne!(first, hash(&source, &[("cookie", "seen=1")]));
    }
}
