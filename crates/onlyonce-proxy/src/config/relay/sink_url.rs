//! Where events go, and under which name.

use std::fmt;

use http::Uri;
use http::uri::Scheme;
use onlyonce_outbox::sinks;

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
    Redis(BrokerUrl),
    /// A NATS JetStream, with a subject for each topic. Only builds with the feature `nats` have it.
    #[cfg(feature = "nats")]
    Nats(BrokerUrl),
    /// A RabbitMQ, with topics as routing keys. Only builds with the feature `amqp` have it.
    #[cfg(feature = "amqp")]
    Amqp(BrokerUrl),
    /// A Kafka. Only builds with the feature `kafka` have it.
    #[cfg(feature = "kafka")]
    Kafka(BrokerUrl),
}

/// The URL of a broker, shown without user and password: with NATS, what stands in the user's place can be a token.
#[derive(Clone, PartialEq, Eq)]
pub struct BrokerUrl(Box<str>);

/// The URL of a webhook. Path and query are often all that keeps strangers out: they are not shown.
#[derive(Clone, PartialEq, Eq)]
pub struct HookUrl(Box<str>);

/// A sink's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SinkName(Box<str>);

impl BrokerUrl {
    /// The whole URL.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether it is a Redis that TLS is spoken with.
    pub fn is_rediss(&self) -> bool {
        self.0.starts_with("rediss://")
    }
}

impl fmt::Display for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0.split_once("://"), self.0.rsplit_once('@')) {
            (Some((scheme, _)), Some((_, place))) => write!(f, "{scheme}://***@{place}"),
            _ => f.write_str(&self.0),
        }
    }
}

impl fmt::Debug for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BrokerUrl({self})")
    }
}

impl HookUrl {
    /// The whole URL.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether TLS is spoken.
    pub fn is_https(&self) -> bool {
        let uri: Option<Uri> = self.0.parse().ok();
        uri.is_some_and(|uri| uri.scheme() == Some(&Scheme::HTTPS))
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

/// The schemes of brokers, and the feature that a build needs for each.
const BROKERS: [(&str, &str, &str, bool); 8] = [
    ("redis://", "Redis", "", true),
    ("rediss://", "Redis", "", true),
    ("nats://", "NATS", "nats", cfg!(feature = "nats")),
    ("tls://", "NATS", "nats", cfg!(feature = "nats")),
    ("amqp://", "RabbitMQ", "amqp", cfg!(feature = "amqp")),
    ("amqps://", "RabbitMQ", "amqp", cfg!(feature = "amqp")),
    ("kafka://", "Kafka", "kafka", cfg!(feature = "kafka")),
    (
        "kafkas://",
        "Kafka with TLS",
        "kafka-tls",
        cfg!(feature = "kafka-tls"),
    ),
];

impl SinkUrl {
    /// Whether the authorities matter that the relay checks a server by.
    pub(super) fn is_checked(&self) -> bool {
        match self {
            Self::Webhook(url) => url.is_https(),
            Self::Redis(url) => url.is_rediss(),
            _ => false,
        }
    }

    pub(super) fn is_nats(&self) -> bool {
        #[cfg(feature = "nats")]
        return matches!(self, Self::Nats(_));
        #[cfg(not(feature = "nats"))]
        false
    }

    pub(super) fn is_amqp(&self) -> bool {
        #[cfg(feature = "amqp")]
        return matches!(self, Self::Amqp(_));
        #[cfg(not(feature = "amqp"))]
        false
    }

    pub(super) fn is_kafka(&self) -> bool {
        #[cfg(feature = "kafka")]
        return matches!(self, Self::Kafka(_));
        #[cfg(not(feature = "kafka"))]
        false
    }

    /// A broker's, where the client behind it understands the URL.
    fn broker(text: &str) -> Option<Self> {
        let url = BrokerUrl(text.into());
        match text.split_once("://")?.0 {
            "redis" | "rediss" => sinks::RedisStreams::to(text, "/")
                .ok()
                .map(|_| Self::Redis(url)),
            #[cfg(feature = "nats")]
            "nats" | "tls" => sinks::JetStream::to(text, "/")
                .ok()
                .map(|_| Self::Nats(url)),
            #[cfg(feature = "amqp")]
            "amqp" | "amqps" => sinks::Amqp::to(text, "/").ok().map(|_| Self::Amqp(url)),
            #[cfg(feature = "kafka")]
            "kafka" | "kafkas" => sinks::Kafka::to(text, "/").ok().map(|_| Self::Kafka(url)),
            _ => None,
        }
    }
}

impl Setting for SinkUrl {
    fn expected() -> String {
        let mut text = "stdout:, https://HOST[:PORT]/PATH, http://HOST[:PORT]/PATH".to_owned();
        for (scheme, _, _, _) in BROKERS.iter().filter(|(_, _, _, built)| *built) {
            text.push_str(&format!(", {scheme}HOST"));
        }
        text
    }

    fn parse(text: &str) -> Option<Self> {
        if text == "stdout:" {
            return Some(Self::Stdout);
        }
        let hook = HookUrl::place(text).map(|_| Self::Webhook(HookUrl(text.into())));
        hook.or_else(|| Self::broker(text))
    }

    /// What was written is not shown: there may be secrets in it.
    fn refusal(written: &Written) -> String {
        let expected = format!("expected {}", Self::expected());
        let Written::One(text) = written else {
            return expected;
        };
        let missing = BROKERS.iter().find(|(scheme, ..)| text.starts_with(scheme));
        match missing {
            Some((_, broker, feature, false)) => {
                format!("this build has no {broker}: it needs the feature `{feature}`; {expected}")
            }
            _ if text.starts_with("kafka") && text.contains('@') => format!(
                "Kafka's URL has no user in it, put sasl.username and sasl.password into relay.kafka-settings; \
                 {expected}"
            ),
            _ if text.starts_with("http") && text.contains('@') => format!(
                "a webhook's URL has no user in it, put an Authorization into relay.headers; {expected}"
            ),
            _ => expected,
        }
    }

    fn show(&self) -> String {
        match self {
            Self::Stdout => "stdout:".to_owned(),
            Self::Webhook(url) => url.to_string(),
            Self::Redis(url) => url.to_string(),
            #[cfg(feature = "nats")]
            Self::Nats(url) => url.to_string(),
            #[cfg(feature = "amqp")]
            Self::Amqp(url) => url.to_string(),
            #[cfg(feature = "kafka")]
            Self::Kafka(url) => url.to_string(),
        }
    }
}

impl fmt::Display for SinkUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.show())
    }
}
