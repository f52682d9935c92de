//! How a [`PostgresStore`](super::PostgresStore) reaches its server: parsed once, without any I/O.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use sqlx::ConnectOptions;
use sqlx::postgres::PgConnectOptions;

/// Where the servers are, what is in between, and how long to wait.
///
/// Written as a URL, or as several with commas between them: the servers of one cluster, of which the one
/// that takes writes is used and looked for again after a failover. The path of each names the database.
///
/// Beside the parameters that the driver knows (`sslmode`, `sslrootcert`, `application_name`, …) there is
/// `pooler=transaction`, needed where PgBouncer or its like stands in between in transaction mode.
/// Parameters that nobody knows are errors: a misspelt `sslmode` would be a silent risk.
///
/// ```
/// use onlyonce_sqlx::postgres::Settings;
///
/// let settings: Settings = "postgres://a.internal/app,postgres://b.internal/app".parse()?;
/// assert!("postgres://a.internal/app?poolr=transaction".parse::<Settings>().is_err());
/// # Ok::<(), onlyonce_sqlx::postgres::SettingsError>(())
/// ```
#[derive(Clone)]
pub struct Settings {
    pub(super) targets: Vec<PgConnectOptions>,
    pub(super) pooler: bool,
    pub(super) connections: u32,
    pub(super) call_timeout: Duration,
    pub(super) connect_timeout: Duration,
    pub(super) group_commit: bool,
}

/// Why text is not [`Settings`]. Never shows the text itself: it may hold a password.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SettingsError {
    /// Not a URL of Postgres.
    #[error("store URL {position} does not begin with postgres:// or postgresql://")]
    Scheme {
        /// Which of several, counted from 1.
        position: usize,
    },
    /// The driver does not understand it.
    #[error("store URL {position} cannot be understood")]
    Url {
        /// Which of several, counted from 1.
        position: usize,
        /// What the driver says.
        #[source]
        source: sqlx::Error,
    },
    /// Nothing knows this parameter.
    #[error("store URL {position} has the unknown parameter `{name}`")]
    Parameter {
        /// Which of several, counted from 1.
        position: usize,
        /// The parameter's name.
        name: String,
    },
    /// `pooler` has another value.
    #[error(
        "store URL {position}: the parameter `pooler` knows the values `transaction` and `none`"
    )]
    Pooler {
        /// Which of several, counted from 1.
        position: usize,
    },
}

impl Settings {
    /// Whether a pooler in transaction mode stands in between: statements are then not prepared ahead, and
    /// each is sent inside a transaction of its own, since its two halves could otherwise meet different
    /// servers.
    #[must_use]
    pub fn with_pooler(mut self, pooler: bool) -> Self {
        self.pooler = pooler;
        self
    }

    /// How many connections at the most; 16 by default. At least one.
    #[must_use]
    pub fn with_connections(mut self, connections: u32) -> Self {
        self.connections = connections.max(1);
        self
    }

    /// How long one call may take, waiting for a connection included; 5 s by default.
    #[must_use]
    pub fn with_call_timeout(mut self, timeout: Duration) -> Self {
        self.call_timeout = timeout;
        self
    }

    /// How long one try to connect to one server may take; 2 s by default.
    #[must_use]
    pub fn with_connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Whether calls that wait at the same time share a statement and a commit, as they do by default.
    ///
    /// Without, each claim and each settlement is a statement and a commit of its own. Nothing is safer for
    /// it, and under load it is several times slower: it is there to compare, and to find out whether a
    /// fault has to do with groups.
    #[must_use]
    pub fn with_group_commit(mut self, group_commit: bool) -> Self {
        self.group_commit = group_commit;
        self
    }

    /// The driver's options for each server, with what this store wants of a connection.
    pub(super) fn connect_options(&self) -> Vec<PgConnectOptions> {
        let finish = |target: &PgConnectOptions| {
            let mut target = target.clone().disable_statement_logging();
            if target.get_application_name().is_none() {
                target = target.application_name("onlyonce");
            }
            if self.pooler {
                // What the pooler does not track it refuses to take at the start.
                return target.statement_cache_capacity(0).extra_float_digits(None);
            }
            target.options(self.session_options())
        };
        self.targets.iter().map(finish).collect()
    }

    /// The server gives up before the caller does: an error that says "not done" is worth more than a
    /// connection that was cut. And a statement that is waiting for a row locked by somebody else's open
    /// transaction must not wait long.
    pub(super) fn session_options(&self) -> [(&'static str, String); 7] {
        let milliseconds = |share: u32| (self.call_timeout / 5 * share).as_millis().max(1);
        [
            // Others could make every duplicate a serialization failure.
            ("default_transaction_isolation", "read committed".to_owned()),
            ("statement_timeout", milliseconds(4).to_string()),
            ("lock_timeout", milliseconds(2).to_string()),
            (
                "idle_in_transaction_session_timeout",
                milliseconds(10).to_string(),
            ),
            // Each statement finds its rows by an index. Right after the tables are made, and until they are
            // analyzed, the planner thinks them small; it would read all of them, and keep to that plan.
            ("enable_seqscan", "off".to_owned()),
            ("plan_cache_mode", "force_generic_plan".to_owned()),
            // Worth its while for statements that take seconds.
            ("jit", "off".to_owned()),
        ]
    }
}

impl FromStr for Settings {
    type Err = SettingsError;

    fn from_str(text: &str) -> Result<Self, SettingsError> {
        let mut settings = Self {
            targets: Vec::new(),
            pooler: false,
            connections: 16,
            call_timeout: Duration::from_secs(5),
            connect_timeout: Duration::from_secs(2),
            group_commit: true,
        };
        for (index, url) in split(text).into_iter().enumerate() {
            let (target, pooler) = parse(url, index + 1)?;
            settings.targets.push(target);
            settings.pooler |= pooler;
        }
        Ok(settings)
    }
}

impl fmt::Debug for Settings {
    /// Without user names and passwords.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let targets: Vec<_> = self.targets.iter().map(address).collect();
        f.debug_struct("Settings")
            .field("targets", &targets)
            .field("pooler", &self.pooler)
            .field("connections", &self.connections)
            .field("call_timeout", &self.call_timeout)
            .field("connect_timeout", &self.connect_timeout)
            .field("group_commit", &self.group_commit)
            .finish()
    }
}

/// A server's address, as logs and errors show it.
pub(super) fn address(target: &PgConnectOptions) -> String {
    match target.get_socket() {
        Some(socket) => socket.display().to_string(),
        None => format!("{}:{}", target.get_host(), target.get_port()),
    }
}

/// Splits at the commas that a scheme follows: a password may hold others.
fn split(text: &str) -> Vec<&str> {
    let mut urls = Vec::new();
    let mut start = 0;
    for (comma, _) in text.match_indices(',') {
        if has_scheme(text[comma + 1..].trim_start()) {
            urls.push(text[start..comma].trim());
            start = comma + 1;
        }
    }
    urls.push(text[start..].trim());
    urls
}

fn has_scheme(url: &str) -> bool {
    url.starts_with("postgres://") || url.starts_with("postgresql://")
}

fn parse(url: &str, position: usize) -> Result<(PgConnectOptions, bool), SettingsError> {
    if !has_scheme(url) {
        return Err(SettingsError::Scheme { position });
    }
    let (start, query) = url.split_once('?').unwrap_or((url, ""));
    let mut pooler = false;
    let mut kept = Vec::new();
    for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
        match parameter.split_once('=').unwrap_or((parameter, "")) {
            ("pooler", "transaction") => pooler = true,
            ("pooler", "none") => pooler = false,
            ("pooler", _) => return Err(SettingsError::Pooler { position }),
            (name, _) if PARAMETERS.contains(&name) || name.starts_with("options[") => {
                kept.push(parameter);
            }
            (name, _) => {
                let name = name.to_owned();
                return Err(SettingsError::Parameter { position, name });
            }
        }
    }
    let target = format!("{start}?{}", kept.join("&"))
        .parse()
        .map_err(|source| SettingsError::Url { position, source })?;
    Ok((target, pooler))
}

/// What the driver understands.
const PARAMETERS: [&str; 18] = [
    "sslmode",
    "ssl-mode",
    "sslrootcert",
    "ssl-root-cert",
    "ssl-ca",
    "sslcert",
    "ssl-cert",
    "sslkey",
    "ssl-key",
    "statement-cache-capacity",
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
    "application_name",
    "options",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Settings, SettingsError> {
        text.parse()
    }

    #[test]
    fn several_servers_and_a_comma_in_a_password() {
        let settings =
            parse("postgres://u:a,b@one:1/d, postgresql://two/d?pooler=transaction").unwrap();
        let addresses: Vec<_> = settings.targets.iter().map(address).collect();
        assert_eq!(addresses, ["one:1", "two:5432"]);
        assert!(settings.pooler);
    }

    #[test]
    fn a_misspelt_parameter_is_an_error() {
        assert!(matches!(
            parse("postgres://h/d?ssl_mode=require"),
            Err(SettingsError::Parameter { position: 1, name }) if name == "ssl_mode"
        ));
        assert!(matches!(
            parse("postgres://h/d,postgres://h/d?pooler=session"),
            Err(SettingsError::Pooler { position: 2 })
        ));
        assert!(matches!(
            parse("mysql://h/d"),
            Err(SettingsError::Scheme { .. })
        ));
        assert!(matches!(parse(""), Err(SettingsError::Scheme { .. })));
        assert!(matches!(
            parse("postgres://h:port/d"),
            Err(SettingsError::Url { .. })
        ));
    }

    #[test]
    fn nothing_shows_a_password() {
        let settings = parse("postgres://user:secret@h/d").unwrap();
        assert!(!format!("{settings:?}").contains("secret"));
        let error = parse("postgres://user:secret@h:x/d").unwrap_err();
        assert!(!format!("{error:?} {error}").contains("secret"));
    }
}
