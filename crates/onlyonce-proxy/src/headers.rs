//! What a proxy removes from, and adds to, the header fields it passes on.
//!
//! Every function here is pure: fields in, fields out, no configuration looked up behind its back. The
//! order in which they are called is part of the protection: *first strip, then add*. A client may name
//! any field in `Connection`, and RFC 9110 section 7.6.1 makes us remove it; were our own fields added
//! before, it could have `X-Forwarded-For` removed from the message the upstream sees.
//!
//! ```
//! use http::HeaderMap;
//! use onlyonce_proxy::headers::{Via, strip_hop_by_hop};
//!
//! let mut headers = HeaderMap::new();
//! headers.insert("connection", "close, x-internal".parse()?);
//! headers.insert("x-internal", "1".parse()?);
//! headers.insert("accept", "*/*".parse()?);
//! strip_hop_by_hop(&mut headers);
//! Via::new("edge")?.append(&mut headers, http::Version::HTTP_11);
//!
//! let names: Vec<_> = headers.keys().map(|name| name.as_str()).collect();
//! assert_eq!(names, ["accept", "via"]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod ambiguous;
mod forwarded;
mod hop_by_hop;
mod trusted_peers;
mod via;

pub use self::ambiguous::{PROTECTED, drop_ambiguous};
pub use self::forwarded::{Forwarding, Peer};
pub use self::hop_by_hop::{accepts_trailers, strip_hop_by_hop, upgrade_protocol};
pub use self::trusted_peers::{Cidr, ParseCidrError, TrustedPeers};
pub use self::via::{InvalidPseudonym, Via};

use http::header::{HeaderMap, HeaderName, HeaderValue};

/// The members of a comma-separated field value, trimmed; empty ones and non-ASCII values left out.
pub(crate) fn members(value: &HeaderValue) -> impl Iterator<Item = &str> {
    let text = value.to_str().unwrap_or_default();
    text.split(',')
        .map(|member| member.trim_matches([' ', '\t']))
        .filter(|member| !member.is_empty())
}

/// Removes fields by their names. One look at each name that there is costs less than to ask for each of a
/// list of names that nearly no message has.
fn remove_where(headers: &mut HeaderMap, is_unwelcome: impl Fn(&HeaderName) -> bool) {
    let names = headers.keys().filter(|name| is_unwelcome(name));
    let names: Vec<HeaderName> = names.cloned().collect();
    for name in names {
        headers.remove(name);
    }
}

/// Whether a `Content-Length` says this in the shortest way.
pub(crate) fn states_length(value: &HeaderValue, length: u64) -> bool {
    let digits = value.as_bytes();
    let is_plain = digits.iter().all(u8::is_ascii_digit)
        && (digits.len() == 1 || digits.first() != Some(&b'0'));
    is_plain && value.to_str().is_ok_and(|text| text.parse() == Ok(length))
}
