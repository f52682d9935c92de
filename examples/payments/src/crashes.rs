//! Kills parts and the database at random moments (`kill -9`, all of it), and starts them again. Some parts are frozen
//! for a while instead: a pause of a garbage collector, a host that moves, a machine that swaps.

use std::io;

use onlyonce_test::postgres::Cluster;
use tokio::time::sleep;

use crate::chance::{byte, millis, one_in};
use crate::part::Part;

/// What can be killed.
#[derive(Debug)]
pub(crate) struct System<'a> {
    /// Services, relays, the ledger.
    pub(crate) parts: Vec<Part>,
    /// The database, where it is ours to kill.
    pub(crate) database: Option<&'a mut Cluster>,
}

/// How many crashes there were.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Crashes {
    /// Of services, by `kill -9`.
    pub(crate) services: u32,
    /// Of relays.
    pub(crate) relays: u32,
    /// Of the ledger.
    pub(crate) ledger: u32,
    /// Of the database.
    pub(crate) database: u32,
    /// Of any part, by `kill -STOP` and, up to a second later, `kill -CONT`.
    pub(crate) frozen: u32,
}

impl System<'_> {
    /// Goes on until it is dropped at one of its waits; `crashes` counts.
    pub(crate) async fn crash(&mut self, crashes: &mut Crashes) -> io::Result<()> {
        loop {
            sleep(millis(100, 400)).await;
            // What ended by itself comes again, as with any supervisor.
            self.start_again()?;
            if one_in(10)
                && let Some(database) = &mut self.database
            {
                database.kill()?;
                crashes.database += 1;
                sleep(millis(0, 300)).await;
                database.start_again()?;
                continue;
            }
            let number = usize::from(byte()) % self.parts.len();
            let part = &mut self.parts[number];
            if one_in(5) {
                part.freeze()?;
                crashes.frozen += 1;
                sleep(millis(100, 900)).await;
                part.thaw()?;
                continue;
            }
            part.kill().await?;
            *crashes.of(part.name()) += 1;
            sleep(millis(0, 150)).await;
            part.start_again()?;
        }
    }

    /// Starts again whatever does not run.
    pub(crate) fn heal(&mut self) -> io::Result<()> {
        if let Some(database) = &mut self.database
            && database.id().is_none()
        {
            database.start_again()?;
        }
        self.parts.iter().try_for_each(Part::thaw)?;
        self.start_again()
    }

    fn start_again(&mut self) -> io::Result<()> {
        self.parts.iter_mut().try_for_each(Part::start_again)
    }
}

impl Crashes {
    fn of(&mut self, part: &str) -> &mut u32 {
        match part {
            "service" => &mut self.services,
            "relay" => &mut self.relays,
            _ => &mut self.ledger,
        }
    }
}
