//! The path and query that the client asked for.
//!
//! They are taken as they were sent: decoding, removing dots or joining slashes would make requests equal
//! that the upstream tells apart.

use std::borrow::Cow;

use http::request::Parts;

use crate::policy::Policy;

/// Path and query of a request, raw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target<'a> {
    /// The path, without query.
    pub path: Cow<'a, str>,
    /// What follows `?`; `None` where there is no `?`, which differs from an empty query.
    pub query: Option<Cow<'a, str>>,
}

impl Policy {
    /// The target of a request: what [`with_target`](Self::with_target) finds, else the request's own URI.
    pub fn target_of<'a>(&self, parts: &'a Parts) -> Target<'a> {
        match self.target.as_ref().and_then(|target| target(parts)) {
            Some(uri) => split(&uri),
            None => Target {
                path: parts.uri.path().into(),
                query: parts.uri.query().map(Into::into),
            },
        }
    }
}

/// Splits the text of a URI. With HTTP/2, and in absolute form, that text has a scheme and an authority:
/// the same request over HTTP/1.1 must not be another one, so they do not count.
fn split(uri: &str) -> Target<'static> {
    let uri = match uri.split_once("://") {
        Some((scheme, rest)) if !scheme.contains(['/', '?']) => {
            rest.find(['/', '?']).map_or("", |start| &rest[start..])
        }
        _ => uri,
    };
    let (path, query) = match uri.split_once('?') {
        Some((path, query)) => (path, Some(query.to_owned().into())),
        None => (uri, None),
    };
    let path = if path.is_empty() { "/" } else { path };
    Target {
        path: path.to_owned().into(),
        query,
    }
}

#[cfg(test)]
mod tests {
    use http::{Request, Uri};

    use super::*;

    #[test]
    fn c_t1_a_named_target_reads_like_the_uri() {
        for uri in [
            "/",
            "/a",
            "/a?",
            "/a?b",
            "/a?b?c",
            "//a/./b;c/%2F%ff?d=http://e/f",
            "/a://b",
            "http://host",
            "http://host/a?b",
            "http://host?b",
            "https://user@host:1/a/b",
        ] {
            let (parts, ()) = Request::post(uri).body(()).unwrap().into_parts();
            let plain = Policy::default();
            let named = Policy::default().with_target(|parts| Some(parts.uri.to_string()));
            let target = plain.target_of(&parts);
            assert_eq!(named.target_of(&parts), target, "{uri}");
            assert_eq!(target.query.as_deref(), uri.parse::<Uri>().unwrap().query());
        }
    }

    #[test]
    fn a_target_that_is_not_found_falls_back() {
        let (parts, ()) = Request::post("/a?b").body(()).unwrap().into_parts();
        let target = Policy::default()
            .with_target(|_| None)
            .target_of(&parts)
            .path
            .into_owned();
        assert_eq!(target, "/a");
    }
}
