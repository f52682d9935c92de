//! A media type (RFC 9110 section 8.3.1), read as far as comparing needs.
//!
//! `Text/HTML;Charset="utf-8"` and `text/html; charset=utf-8` are the same type; parameters in another
//! order are too, unless they share a name: which one counts then is up to the reader. Values are
//! case-sensitive, but for `charset`.

use std::borrow::Cow;

/// Type and parameters: names in lower case, values without quotes, sorted by name.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct MediaType {
    essence: Vec<u8>,
    parameters: Vec<Parameter>,
}

impl MediaType {
    /// Reads a field value; `None` where it is no media type.
    pub(super) fn parse(value: &[u8]) -> Option<Self> {
        let (essence, mut rest) = split_at_token_end(value.trim_ascii(), b"/");
        let (main, sub) = essence.split_at(essence.iter().position(|byte| *byte == b'/')?);
        if main.is_empty() || sub.len() < 2 || sub[1..].contains(&b'/') {
            return None;
        }
        let mut parameters = Vec::new();
        loop {
            rest = rest.trim_ascii_start();
            if rest.is_empty() {
                break;
            }
            rest = rest.strip_prefix(b";")?.trim_ascii_start();
            // Empty parameters are allowed: `a/b; ;c=d;`.
            if rest.is_empty() || rest[0] == b';' {
                continue;
            }
            let (parameter, after) = parse_parameter(rest)?;
            parameters.push(parameter);
            rest = after;
        }
        parameters.sort_by(|(a, _): &Parameter, (b, _)| a.cmp(b));
        Some(Self {
            essence: essence.to_ascii_lowercase(),
            parameters,
        })
    }

    /// One spelling for all that mean the same. What is no media type is compared by its bytes.
    pub(super) fn normalise(value: &[u8]) -> Cow<'_, [u8]> {
        if is_plain(value) {
            return value.into();
        }
        let Some(Self {
            essence,
            parameters,
        }) = Self::parse(value)
        else {
            return [b"?", value].concat().into();
        };
        let mut out = essence;
        for (name, value) in parameters {
            out.push(b';');
            out.extend(name);
            out.extend_from_slice(b"=\"");
            for byte in value {
                if matches!(byte, b'"' | b'\\') {
                    out.push(b'\\');
                }
                out.push(byte);
            }
            out.push(b'"');
        }
        out.into()
    }

    /// Whether it is `application/json`, `text/json`, or has the suffix `+json` (RFC 6839 section 3.1), in
    /// UTF-8: JSON has no other charset, and whoever believes in one reads another text than we do.
    pub(super) fn is_json(&self) -> bool {
        let json = matches!(&*self.essence, b"application/json" | b"text/json")
            || self.essence.ends_with(b"+json");
        let utf8 = |(name, value): &Parameter| name != b"charset" || value == b"utf-8";
        json && self.parameters.iter().all(utf8)
    }
}

/// Whether it is spelt as it would be here: a type without parameters, in the characters that most types have.
fn is_plain(value: &[u8]) -> bool {
    let letter = |byte: &u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'+' | b'.');
    let slash = value.iter().position(|byte| !letter(byte));
    slash.is_some_and(|at| {
        let (main, sub) = (&value[..at], &value[at + 1..]);
        value[at] == b'/' && !main.is_empty() && !sub.is_empty() && sub.iter().all(letter)
    })
}

type Parameter = (Vec<u8>, Vec<u8>);

fn parse_parameter(input: &[u8]) -> Option<(Parameter, &[u8])> {
    let (name, rest) = split_at_token_end(input, b"");
    let rest = rest.strip_prefix(b"=")?;
    if name.is_empty() {
        return None;
    }
    let (mut value, rest) = match rest.strip_prefix(b"\"") {
        Some(quoted) => parse_quoted(quoted)?,
        None => {
            let (value, rest) = split_at_token_end(rest, b"");
            (!value.is_empty()).then(|| (value.to_vec(), rest))?
        }
    };
    let name = name.to_ascii_lowercase();
    if name == b"charset" {
        value.make_ascii_lowercase();
    }
    Some(((name, value), rest))
}

/// Reads up to the closing quote and resolves `\x` (RFC 9110 section 5.6.4).
fn parse_quoted(input: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut value = Vec::new();
    let mut bytes = input.iter().enumerate();
    loop {
        match bytes.next()? {
            (end, b'"') => return Some((value, &input[end + 1..])),
            (_, b'\\') => value.push(*bytes.next()?.1),
            (_, byte) => value.push(*byte),
        }
    }
}

/// Splits after the longest prefix of token characters (RFC 9110 section 5.6.2) and those in `also`.
fn split_at_token_end<'a>(input: &'a [u8], also: &[u8]) -> (&'a [u8], &'a [u8]) {
    let part_of = |byte: &u8| {
        byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte) || also.contains(byte)
    };
    let end = input.iter().position(|byte| !part_of(byte));
    input.split_at(end.unwrap_or(input.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normalise(value: &str) -> String {
        String::from_utf8(MediaType::normalise(value.as_bytes()).into_owned()).unwrap()
    }

    #[test]
    fn m7_one_spelling() {
        for (value, expected) in [
            ("text/plain", "text/plain"),
            ("application/vnd.api+json", "application/vnd.api+json"),
            ("application/x-7z-compressed", "application/x-7z-compressed"),
            ("a_b/c", "a_b/c"),
            (" TEXT/Plain ", "text/plain"),
            ("a/b;c=D", "a/b;c=\"D\""),
            ("a/b ; C=\"D\" ;", "a/b;c=\"D\""),
            ("a/b;;d=1; ;c=2", "a/b;c=\"2\";d=\"1\""),
            ("a/b;charset=UTF-8", "a/b;charset=\"utf-8\""),
            (r#"a/b;c="x\"y\\z\w;d=e""#, r#"a/b;c="x\"y\\zw;d=e""#),
            ("a/b;d=3;c=2;D=1", "a/b;c=\"2\";d=\"3\";d=\"1\""),
            ("a/b;c=", "?a/b;c="),
            ("a/b;c", "?a/b;c"),
            ("a/b;c =d", "?a/b;c =d"),
            ("a/b;c=\"d", "?a/b;c=\"d"),
            ("a/b;c=\"d\\", "?a/b;c=\"d\\"),
            ("a/b c", "?a/b c"),
            ("a/b, c/d", "?a/b, c/d"),
            ("a/b/c", "?a/b/c"),
            ("/b", "?/b"),
            ("a/", "?a/"),
            ("/", "?/"),
            ("a//b", "?a//b"),
            ("ä/b", "?ä/b"),
            ("a", "?a"),
            ("", "?"),
        ] {
            assert_eq!(normalise(value), expected, "{value}");
            if !expected.starts_with('?') {
                assert_eq!(normalise(expected), expected);
            }
        }
    }

    #[test]
    fn json_types() {
        for (value, expected) in [
            ("application/json", true),
            ("Application/JSON; charset=utf-8", true),
            ("application/problem+json", true),
            ("text/json", true),
            ("application/json; charset=UTF-16", false),
            ("application/json; charset=utf-8; charset=utf-7", false),
            ("application/jsonl", false),
            ("application/json-seq", false),
            ("text/plain; a=\"+json\"", false),
        ] {
            let media_type = MediaType::parse(value.as_bytes()).unwrap();
            assert_eq!(media_type.is_json(), expected, "{value}");
        }
    }
}
