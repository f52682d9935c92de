//! Everything a newcomer or CI runs.
fn main() {}
