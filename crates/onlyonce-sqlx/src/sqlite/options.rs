//! Where the file is, and the limits of the store.

use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use onlyonce::clock::{Clock, SystemClock};
use onlyonce::store::StoreError;

use super::SqliteStore;

/// The settings of a [`SqliteStore`].
///
/// ```
/// use onlyonce_sqlx::SqliteOptions;
///
/// let options: SqliteOptions = "sqlite:///var/lib/onlyonce/onlyonce.db".parse()?;
/// let options = options.with_bytes_max(10 << 30);
/// # Ok::<(), onlyonce_sqlx::sqlite::SqliteUrlError>(())
/// ```
#[derive(Clone)]
#[must_use]
pub struct SqliteOptions {
    pub(super) path: Box<Path>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) bytes_max: Option<u64>,
    pub(super) queue_max: usize,
    pub(super) busy_max: Duration,
    pub(super) group_commit: bool,
}

/// A URL does not name a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SqliteUrlError {
    /// It does not begin with `sqlite://`.
    #[error(
        "expected sqlite://PATH, such as sqlite://onlyonce.db or sqlite:///var/lib/onlyonce.db"
    )]
    Scheme,
    /// There is no path in it.
    #[error("the path is missing; expected sqlite://PATH, such as sqlite://onlyonce.db")]
    NoPath,
    /// It asks for a database in memory, which would forget every key at the end of the process.
    #[error("a SQLite database in memory keeps nothing; use memory: to say so, or name a file")]
    InMemory,
    /// It carries `?options` or a `#fragment`.
    #[error("a sqlite:// URL takes no options after ? or #")]
    Options,
}

impl SqliteOptions {
    /// The defaults for a file: the system's clock, no limit of size, 1024 requests in the queue, 5 s for
    /// another process's lock.
    pub fn new(path: impl AsRef<Path>) -> Self {
        Self {
            path: path.as_ref().into(),
            clock: Arc::new(SystemClock),
            bytes_max: None,
            queue_max: 1024,
            busy_max: Duration::from_secs(5),
            group_commit: true,
        }
    }

    /// The clock that leases and retention are counted by. Every process on a file must use the same.
    pub fn with_clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// How many bytes of the file may be in use before claims of new ids are refused as `Full`.
    /// Settlements go on: their room was promised with the claim. Default: as the disk allows.
    pub fn with_bytes_max(mut self, bytes: u64) -> Self {
        self.bytes_max = Some(bytes);
        self
    }

    /// How many requests may wait for the writing thread before more are refused as `Unavailable`.
    /// Default: 1024.
    pub fn with_queue_max(mut self, requests: usize) -> Self {
        self.queue_max = requests;
        self
    }

    /// How long a request waits while another process writes, before it fails as `Timeout`. Default: 5 s.
    pub fn with_busy_max(mut self, limit: Duration) -> Self {
        self.busy_max = limit;
        self
    }

    /// Whether requests that wait at the same time share a transaction, as they do by default.
    ///
    /// Without, each is a transaction of its own. Nothing is safer for it, and it is many times slower: it is
    /// there to compare, and to find out whether a fault has to do with groups.
    pub fn with_group_commit(mut self, group_commit: bool) -> Self {
        self.group_commit = group_commit;
        self
    }

    /// Opens the file, or creates it. See [`SqliteStore::open`].
    ///
    /// # Errors
    /// As [`SqliteStore::open`].
    pub fn open(&self) -> Result<SqliteStore, StoreError> {
        SqliteStore::start(self)
    }
}

impl FromStr for SqliteOptions {
    type Err = SqliteUrlError;

    /// Reads `sqlite://PATH`. The path is taken as it is, without percent-decoding: two slashes and a
    /// relative path, or three for an absolute one.
    fn from_str(url: &str) -> Result<Self, SqliteUrlError> {
        let path = match url.strip_prefix("sqlite://") {
            Some(path) => path,
            None if url == "sqlite::memory:" => return Err(SqliteUrlError::InMemory),
            None => return Err(SqliteUrlError::Scheme),
        };
        match path {
            "" => Err(SqliteUrlError::NoPath),
            ":memory:" => Err(SqliteUrlError::InMemory),
            path if path.contains(['?', '#']) => Err(SqliteUrlError::Options),
            path => Ok(Self::new(path)),
        }
    }
}

impl fmt::Debug for SqliteOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteOptions")
            .field("path", &self.path)
            .field("bytes_max", &self.bytes_max)
            .field("queue_max", &self.queue_max)
            .field("busy_max", &self.busy_max)
            .field("group_commit", &self.group_commit)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_name_files() {
        let path = |url: &str| url.parse::<SqliteOptions>().map(|options| options.path);
        assert_eq!(
            path("sqlite://onlyonce.db"),
            Ok(Path::new("onlyonce.db").into())
        );
        assert_eq!(
            path("sqlite:///var/x%20y.db"),
            Ok(Path::new("/var/x%20y.db").into())
        );
        for (url, error) in [
            ("sqlite://", SqliteUrlError::NoPath),
            ("sqlite::memory:", SqliteUrlError::InMemory),
            ("sqlite://:memory:", SqliteUrlError::InMemory),
            ("sqlite://x.db?mode=ro", SqliteUrlError::Options),
            ("postgres://localhost/x", SqliteUrlError::Scheme),
            ("onlyonce.db", SqliteUrlError::Scheme),
        ] {
            assert_eq!(path(url), Err(error), "{url}");
        }
    }
}
