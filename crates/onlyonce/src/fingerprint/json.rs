//! A digest of JSON by value: white space and the order of members do not matter, nothing else is lost.
//!
//! Numbers are compared exactly, as decimal text. Through `f64`, as RFC 8785 has it, 9007199254740993 and
//! 9007199254740992 would be one number, and two payments one. `1`, `1.0` and `10e-1` are one number here.
//!
//! Where a text has no single value on which all parsers agree there is no digest, and the caller compares
//! bytes: invalid JSON, duplicate members, lone surrogates, negative zero, exponents beyond 64 bits. So is
//! nesting deeper than [`DEPTH_MAX`].
//!
//! The text is read once. Each value is written in a prefix-free encoding, and an object of more than a few
//! bytes is replaced by a hash as soon as it is complete: sorting its members moves no large values, so
//! nesting costs nothing extra, however it is built. Memory is at worst some fifteen times the text.
//!
//! ```
//! use onlyonce::fingerprint::json::digest;
//!
//! assert_eq!(digest(br#"{"a": 1.50, "b": "A"}"#), digest(br#"{"b":"\u0041","a":15e-1}"#));
//! assert_ne!(digest(b"9007199254740993"), digest(b"9007199254740992"));
//! assert_eq!(digest(br#"{"a":1,"a":1}"#), None);
//! ```

use std::borrow::Cow;
use std::ops::Range;

use crate::fields::{Fields, Purpose};

mod number;

/// The deepest nesting of arrays and objects that is read.
pub const DEPTH_MAX: usize = 64;

/// The longest object that is written out, in bytes of its encoding. Most of what a hostile text can hold
/// many of is shorter, and copying that is quicker than hashing it.
const INLINE_MAX: usize = 64;

static OBJECT: Purpose = Purpose::new("onlyonce 2026-11 json object v1");
static TEXT: Purpose = Purpose::new("onlyonce 2026-11 json text v1");

/// The digest of a JSON text; `None` where it has to be compared by its bytes.
pub fn digest(text: &[u8]) -> Option<[u8; 32]> {
    let mut reader = Reader {
        text: str::from_utf8(text).ok()?,
        at: 0,
        depth: 0,
        out: Vec::with_capacity(text.len()),
    };
    reader.value()?;
    reader.skip_space();
    (reader.at == text.len()).then(|| Fields::new(&TEXT).field(reader.out).finish())
}

/// Reads a text from `at`, and writes its encoding to `out`:
///
/// | value | encoding |
/// |---|---|
/// | null, true, false | `n`, `t`, `f` |
/// | number | see [`number`] |
/// | string | `"`, length in 8 bytes, UTF-8 |
/// | array | `[`, elements, `]` |
/// | object | `{`, name (as a string) and value of each member, sorted by name, `}` |
/// | the same, where that is longer than [`INLINE_MAX`] | `#`, 32 bytes of hash over the sorted members |
///
/// No encoding is the beginning of another, so a sequence of them can be read in one way only.
struct Reader<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
    out: Vec<u8>,
}

/// A name, and where the encoding of its value is.
type Member<'a> = (Cow<'a, str>, Range<usize>);

impl<'a> Reader<'a> {
    fn value(&mut self) -> Option<()> {
        self.skip_space();
        match self.peek()? {
            b'{' => self.nested(Self::object),
            b'[' => self.nested(Self::array),
            b'"' => {
                let string = self.string()?;
                self.write_string(&string);
                Some(())
            }
            b'n' => self.literal("null", b'n'),
            b't' => self.literal("true", b't'),
            b'f' => self.literal("false", b'f'),
            _ => {
                self.at += number::canonicalise(&self.text.as_bytes()[self.at..], &mut self.out)?;
                Some(())
            }
        }
    }

    fn nested(&mut self, read: impl FnOnce(&mut Self) -> Option<()>) -> Option<()> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return None;
        }
        self.at += 1;
        read(self)?;
        self.depth -= 1;
        Some(())
    }

    fn array(&mut self) -> Option<()> {
        self.out.push(b'[');
        if !self.closes(b']') {
            loop {
                self.value()?;
                if self.closes(b']') {
                    break;
                }
                self.expect(b',')?;
            }
        }
        self.out.push(b']');
        Some(())
    }

    fn object(&mut self) -> Option<()> {
        let start = self.out.len();
        let mut members = Vec::new();
        if !self.closes(b'}') {
            loop {
                members.push(self.member()?);
                if self.closes(b'}') {
                    break;
                }
                self.expect(b',')?;
            }
        }
        members.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        if members.windows(2).any(|pair| pair[0].0 == pair[1].0) {
            return None;
        }
        let names: usize = members.iter().map(|(name, _)| 9 + name.len()).sum();
        if 2 + names + (self.out.len() - start) <= INLINE_MAX {
            self.write_out(start, &members);
        } else {
            self.fold(start, &members);
        }
        Some(())
    }

    /// Replaces the values from `start` on by the object itself.
    fn write_out(&mut self, start: usize, members: &[Member<'_>]) {
        let values = self.out.split_off(start);
        self.out.push(b'{');
        for (name, value) in members {
            self.write_string(name);
            self.out
                .extend(&values[value.start - start..value.end - start]);
        }
        self.out.push(b'}');
    }

    /// Replaces the values from `start` on by a hash of the object.
    fn fold(&mut self, start: usize, members: &[Member<'_>]) {
        let mut fields = Fields::new(&OBJECT);
        for (name, value) in members {
            fields.field(&**name).field(&self.out[value.clone()]);
        }
        self.out.truncate(start);
        self.out.push(b'#');
        self.out.extend(fields.finish());
    }

    /// Reads a name and a value; says where the value's encoding is.
    fn member(&mut self) -> Option<Member<'a>> {
        self.skip_space();
        let name = self.string()?;
        self.expect(b':')?;
        let start = self.out.len();
        self.value()?;
        Some((name, start..self.out.len()))
    }

    /// Reads a string and resolves its escapes. Lone surrogates are no characters: `None`.
    fn string(&mut self) -> Option<Cow<'a, str>> {
        self.expect(b'"')?;
        let start = self.at;
        let mut escaped = false;
        loop {
            match self.peek()? {
                b'"' => break,
                b'\\' => {
                    escaped = true;
                    self.at += 2;
                }
                0..b' ' => return None,
                _ => self.at += 1,
            }
        }
        let end = self.at;
        self.at += 1;
        if escaped {
            return serde_json::from_str(&self.text[start - 1..=end])
                .map(Cow::Owned)
                .ok();
        }
        Some(Cow::Borrowed(&self.text[start..end]))
    }

    fn write_string(&mut self, string: &str) {
        self.out.push(b'"');
        self.out.extend((string.len() as u64).to_le_bytes());
        self.out.extend(string.as_bytes());
    }

    fn literal(&mut self, literal: &str, tag: u8) -> Option<()> {
        self.text.as_bytes()[self.at..]
            .starts_with(literal.as_bytes())
            .then(|| {
                self.at += literal.len();
                self.out.push(tag);
            })
    }

    /// Skips white space and, where it comes next, `byte`.
    fn closes(&mut self, byte: u8) -> bool {
        self.expect(byte).is_some()
    }

    fn expect(&mut self, byte: u8) -> Option<()> {
        self.skip_space();
        (self.peek()? == byte).then(|| self.at += 1)
    }

    fn skip_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }
}

#[cfg(test)]
mod tests;
