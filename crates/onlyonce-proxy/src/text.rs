//! Text for people and machines that commands print.

use std::fmt::Write;
use std::time::SystemTime;

use serde::Serialize;

/// Without control characters, which could make a terminal do things.
pub(crate) fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() && c != '\n' && c != '\t' {
            shown.extend(c.escape_default());
        } else {
            shown.push(c);
        }
    }
    shown
}

/// As [`printable`], on one line: for the cell of a table.
pub(crate) fn on_one_line(text: &str) -> String {
    printable(text).replace(['\n', '\t'], " ")
}

/// Two hexadecimal digits for each byte.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// RFC 3339 in UTC, to the microsecond.
pub(crate) fn time(moment: SystemTime) -> String {
    let micros = jiff::Timestamp::try_from(moment)
        .ok()
        .and_then(|moment| jiff::Timestamp::from_microsecond(moment.as_microsecond()).ok());
    // Beyond the year 9999: nobody set that clock on purpose.
    micros.map_or_else(
        || "beyond the year 9999".to_owned(),
        |moment| moment.to_string(),
    )
}

/// One JSON value, and the end of its last line.
pub(crate) fn json(value: &impl Serialize) -> String {
    // Maps with odd keys are what fails here, and there are none.
    serde_json::to_string_pretty(value).map_or_else(|error| error.to_string(), |text| text + "\n")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_terminal_is_told_nothing() {
        assert_eq!(printable("a\u{1b}[2Jb\nc"), "a\\u{1b}[2Jb\nc");
        assert_eq!(on_one_line("a\nb\tc"), "a b c");
    }

    #[test]
    fn times_are_rfc_3339() {
        let moment = SystemTime::UNIX_EPOCH + Duration::from_micros(1_500_000);
        assert_eq!(time(moment), "1970-01-01T00:00:01.5Z");
    }
}
