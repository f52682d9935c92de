//! `X-Forwarded-*`, `Forwarded` (RFC 7239) and `X-Real-IP`: who asked, for which host.
//!
//! The upstream believes these fields, so what an untrusted peer sent of them is replaced. A trusted
//! peer's are kept, and the peer itself is appended.

use std::fmt::Write as _;
use std::net::IpAddr;

use http::HeaderName;
use http::header::{FORWARDED, HeaderMap, HeaderValue};

const FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");
const PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
const SERVER: HeaderName = HeaderName::from_static("x-forwarded-server");
const SSL: HeaderName = HeaderName::from_static("x-forwarded-ssl");

/// The fields that only trusted peers are believed in.
pub(super) const SAID_BY_PEERS: [HeaderName; 9] = [
    FOR, HOST, PORT, PREFIX, PROTO, REAL_IP, SERVER, SSL, FORWARDED,
];

/// What was seen of a request's origin.
#[derive(Debug, Clone, Copy)]
pub struct Forwarding<'a> {
    /// The address at the other end of the connection.
    pub peer: IpAddr,
    /// Whether that peer's own statements are believed.
    pub trusted: bool,
    /// The authority that the client asked for.
    pub host: Option<&'a HeaderValue>,
    /// The scheme that the client used: `http` or `https`.
    pub scheme: &'static str,
}

impl Forwarding<'_> {
    /// Writes the fields into a request's headers.
    pub fn write(&self, headers: &mut HeaderMap) {
        let peer = self.peer.to_canonical();
        if !self.trusted {
            for name in SAID_BY_PEERS {
                headers.remove(name);
            }
        }
        append_member(headers, FOR, &peer.to_string());
        append_member(headers, FORWARDED, &self.element(peer));
        insert_absent(headers, PROTO, || {
            Some(HeaderValue::from_static(self.scheme))
        });
        insert_absent(headers, HOST, || self.host.cloned());
        insert_absent(headers, REAL_IP, || peer.to_string().try_into().ok());
    }

    /// Our element of `Forwarded`.
    fn element(&self, peer: IpAddr) -> String {
        let mut element = match peer {
            IpAddr::V4(peer) => format!("for={peer}"),
            IpAddr::V6(peer) => format!("for=\"[{peer}]\""),
        };
        // A host can hold `:` and brackets, so it is quoted; one with a quote in it is left out.
        if let Some(host) = self.host.and_then(|host| host.to_str().ok())
            && !host.contains(['"', '\\'])
        {
            let _ = write!(element, ";host=\"{host}\"");
        }
        let _ = write!(element, ";proto={}", self.scheme);
        element
    }
}

/// Joins all lines of a list field and appends a member.
fn append_member(headers: &mut HeaderMap, name: HeaderName, member: &str) {
    let mut list = Vec::new();
    for line in headers.get_all(&name) {
        list.extend_from_slice(line.as_bytes());
        list.extend_from_slice(b", ");
    }
    list.extend_from_slice(member.as_bytes());
    // Made of valid values and an address: this cannot fail, and were it to, a forged list would go.
    match HeaderValue::from_bytes(&list) {
        Ok(list) => drop(headers.insert(name, list)),
        Err(_) => drop(headers.remove(name)),
    }
}

fn insert_absent(
    headers: &mut HeaderMap,
    name: HeaderName,
    value: impl FnOnce() -> Option<HeaderValue>,
) {
    if !headers.contains_key(&name)
        && let Some(value) = value()
    {
        headers.insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPOOFED: [(&str, &str); 8] = [
        ("x-forwarded-for", "1.1.1.1"),
        ("x-forwarded-for", "2.2.2.2, 3.3.3.3"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "bank.example"),
        ("x-forwarded-port", "443"),
        ("x-forwarded-prefix", "/admin"),
        ("x-real-ip", "1.1.1.1"),
        ("forwarded", "for=1.1.1.1"),
    ];

    fn written(peer: &str, trusted: bool) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in SPOOFED {
            headers.append(name, HeaderValue::from_static(value));
        }
        let host = HeaderValue::from_static("shop.example:8080");
        let forwarding = Forwarding {
            peer: peer.parse().unwrap(),
            trusted,
            host: Some(&host),
            scheme: "http",
        };
        forwarding.write(&mut headers);
        headers
    }

    #[test]
    fn an_untrusted_peers_statements_are_replaced() {
        let headers = written("192.0.2.9", false);
        let expected = [
            ("x-forwarded-for", "192.0.2.9"),
            ("x-forwarded-proto", "http"),
            ("x-forwarded-host", "shop.example:8080"),
            ("x-real-ip", "192.0.2.9"),
            (
                "forwarded",
                "for=192.0.2.9;host=\"shop.example:8080\";proto=http",
            ),
        ];
        for (name, value) in expected {
            let lines: Vec<_> = headers.get_all(name).iter().collect();
            assert_eq!(lines, [value], "{name}");
        }
        assert_eq!(headers.len(), expected.len(), "{headers:?}");
    }

    #[test]
    fn a_trusted_peers_statements_are_kept_and_it_is_appended() {
        let headers = written("::ffff:10.0.0.1", true);
        let expected = [
            ("x-forwarded-for", "1.1.1.1, 2.2.2.2, 3.3.3.3, 10.0.0.1"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "bank.example"),
            ("x-forwarded-port", "443"),
            ("x-forwarded-prefix", "/admin"),
            ("x-real-ip", "1.1.1.1"),
            (
                "forwarded",
                "for=1.1.1.1, for=10.0.0.1;host=\"shop.example:8080\";proto=http",
            ),
        ];
        for (name, value) in expected {
            let lines: Vec<_> = headers.get_all(name).iter().collect();
            assert_eq!(lines, [value], "{name}");
        }
    }

    #[test]
    fn ipv6_is_bare_in_one_field_and_quoted_in_the_other() {
        let headers = written("2001:db8::1", false);
        assert_eq!(headers["x-forwarded-for"], "2001:db8::1");
        assert!(
            headers["forwarded"]
                .to_str()
                .unwrap()
                .starts_with("for=\"[2001:db8::1]\";"),
            "{headers:?}"
        );
    }
}
