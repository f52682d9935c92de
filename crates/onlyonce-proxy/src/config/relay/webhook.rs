//! What concerns webhooks only: how they are signed, and what goes along.

use std::path::{Path, PathBuf};

use http::{HeaderName, HeaderValue};
use onlyonce_outbox::sinks;
use onlyonce_outbox::standard_webhooks::Secret;

use crate::config::section::Section;
use crate::config::value::Setting;

/// A webhook, but for its URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Webhook {
    /// What its messages are signed with: a signature for each.
    pub secrets: Vec<Secret>,
    /// A file with more of them, one a line; read when the relay starts.
    pub secrets_file: Option<PathBuf>,
    /// Headers of every message, such as `Authorization`.
    pub headers: Vec<SentHeader>,
    /// The authorities that an `https` endpoint is checked against, or a Redis with TLS; the operating system's where
    /// unset.
    pub ca_file: Option<PathBuf>,
    /// How many messages of a batch are under way at the same time.
    pub in_flight_max: u32,
}

/// A header with its value, which is not shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SentHeader {
    /// Its name.
    pub name: HeaderName,
    /// Its value; sensitive.
    pub value: HeaderValue,
}

impl Webhook {
    pub(super) fn read(section: Section<'_>) -> Self {
        Self {
            secrets: section.get("secrets", Vec::new()),
            secrets_file: section.optional("secrets-file"),
            headers: section.get("headers", Vec::new()),
            ca_file: section.optional("ca-file"),
            in_flight_max: section.above_zero("in-flight-max", DEFAULT_IN_FLIGHT),
        }
    }

    pub(super) fn is_signed(&self) -> bool {
        !self.secrets.is_empty() || self.secrets_file.is_some()
    }

    /// Whether anything is written here that only webhooks use.
    pub(super) fn is_set(&self) -> bool {
        let plain = self.headers.is_empty() && self.in_flight_max == DEFAULT_IN_FLIGHT;
        self.is_signed() || !plain
    }

    /// All secrets, those of the file included.
    ///
    /// # Errors
    /// What is wrong with the file, without quoting it.
    pub fn all_secrets(&self) -> Result<Vec<Secret>, String> {
        let mut secrets = self.secrets.clone();
        if let Some(path) = &self.secrets_file {
            secrets.extend(read(path)?);
        }
        Ok(secrets)
    }
}

const DEFAULT_IN_FLIGHT: u32 = 16;

/// One secret a line; empty lines and those that begin with `#` are not looked at.
fn read(path: &Path) -> Result<Vec<Secret>, String> {
    let named = |what: String| format!("relay.secrets-file: {}: {what}", path.display());
    let text =
        std::fs::read_to_string(path).map_err(|error| named(format!("cannot be read: {error}")))?;
    let lines = text.lines().map(str::trim).enumerate();
    let lines = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    let secret = |(index, line): (usize, &str)| {
        let expected = Secret::expected();
        Secret::parse(line).ok_or_else(|| named(format!("line {}: expected {expected}", index + 1)))
    };
    let secrets: Vec<_> = lines.map(secret).collect::<Result<_, _>>()?;
    if secrets.is_empty() {
        return Err(named("has no secret in it".to_owned()));
    }
    Ok(secrets)
}

impl Setting for Secret {
    fn expected() -> String {
        "`whsec_` followed by at least 16 bytes in base64".to_owned()
    }

    fn parse(text: &str) -> Option<Self> {
        text.parse().ok()
    }

    fn show(&self) -> String {
        "***".to_owned()
    }
}

impl Setting for SentHeader {
    fn expected() -> String {
        "`Name: value`, a header that the webhook does not set itself".to_owned()
    }

    fn parse(text: &str) -> Option<Self> {
        let (name, value) = text.split_once(':')?;
        let (name, value) = (name.trim(), value.trim());
        // The sink's own rules; it takes the header again when the relay starts.
        let sink = sinks::Webhook::to("http://localhost", "/").ok()?;
        sink.header(name, value).ok()?;
        let mut value = HeaderValue::from_str(value).ok()?;
        value.set_sensitive(true);
        Some(Self {
            name: name.parse().ok()?,
            value,
        })
    }

    fn show(&self) -> String {
        format!("{}: ***", self.name)
    }
}
