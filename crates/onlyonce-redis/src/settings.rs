//! How a [`RedisCache`](crate::RedisCache) reaches its server: parsed once, without any I/O.

use std::fmt;
use std::path::PathBuf;
use std::str::{FromStr, Utf8Error};
use std::time::Duration;

use percent_encoding::percent_decode_str;
use redis::RedisConnectionInfo;
use url::Url;

const PORT: u16 = 6379;

/// Where the server is, and what to expect of it.
///
/// Written as a URL: `redis://` or, with TLS, `rediss://`, then `USER:PASSWORD@` where the server wants them, the host,
/// and the number of the database as the path. It takes no parameters.
///
/// ```
/// use onlyonce_redis::Settings;
///
/// let settings: Settings = "redis://:s3cret@cache.internal:6380/2".parse()?;
/// assert_eq!(settings.to_string(), "redis://cache.internal:6380/2");
/// assert!(!format!("{settings:?}").contains("s3cret"));
/// assert!("redis://cache.internal?db=2".parse::<Settings>().is_err());
/// # Ok::<(), onlyonce_redis::SettingsError>(())
/// ```
#[derive(Clone)]
pub struct Settings {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) tls: bool,
    pub(crate) ca_file: Option<PathBuf>,
    pub(crate) redis: RedisConnectionInfo,
    pub(crate) deadline: Duration,
    pub(crate) ttl: Duration,
    pub(crate) response_max: usize,
}

/// Why text is not [`Settings`]. Never shows the text itself: it may hold a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SettingsError {
    /// Another scheme, or none.
    #[error("the cache's URL does not begin with redis:// or rediss://")]
    Scheme,
    /// Not a URL.
    #[error("the cache's URL cannot be understood")]
    Url(#[from] url::ParseError),
    /// No host.
    #[error("the cache's URL names no host")]
    Host,
    /// A user without a password, which Redis does not have.
    #[error("the cache's URL names a user without a password")]
    User,
    /// User or password are not text.
    #[error("user and password in the cache's URL must be UTF-8")]
    Encoding(#[from] Utf8Error),
    /// The path is no number.
    #[error("the path of the cache's URL must be the number of a database, or nothing")]
    Database,
    /// There is something behind the path.
    #[error("the cache's URL takes no parameters and no fragment")]
    Parameters,
}

impl Settings {
    /// How long looking something up may take before the store is asked instead; 5 ms by default.
    #[must_use]
    pub fn with_deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// How long an entry stays in Redis at the most; one hour by default. A matter of room only: an entry is
    /// never used past the end of its record's retention.
    #[must_use]
    pub fn with_ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// Up to which size responses are kept and fetched, as they are encoded; 64 KiB by default.
    #[must_use]
    pub fn with_response_max(mut self, bytes: usize) -> Self {
        self.response_max = bytes;
        self
    }

    /// Which certificate authorities the server's certificate may come from: those in this PEM file, instead of
    /// the system's.
    #[must_use]
    pub fn with_ca_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.ca_file = Some(path.into());
        self
    }
}

impl FromStr for Settings {
    type Err = SettingsError;

    fn from_str(text: &str) -> Result<Self, SettingsError> {
        let tls = match text.split_once("://") {
            Some(("redis", _)) => false,
            Some(("rediss", _)) => true,
            _ => return Err(SettingsError::Scheme),
        };
        let url = Url::parse(text)?;
        if url.query().is_some() || url.fragment().is_some() {
            return Err(SettingsError::Parameters);
        }
        let host = url.host_str().filter(|host| !host.is_empty());
        let host = host.ok_or(SettingsError::Host)?;
        Ok(Self {
            // An IPv6 address without its brackets.
            host: host.trim_matches(['[', ']']).to_owned(),
            port: url.port().unwrap_or(PORT),
            tls,
            ca_file: None,
            redis: login(&url)?.set_db(database(&url)?),
            deadline: Duration::from_millis(5),
            ttl: Duration::from_secs(3600),
            response_max: 64 << 10,
        })
    }
}

fn login(url: &Url) -> Result<RedisConnectionInfo, SettingsError> {
    let login = RedisConnectionInfo::default().set_lib_name("onlyonce", env!("CARGO_PKG_VERSION"));
    let decode = |text| percent_decode_str(text).decode_utf8();
    let login = match url.username() {
        "" => login,
        _ if url.password().is_none() => return Err(SettingsError::User),
        user => login.set_username(decode(user)?),
    };
    Ok(match url.password() {
        None => login,
        Some(password) => login.set_password(decode(password)?),
    })
}

fn database(url: &Url) -> Result<i64, SettingsError> {
    match url.path().trim_start_matches('/') {
        "" => Ok(0),
        number if number.bytes().all(|byte| byte.is_ascii_digit()) => {
            number.parse().map_err(|_| SettingsError::Database)
        }
        _ => Err(SettingsError::Database),
    }
}

/// As a URL, without user and password.
impl fmt::Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.tls { "rediss://" } else { "redis://" })?;
        if self.host.contains(':') {
            write!(f, "[{}]", self.host)?;
        } else {
            f.write_str(&self.host)?;
        }
        write!(f, ":{}/{}", self.port, self.redis.db())
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("url", &format_args!("{self}"))
            .field("ca_file", &self.ca_file)
            .field("deadline", &self.deadline)
            .field("ttl", &self.ttl)
            .field("response_max", &self.response_max)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Settings, SettingsError> {
        text.parse()
    }

    #[test]
    fn urls_are_understood() {
        for (text, shown) in [
            ("redis://cache", "redis://cache:6379/0"),
            ("redis://cache/", "redis://cache:6379/0"),
            ("redis://127.0.0.1:7000/3", "redis://127.0.0.1:7000/3"),
            ("rediss://cache.internal", "rediss://cache.internal:6379/0"),
            ("redis://[::1]:7000", "redis://[::1]:7000/0"),
            ("redis://app:pw@cache/1", "redis://cache:6379/1"),
        ] {
            let settings = parse(text).unwrap();
            assert_eq!(settings.to_string(), shown);
        }
        assert_eq!(parse("redis://[::1]").unwrap().host, "::1");
    }

    #[test]
    fn user_and_password_are_decoded_and_never_shown() {
        let settings = parse("redis://us%40er:p%3Aw%2F@cache").unwrap();
        assert_eq!(settings.redis.username(), Some("us@er"));
        assert_eq!(settings.redis.password(), Some("p:w/"));
        let settings = parse("redis://:s3cret@cache").unwrap();
        assert_eq!(settings.redis.username(), None);
        assert_eq!(settings.redis.password(), Some("s3cret"));
        for shown in [format!("{settings:?}"), settings.to_string()] {
            assert!(!shown.contains("s3cret"), "{shown}");
        }
    }

    #[test]
    fn what_is_no_url_of_a_cache_is_refused_without_showing_it() {
        for (text, error) in [
            ("", SettingsError::Scheme),
            ("cache:6379", SettingsError::Scheme),
            ("http://s3cret@cache", SettingsError::Scheme),
            ("redis:s3cret", SettingsError::Scheme),
            ("redis://", SettingsError::Host),
            ("redis:///1", SettingsError::Host),
            ("redis://s3cret@cache", SettingsError::User),
            ("redis://:%ff@cache", SettingsError::Encoding(utf8_error())),
            ("redis://:s3cret@cache/x", SettingsError::Database),
            ("redis://:s3cret@cache/-1", SettingsError::Database),
            (
                "redis://cache/99999999999999999999",
                SettingsError::Database,
            ),
            ("redis://cache?password=s3cret", SettingsError::Parameters),
            ("rediss://cache#insecure", SettingsError::Parameters),
            (
                "redis://:s3cret@cache:port",
                SettingsError::Url(url::ParseError::InvalidPort),
            ),
        ] {
            let found = parse(text).unwrap_err();
            assert_eq!(found, error, "{text}");
            assert!(!format!("{found} {found:?}").contains("s3cret"), "{text}");
        }
    }

    fn utf8_error() -> Utf8Error {
        std::str::from_utf8(std::hint::black_box(&[0xff])).unwrap_err()
    }
}
