//! `[upstream]`: the service that is guarded.

use std::time::Duration;

use super::section::Section;
use super::url::UpstreamUrl;

/// The service behind the proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream {
    /// Where it is.
    pub url: UpstreamUrl,
    /// Its name, part of every record's identity: services that share a store never share keys, and
    /// changing the name starts new keys.
    pub name: String,
    /// How long connecting may take, TLS included.
    pub connect_timeout: Duration,
    /// How long an unguarded request may wait for its response to begin.
    pub response_timeout: Duration,
}

impl Upstream {
    /// `None` where the URL is not set, which is a fault that has been reported then.
    pub(super) fn read(section: Section<'_>) -> Option<Self> {
        let url = section.required(
            "url",
            "not set; name the service to guard with --upstream URL or in the file",
        );
        let name = section.get("name", String::new());
        let connect_timeout = section.get("connect-timeout", Duration::from_secs(5));
        let response_timeout = section.get("response-timeout", Duration::from_secs(60));
        Some(Self {
            url: url?,
            name,
            connect_timeout,
            response_timeout,
        })
    }
}
