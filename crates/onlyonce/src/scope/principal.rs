//! Whose key it is.
//!
//! By default the principal is read from what most APIs use, *without verifying it*: the layer usually
//! stands in front of the authentication. That is enough to keep keys apart, and not enough to show an
//! answer, which is why [`Credential`](super::Credential) exists. Where an authentication middleware runs
//! first, it says whom it has verified by inserting a [`VerifiedPrincipal`].
//!
//! Hazard: callers that are told apart by anything else, such as client certificates, addresses or a key in
//! the query, are all anonymous to the default source, and share their keys. Name a source for them.
//!
//! Hazard: with Basic credentials the user alone is the principal. Where all customers share a user and
//! differ in the password, name another source.

use std::borrow::Cow;
use std::fmt;

use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use http::header::AUTHORIZATION;
use http::request::Parts;
use http::{HeaderMap, HeaderName};

use super::credential::{X_API_KEY, cookies, filled, lines};
use crate::fields::{Fields, Purpose};

static PRINCIPAL: Purpose = Purpose::new("onlyonce 2026-11 principal v1");

/// Where the principal is read from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum PrincipalSource {
    /// `Authorization`: of a Bearer JWT the issuer and subject, of Basic the user, else a hash of the
    /// value. Without it a hash of `X-Api-Key`. Without both, anonymous. Blank lines do not count.
    #[default]
    Default,
    /// The value of a header; anonymous without it. Clients can forge headers: have a trusted hop set it.
    Header(HeaderName),
    /// The value of a cookie; anonymous without it.
    Cookie(Box<str>),
}

/// The principal that an authentication middleware has verified. Insert it into the request's extensions
/// before the idempotency layer: it then replaces whatever the policy names.
///
/// ```
/// use onlyonce::scope::{Principal, PrincipalSource, VerifiedPrincipal};
///
/// let mut request = http::Request::post("/charges").body(()).unwrap();
/// request.extensions_mut().insert(VerifiedPrincipal("tenant-7/user-42".into()));
/// let (parts, ()) = request.into_parts();
/// assert!(Principal::of(&parts, &PrincipalSource::Default).is_verified());
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct VerifiedPrincipal(pub String);

impl fmt::Debug for VerifiedPrincipal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("VerifiedPrincipal(..)")
    }
}

/// Whose key it is, as a hash. Two principals of different kinds are never equal.
#[derive(Clone, PartialEq, Eq)]
pub struct Principal {
    kind: Kind,
    digest: blake3::Hash,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Anonymous,
    Verified,
    TokenSubject,
    BasicUser,
    Authorization,
    ApiKey,
    Header,
    Cookie,
}

impl Principal {
    /// The principal of a request. Where a header appears on several lines, all of them count.
    pub fn of(parts: &Parts, source: &PrincipalSource) -> Self {
        if let Some(VerifiedPrincipal(name)) = parts.extensions.get() {
            return Self::new(Kind::Verified, [name]);
        }
        let headers = &parts.headers;
        match source {
            PrincipalSource::Default => Self::by_default(headers),
            PrincipalSource::Header(name) => {
                Self::some(Kind::Header, Some(name.as_str()), lines(headers, name))
            }
            PrincipalSource::Cookie(name) => {
                Self::some(Kind::Cookie, Some(name), cookies(headers, name))
            }
        }
    }

    /// Whether an authentication middleware vouches for it.
    pub fn is_verified(&self) -> bool {
        self.kind == Kind::Verified
    }

    pub(super) fn digest(&self) -> &[u8; 32] {
        self.digest.as_bytes()
    }

    fn by_default(headers: &HeaderMap) -> Self {
        let mut lines = filled(headers, &AUTHORIZATION);
        match (lines.next(), lines.next()) {
            (None, _) => Self::some(Kind::ApiKey, None, filled(headers, &X_API_KEY)),
            (Some(line), None) => subject(line)
                .or_else(|| user(line))
                .unwrap_or_else(|| Self::new(Kind::Authorization, [line])),
            (Some(_), Some(_)) => Self::new(Kind::Authorization, filled(headers, &AUTHORIZATION)),
        }
    }

    /// A principal of what is there; anonymous where nothing is.
    fn some<'a>(kind: Kind, name: Option<&'a str>, values: impl Iterator<Item = &'a [u8]>) -> Self {
        let mut values = values.peekable();
        if values.peek().is_none() {
            return Self::anonymous();
        }
        let name = name.map(str::as_bytes).into_iter();
        Self::new(kind, name.chain(values))
    }

    fn anonymous() -> Self {
        Self::new(Kind::Anonymous, [""; 0])
    }

    fn new(kind: Kind, values: impl IntoIterator<Item = impl AsRef<[u8]>>) -> Self {
        let tag = match kind {
            Kind::Anonymous => "anonymous",
            Kind::Verified => "verified",
            Kind::TokenSubject => "token subject",
            Kind::BasicUser => "basic user",
            Kind::Authorization => "authorization",
            Kind::ApiKey => "api key",
            Kind::Header => "header",
            Kind::Cookie => "cookie",
        };
        let mut fields = Fields::new(&PRINCIPAL);
        Self {
            kind,
            digest: fields.field(tag).list(values).finish().into(),
        }
    }
}

impl fmt::Debug for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Principal")
            .field("kind", &self.kind)
            .finish_non_exhaustive()
    }
}

/// The claims of a token that stay the same when it is refreshed (RFC 7519 sections 4.1.1, 4.1.2).
#[derive(serde::Deserialize)]
struct Claims<'a> {
    #[serde(borrow)]
    iss: Option<Cow<'a, str>>,
    #[serde(borrow)]
    sub: Subject<'a>,
}

/// RFC 7519 says text. Some issuers put the number of a database's row there, without quotes; were that
/// no subject, each refreshed token of theirs would be another principal, and its retry a second charge.
#[derive(serde::Deserialize)]
#[serde(untagged)]
enum Subject<'a> {
    Text(#[serde(borrow)] Cow<'a, str>),
    Number(serde_json::Number),
}

/// Issuer and subject of `Bearer <JWT>`, unverified; `None` where the value is anything else.
fn subject(line: &[u8]) -> Option<Principal> {
    let token = credentials(line, "bearer")?;
    let mut parts = token.split(|byte| *byte == b'.');
    let (Some(_), Some(payload), Some(_), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return None;
    };
    let payload = BASE64_URL_SAFE_NO_PAD.decode(payload).ok()?;
    let claims: Claims<'_> = serde_json::from_slice(&payload).ok()?;
    let subject = match claims.sub {
        Subject::Text(text) if text.is_empty() => return None,
        Subject::Text(text) => text,
        Subject::Number(number) => number.to_string().into(),
    };
    // The subject comes first: it is always there, so the two cannot be mistaken for each other.
    let values = [Some(subject), claims.iss].into_iter().flatten();
    Some(Principal::new(
        Kind::TokenSubject,
        values.map(|claim| claim.into_owned()),
    ))
}

/// The user of `Basic <base64 of user:password>` (RFC 7617); `None` where the value is anything else, or
/// the user is empty and only the password tells callers apart.
fn user(line: &[u8]) -> Option<Principal> {
    let pair = BASE64_STANDARD.decode(credentials(line, "basic")?).ok()?;
    let user = &pair[..pair.iter().position(|byte| *byte == b':')?];
    (!user.is_empty()).then(|| Principal::new(Kind::BasicUser, [user]))
}

/// What follows the scheme, where it is the given one.
fn credentials<'a>(line: &'a [u8], scheme: &str) -> Option<&'a [u8]> {
    let (start, rest) = line.split_at(line.iter().position(|byte| *byte == b' ')?);
    start
        .eq_ignore_ascii_case(scheme.as_bytes())
        .then(|| rest.trim_ascii())
}

#[cfg(test)]
mod tests {
    use http::{HeaderValue, Request};

    use super::*;

    fn of(source: &PrincipalSource, headers: &[(&str, &str)]) -> Principal {
        let (mut parts, ()) = Request::post("/").body(()).unwrap().into_parts();
        for (name, value) in headers {
            let name: HeaderName = name.parse().unwrap();
            parts
                .headers
                .append(name, HeaderValue::from_str(value).unwrap());
        }
        Principal::of(&parts, source)
    }

    fn default(headers: &[(&str, &str)]) -> Principal {
        of(&PrincipalSource::Default, headers)
    }

    fn authorization(value: &str) -> Principal {
        default(&[("authorization", value)])
    }

    fn jwt(payload: &str, signature: &str) -> String {
        format!(
            "Bearer e30.{}.{signature}",
            BASE64_URL_SAFE_NO_PAD.encode(payload)
        )
    }

    fn basic(pair: &str) -> String {
        format!("Basic {}", BASE64_STANDARD.encode(pair))
    }

    #[test]
    fn s4_a_refreshed_token_is_the_same_principal() {
        let first = authorization(&jwt(r#"{"iss":"i","sub":"s","exp":1}"#, "x"));
        let second = authorization(&jwt(r#"{"exp":2,"sub":"s","iss":"i"}"#, "y"));
        assert_eq!(first, second);
        assert_eq!(first.kind, Kind::TokenSubject);
        assert!(!first.is_verified());
        let lower = jwt(r#"{"iss":"i","sub":"s"}"#, "z").replace("Bearer", "bEARER");
        assert_eq!(first, authorization(&lower));
    }

    #[test]
    fn s4_a_subject_may_be_a_number() {
        let first = authorization(&jwt(r#"{"sub":7,"exp":1}"#, "x"));
        assert_eq!(first.kind, Kind::TokenSubject);
        assert_eq!(first, authorization(&jwt(r#"{"sub":7,"exp":2}"#, "y")));
        assert_ne!(first, authorization(&jwt(r#"{"sub":8,"exp":2}"#, "y")));
    }

    #[test]
    fn a_blank_line_is_nobody() {
        assert_eq!(authorization(""), Principal::anonymous());
        let a = default(&[("authorization", " "), ("x-api-key", "a")]);
        assert_eq!(a, default(&[("x-api-key", "a")]));
        assert_eq!(default(&[("x-api-key", "")]), Principal::anonymous());
    }

    #[test]
    fn s1_other_subjects_and_issuers_are_other_principals() {
        let all = [
            jwt(r#"{"iss":"i","sub":"s"}"#, "x"),
            jwt(r#"{"iss":"s","sub":"i"}"#, "x"),
            jwt(r#"{"iss":"i","sub":"t"}"#, "x"),
            jwt(r#"{"sub":"s"}"#, "x"),
            jwt(r#"{"iss":"","sub":"s"}"#, "x"),
        ];
        for (i, a) in all.iter().enumerate() {
            for (j, b) in all.iter().enumerate() {
                assert_eq!(authorization(a) == authorization(b), i == j, "{i} {j}");
            }
        }
    }

    #[test]
    fn what_is_no_token_counts_by_its_value() {
        for value in [
            "Bearer opaque".to_owned(),
            "Bearer a.b".to_owned(),
            "Bearer a.!.c".to_owned(),
            "Bearer".to_owned(),
            "Token abc".to_owned(),
            jwt("{}", "x"),
            jwt(r#"{"sub":""}"#, "x"),
            jwt(r#"{"sub":[7]}"#, "x"),
            jwt(r#"{"sub":"a","sub":"b"}"#, "x"),
            jwt(r#"{"iss":1,"sub":"a"}"#, "x"),
            format!("{}.enc.tag", jwt(r#"{"sub":"a"}"#, "x")),
            "Basic !".to_owned(),
            basic("no colon"),
            basic(":only a password"),
        ] {
            let principal = authorization(&value);
            assert_eq!(principal.kind, Kind::Authorization, "{value}");
            assert_ne!(principal, authorization(&format!("{value}x")));
        }
    }

    #[test]
    fn a_basic_password_is_no_part_of_the_principal() {
        let alice = authorization(&basic("alice:old"));
        assert_eq!(alice, authorization(&basic("alice:new:er")));
        assert_ne!(alice, authorization(&basic("bob:old")));
        assert_ne!(alice, authorization(&jwt(r#"{"sub":"alice"}"#, "x")));
    }

    #[test]
    fn all_lines_count() {
        let token = jwt(r#"{"sub":"s"}"#, "x");
        let two = default(&[("authorization", &token), ("authorization", "Basic eA")]);
        assert_eq!(two.kind, Kind::Authorization);
        assert_ne!(two, authorization(&token));
        let one = default(&[("x-api-key", "a")]);
        assert_eq!(one.kind, Kind::ApiKey);
        assert_ne!(one, default(&[("x-api-key", "a"), ("x-api-key", "b")]));
        assert_ne!(one, authorization("a"));
    }

    #[test]
    fn s5_a_named_source_is_the_only_one() {
        let tenant = PrincipalSource::Header(HeaderName::from_static("x-tenant"));
        let a = of(&tenant, &[("x-tenant", "a"), ("authorization", "Token x")]);
        assert_eq!(a, of(&tenant, &[("x-tenant", "a")]));
        assert_ne!(a, of(&tenant, &[("x-tenant", "a"), ("x-tenant", "a")]));
        assert_eq!(
            of(&tenant, &[("authorization", "Token x")]),
            Principal::anonymous()
        );

        let session = PrincipalSource::Cookie("sid".into());
        let b = of(&session, &[("cookie", "theme=dark; sid=1")]);
        assert_eq!(
            b,
            of(&session, &[("cookie", "sid=1;x=2"), ("cookie", "y=3")])
        );
        assert_ne!(b, of(&session, &[("cookie", "sid=1; sid=2")]));
        assert_eq!(
            of(&session, &[("cookie", "SID=1; xsid=1")]),
            Principal::anonymous()
        );
    }

    #[test]
    fn s1_a_verified_principal_cannot_be_claimed() {
        let (mut parts, ()) = Request::post("/").body(()).unwrap().into_parts();
        parts.extensions.insert(VerifiedPrincipal("alice".into()));
        parts.headers.insert(
            AUTHORIZATION,
            HeaderValue::from_str(&basic("bob:x")).unwrap(),
        );
        let verified = Principal::of(&parts, &PrincipalSource::Default);
        assert!(verified.is_verified());
        assert_ne!(verified, authorization(&basic("alice:x")));
        let header = PrincipalSource::Header(HeaderName::from_static("x-user"));
        assert_ne!(verified, of(&header, &[("x-user", "alice")]));
    }

    #[test]
    fn nothing_of_it_is_printed() {
        assert!(!format!("{:?}", authorization("secret")).contains("secret"));
        assert!(!format!("{:?}", VerifiedPrincipal("secret".into())).contains("secret"));
    }
}
