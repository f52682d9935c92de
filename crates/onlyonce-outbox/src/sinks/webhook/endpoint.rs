//! Where a webhook goes.

use http::uri::{PathAndQuery, Scheme};
use http::{HeaderValue, Uri};

use crate::error::Error;

/// A URL, taken apart once.
#[derive(Debug)]
pub(super) struct Endpoint {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) tls: bool,
    host_header: HeaderValue,
    target: Uri,
}

impl Endpoint {
    pub(super) fn parse(url: &str) -> Result<Self, Error> {
        // What was given is not shown: there may be secrets in it.
        let refused = |why| Error::Settings(format!("the webhook's URL {why}"));
        let uri: Uri = url.parse().map_err(|_| refused("cannot be understood"))?;
        let tls = match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTPS => true,
            Some(scheme) if *scheme == Scheme::HTTP => false,
            _ => return Err(refused("does not begin with http:// or https://")),
        };
        let authority = uri.authority().ok_or_else(|| refused("has no host"))?;
        if authority.as_str().contains('@') {
            return Err(refused(
                "has a user in it: send an Authorization header instead",
            ));
        }
        let host_header = HeaderValue::from_str(authority.as_str())
            .map_err(|_| refused("has a host that cannot be sent"))?;
        let host = authority.host().trim_matches(['[', ']']).to_owned();
        if host.is_empty() {
            return Err(refused("has no host"));
        }
        let port = match authority.port_u16() {
            Some(port) => port,
            None if authority.as_str() == authority.host() => {
                if tls {
                    443
                } else {
                    80
                }
            }
            None => return Err(refused("has a port that is none")),
        };
        let path = uri.path_and_query().map_or("/", PathAndQuery::as_str);
        let target = path.parse().map_err(|_| refused("cannot be understood"))?;
        Ok(Self {
            host,
            port,
            tls,
            host_header,
            target,
        })
    }

    pub(super) fn host_header(&self) -> HeaderValue {
        self.host_header.clone()
    }

    /// As it stands in the request line.
    pub(super) fn target(&self) -> Uri {
        self.target.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_says_where_to() {
        for (url, host, port, tls, header, target) in [
            ("http://h", "h", 80, false, "h", "/"),
            ("https://h/a?b=c", "h", 443, true, "h", "/a?b=c"),
            ("http://h:81/a", "h", 81, false, "h:81", "/a"),
            ("http://[::1]:81/", "::1", 81, false, "[::1]:81", "/"),
        ] {
            let endpoint = Endpoint::parse(url).unwrap();
            assert_eq!(endpoint.host, host);
            assert_eq!((endpoint.port, endpoint.tls), (port, tls));
            assert_eq!(endpoint.host_header(), header);
            assert_eq!(endpoint.target(), target);
        }
        for bad in [
            "",
            "h",
            "/a",
            "ftp://h/",
            "http://",
            "http://u:p@h/",
            "http://h:99999/",
        ] {
            let error = Endpoint::parse(bad).unwrap_err().to_string();
            assert!(error.starts_with("the webhook's URL"), "{error}");
            assert!(!error.contains("u:p"));
        }
    }
}
