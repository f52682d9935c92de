//! The key of a request: what the client sends to say "this is the same as before".
//!
//! The expired draft -07 makes `Idempotency-Key` a Structured Field (RFC 9651) of type String, quoted.
//! Hardly any client quotes it. So keys are read leniently: quoted or raw, and both name one record.
//! Nothing else is lenient: a list, a second line, an empty key, control or non-ASCII bytes are errors,
//! and an error is answered, never ignored, for ignoring it would execute unprotected while the client
//! believes itself protected.
//!
//! Keys are opaque, case-sensitive and possibly personal: they are hashed before they reach a store, and
//! `Debug` does not print them.
//!
//! ```
//! use onlyonce::key::{IdempotencyKey, KeyError, KeySyntax};
//!
//! let lenient = KeySyntax::default();
//! let quoted = IdempotencyKey::parse(br#""8e03978e-40d5""#, &lenient)?;
//! let raw = IdempotencyKey::parse(b"8e03978e-40d5", &lenient)?;
//! assert_eq!(quoted, raw);
//! assert_eq!(IdempotencyKey::parse(b"8e03978e-40d5", &KeySyntax::strict()), Err(KeyError::Unquoted));
//! # Ok::<(), KeyError>(())
//! ```

use std::fmt;

use http::{HeaderMap, HeaderName};
use sfv::StringRef;

/// Which keys are accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeySyntax {
    raw: bool,
    bytes_max: usize,
}

impl Default for KeySyntax {
    /// Lenient, 255 bytes.
    fn default() -> Self {
        Self::lenient()
    }
}

impl KeySyntax {
    /// Quoted strings, and raw keys of visible ASCII without `,` `;` `"` and `\`; 255 bytes.
    #[must_use]
    pub const fn lenient() -> Self {
        Self {
            raw: true,
            bytes_max: 255,
        }
    }

    /// Only quoted strings, as the draft has it; 255 bytes.
    #[must_use]
    pub const fn strict() -> Self {
        Self {
            raw: false,
            bytes_max: 255,
        }
    }

    /// The longest key in bytes, without quotes and escapes.
    #[must_use]
    pub const fn with_bytes_max(mut self, bytes: usize) -> Self {
        self.bytes_max = bytes;
        self
    }
}

/// Why a value is no key. The text is fit for a client: it never repeats the value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// There is more than one line of it, identical or not.
    #[error("the key header must appear once")]
    Repeated,
    /// Nothing, `""`, or only spaces.
    #[error("the key must not be empty or blank")]
    Empty,
    /// More bytes than the route allows.
    #[error("the key must not be longer than {bytes_max} bytes")]
    TooLong {
        /// The limit.
        bytes_max: usize,
    },
    /// A control character or a byte outside ASCII.
    #[error("the key must consist of visible ASCII characters")]
    Character,
    /// A raw key where only quoted ones are accepted.
    #[error("the key must be a string in double quotes")]
    Unquoted,
    /// A list, an unfinished string, a wrong escape, or text after the key.
    #[error(
        "the key must be one value: a string in double quotes, or visible ASCII without spaces, \
         commas, semicolons, quotes and backslashes"
    )]
    Malformed,
}

/// A key, without quotes and escapes.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct IdempotencyKey(Box<str>);

impl IdempotencyKey {
    /// Reads the value of one header line.
    ///
    /// Parameters of a quoted key (`"a";v=1`) are checked and ignored, as RFC 9651 section 2.3 advises.
    ///
    /// # Errors
    /// Where the value is no key under `syntax`.
    pub fn parse(value: &[u8], syntax: &KeySyntax) -> Result<Self, KeyError> {
        let value = trim(value);
        if value.iter().any(|byte| !matches!(byte, b' '..=b'~')) {
            return Err(KeyError::Character);
        }
        let key = match value.first() {
            None => return Err(KeyError::Empty),
            Some(b'"') => quoted(value)?,
            Some(_) if syntax.raw => raw(value)?,
            Some(_) => return Err(KeyError::Unquoted),
        };
        if key.bytes().all(|byte| byte == b' ') {
            return Err(KeyError::Empty);
        }
        if key.len() > syntax.bytes_max {
            return Err(KeyError::TooLong {
                bytes_max: syntax.bytes_max,
            });
        }
        Ok(Self(key))
    }

    /// Reads the key of a request; `None` where it has none.
    ///
    /// # Errors
    /// Where the header is there and is no key, or is there more than once.
    pub fn from_headers(
        headers: &HeaderMap,
        name: &HeaderName,
        syntax: &KeySyntax,
    ) -> Result<Option<Self>, KeyError> {
        let mut lines = headers.get_all(name).iter();
        match (lines.next(), lines.next()) {
            (None, _) => Ok(None),
            (Some(line), None) => Self::parse(line.as_bytes(), syntax).map(Some),
            (Some(_), Some(_)) => Err(KeyError::Repeated),
        }
    }

    /// The key.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for IdempotencyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IdempotencyKey(..)")
    }
}

/// Removes the optional white space around a field value (RFC 9110 section 5.5): a server may leave it.
fn trim(value: &[u8]) -> &[u8] {
    let blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let start = value.iter().position(|byte| !blank(byte));
    let end = value.iter().rposition(|byte| !blank(byte));
    match (start, end) {
        (Some(start), Some(end)) => &value[start..=end],
        _ => &[],
    }
}

fn quoted(value: &[u8]) -> Result<Box<str>, KeyError> {
    sfv::Parser::new(value)
        .parse_item::<std::borrow::Cow<'_, StringRef>>()
        .map(|text| text.as_str().into())
        .map_err(|_| KeyError::Malformed)
}

fn raw(value: &[u8]) -> Result<Box<str>, KeyError> {
    let allowed = |byte: &u8| matches!(byte, b'!'..=b'~') && !b",;\"\\".contains(byte);
    match str::from_utf8(value) {
        Ok(text) if value.iter().all(allowed) => Ok(text.into()),
        _ => Err(KeyError::Malformed),
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn parse(value: &str) -> Result<String, KeyError> {
        parse_by(value, &KeySyntax::lenient())
    }

    fn parse_by(value: &str, syntax: &KeySyntax) -> Result<String, KeyError> {
        IdempotencyKey::parse(value.as_bytes(), syntax).map(|key| key.as_str().to_owned())
    }

    const UUID: &str = "8e03978e-40d5-43e8-bc93-6894a57f9324";

    #[test]
    fn k1_k2_k14_quoted_keys_are_unescaped() {
        for (value, key) in [
            (r#""8e03978e""#, "8e03978e"),
            (r#""a\"b\\c""#, r#"a"b\c"#),
            (" \t\"a b\" ", "a b"),
            (r#"" a""#, " a"),
            (r#""a, b; c""#, "a, b; c"),
        ] {
            assert_eq!(parse(value).as_deref(), Ok(key), "{value}");
            assert_eq!(parse_by(value, &KeySyntax::strict()).as_deref(), Ok(key));
        }
    }

    #[test]
    fn k2_k5_k20_malformed_values_are_refused() {
        for value in [
            r#""a\x""#,
            r#""a\""#,
            r#""a"#,
            r#"""#,
            r#""a", "b""#,
            r#""a" "b""#,
            r#""a"b"#,
            r#""a";"#,
            r#""a";V=1"#,
            r#""a";v=""#,
            "a, b",
            "a,a",
            "a b",
            "a;v=1",
            r#"a"b"#,
            r"a\b",
            "(\"a\")",
        ] {
            assert_eq!(parse(value), Err(KeyError::Malformed), "{value}");
        }
    }

    #[test]
    fn k3_k4_raw_keys_are_the_quoted_ones_unless_strict() {
        for key in [
            UUID,
            "abc",
            "stripe-node-retry-8e03978e",
            "auto_1:2",
            "ab+/12==",
            ":YWJj:",
            "?1",
            "42",
            "@1",
        ] {
            assert_eq!(parse(key).as_deref(), Ok(key));
            assert_eq!(parse(&format!("\"{key}\"")).as_deref(), Ok(key));
            assert_eq!(
                parse_by(key, &KeySyntax::strict()),
                Err(KeyError::Unquoted),
                "K20: {key}"
            );
        }
    }

    #[test]
    fn k5_k6_repeated_lines_are_refused_even_identical() {
        let name = HeaderName::from_static("idempotency-key");
        let mut headers = HeaderMap::new();
        let read = |headers: &HeaderMap| {
            IdempotencyKey::from_headers(headers, &name, &KeySyntax::default())
        };
        assert_eq!(read(&headers), Ok(None));
        headers.append(&name, HeaderValue::from_static("a"));
        assert_eq!(read(&headers).unwrap().unwrap().as_str(), "a");
        headers.append(&name, HeaderValue::from_static("a"));
        assert_eq!(read(&headers), Err(KeyError::Repeated));
    }

    #[test]
    fn k7_k10_characters_outside_visible_ascii_are_refused() {
        for value in [
            "a\tb",
            "\"a\tb\"",
            "a\u{0}",
            "\"a\u{0}\"",
            "\"a\u{7f}\"",
            "ä",
            "\"ä\"",
            "a\r\nb: c",
        ] {
            assert_eq!(parse(value), Err(KeyError::Character), "{value:?}");
        }
        let obs_text = IdempotencyKey::parse(b"\"a\xff\"", &KeySyntax::default());
        assert_eq!(obs_text, Err(KeyError::Character));
    }

    #[test]
    fn k8_empty_and_blank_keys_are_refused() {
        for value in ["", " ", "\t ", r#""""#, r#""  ""#, r#""";v=1"#] {
            assert_eq!(parse(value), Err(KeyError::Empty), "{value:?}");
        }
    }

    #[test]
    fn k9_parameters_are_no_part_of_the_key() {
        for value in [r#""a";v=1"#, r#""a"; v=1;w;x="y, z""#] {
            assert_eq!(parse(value).as_deref(), Ok("a"), "{value}");
        }
    }

    #[test]
    fn k11_the_limit_counts_bytes_of_content() {
        let longest = "k".repeat(255);
        assert_eq!(parse(&longest).as_ref(), Ok(&longest));
        assert_eq!(parse(&format!("\"{longest}\";v=1")).as_ref(), Ok(&longest));
        let too_long = Err(KeyError::TooLong { bytes_max: 255 });
        assert_eq!(parse(&format!("{longest}k")), too_long);
        assert_eq!(parse(&format!("\"{longest}k\"")), too_long);

        let two = KeySyntax::lenient().with_bytes_max(2);
        assert_eq!(parse_by(r#""\"\"""#, &two).as_deref(), Ok("\"\""));
    }

    #[test]
    fn k13_case_matters() {
        assert_ne!(parse("a"), parse("A"));
    }

    #[test]
    fn k19_a_key_is_not_printed() {
        let key = IdempotencyKey::parse(b"secret", &KeySyntax::default()).unwrap();
        assert!(!format!("{key:?}").contains("secret"));
        let error = parse("sec ret").unwrap_err();
        assert!(!error.to_string().contains("sec ret"));
    }

    proptest! {
        #[test]
        fn k4_raw_and_quoted_are_equal(key in "[!-~&&[^,;\"\\\\]]{1,255}") {
            prop_assert_eq!(parse(&key), parse(&format!("\"{key}\"")));
            prop_assert_eq!(parse(&key), Ok(key));
        }

        #[test]
        fn any_printable_content_survives_quoting(key in "[ -~]{0,64}[!-~]") {
            let escaped = key.replace('\\', "\\\\").replace('"', "\\\"");
            prop_assert_eq!(parse(&format!("\"{escaped}\"")), Ok(key));
        }

        #[test]
        fn any_bytes_are_a_key_or_an_error(bytes: Vec<u8>) {
            if let Ok(key) = IdempotencyKey::parse(&bytes, &KeySyntax::default()) {
                prop_assert!(key.as_str().bytes().all(|b| matches!(b, b' '..=b'~')));
            }
        }
    }
}
