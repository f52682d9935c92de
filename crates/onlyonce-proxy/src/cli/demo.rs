//! `onlyonce demo`, and its service alone.

use std::net::SocketAddr;

use clap::Args;

use super::{Failure, print, runtime};
use crate::demo::{self, Legacy, Odds};
use crate::signal::Signals;
use crate::telemetry;

#[derive(Debug, Args)]
pub(super) struct Demo {
    /// Exit after the table, with 1 if a duplicate came through
    #[arg(long)]
    once: bool,
}

#[derive(Debug, Args)]
pub(super) struct DemoService {
    /// Where it listens
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:3000")]
    listen: SocketAddr,
    /// Of a hundred charges, the replies of so many are lost
    #[arg(long, value_name = "PERCENT", default_value_t = 0)]
    lose: u64,
}

impl Demo {
    pub(super) fn run(&self) -> Result<(), Failure> {
        telemetry::init(&telemetry::errors()).map_err(Failure::failed)?;
        let kept = runtime()?
            .block_on(demo::run(self.once))
            .map_err(Failure::Failed)?;
        if kept {
            Ok(())
        } else {
            Err(Failure::Failed(
                "an order was charged twice through onlyonce".into(),
            ))
        }
    }
}

impl DemoService {
    pub(super) fn run(&self) -> Result<(), Failure> {
        runtime()?.block_on(async {
            let odds = Odds {
                lost: self.lose,
                ..Odds::NONE
            };
            let service = Legacy::bind(self.listen, odds)
                .await
                .map_err(Failure::failed)?;
            let mut signals = Signals::listen().map_err(Failure::failed)?;
            let address = service.address().map_err(Failure::failed)?;
            print(&format!("listening on {address}\n"));
            tokio::select! {
                _ = signals.next() => Ok(()),
                never = service.serve() => match never {},
            }
        })
    }
}
