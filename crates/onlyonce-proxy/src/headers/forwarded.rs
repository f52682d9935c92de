//! `X-Forwarded-*`, `Forwarded` (RFC 7239) and `X-Real-IP`: who asked, for which host.
//!
//! The upstream believes these fields, so what an untrusted peer sent of them is replaced. A trusted
//! peer's are kept, and the peer itself is appended.

use std::net::IpAddr;

use bytes::Bytes;
use http::HeaderName;
use http::header::{FORWARDED, HeaderMap, HeaderValue};

use super::remove_where;

const FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");

/// The fields that only trusted peers are believed in.
pub(super) const SAID_BY_PEERS: [&str; 9] = [
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-prefix",
    "x-forwarded-proto",
    "x-forwarded-server",
    "x-forwarded-ssl",
    "x-real-ip",
];

/// The other end of a client's connection, in the words in which each of its requests names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    is_trusted: bool,
    address: HeaderValue,
    /// As the beginning of an element of `Forwarded`.
    node: Box<str>,
}

impl Peer {
    /// Describes a peer; `is_trusted` says whether its own statements are believed.
    pub fn new(address: IpAddr, is_trusted: bool) -> Self {
        let address = address.to_canonical();
        let node = match address {
            IpAddr::V4(address) => format!("for={address}"),
            IpAddr::V6(address) => format!("for=\"[{address}]\""),
        };
        Self {
            is_trusted,
            address: HeaderValue::try_from(address.to_string())
                .expect("digits, letters, dots and colons are a valid field value"),
            node: node.into(),
        }
    }
}

/// What was seen of a request's origin.
#[derive(Debug, Clone, Copy)]
pub struct Forwarding<'a> {
    /// Who sent it.
    pub peer: &'a Peer,
    /// The authority that the client asked for.
    pub host: Option<&'a HeaderValue>,
    /// The scheme that the client used: `http` or `https`.
    pub scheme: &'static str,
}

impl Forwarding<'_> {
    /// Writes the fields into a request's headers.
    pub fn write(&self, headers: &mut HeaderMap) {
        let said = |name: &HeaderName| SAID_BY_PEERS.contains(&name.as_str());
        // Nearly no client sends any of them, and then there is nothing to remove or to be joined with.
        let is_said = headers.keys().any(said);
        if is_said && !self.peer.is_trusted {
            remove_where(headers, said);
        }
        let is_kept = is_said && self.peer.is_trusted;
        let mut add = |name, value: HeaderValue, is_list| match is_kept {
            true if is_list => append_member(headers, name, value),
            true if headers.contains_key(&name) => {}
            _ => drop(headers.insert(name, value)),
        };
        add(FOR, self.peer.address.clone(), true);
        if let Ok(element) = HeaderValue::try_from(self.element()) {
            add(FORWARDED, element, true);
        }
        add(PROTO, HeaderValue::from_static(self.scheme), false);
        if let Some(host) = self.host {
            add(HOST, host.clone(), false);
        }
        add(REAL_IP, self.peer.address.clone(), false);
    }

    /// Our element of `Forwarded`.
    fn element(&self) -> String {
        // A host can hold `:` and brackets, so it is quoted; one with a quote in it is left out.
        let host = self.host.and_then(|host| host.to_str().ok());
        match host.filter(|host| !host.contains(['"', '\\'])) {
            Some(host) => [&self.peer.node, ";host=\"", host, "\";proto=", self.scheme].concat(),
            None => [&self.peer.node, ";proto=", self.scheme].concat(),
        }
    }
}

/// Joins all lines of a list field and appends a member.
fn append_member(headers: &mut HeaderMap, name: HeaderName, member: HeaderValue) {
    let mut lines = headers.get_all(&name).iter().peekable();
    if lines.peek().is_none() {
        headers.insert(name, member);
        return;
    }
    let mut list = Vec::new();
    for line in lines {
        list.extend_from_slice(line.as_bytes());
        list.extend_from_slice(b", ");
    }
    list.extend_from_slice(member.as_bytes());
    // Made of valid values: this cannot fail, and were it to, a forged list would go.
    match HeaderValue::from_maybe_shared(Bytes::from(list)) {
        Ok(list) => drop(headers.insert(name, list)),
        Err(_) => drop(headers.remove(name)),
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
            peer: &Peer::new(peer.parse().unwrap(), trusted),
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
