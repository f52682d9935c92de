//! `[listen]`: where clients come in, and how long they are waited for.

use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZero;
use std::thread::available_parallelism;
use std::time::Duration;

use super::section::Section;
use super::value::{ByteSize, Setting};
use crate::headers::{Cidr, TrustedPeers};
use crate::listener::ListenerSettings;

/// The listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    /// Its address. Port 0 takes a free port; the line `listening on …` tells which.
    pub address: SocketAddr,
    /// How many threads serve connections. `None`: one for each core that the process may use.
    pub workers: Option<NonZero<u16>>,
    /// How many connections are served at once; more wait.
    pub connections_max: u32,
    /// How long a request's head may take to arrive, and a connection may be unused.
    pub head_timeout: Duration,
    /// How long a client may not read what is written to it, before its connection is cut.
    pub write_timeout: Duration,
    /// The largest head of a request; 431 above.
    pub head_max: ByteSize,
    /// The most fields in a request's head; 431 above.
    pub fields_max: u32,
    /// Whose `X-Forwarded-*` fields are believed.
    pub trusted_peers: Vec<Cidr>,
    /// How long requests in progress may take to finish once the process was told to stop.
    pub drain: Duration,
}

impl Setting for Cidr {
    fn expected() -> String {
        "an IP address or a network, such as 10.0.0.0/8".to_owned()
    }

    fn parse(text: &str) -> Option<Self> {
        text.parse().ok()
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Listen {
    pub(super) fn read(section: Section<'_>) -> Self {
        Self {
            address: section.get("address", (Ipv4Addr::LOCALHOST, 8080).into()),
            workers: section.optional("workers"),
            connections_max: section.above_zero("connections-max", 10_000),
            head_timeout: section.above_zero("head-timeout", Duration::from_secs(30)),
            write_timeout: section.above_zero("write-timeout", Duration::from_secs(60)),
            head_max: section.above_zero("head-max", ByteSize(64 << 10)),
            fields_max: section.above_zero("fields-max", 100),
            trusted_peers: section.get("trusted-peers", Vec::new()),
            drain: section.get("drain", Duration::from_secs(30)),
        }
    }

    /// How many threads serve connections.
    pub fn workers(&self) -> NonZero<usize> {
        match self.workers {
            Some(workers) => workers.into(),
            None => available_parallelism().unwrap_or(NonZero::<usize>::MIN),
        }
    }

    /// The settings as the listener takes them.
    pub fn settings(&self) -> ListenerSettings {
        ListenerSettings {
            connections_max: in_memory(self.connections_max),
            head_timeout: self.head_timeout,
            write_timeout: self.write_timeout,
            head_bytes_max: self.head_max.in_memory(),
            headers_max: in_memory(self.fields_max),
            drain: self.drain,
            ..ListenerSettings::default()
        }
    }

    /// Whose `X-Forwarded-*` fields are believed.
    pub fn trusted_peers(&self) -> TrustedPeers {
        self.trusted_peers.iter().copied().collect()
    }
}

pub(super) fn in_memory(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
