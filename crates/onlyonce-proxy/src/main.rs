//! The binary `onlyonce`.
fn main() {}
