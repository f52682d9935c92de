//! How single values are written: durations and sizes with units, addresses, names, lists.
//!
//! Every kind of value is a [`Setting`]. Its messages say what was expected and never repeat what was
//! found: a database password may sit under any key by mistake.

use std::net::SocketAddr;
use std::num::NonZero;
use std::path::PathBuf;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method, StatusCode};
use tracing_subscriber::filter::Targets;

/// A value as it was written: one text, or several where the file has an array.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Written {
    /// A string, integer or boolean of the file; any variable or flag.
    One(String),
    /// An array of the file.
    Many(Vec<String>),
}

/// A kind of value that settings have.
pub(crate) trait Setting: Sized {
    /// What is accepted; continues the words "expected …".
    fn expected() -> String;

    /// Reads the value; `None` where it is not one.
    fn parse(text: &str) -> Option<Self>;

    /// Reads the value from where only some kinds accept arrays.
    fn read(written: &Written) -> Option<Self> {
        match written {
            Written::One(text) => Self::parse(text),
            Written::Many(_) => None,
        }
    }

    /// What is wrong with a value that could not be read; must not quote it.
    fn refusal(_written: &Written) -> String {
        format!("expected {}", Self::expected())
    }

    /// The value as one would write it, without secrets.
    fn show(&self) -> String;
}

/// A number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct ByteSize(pub u64);

const DURATION_UNITS: [(&str, u64); 5] = [
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
    ("d", 86_400_000),
];

const SIZE_UNITS: [(&str, u64); 7] = [
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("B", 1),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
];

/// Splits a number from the unit behind it.
fn number_and_unit(text: &str) -> Option<(u64, &str)> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    Some((text[..digits].parse().ok()?, &text[digits..]))
}

fn factor(units: &[(&str, u64)], unit: &str) -> Option<u64> {
    units
        .iter()
        .find(|(name, _)| *name == unit)
        .map(|(_, factor)| *factor)
}

impl Setting for Duration {
    fn expected() -> String {
        r#"a duration with units, such as "250ms", "30s", "1h30m" or "7d""#.to_owned()
    }

    fn parse(text: &str) -> Option<Self> {
        let mut rest = text;
        let mut millis = 0_u64;
        loop {
            let (number, behind) = number_and_unit(rest)?;
            let end = behind
                .find(|c: char| c.is_ascii_digit())
                .unwrap_or(behind.len());
            let part = number.checked_mul(factor(&DURATION_UNITS, behind[..end].trim())?)?;
            millis = millis.checked_add(part)?;
            rest = &behind[end..];
            if rest.is_empty() {
                return Some(Self::from_millis(millis));
            }
        }
    }

    fn show(&self) -> String {
        let mut rest = u64::try_from(self.as_millis()).unwrap_or(u64::MAX);
        let mut text = String::new();
        for (unit, factor) in &DURATION_UNITS[..4] {
            if rest >= *factor {
                text.push_str(&format!("{}{unit}", rest / factor));
                rest %= factor;
            }
        }
        if text.is_empty() {
            "0s".to_owned()
        } else {
            text
        }
    }
}

impl Setting for ByteSize {
    fn expected() -> String {
        r#"a size with its unit, such as "64KiB" or "8MiB""#.to_owned()
    }

    fn parse(text: &str) -> Option<Self> {
        let (number, unit) = number_and_unit(text)?;
        Some(Self(number.checked_mul(factor(&SIZE_UNITS, unit.trim())?)?))
    }

    fn show(&self) -> String {
        SIZE_UNITS[..4]
            .iter()
            .find(|(_, factor)| self.0 >= *factor && self.0.is_multiple_of(*factor))
            .map_or_else(
                || format!("{}B", self.0),
                |(unit, factor)| format!("{}{unit}", self.0 / factor),
            )
    }
}

impl ByteSize {
    /// The number as this machine counts memory.
    pub fn in_memory(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

/// A [`Setting`] by `FromStr`, whose `Display` has no secrets.
macro_rules! plain {
    ($($kind:ty => $expected:literal),* $(,)?) => {$(
        impl Setting for $kind {
            fn expected() -> String {
                $expected.to_owned()
            }

            fn parse(text: &str) -> Option<Self> {
                text.parse().ok()
            }

            fn show(&self) -> String {
                self.to_string()
            }
        }
    )*};
}

plain! {
    bool => "true or false",
    u16 => "a whole number below 65536",
    u32 => "a whole number",
    NonZero<u16> => "a whole number from 1 to 65535",
    SocketAddr => "an address and a port, such as 127.0.0.1:8080 or [::1]:8080",
    HeaderName => "a header name",
}

impl Setting for Targets {
    fn expected() -> String {
        r#"a level such as "info", or levels by target such as "info,onlyonce=debug""#.to_owned()
    }

    /// Stricter than its `FromStr`, which takes a mistyped level for the name of a target.
    fn parse(text: &str) -> Option<Self> {
        let levels = ["off", "error", "warn", "info", "debug", "trace"];
        let known = |part: &str| {
            let level = part.rsplit_once('=').map_or(part, |(_, level)| level);
            levels.contains(&level)
        };
        text.split(',').all(known).then(|| text.parse().ok())?
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Setting for String {
    fn expected() -> String {
        "a text".to_owned()
    }

    fn parse(text: &str) -> Option<Self> {
        Some(text.to_owned())
    }

    fn show(&self) -> String {
        self.clone()
    }
}

impl Setting for PathBuf {
    fn expected() -> String {
        "the path of a file".to_owned()
    }

    fn parse(text: &str) -> Option<Self> {
        (!text.is_empty()).then(|| text.into())
    }

    fn show(&self) -> String {
        self.display().to_string()
    }
}

impl Setting for Method {
    fn expected() -> String {
        "a method in capital letters, such as POST".to_owned()
    }

    fn parse(text: &str) -> Option<Self> {
        // `Method` takes any token; a lower-case `post` would guard nothing that a client ever sends.
        let upper = !text.is_empty() && text.bytes().all(|b| b.is_ascii_uppercase() || b == b'-');
        upper.then(|| Self::from_bytes(text.as_bytes()).ok())?
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Setting for StatusCode {
    fn expected() -> String {
        "a status code from 200 to 599".to_owned()
    }

    fn parse(text: &str) -> Option<Self> {
        let status = Self::from_bytes(text.as_bytes()).ok()?;
        (200..600).contains(&status.as_u16()).then_some(status)
    }

    fn show(&self) -> String {
        self.as_str().to_owned()
    }
}

/// A value that is sent as a header, such as a link.
impl Setting for HeaderValue {
    fn expected() -> String {
        "a text of visible ASCII characters".to_owned()
    }

    fn parse(text: &str) -> Option<Self> {
        Self::from_str(text).ok()
    }

    fn show(&self) -> String {
        self.to_str().unwrap_or_default().to_owned()
    }
}

impl<T: Setting> Setting for Vec<T> {
    fn expected() -> String {
        format!("a list, each {}", T::expected())
    }

    /// Variables and flags separate by commas; an empty text is an empty list.
    fn parse(text: &str) -> Option<Self> {
        if text.is_empty() {
            return Some(Self::new());
        }
        text.split(',').map(|part| T::parse(part.trim())).collect()
    }

    fn read(written: &Written) -> Option<Self> {
        match written {
            Written::One(text) => Self::parse(text),
            Written::Many(texts) => texts.iter().map(|text| T::parse(text)).collect(),
        }
    }

    fn show(&self) -> String {
        let parts: Vec<_> = self.iter().map(Setting::show).collect();
        parts.join(", ")
    }
}

/// A [`Setting`] that is one of a few words.
macro_rules! choice {
    ($kind:ty { $first:literal => $first_value:path $(, $word:literal => $value:path)* $(,)? }) => {
        impl $crate::config::value::Setting for $kind {
            fn expected() -> String {
                concat!("one of `", $first, "`" $(, ", `", $word, "`")*).to_owned()
            }

            fn parse(text: &str) -> Option<Self> {
                match text {
                    $first => Some($first_value),
                    $($word => Some($value),)*
                    _ => None,
                }
            }

            fn show(&self) -> String {
                match self {
                    $first_value => $first.to_owned(),
                    $($value => $word.to_owned(),)*
                }
            }
        }
    };
}
pub(crate) use choice;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_need_units_and_show_as_written() {
        for (text, millis, shown) in [
            ("250ms", 250, "250ms"),
            ("30s", 30_000, "30s"),
            ("1h30m", 5_400_000, "1h30m"),
            ("1h 30m", 5_400_000, "1h30m"),
            ("90s", 90_000, "1m30s"),
            ("7d", 604_800_000, "168h"),
            ("0s", 0, "0s"),
        ] {
            let parsed = Duration::parse(text).expect(text);
            assert_eq!(parsed, Duration::from_millis(millis), "{text}");
            assert_eq!(parsed.show(), shown);
            assert_eq!(Duration::parse(shown), Some(parsed));
        }
        for text in [
            "",
            "30",
            "s",
            "1.5s",
            "-1s",
            "30 sec",
            "30s5",
            "1h-2m",
            "９s",
            "99999999999999999999s",
            "9999999999999999999h",
        ] {
            assert_eq!(Duration::parse(text), None, "{text}");
        }
    }

    #[test]
    fn sizes_need_units_and_show_as_written() {
        for (text, bytes, shown) in [
            ("8MiB", 8 << 20, "8MiB"),
            ("64 KiB", 64 << 10, "64KiB"),
            ("1MB", 1_000_000, "1000000B"),
            ("1500B", 1500, "1500B"),
            ("0B", 0, "0B"),
        ] {
            let parsed = ByteSize::parse(text).expect(text);
            assert_eq!(parsed, ByteSize(bytes), "{text}");
            assert_eq!(parsed.show(), shown);
        }
        for text in ["", "8", "MiB", "8mib", "-1B", "99999999999GiB"] {
            assert_eq!(ByteSize::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_mistyped_level_is_no_target() {
        for text in ["info", "off", "warn,onlyonce=debug,hyper=off"] {
            assert!(Targets::parse(text).is_some(), "{text}");
        }
        for text in ["", "inof", "3", "onlyonce", "info,onlyonce=loud", "info,"] {
            assert!(Targets::parse(text).is_none(), "{text}");
        }
    }

    #[test]
    fn lists_come_from_arrays_and_from_commas() {
        let posts = Some(vec![Method::POST, Method::PATCH]);
        let many = Written::Many(vec!["POST".to_owned(), "PATCH".to_owned()]);
        assert_eq!(Vec::<Method>::read(&many), posts);
        assert_eq!(Vec::<Method>::parse("POST, PATCH"), posts);
        assert_eq!(Vec::<Method>::parse("POST,post"), None);
        assert_eq!(Method::read(&many), None);
    }
}
