//! File descriptors: how many the process may have open, and how many its settings can make it need.
//!
//! Each client takes one, and while its request is being forwarded another for the upstream. Where there are fewer than
//! `listen.connections-max` asks for, clients that are merely connected can take all that there are, and nothing is
//! forwarded any more. The system gives each process a *soft* limit, often 1024 for the sake of programs that use
//! `select`, and lets it raise that to the *hard* one by itself, as servers do.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::config::Config;

/// For the cache, the listeners, the log, files and what the runtimes keep.
const OTHERS: u64 = 128;

/// What is worth a second look, where the process can have too few.
pub(crate) fn warning(config: &Config) -> Option<String> {
    // No limit at all is enough.
    let allowed = getrlimit(Resource::Nofile).maximum?;
    let needed = needed(config);
    (allowed < needed).then(|| {
        format!(
            "listen.connections-max = {}: the process may open {allowed} files and can need {needed}; connections \
             alone can take all of them, and nothing is forwarded then. Raise the hard limit (`ulimit -Hn`, \
             `LimitNOFILE=` of systemd), or lower listen.connections-max",
            config.listen.connections_max
        )
    })
}

/// Raises the soft limit to the hard one. Where that is refused, the limit stays as it was.
pub(crate) fn raise() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: maximum,
        maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "the limit of open files could not be raised");
    }
}

/// Clients and their forwards, the connections that are kept for the next; those to the store, of which as many can be
/// waited for aside; and all else.
fn needed(config: &Config) -> u64 {
    2 * u64::from(config.listen.connections_max)
        + u64::from(config.upstream.idle_connections_max)
        + 2 * u64::from(config.store.connections)
        + OTHERS
}
