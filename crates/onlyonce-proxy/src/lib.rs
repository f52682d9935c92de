//! The proxy: listens, guards, forwards.

pub mod config;
pub mod forward;
pub mod headers;
pub mod listener;
