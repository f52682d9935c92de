//! Where requests go, and within which limits.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use http::header::HeaderValue;
use http::uri::Scheme;
use http::{HeaderName, Uri};
use onlyonce::policy::Policy;

use crate::headers::{TrustedPeers, Via};

/// Everything that [`Forward`](super::Forward) is told. Plain data; [`new`](Self::new) gives the defaults.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ForwardSettings {
    /// The one service that requests go to, whatever their `Host` or target says.
    pub upstream: Upstream,
    /// The authorities that an `https` upstream's certificate is checked against, as a PEM file.
    /// Default: those of the operating system.
    pub ca_file: Option<PathBuf>,
    /// Name resolution, TCP and TLS together. Default: 5 s.
    pub connect_timeout: Duration,
    /// How long the upstream of an unguarded request may be silent after the last piece of the request,
    /// until its response begins. Default: 60 s. Guarded requests have a deadline instead.
    pub first_byte_timeout: Duration,
    /// How long a response body or a tunnel may pause, or an upload that goes on behind a whole response.
    /// Default: 5 min.
    pub idle_timeout: Duration,
    /// From the arrival of an unguarded request to the end of its response. Default: unlimited, because
    /// downloads and event streams may take as long as they like. Tunnels are exempt.
    pub total_timeout: Option<Duration>,
    /// How long an unused connection is kept. Default: 4 s, since common servers close theirs after 5 s
    /// and a request that meets the closing is lost. A shorter `Keep-Alive: timeout` is obeyed.
    pub idle_connection_max: Duration,
    /// How many unused connections are kept. Default: 256.
    pub idle_connections_max: usize,
    /// The largest response head, in bytes. Default: 64 KiB.
    pub response_header_bytes_max: usize,
    /// What the upstream sees as `Host`. Default: what the client sent.
    pub host: HostPolicy,
    /// Whose `X-Forwarded-*` fields are believed. Default: nobody's.
    pub trusted_peers: TrustedPeers,
    /// Our name in `Via`. Default: one that is unique to the process.
    pub via: Via,
    /// How errors are told: their link to documentation, and our name in `Proxy-Status`. Default: neither.
    pub problems: Policy,
    /// Further field names whose underscore twins are dropped, such as a configured key header.
    pub protected_names: Vec<HeaderName>,
}

impl ForwardSettings {
    /// The defaults, for an upstream.
    pub fn new(upstream: Upstream) -> Self {
        Self {
            upstream,
            ca_file: None,
            connect_timeout: Duration::from_secs(5),
            first_byte_timeout: Duration::from_secs(60),
            idle_timeout: Duration::from_secs(300),
            total_timeout: None,
            idle_connection_max: Duration::from_secs(4),
            idle_connections_max: 256,
            response_header_bytes_max: 64 << 10,
            host: HostPolicy::Preserve,
            trusted_peers: TrustedPeers::default(),
            via: Via::unique(),
            problems: Policy::default(),
            protected_names: Vec::new(),
        }
    }
}

/// What the upstream sees as `Host`. `X-Forwarded-Host` has the client's in both cases.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HostPolicy {
    /// What the client asked for.
    #[default]
    Preserve,
    /// The upstream's own authority, for services that answer to one name only.
    Rewrite,
}

/// The address of a service: scheme, host and port.
///
/// A path is not accepted: the target that a client sends is passed on byte for byte (RFC 9110 section
/// 7.7), so there is nothing to put in front of it.
///
/// ```
/// use onlyonce_proxy::forward::Upstream;
///
/// let upstream: Upstream = "https://payments.internal".parse()?;
/// assert_eq!(upstream.to_string(), "https://payments.internal:443");
/// # Ok::<(), onlyonce_proxy::forward::InvalidUpstream>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream {
    pub(crate) is_tls: bool,
    /// Without the brackets of an IPv6 address.
    pub(crate) host: String,
    pub(crate) port: u16,
    /// What `Host` says for it.
    pub(crate) authority: HeaderValue,
}

/// Why a text is no upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidUpstream {
    /// No URL, or one without scheme or host.
    #[error("not a URL; write it as http://host:port or https://host")]
    NotAUrl,
    /// Neither `http` nor `https`.
    #[error("the scheme must be http or https")]
    Scheme,
    /// A path, query or fragment.
    #[error("a path is not supported, because request targets are forwarded unchanged; remove it")]
    Path,
    /// A user name or password.
    #[error("credentials in the URL are not supported; remove them")]
    Credentials,
}

impl Upstream {
    /// Whether it is whatever listens on `address`, as far as that can be told without asking for names.
    pub(crate) fn is_at(&self, address: SocketAddr) -> bool {
        let ip = match &*self.host {
            "localhost" => Some(Ipv4Addr::LOCALHOST.into()),
            host => host.parse().ok(),
        };
        let is_same =
            |ip: IpAddr| ip == address.ip() || (address.ip().is_unspecified() && ip.is_loopback());
        self.port == address.port() && ip.is_some_and(is_same)
    }
}

impl FromStr for Upstream {
    type Err = InvalidUpstream;

    fn from_str(text: &str) -> Result<Self, InvalidUpstream> {
        let uri: Uri = text.parse().map_err(|_| InvalidUpstream::NotAUrl)?;
        let authority = uri.authority().ok_or(InvalidUpstream::NotAUrl)?;
        let is_tls = match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTP => false,
            Some(scheme) if *scheme == Scheme::HTTPS => true,
            Some(_) => return Err(InvalidUpstream::Scheme),
            None => return Err(InvalidUpstream::NotAUrl),
        };
        if authority.as_str().contains('@') {
            return Err(InvalidUpstream::Credentials);
        }
        if uri.path_and_query().is_some_and(|target| target != "/") || text.contains('#') {
            return Err(InvalidUpstream::Path);
        }
        let host = authority.host().trim_matches(['[', ']']);
        // `http` takes `host:` and `host:99999` for authorities; a port is digits or absent.
        let port = match authority.as_str()[authority.host().len()..].strip_prefix(':') {
            None if is_tls => 443,
            None => 80,
            Some(port) => port.parse().map_err(|_| InvalidUpstream::NotAUrl)?,
        };
        if host.is_empty() || port == 0 {
            return Err(InvalidUpstream::NotAUrl);
        }
        Ok(Self {
            is_tls,
            host: host.to_owned(),
            port,
            authority: HeaderValue::from_str(authority.as_str())
                .map_err(|_| InvalidUpstream::NotAUrl)?,
        })
    }
}

impl std::fmt::Display for Upstream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let scheme = if self.is_tls { "https" } else { "http" };
        let (open, close) = if self.host.contains(':') {
            ("[", "]")
        } else {
            ("", "")
        };
        write!(f, "{scheme}://{open}{}{close}:{}", self.host, self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upstream_may_be_the_listener_itself() {
        for (url, address, expected) in [
            ("http://127.0.0.1:8080", "127.0.0.1:8080", true),
            ("http://localhost:8080", "127.0.0.1:8080", true),
            ("http://localhost:8080", "0.0.0.0:8080", true),
            ("http://[::1]:8080", "[::]:8080", true),
            ("http://127.0.0.1", "0.0.0.0:80", true),
            ("http://127.0.0.1:8081", "127.0.0.1:8080", false),
            ("http://127.0.0.2:8080", "127.0.0.1:8080", false),
            ("http://shop:8080", "0.0.0.0:8080", false),
        ] {
            let upstream: Upstream = url.parse().unwrap();
            assert_eq!(upstream.is_at(address.parse().unwrap()), expected, "{url}");
        }
    }

    #[test]
    fn upstreams_are_scheme_host_and_port() {
        let cases = [
            ("http://a", Ok("http://a:80")),
            ("http://a/", Ok("http://a:80")),
            ("https://a", Ok("https://a:443")),
            ("HTTP://127.0.0.1:8080", Ok("http://127.0.0.1:8080")),
            ("http://[::1]:8080", Ok("http://[::1]:8080")),
            ("http://[::1]", Ok("http://[::1]:80")),
            ("http://a/b", Err(InvalidUpstream::Path)),
            ("http://a?b", Err(InvalidUpstream::Path)),
            ("http://a/#b", Err(InvalidUpstream::Path)),
            ("http://user:pw@a", Err(InvalidUpstream::Credentials)),
            ("ftp://a", Err(InvalidUpstream::Scheme)),
            ("a:80", Err(InvalidUpstream::NotAUrl)),
            ("/a", Err(InvalidUpstream::NotAUrl)),
            ("http://a:", Err(InvalidUpstream::NotAUrl)),
            ("http://a:0", Err(InvalidUpstream::NotAUrl)),
            ("http://a:65536", Err(InvalidUpstream::NotAUrl)),
            ("", Err(InvalidUpstream::NotAUrl)),
        ];
        for (text, expected) in cases {
            let parsed = text
                .parse::<Upstream>()
                .map(|upstream| upstream.to_string());
            assert_eq!(
                parsed.as_deref().map_err(|error| *error),
                expected,
                "{text}"
            );
        }
    }
}
