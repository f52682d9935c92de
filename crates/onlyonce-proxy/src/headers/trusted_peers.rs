//! Whose `X-Forwarded-*` fields are believed.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// The networks of proxies in front of this one. None by default: nobody is believed.
///
/// ```
/// use onlyonce_proxy::headers::TrustedPeers;
///
/// let peers = ["10.0.0.0/8", "2001:db8::7"].iter().map(|net| net.parse());
/// let peers: TrustedPeers = peers.collect::<Result<_, _>>()?;
/// assert!(peers.contains("10.1.2.3".parse()?));
/// assert!(!peers.contains("11.1.2.3".parse()?));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrustedPeers(Vec<Cidr>);

/// One network: an address and the number of leading bits that count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cidr {
    network: IpAddr,
    prefix_bits: u8,
}

/// A text that is no network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a network: write an IP address, or one with a prefix length such as 10.0.0.0/8"
)]
pub struct ParseCidrError(String);

impl TrustedPeers {
    /// Whether `peer` is believed. An IPv4 address mapped into IPv6 counts as IPv4.
    pub fn contains(&self, peer: IpAddr) -> bool {
        let peer = peer.to_canonical();
        self.0.iter().any(|cidr| cidr.contains(peer))
    }
}

impl FromIterator<Cidr> for TrustedPeers {
    fn from_iter<I: IntoIterator<Item = Cidr>>(cidrs: I) -> Self {
        Self(cidrs.into_iter().collect())
    }
}

impl Cidr {
    fn contains(&self, peer: IpAddr) -> bool {
        match (self.network, peer) {
            (IpAddr::V4(network), IpAddr::V4(peer)) => {
                let differing = network.to_bits() ^ peer.to_bits();
                differing.leading_zeros() >= u32::from(self.prefix_bits)
            }
            (IpAddr::V6(network), IpAddr::V6(peer)) => {
                let differing = network.to_bits() ^ peer.to_bits();
                differing.leading_zeros() >= u32::from(self.prefix_bits)
            }
            _ => false,
        }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix_bits)
    }
}

impl FromStr for Cidr {
    type Err = ParseCidrError;

    fn from_str(text: &str) -> Result<Self, ParseCidrError> {
        let invalid = || ParseCidrError(text.to_owned());
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let network: IpAddr = address.parse().map_err(|_| invalid())?;
        let bits_max = if network.is_ipv4() { 32 } else { 128 };
        let prefix_bits = match prefix {
            Some(prefix) => prefix.parse().map_err(|_| invalid())?,
            None => bits_max,
        };
        if prefix_bits > bits_max {
            return Err(invalid());
        }
        Ok(Self {
            network,
            prefix_bits,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_hold_what_their_prefix_says() {
        let cases = [
            ("127.0.0.1", "127.0.0.1", true),
            ("127.0.0.1", "::ffff:127.0.0.1", true),
            ("127.0.0.1", "127.0.0.2", false),
            ("10.0.0.0/8", "10.255.255.255", true),
            ("10.9.9.9/8", "10.1.1.1", true),
            ("10.0.0.0/9", "10.128.0.0", false),
            ("0.0.0.0/0", "192.0.2.1", true),
            ("0.0.0.0/0", "2001:db8::1", false),
            ("2001:db8::/32", "2001:db8:ffff::1", true),
            ("2001:db8::/32", "2001:db9::1", false),
            ("::/0", "::1", true),
        ];
        for (network, peer, expected) in cases {
            let peers: TrustedPeers = [network.parse::<Cidr>().unwrap()].into_iter().collect();
            assert_eq!(
                peers.contains(peer.parse().unwrap()),
                expected,
                "{network} {peer}"
            );
        }
    }

    #[test]
    fn nonsense_is_refused_and_named() {
        for text in [
            "",
            "localhost",
            "10.0.0.0/33",
            "10.0.0.0/",
            "::/129",
            "10.0.0.0/8/8",
            "10/8",
        ] {
            let error = text.parse::<Cidr>().unwrap_err();
            assert!(error.to_string().contains(text), "{error}");
        }
    }
}
