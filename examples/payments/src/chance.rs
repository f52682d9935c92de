//! Random moments. Where the system has no random source, things come evenly instead.

use std::time::Duration;

/// Any byte.
pub(crate) fn byte() -> u8 {
    let mut random = [0];
    getrandom::fill(&mut random).map_or(128, |()| random[0])
}

/// True once in so many times.
pub(crate) fn one_in(times: u8) -> bool {
    byte().is_multiple_of(times)
}

/// So many milliseconds at least, and so many more at most.
pub(crate) fn millis(least: u64, more: u64) -> Duration {
    Duration::from_millis(least + more * u64::from(byte()) / 255)
}
