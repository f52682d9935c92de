//! Sinks that come with the crate.

mod memory;
mod stdout;

pub use self::memory::Memory;
pub use self::stdout::Stdout;
