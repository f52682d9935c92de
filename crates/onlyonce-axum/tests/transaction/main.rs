//! The layer on real servers, around handlers that write.

#![allow(missing_docs, unreachable_pub, reason = "a test")]

mod fixture;

mod conflicts;
mod duplicates;
mod effects;
mod faults;
mod handing;
mod keyless;
mod misuse;
mod moving;
mod poolers;
