//! The URLs of stores, parsed before anything starts.
//!
//! A database URL carries a password. [`DatabaseUrl`] shows itself without it, in `Debug` as in
//! `Display`; only [`DatabaseUrl::expose`] gives it away, to the store that connects.

use std::fmt;
use std::path::PathBuf;

use onlyonce_sqlx::SqliteOptions;
use onlyonce_sqlx::postgres::Settings;

use super::value::{Setting, Written};
use crate::telemetry::causes;

/// Where records are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreUrl {
    /// In this process. A restart forgets every key.
    Memory,
    /// In a file on a local disk.
    Sqlite(PathBuf),
    /// In Postgres; where there are several, the writable primary among them.
    Postgres(DatabaseUrl),
}

/// A database URL, or several separated by commas, shown without passwords.
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

/// Hides the passwords of one URL or several.
fn without_password(urls: &str) -> String {
    let mut shown = String::new();
    let mut rest = urls;
    while let Some(scheme) = rest.find("://") {
        // Up to the comma before the next URL; a comma elsewhere may belong to the password.
        let end = rest[scheme + 3..]
            .find(",postgres")
            .map_or(rest.len(), |comma| scheme + 3 + comma + 1);
        shown.push_str(&without_its_password(&rest[..end]));
        rest = &rest[end..];
    }
    shown + &without_its_password(rest)
}

/// Hides passwords in the authority and in parameters. Works on what is not quite a URL too, and rather
/// hides too much: a password may hold any of `/?#@`, though it should not.
fn without_its_password(url: &str) -> String {
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
            return text
                .parse::<SqliteOptions>()
                .ok()
                .map(|_| Self::Sqlite(path.into()));
        }
        text.parse::<Settings>()
            .ok()
            .map(|_| Self::Postgres(DatabaseUrl::new(text)))
    }

    fn read(written: &Written) -> Option<Self> {
        Self::parse(&one_text(written))
    }

    fn refusal(written: &Written) -> String {
        let text = one_text(written);
        if text.starts_with("sqlite:")
            && let Err(error) = text.parse::<SqliteOptions>()
        {
            return error.to_string();
        }
        match text.parse::<Settings>() {
            // Neither the store nor the driver quotes the URL.
            Err(error) if text.starts_with("postgres") => causes(&error),
            _ => format!("expected {}", Self::expected()),
        }
    }

    fn show(&self) -> String {
        match self {
            Self::Memory => "memory:".to_owned(),
            Self::Sqlite(path) => format!("sqlite://{}", path.display()),
            Self::Postgres(urls) => urls.to_string(),
        }
    }
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.show())
    }
}

/// A list in the file means the same as commas.
fn one_text(written: &Written) -> String {
    match written {
        Written::One(text) => text.clone(),
        Written::Many(texts) => texts.join(","),
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
            (
                "postgres://u:a,b@x/d,postgresql://u:c@y/d",
                "postgres://u:***@x/d,postgresql://u:***@y/d",
            ),
        ] {
            assert_eq!(DatabaseUrl::new(url).to_string(), shown);
        }
    }

    #[test]
    fn stores_are_told_apart_by_scheme() {
        let postgres = |urls: &str| StoreUrl::Postgres(DatabaseUrl::new(urls));
        for (text, url) in [
            ("memory:", StoreUrl::Memory),
            (
                "sqlite://onlyonce.db",
                StoreUrl::Sqlite("onlyonce.db".into()),
            ),
            ("sqlite:///var/x.db", StoreUrl::Sqlite("/var/x.db".into())),
            ("postgres://a/x", postgres("postgres://a/x")),
            (
                "postgres://u:p,w@a/x,postgresql://b/x",
                postgres("postgres://u:p,w@a/x,postgresql://b/x"),
            ),
        ] {
            assert_eq!(StoreUrl::parse(text), Some(url), "{text}");
        }
        for (text, refusal) in [
            ("", "expected sqlite://PATH, "),
            ("memory", "expected sqlite://PATH, "),
            ("mysql://app:s3cret@a/b", "expected sqlite://PATH, "),
            ("sqlite://", "the path is missing"),
            (
                "sqlite://:memory:",
                "a SQLite database in memory keeps nothing",
            ),
            ("sqlite://a?mode=ro", "a sqlite:// URL takes no options"),
            (
                "postgres://app:s3cret@a:port/x",
                "store URL 1 cannot be understood",
            ),
            (
                "postgres://app:s3cret@a/x?ssl=on",
                "store URL 1 has the unknown parameter `ssl`",
            ),
        ] {
            let written = Written::One(text.to_owned());
            assert_eq!(StoreUrl::read(&written), None, "{text}");
            let found = StoreUrl::refusal(&written);
            assert!(found.starts_with(refusal), "{text}: {found}");
            assert!(!found.contains("s3cret"), "{found}");
        }
    }
}
