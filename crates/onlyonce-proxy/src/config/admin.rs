//! `[admin]`: the listener for liveness and readiness.

use std::net::SocketAddr;

use super::section::Section;

/// The listener for `/livez` and `/readyz`. Not for the world: it has no authentication.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admin {
    /// Its address; there is no such listener where unset.
    pub address: Option<SocketAddr>,
}

impl Admin {
    pub(super) fn read(section: Section<'_>) -> Self {
        Self {
            address: section.optional("address"),
        }
    }
}
