//! `onlyonce check`.

use clap::Args;

use super::settings::ConfigArgs;
use super::{Failure, print};
use crate::config::{Config, Effective, IDENTITY};
use crate::table::{Align, Table};

#[derive(Debug, Args)]
pub(super) struct Check {
    #[command(flatten)]
    config: ConfigArgs,
}

impl Check {
    pub(super) fn run(&self) -> Result<(), Failure> {
        let config = Config::load(self.config.sources())?;
        print(&summary(&config.effective));
        Ok(())
    }
}

/// Every setting in force and where it was set, and a warning about those that make keys what they are.
fn summary(effective: &[Effective]) -> String {
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
    let identity: Vec<_> = effective
        .iter()
        .filter(|setting| setting.origin.is_some() && IDENTITY.contains(&setting.key.as_str()))
        .map(|setting| setting.key.as_str())
        .collect();
    let mut text = format!("{table}\nno faults\n");
    if !identity.is_empty() {
        text.push_str(&format!(
            "warning: {} decide which requests are the same. Changing them on a running service starts new\n\
             keys: a retry that crosses the change executes again. Change them when no retries are under way.\n",
            identity.join(", "),
        ));
    }
    text
}
