//! A JSON number as exact decimal: digits without zeros at either end, times a power of ten.
//!
//! Written as `0` for zero, else the sign, the digits, `e`, the exponent in decimal, and `;`. So `1`, `1.0`
//! and `10e-1` are `+1e0;`. There is no rounding and no limit on digits.

use std::io::Write;

/// Reads the number at the start of `text` and appends its one spelling to `out`. Says how many bytes it
/// read; `None` where there is no number, or it is a negative zero, or its exponent does not fit 64 bits.
pub(super) fn canonicalise(text: &[u8], out: &mut Vec<u8>) -> Option<usize> {
    let mut reader = Reader { text, at: 0 };
    let negative = reader.eat(b"-");
    let integer = reader.digits()?;
    if integer.len() > 1 && integer[0] == b'0' {
        return None;
    }
    let fraction = if reader.eat(b".") {
        reader.digits()?
    } else {
        &[]
    };
    let exponent = if reader.eat(b"eE") {
        reader.exponent()?
    } else {
        0
    };

    let leading = leading_zeros(integer.iter().chain(fraction));
    let trailing = leading_zeros(fraction.iter().rev().chain(integer.iter().rev()));
    let digits = integer.len() + fraction.len();
    if leading == digits {
        return (!negative).then(|| {
            out.push(b'0');
            reader.at
        });
    }
    // The value is all digits as an integer, times ten to the exponent less the fraction's length.
    // The two shifts are joined first: zeros at the end must not make an exponent overflow.
    let shift = i64::try_from(trailing).ok()? - i64::try_from(fraction.len()).ok()?;
    let exponent = exponent.checked_add(shift)?;
    out.push(if negative { b'-' } else { b'+' });
    let significant = integer.iter().chain(fraction).skip(leading);
    out.extend(significant.take(digits - leading - trailing));
    write!(out, "e{exponent};").ok()?;
    Some(reader.at)
}

fn leading_zeros<'a>(digits: impl Iterator<Item = &'a u8>) -> usize {
    digits.take_while(|digit| **digit == b'0').count()
}

struct Reader<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// Skips one byte, where it is one of these.
    fn eat(&mut self, any_of: &[u8]) -> bool {
        let found = self
            .text
            .get(self.at)
            .is_some_and(|byte| any_of.contains(byte));
        self.at += usize::from(found);
        found
    }

    /// Reads one digit or more.
    fn digits(&mut self) -> Option<&'a [u8]> {
        let rest = &self.text[self.at..];
        let len = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        self.at += len;
        (len > 0).then(|| &rest[..len])
    }

    fn exponent(&mut self) -> Option<i64> {
        let start = self.at;
        self.eat(b"+-");
        self.digits()?;
        str::from_utf8(&self.text[start..self.at])
            .ok()?
            .parse()
            .ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn canonical(text: &str) -> Option<(String, usize)> {
        let mut out = Vec::new();
        let read = canonicalise(text.as_bytes(), &mut out)?;
        Some((String::from_utf8(out).unwrap(), read))
    }

    #[test]
    fn m12_one_spelling_of_each_number() {
        for (text, expected) in [
            ("0", "0"),
            ("0.000", "0"),
            ("0e7", "0"),
            ("1", "+1e0;"),
            ("1.0", "+1e0;"),
            ("10e-1", "+1e0;"),
            ("0.1E+1", "+1e0;"),
            ("100", "+1e2;"),
            ("1e2", "+1e2;"),
            ("-100.50", "-1005e-1;"),
            ("0.0001", "+1e-4;"),
            ("10203", "+10203e0;"),
            ("9007199254740993", "+9007199254740993e0;"),
            ("1e9223372036854775807", "+1e9223372036854775807;"),
            ("1.5e-9223372036854775807", "+15e-9223372036854775808;"),
            ("1.00e-9223372036854775808", "+1e-9223372036854775808;"),
        ] {
            assert_eq!(
                canonical(text),
                Some((expected.to_owned(), text.len())),
                "{text}"
            );
        }
    }

    #[test]
    fn m13_numbers_without_one_value() {
        for text in [
            "",
            "-",
            "+1",
            ".5",
            "1.",
            "1.e2",
            "1e",
            "1e+",
            "01",
            "-01",
            "00",
            "NaN",
            "Infinity",
            "-0",
            "-0.0",
            "-0e1",
            "1e9223372036854775808",
            "10e9223372036854775807",
            "0.1e-9223372036854775808",
            "0e99999999999999999999",
        ] {
            assert_eq!(canonical(text), None, "{text}");
        }
    }

    #[test]
    fn only_the_number_is_read() {
        assert_eq!(canonical("12]"), Some(("+12e0;".to_owned(), 2)));
        assert_eq!(canonical("1-2"), Some(("+1e0;".to_owned(), 1)));
    }
}
