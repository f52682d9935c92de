//! `[upstream]`: the service that is guarded.

use std::path::PathBuf;
use std::time::Duration;

use super::listen::in_memory;
use super::section::Section;
use super::value::{ByteSize, Setting, Written, choice};
use crate::forward::{self, ForwardSettings, HostPolicy};

/// The service behind the proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream {
    /// Where it is.
    pub url: forward::Upstream,
    /// Its name, part of every record's identity: services that share a store never share keys, and
    /// changing the name starts new keys.
    pub name: String,
    /// What it sees as `Host`.
    pub host: HostPolicy,
    /// The authorities that an `https` upstream is checked against; the operating system's where unset.
    pub ca_file: Option<PathBuf>,
    /// Name resolution, TCP and TLS together.
    pub connect_timeout: Duration,
    /// How long an unguarded request waits for its response to begin.
    pub first_byte_timeout: Duration,
    /// How long a response body or a tunnel may pause.
    pub idle_timeout: Duration,
    /// How long an unguarded request may take in all; no limit where unset.
    pub total_timeout: Option<Duration>,
    /// How long an unused connection is kept.
    pub idle_connection_max: Duration,
    /// How many unused connections are kept.
    pub idle_connections_max: u32,
    /// The largest head of a response.
    pub head_max: ByteSize,
}

choice!(HostPolicy { "preserve" => HostPolicy::Preserve, "rewrite" => HostPolicy::Rewrite });

impl Setting for forward::Upstream {
    fn expected() -> String {
        "http://HOST[:PORT] or https://HOST[:PORT]".to_owned()
    }

    fn parse(text: &str) -> Option<Self> {
        text.parse().ok()
    }

    fn refusal(written: &Written) -> String {
        match written {
            Written::One(text) => match text.parse::<Self>() {
                Err(error) => error.to_string(), // says what is wrong without quoting it
                Ok(_) => Self::expected(),
            },
            Written::Many(_) => format!("expected {}", Self::expected()),
        }
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Upstream {
    /// `None` where the URL is not set or wrong, which is a fault that has been reported then.
    pub(super) fn read(section: Section<'_>) -> Option<Self> {
        let url = section.required(
            "url",
            "not set; name the service to guard with --upstream URL or in the file",
        );
        let name = section.get("name", String::new());
        let host = section.get("host", HostPolicy::Preserve);
        let ca_file = section.optional("ca-file");
        let connect_timeout = section.above_zero("connect-timeout", Duration::from_secs(5));
        let first_byte_timeout = section.above_zero("first-byte-timeout", Duration::from_secs(60));
        let idle_timeout = section.above_zero("idle-timeout", Duration::from_secs(300));
        let total_timeout = section.optional("total-timeout");
        let idle_connection_max = section.get("idle-connection-max", Duration::from_secs(4));
        let idle_connections_max = section.get("idle-connections-max", 256);
        let head_max = section.above_zero("head-max", ByteSize(64 << 10));
        Some(Self {
            url: url?,
            name,
            host,
            ca_file,
            connect_timeout,
            first_byte_timeout,
            idle_timeout,
            total_timeout,
            idle_connection_max,
            idle_connections_max,
            head_max,
        })
    }

    /// The settings as the forwarder takes them.
    pub fn settings(&self) -> ForwardSettings {
        let mut settings = ForwardSettings::new(self.url.clone());
        settings.host = self.host;
        settings.ca_file.clone_from(&self.ca_file);
        settings.connect_timeout = self.connect_timeout;
        settings.first_byte_timeout = self.first_byte_timeout;
        settings.idle_timeout = self.idle_timeout;
        settings.total_timeout = self.total_timeout;
        settings.idle_connection_max = self.idle_connection_max;
        settings.idle_connections_max = in_memory(self.idle_connections_max);
        settings.response_header_bytes_max = self.head_max.in_memory();
        settings
    }
}
