//! `onlyonce migrate`.

use clap::Args;

use super::settings::StoreArgs;
use super::{Failure, print, runtime};
use crate::store;

#[derive(Debug, Args)]
pub(super) struct Migrate {
    #[command(flatten)]
    store: StoreArgs,
}

impl Migrate {
    pub(super) fn run(&self) -> Result<(), Failure> {
        let settings = self.store.load()?;
        runtime()?.block_on(store::migrate(&settings))?;
        print(&format!("{} is up to date\n", settings.url));
        Ok(())
    }
}
