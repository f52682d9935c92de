//! The URL of a read cache, parsed before anything starts, and shown without its password.

use onlyonce_redis::Settings;

use super::url::DatabaseUrl;
use super::value::{Setting, Written};
use crate::telemetry::causes;

/// Where a Redis is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheUrl(DatabaseUrl);

impl CacheUrl {
    /// How the cache reaches it, with the cache's own defaults.
    ///
    /// # Panics
    /// Never: what is no such URL does not become a [`CacheUrl`].
    pub fn settings(&self) -> Settings {
        let settings = self.0.expose().parse();
        settings.expect("the URL was understood when the setting was read")
    }
}

impl Setting for CacheUrl {
    fn expected() -> String {
        "redis://USER:PASSWORD@HOST[:PORT][/DATABASE], or rediss:// for TLS".to_owned()
    }

    fn parse(text: &str) -> Option<Self> {
        let understood = text.parse::<Settings>().is_ok();
        understood.then(|| Self(DatabaseUrl::new(text)))
    }

    fn refusal(written: &Written) -> String {
        match written {
            Written::One(text) if text.starts_with("redis") => match text.parse::<Settings>() {
                // It does not quote the URL.
                Err(error) => causes(&error),
                Ok(_) => format!("expected {}", Self::expected()),
            },
            _ => format!("expected {}", Self::expected()),
        }
    }

    fn show(&self) -> String {
        self.0.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_shown_without_its_password() {
        for (text, shown) in [
            ("redis://cache", "redis://cache"),
            ("redis://:s3cret@cache:6380/2", "redis://:***@cache:6380/2"),
            ("rediss://app:s3cret@cache", "rediss://app:***@cache"),
        ] {
            let url = CacheUrl::parse(text).expect("a URL of Redis");
            assert_eq!(url.show(), shown);
            assert!(!format!("{url:?}").contains("s3cret"));
            url.settings();
        }
    }

    #[test]
    fn what_is_no_such_url_is_refused_without_showing_it() {
        for (text, refusal) in [
            ("cache:6379", "expected redis://"),
            ("postgres://app:s3cret@db/x", "expected redis://"),
            ("redis://:s3cret@cache/x", "the path of the cache's URL"),
            (
                "redis://:s3cret@cache:port",
                "the cache's URL cannot be understood: ",
            ),
            (
                "redis://:s3cret@cache?db=1",
                "the cache's URL takes no parameters",
            ),
        ] {
            assert_eq!(CacheUrl::parse(text), None, "{text}");
            let found = CacheUrl::refusal(&Written::One(text.to_owned()));
            assert!(found.starts_with(refusal), "{text}: {found}");
            assert!(!found.contains("s3cret"), "{found}");
        }
    }
}
