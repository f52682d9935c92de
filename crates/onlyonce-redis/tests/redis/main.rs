//! The cache against real servers: those that answer, those that do not, and what others put there.

mod entries;
mod failures;
mod full;
mod support;
mod tls;
