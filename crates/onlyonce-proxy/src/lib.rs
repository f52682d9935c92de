//! The proxy: listens, guards, forwards.

mod activity;
pub mod admin;
pub mod app;
pub mod cli;
pub mod config;
mod demo;
pub mod forward;
pub mod headers;
pub mod listener;
mod problem;
pub mod readiness;
mod records;
pub mod signal;
pub mod store;
mod table;
pub mod telemetry;
mod upgrade;
mod upkeep;
