//! `onlyonce check`.

use clap::Args;

use super::settings::ConfigArgs;
use super::{Failure, print};
use crate::config::Config;
use crate::table::{Align, Table};

#[derive(Debug, Args)]
pub(super) struct Check {
    #[command(flatten)]
    config: ConfigArgs,
}

impl Check {
    pub(super) fn run(&self) -> Result<(), Failure> {
        let config = Config::load(self.config.sources())?;
        print(&summary(&config));
        Ok(())
    }
}

/// Every setting in force and where it was set, and what is worth a second look.
fn summary(config: &Config) -> String {
    let mut table = Table::new([
        ("SETTING", Align::Left),
        ("VALUE", Align::Left),
        ("FROM", Align::Left),
    ]);
    for setting in &config.effective {
        let origin = setting.origin.as_ref();
        table.row([
            setting.key.clone(),
            setting.value.clone().unwrap_or_else(|| "(none)".to_owned()),
            origin.map_or_else(|| "default".to_owned(), ToString::to_string),
        ]);
    }
    let mut text = format!("{table}\nno faults\n");
    for warning in config.warnings() {
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
    text
}
