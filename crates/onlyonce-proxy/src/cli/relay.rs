//! `onlyonce relay`.

use clap::Args;
use tracing::info;

use super::settings::ConfigArgs;
use super::{Failure, runtime};
use crate::config::{RelayConfig, Sources};
use crate::relay::RelayApp;
use crate::signal::Signals;
use crate::telemetry;

/// Flags are taken as text: they go through the same parsers as the file, and all faults are reported at
/// once. Secrets have none, since everybody on the machine can read a process's arguments.
#[derive(Debug, Args)]
pub(super) struct Relay {
    #[command(flatten)]
    config: ConfigArgs,
    /// Where the outbox is: `postgres://…` [default: the store's, where that is Postgres]
    #[arg(long, value_name = "URL")]
    database: Option<String>,
    /// Where events go: `stdout:`, `https://…` (a webhook) or `redis://…`
    #[arg(long, value_name = "URL")]
    sink: Option<String>,
    /// Under which name the database remembers how far the sink is; a new name starts from the beginning
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// The producer, as CloudEvents' `source` [default: /outbox]
    #[arg(long, value_name = "URI")]
    source: Option<String>,
    /// A listener for /livez, /readyz and /metrics [default: none]
    #[arg(long, value_name = "ADDR")]
    admin: Option<String>,
    /// Where a sink starts that is new here: `earliest` or `latest` [default: earliest]
    #[arg(long, value_name = "WHERE")]
    start: Option<String>,
    /// Whether a dead letter holds back its key: `block` or `skip` [default: block]
    #[arg(long, value_name = "WHAT")]
    on_dead: Option<String>,
    /// For how long a shard belongs to a relay that gives no sign of life [default: 15s]
    #[arg(long, value_name = "DURATION")]
    lease: Option<String>,
    /// How long events are kept for replays; `0s` for ever [default: 168h]
    #[arg(long, value_name = "DURATION")]
    retention: Option<String>,
    /// For how long receivers know repetitions: when half of it has passed for an event that still waits, it is told;
    /// `0s` for ever [default: 168h]
    #[arg(long, value_name = "DURATION")]
    dedupe_window: Option<String>,
    /// How long it may take to finish what is under way at shutdown [default: 30s]
    #[arg(long, value_name = "DURATION")]
    drain: Option<String>,
    /// `text` or `json`, on standard error [default: text]
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
    /// The least level, such as `warn` or `info,onlyonce_outbox=debug` [default: info]
    #[arg(long, value_name = "LEVELS")]
    log_level: Option<String>,
}

impl Relay {
    pub(super) fn run(&self) -> Result<(), Failure> {
        let config = RelayConfig::load(self.sources())?;
        telemetry::init(&config.log).map_err(Failure::failed)?;
        runtime()?.block_on(async {
            let mut signals = Signals::listen().map_err(Failure::failed)?;
            let app = RelayApp::bind(config).await?;
            if let Some(address) = app.admin_address() {
                // Not on standard output, which may be the sink.
                info!("admin listening on {address}");
            }
            app.run(async || signals.next().await)
                .await
                .map_err(Failure::from)
        })
    }

    fn sources(&self) -> Sources {
        let mut sources = self.config.sources();
        for (flag, key, value) in [
            ("--database", "relay.database", &self.database),
            ("--sink", "relay.sink", &self.sink),
            ("--name", "relay.name", &self.name),
            ("--source", "relay.source", &self.source),
            ("--admin", "relay.admin", &self.admin),
            ("--start", "relay.start", &self.start),
            ("--on-dead", "relay.on-dead", &self.on_dead),
            ("--lease", "relay.lease", &self.lease),
            ("--retention", "relay.retention", &self.retention),
            (
                "--dedupe-window",
                "relay.dedupe-window",
                &self.dedupe_window,
            ),
            ("--drain", "relay.drain", &self.drain),
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
