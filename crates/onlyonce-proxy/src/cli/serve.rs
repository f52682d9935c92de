//! `onlyonce serve`.

use std::io::Write;
use std::net::SocketAddr;

use clap::Args;
use tokio::runtime::Builder;

use super::Failure;
use super::settings::ConfigArgs;
use crate::app::App;
use crate::config::{Config, Sources};
use crate::signal::Signals;
use crate::telemetry;

/// Flags are taken as text: they go through the same parsers as the file, and all faults are reported at
/// once.
#[derive(Debug, Args)]
pub(super) struct Serve {
    #[command(flatten)]
    config: ConfigArgs,
    /// The service to guard: `http://HOST[:PORT]` or `https://HOST[:PORT]`
    #[arg(long, value_name = "URL")]
    upstream: Option<String>,
    /// Where clients come in [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDR")]
    listen: Option<String>,
    /// Where records are kept: `sqlite://PATH`, `postgres://…` (several separated by commas) or `memory:`
    /// [default: sqlite://onlyonce.db]
    #[arg(long, value_name = "URL")]
    store: Option<String>,
    /// A Redis that several processes share, for retries that are answered without asking the store:
    /// `redis://…`, or `rediss://…` for TLS [default: none]
    #[arg(long, value_name = "URL")]
    cache: Option<String>,
    /// How long a guarded request may take [default: 1m]
    #[arg(long, value_name = "DURATION")]
    deadline: Option<String>,
    /// How long records are kept [default: 24h]
    #[arg(long, value_name = "DURATION")]
    retention: Option<String>,
    /// How long duplicates of a request in flight are held for its answer [default: 0s: 409 at once]
    #[arg(long, value_name = "DURATION")]
    wait: Option<String>,
    /// Answer requests without a key with 400
    #[arg(long)]
    require_key: bool,
    /// A second listener for /livez and /readyz [default: none]
    #[arg(long, value_name = "ADDR")]
    admin: Option<String>,
    /// How long requests in progress may take to finish at shutdown [default: 30s]
    #[arg(long, value_name = "DURATION")]
    drain: Option<String>,
    /// `text` or `json`, on standard error [default: text]
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
    /// The least level, such as `warn` or `info,onlyonce=debug` [default: info]
    #[arg(long, value_name = "LEVELS")]
    log_level: Option<String>,
}

impl Serve {
    pub(super) fn run(&self) -> Result<(), Failure> {
        let config = Config::load(self.sources())?;
        telemetry::init(&config.log).map_err(Failure::failed)?;
        // Connections are the workers'; this thread accepts them, and looks after the rest.
        let runtime = Builder::new_current_thread().enable_all().build();
        runtime.map_err(Failure::failed)?.block_on(async {
            let mut signals = Signals::listen().map_err(Failure::failed)?;
            let app = App::bind(config).await?;
            announce("listening", app.address());
            if let Some(address) = app.admin_address() {
                announce("admin listening", address);
            }
            app.run(async || signals.next().await)
                .await
                .map_err(Failure::from)
        })
    }

    fn sources(&self) -> Sources {
        let mut sources = self.config.sources();
        let require_key = self.require_key.then(|| "true".to_owned());
        for (flag, key, value) in [
            ("--upstream", "upstream.url", &self.upstream),
            ("--listen", "listen.address", &self.listen),
            ("--store", "store.url", &self.store),
            ("--cache", "cache.url", &self.cache),
            ("--deadline", "policy.deadline", &self.deadline),
            ("--retention", "policy.retention", &self.retention),
            ("--wait", "policy.wait", &self.wait),
            ("--require-key", "policy.require-key", &require_key),
            ("--admin", "admin.address", &self.admin),
            ("--drain", "listen.drain", &self.drain),
            ("--log-format", "log.format", &self.log_format),
            ("--log-level", "log.level", &self.log_level),
        ] {
            if let Some(value) = value {
                sources.flag(flag, key, value);
            }
        }
        sources
    }
}

/// One line on standard output for each listener, `listening on 127.0.0.1:8080`: whoever started the
/// process with port 0 reads the port there. The line is part of the interface.
fn announce(what: &str, address: SocketAddr) {
    let mut stdout = std::io::stdout();
    // That nobody reads is no reason not to serve.
    let _ = writeln!(stdout, "{what} on {address}").and_then(|()| stdout.flush());
}
