//! `onlyonce relay` and `onlyonce outbox` as processes, on a Postgres, to real receivers.

mod brokers;
mod fixture;
mod late;
mod operator;
mod process;
mod refused;
mod settings;
