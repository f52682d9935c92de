//! The URLs of stores and upstreams, parsed as far as they must be known before anything starts.
//!
//! A database URL carries a password. [`DatabaseUrl`] shows itself without it, in `Debug` as in
//! `Display`; only [`DatabaseUrl::expose`] gives it away, to the store that connects.

use std::fmt;
use std::path::PathBuf;

use http::Uri;

use super::value::{Setting, Written};

/// Where records are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreUrl {
    /// In this process. A restart forgets every key.
    Memory,
    /// In a file on a local disk.
    Sqlite(PathBuf),
    /// In Postgres; where there are several, the writable primary among them.
    Postgres(Vec<DatabaseUrl>),
}

/// A database URL, shown without its password.
///
/// ```
/// use onlyonce_proxy::config::DatabaseUrl;
///
/// let url = DatabaseUrl::new("postgres://app:s3cret@db.internal/payments");
/// assert_eq!(url.to_string(), "postgres://app:***@db.internal/payments");
/// assert!(!format!("{url:?}").contains("s3cret"));
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct DatabaseUrl(Box<str>);

impl DatabaseUrl {
    /// Takes a URL as it was written.
    pub fn new(url: &str) -> Self {
        Self(url.into())
    }

    /// The whole URL, password included.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&without_password(&self.0))
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DatabaseUrl({self})")
    }
}

/// Hides passwords in the authority and in parameters. Works on what is not quite a URL too, and rather
/// hides too much: a password may hold any of `/?#@`, though it should not.
fn without_password(url: &str) -> String {
    let mut shown = url.to_owned();
    let authority = url.find("://").map_or(0, |scheme| scheme + 3);
    if let Some(at) = url.rfind('@').filter(|at| *at >= authority)
        && let Some(colon) = url[authority..at].find(':')
    {
        shown.replace_range(authority + colon + 1..at, "***");
    }
    let Some((before, parameters)) = shown.split_once('?') else {
        return shown;
    };
    let parameters: Vec<_> = parameters
        .split('&')
        .map(|parameter| match parameter.split_once('=') {
            Some((name, _)) if name.to_ascii_lowercase().contains("password") => {
                format!("{name}=***")
            }
            _ => parameter.to_owned(),
        })
        .collect();
    format!("{before}?{}", parameters.join("&"))
}

impl Setting for StoreUrl {
    fn expected() -> String {
        "sqlite://PATH, postgres://USER:PASSWORD@HOST/DATABASE (several separated by commas) or memory:"
            .to_owned()
    }

    fn parse(text: &str) -> Option<Self> {
        if text == "memory:" {
            return Some(Self::Memory);
        }
        if let Some(path) = text.strip_prefix("sqlite://") {
            // Options behind a `?` would be taken for a part of the name.
            let named = !path.is_empty() && !path.contains('?') && !path.starts_with(':');
            return named.then(|| Self::Sqlite(path.into()));
        }
        let urls = split_urls(text);
        let postgres = |url: &&str| {
            ["postgres://", "postgresql://"].iter().any(|scheme| {
                url.strip_prefix(scheme)
                    .is_some_and(|rest| !rest.is_empty())
            })
        };
        urls.iter()
            .all(postgres)
            .then(|| Self::Postgres(urls.into_iter().map(DatabaseUrl::new).collect()))
    }

    fn read(written: &Written) -> Option<Self> {
        match written {
            Written::One(text) => Self::parse(text),
            Written::Many(texts) => Self::parse(&texts.join(",")),
        }
    }

    fn show(&self) -> String {
        match self {
            Self::Memory => "memory:".to_owned(),
            Self::Sqlite(path) => format!("sqlite://{}", path.display()),
            Self::Postgres(urls) => {
                let urls: Vec<_> = urls.iter().map(DatabaseUrl::to_string).collect();
                urls.join(",")
            }
        }
    }
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.show())
    }
}

/// Splits where a comma begins another URL: passwords may hold commas.
fn split_urls(text: &str) -> Vec<&str> {
    let mut urls = Vec::new();
    let mut start = 0;
    for (comma, _) in text.match_indices(',') {
        let behind = text[comma + 1..].trim_start();
        if behind.starts_with("postgres://") || behind.starts_with("postgresql://") {
            urls.push(text[start..comma].trim());
            start = comma + 1;
        }
    }
    urls.push(text[start..].trim());
    urls
}

/// The service that is guarded: a scheme, a host and a port, no path.
///
/// Targets go upstream byte by byte as clients sent them, so a path here would have no place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamUrl(Uri);

impl UpstreamUrl {
    /// The URL.
    pub fn as_uri(&self) -> &Uri {
        &self.0
    }
}

impl Setting for UpstreamUrl {
    fn expected() -> String {
        "http://HOST[:PORT] or https://HOST[:PORT], without a path".to_owned()
    }

    fn parse(text: &str) -> Option<Self> {
        let uri: Uri = text.parse().ok()?;
        let scheme = matches!(uri.scheme_str(), Some("http" | "https"));
        let host = uri.host().is_some_and(|host| !host.is_empty());
        let authority = uri.authority()?.as_str();
        let bare = uri.path() == "/" && uri.query().is_none() && !authority.contains('@');
        let port = !authority.ends_with(':') && uri.port_u16() != Some(0);
        (scheme && host && bare && port).then(|| Self(uri))
    }

    fn show(&self) -> String {
        self.0.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_never_shown() {
        for (url, shown) in [
            ("postgres://db/x", "postgres://db/x"),
            ("postgres://db:5432/x", "postgres://db:5432/x"),
            ("postgres://app@db/x", "postgres://app@db/x"),
            (
                "postgres://app:pw@db:5432/x",
                "postgres://app:***@db:5432/x",
            ),
            ("postgres://app:p@w/x?y@db/x", "postgres://app:***@db/x"),
            (
                "postgres://db/x?password=pw&sslmode=require",
                "postgres://db/x?password=***&sslmode=require",
            ),
            (
                "postgres://db/x?sslpassword=pw",
                "postgres://db/x?sslpassword=***",
            ),
            ("app:pw@db", "app:***@db"),
        ] {
            assert_eq!(DatabaseUrl::new(url).to_string(), shown);
        }
    }

    #[test]
    fn stores_are_told_apart_by_scheme() {
        let postgres = |urls: &[&str]| {
            StoreUrl::Postgres(urls.iter().map(|url| DatabaseUrl::new(url)).collect())
        };
        for (text, url) in [
            ("memory:", StoreUrl::Memory),
            (
                "sqlite://onlyonce.db",
                StoreUrl::Sqlite("onlyonce.db".into()),
            ),
            ("sqlite:///var/x.db", StoreUrl::Sqlite("/var/x.db".into())),
            ("postgres://a/x", postgres(&["postgres://a/x"])),
            (
                "postgres://u:p,w@a/x, postgresql://b/x",
                postgres(&["postgres://u:p,w@a/x", "postgresql://b/x"]),
            ),
        ] {
            assert_eq!(StoreUrl::parse(text), Some(url), "{text}");
        }
        for text in [
            "",
            "memory",
            "sqlite://",
            "sqlite://:memory:",
            "sqlite://a?mode=ro",
            "mysql://a/b",
            "postgres://",
            "onlyonce.db",
        ] {
            assert_eq!(StoreUrl::parse(text), None, "{text}");
        }
    }

    #[test]
    fn an_upstream_is_a_scheme_a_host_and_a_port() {
        for text in [
            "http://localhost:3000",
            "https://api.example.com/",
            "http://[::1]:8080",
        ] {
            assert!(UpstreamUrl::parse(text).is_some(), "{text}");
        }
        for text in [
            "",
            "localhost:3000",
            "/",
            "ftp://a",
            "http://a/base",
            "http://u:p@a",
            "http://a?x=1",
            "http://a:",
            "http://a:0",
        ] {
            assert!(UpstreamUrl::parse(text).is_none(), "{text}");
        }
    }
}
