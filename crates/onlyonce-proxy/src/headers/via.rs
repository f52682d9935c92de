//! The `Via` field (RFC 9110 section 7.6.3), and loops seen by it.

use http::Version;
use http::header::{HeaderMap, HeaderValue, VIA};

use super::members;

/// The name under which this proxy appears in `Via`: a pseudonym, so that no internal host name leaks.
///
/// Loops are found by it, hence proxies that are chained on purpose need different ones, and replicas of
/// one proxy are best given the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Via {
    pseudonym: Box<str>,
    http_10: HeaderValue,
    http_11: HeaderValue,
}

/// A pseudonym that is not a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the Via pseudonym must be a token: letters, digits and any of !#$%&'*+-.^_`|~")]
pub struct InvalidPseudonym;

impl Via {
    /// Names this proxy.
    ///
    /// # Errors
    /// Where the name is not a token (RFC 9110 section 5.6.2).
    pub fn new(pseudonym: &str) -> Result<Self, InvalidPseudonym> {
        let is_token = !pseudonym.is_empty()
            && pseudonym
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte));
        if !is_token {
            return Err(InvalidPseudonym);
        }
        let line = |version| {
            HeaderValue::try_from(format!("{version} {pseudonym}")).map_err(|_| InvalidPseudonym)
        };
        Ok(Self {
            pseudonym: pseudonym.into(),
            http_10: line("1.0")?,
            http_11: line("1.1")?,
        })
    }

    /// A name that no other process has: `onlyonce-` and eight random hexadecimal digits.
    pub fn unique() -> Self {
        // Without a random source a chain of proxies could be taken for a loop; nothing worse.
        let number = getrandom::u32().unwrap_or_default();
        Self::new(&format!("onlyonce-{number:08x}"))
            .expect("letters, digits and a hyphen are a token")
    }

    /// Adds our line for a message received in `version`.
    pub fn append(&self, headers: &mut HeaderMap, version: Version) {
        let line = if version == Version::HTTP_10 {
            &self.http_10
        } else {
            &self.http_11
        };
        headers.append(VIA, line.clone());
    }

    /// Whether a message has been here before.
    pub fn has_passed(&self, headers: &HeaderMap) -> bool {
        headers
            .get_all(VIA)
            .iter()
            .flat_map(members)
            .filter_map(|member| member.split_ascii_whitespace().nth(1))
            .any(|received_by| received_by.eq_ignore_ascii_case(&self.pseudonym))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loops_are_found_in_every_line_and_member() {
        let via = Via::new("edge").unwrap();
        let cases: &[(&[&str], bool)] = &[
            (&[], false),
            (&["1.1 other"], false),
            (&["1.1 edge2, 1.0 an-edge"], false),
            (&["1.1 edge"], true),
            (&["1.1 other, 1.0 EDGE (comment)"], true),
            (&["1.1 other", "HTTP/1.1 edge"], true),
            (&["edge"], false),
        ];
        for (lines, expected) in cases {
            let mut headers = HeaderMap::new();
            for line in *lines {
                headers.append(VIA, HeaderValue::from_static(line));
            }
            assert_eq!(via.has_passed(&headers), *expected, "{lines:?}");
        }
    }

    #[test]
    fn our_line_comes_last_and_names_the_version_received() {
        let mut headers = HeaderMap::new();
        headers.append(VIA, HeaderValue::from_static("1.1 cdn"));
        let via = Via::new("edge").unwrap();
        via.append(&mut headers, Version::HTTP_10);
        via.append(&mut headers, Version::HTTP_11);
        let lines: Vec<_> = headers.get_all(VIA).iter().collect();
        assert_eq!(lines, ["1.1 cdn", "1.0 edge", "1.1 edge"]);
    }

    #[test]
    fn pseudonyms_are_tokens_and_unique_ones_differ() {
        for invalid in ["", "a b", "a,b", "käse", "a(b)"] {
            assert_eq!(Via::new(invalid), Err(InvalidPseudonym), "{invalid:?}");
        }
        assert_ne!(Via::unique(), Via::unique());
    }
}
