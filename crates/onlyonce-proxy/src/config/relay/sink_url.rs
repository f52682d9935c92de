//! Where events go, and under which name.

use std::fmt;

use http::Uri;
use onlyonce_outbox::sinks::RedisStreams;

use crate::config::url::DatabaseUrl;
use crate::config::value::{Setting, Written};

/// The longest name, in bytes.
const NAME_MAX: usize = 255;

/// A sink's place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SinkUrl {
    /// Standard output, a line for each event.
    Stdout,
    /// An endpoint that takes a `POST` for each event.
    Webhook(HookUrl),
    /// A Redis, with a stream for each topic.
    Redis(DatabaseUrl),
}

/// The URL of a webhook. Path and query are often all that keeps strangers out: they are not shown.
#[derive(Clone, PartialEq, Eq)]
pub struct HookUrl(Box<str>);

/// A sink's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SinkName(Box<str>);

impl HookUrl {
    /// The whole URL.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// The place without what it is asked for; `None` where this is no such URL.
    fn place(text: &str) -> Option<String> {
        let uri: Uri = text.parse().ok()?;
        let scheme = uri
            .scheme_str()
            .filter(|scheme| ["http", "https"].contains(scheme))?;
        let authority = uri.authority()?;
        let is_plain = !authority.host().is_empty() && !authority.as_str().contains('@');
        let more = match uri.path_and_query().map(|path| path.as_str()) {
            None | Some("" | "/") => "",
            Some(_) => "/…",
        };
        is_plain.then(|| format!("{scheme}://{authority}{more}"))
    }
}

impl fmt::Display for HookUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&Self::place(&self.0).unwrap_or_default())
    }
}

impl fmt::Debug for HookUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HookUrl({self})")
    }
}

impl SinkName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SinkName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Setting for SinkName {
    fn expected() -> String {
        "a name of up to 255 bytes without control characters".to_owned()
    }

    fn parse(text: &str) -> Option<Self> {
        let fits = !text.is_empty() && text.len() <= NAME_MAX;
        (fits && !text.chars().any(char::is_control)).then(|| Self(text.into()))
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Setting for SinkUrl {
    fn expected() -> String {
        "stdout:, https://HOST[:PORT]/PATH (or http://) or redis://USER:PASSWORD@HOST[:PORT][/DATABASE]".to_owned()
    }

    fn parse(text: &str) -> Option<Self> {
        if text == "stdout:" {
            return Some(Self::Stdout);
        }
        if text.starts_with("redis://") {
            let understood = RedisStreams::to(text, "/").is_ok();
            return understood.then(|| Self::Redis(DatabaseUrl::new(text)));
        }
        HookUrl::place(text).map(|_| Self::Webhook(HookUrl(text.into())))
    }

    /// What was written is not shown: there may be secrets in it.
    fn refusal(written: &Written) -> String {
        let why = match written {
            Written::One(text) if text.starts_with("rediss://") => {
                "a sink in Redis speaks no TLS; "
            }
            Written::One(text) if text.starts_with("http") && text.contains('@') => {
                "a webhook's URL has no user in it, put an Authorization into relay.headers; "
            }
            _ => "",
        };
        format!("{why}expected {}", Self::expected())
    }

    fn show(&self) -> String {
        match self {
            Self::Stdout => "stdout:".to_owned(),
            Self::Webhook(url) => url.to_string(),
            Self::Redis(url) => url.to_string(),
        }
    }
}

impl fmt::Display for SinkUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.show())
    }
}
