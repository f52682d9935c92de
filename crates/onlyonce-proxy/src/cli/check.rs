//! `onlyonce check`.

use clap::Args;

use super::settings::ConfigArgs;
use super::{Failure, print};
use crate::config::{Config, Effective, RelayConfig};
use crate::descriptors;
use crate::table::{Align, Table};

#[derive(Debug, Args)]
pub(super) struct Check {
    #[command(flatten)]
    config: ConfigArgs,
}

impl Check {
    pub(super) fn run(&self) -> Result<(), Failure> {
        let sources = self.config.sources();
        // A file that says what to relay, and not what to guard, is a relay's alone.
        if sources.has_section("relay") && !sources.has_section("upstream") {
            let config = RelayConfig::load(sources)?;
            print(&summary(&config.effective, &config.relay.warnings()));
            return Ok(());
        }
        let config = Config::load(sources)?;
        let mut text = summary(&config.effective, &config.warnings());
        if let Some(warning) = descriptors::warning(&config) {
            text.push_str(&format!("warning: {warning}\n"));
        }
        let identity = config.identity();
        if !identity.is_empty() {
            text.push_str(&format!(
                "warning: {} decide which requests are the same: to change them on a running service starts new \
                 keys, and a retry that crosses the change executes again\n",
                identity.join(", "),
            ));
        }
        print(&text);
        Ok(())
    }
}

/// Every setting in force and where it was set, and what is worth a second look.
fn summary(effective: &[Effective], warnings: &[&str]) -> String {
    let mut table = Table::new([
        ("SETTING", Align::Left),
        ("VALUE", Align::Left),
        ("FROM", Align::Left),
    ]);
    for setting in effective {
        let origin = setting.origin.as_ref();
        table.row([
            setting.key.clone(),
            setting.value.clone().unwrap_or_else(|| "(none)".to_owned()),
            origin.map_or_else(|| "default".to_owned(), ToString::to_string),
        ]);
    }
    let mut text = format!("{table}\nno faults\n");
    for warning in warnings {
        text.push_str(&format!("warning: {warning}\n"));
    }
    text
}
