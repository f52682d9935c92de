//! Kills parts at random moments, and starts them again.

use std::io;
use std::time::Duration;

use onlyonce_test::postgres::Cluster;
use tokio::time::sleep;

use crate::part::Part;

/// What can be killed.
#[derive(Debug)]
pub(crate) struct System {
    /// Services, relays, the ledger.
    pub(crate) parts: Vec<Part>,
    /// The database, where it is ours to kill.
    pub(crate) database: Option<Cluster>,
}

/// How many crashes there were.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Crashes {
    /// Of services, relays and the ledger.
    pub(crate) parts: u32,
    /// Of the database.
    pub(crate) database: u32,
}

impl System {
    /// Goes on until it is dropped at one of its waits; `crashes` counts.
    pub(crate) async fn crash(&mut self, crashes: &mut Crashes) -> io::Result<()> {
        loop {
            sleep(millis(100, 400)).await;
            // Every tenth or so.
            if random() < 26
                && let Some(database) = &mut self.database
            {
                database.stop_immediate()?;
                sleep(millis(0, 300)).await;
                database.start_again()?;
                crashes.database += 1;
                continue;
            }
            let number = usize::from(random()) % self.parts.len();
            self.parts[number].kill().await?;
            crashes.parts += 1;
            sleep(millis(0, 150)).await;
            self.parts[number].start_again()?;
        }
    }

    /// Starts again whatever does not run.
    pub(crate) fn heal(&mut self) -> io::Result<()> {
        if let Some(database) = &mut self.database
            && database.id().is_none()
        {
            database.start_again()?;
        }
        self.parts.iter_mut().try_for_each(Part::start_again)
    }
}

fn millis(least: u64, more: u64) -> Duration {
    Duration::from_millis(least + more * u64::from(random()) / 255)
}

fn random() -> u8 {
    let mut random = [0];
    // Without a random source crashes come evenly.
    getrandom::fill(&mut random).map_or(128, |()| random[0])
}
