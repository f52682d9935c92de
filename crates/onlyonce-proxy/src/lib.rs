//! The proxy: listens, guards, forwards.

mod activity;
pub mod config;
pub mod forward;
pub mod headers;
pub mod listener;
mod problem;
mod upgrade;
