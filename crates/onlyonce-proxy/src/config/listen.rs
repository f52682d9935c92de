//! `[listen]`: where clients come in, and how long they are waited for.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::section::Section;

/// The listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    /// Its address. Port 0 takes a free port; the line `listening on …` tells which.
    pub address: SocketAddr,
    /// How long requests in progress may take to finish once the process was told to stop.
    pub drain: Duration,
}

impl Listen {
    pub(super) fn read(section: Section<'_>) -> Self {
        Self {
            address: section.get("address", (Ipv4Addr::LOCALHOST, 8080).into()),
            drain: section.get("drain", Duration::from_secs(30)),
        }
    }
}
