//! One pass of the demo: many clients pay for their orders at one address.

use std::io::{self, IsTerminal, Write};
use std::net::SocketAddr;

use futures_util::{StreamExt, stream};

use super::client::{End, Operation, pay};
use super::fate::Odds;
use super::ledger::Totals;

/// Clients at work at the same time.
const CLIENTS: usize = 16;

/// What clients met, and what the service did.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Pass {
    pub(crate) operations: u64,
    pub(crate) retries: u64,
    pub(crate) replayed: u64,
    pub(crate) unknown: u64,
    pub(crate) gave_up: u64,
    pub(crate) totals: Totals,
}

impl Pass {
    /// Pays for `operations` orders at `to`. `odds` are those of the answers' way back to the clients.
    pub(crate) async fn run(title: &str, operations: u32, to: SocketAddr, odds: Odds) -> Self {
        let mut pass = Self::default();
        let mut progress = Progress::new(title, operations);
        let payments = stream::iter(0..operations).map(|number| async move {
            let order = format!("order-{number:04}");
            pay(to, &order, amount(number), &odds).await
        });
        let mut payments = std::pin::pin!(payments.buffer_unordered(CLIENTS));
        while let Some(operation) = payments.next().await {
            pass.count(operation);
            progress.step();
        }
        pass
    }

    fn count(&mut self, operation: Operation) {
        self.operations += 1;
        self.retries += u64::from(operation.retries);
        match operation.end {
            End::Paid => {}
            End::Replayed => self.replayed += 1,
            End::Unknown => self.unknown += 1,
            End::GaveUp => self.gave_up += 1,
        }
    }
}

/// The price of an order, in cents.
fn amount(number: u32) -> u64 {
    999 + u64::from(number * 37 % 50) * 100
}

/// A bar on a terminal, a line at the end elsewhere; on standard error.
#[derive(Debug)]
struct Progress<'a> {
    title: &'a str,
    total: u32,
    done: u32,
    terminal: bool,
}

impl<'a> Progress<'a> {
    fn new(title: &'a str, total: u32) -> Self {
        Self {
            title,
            total,
            done: 0,
            terminal: io::stderr().is_terminal(),
        }
    }

    fn step(&mut self) {
        const WIDTH: usize = 32;
        self.done += 1;
        let (title, done, total) = (self.title, self.done, self.total);
        let mut stderr = io::stderr();
        // Nobody to show it to is no reason to stop.
        let _ = if self.terminal {
            let filled = WIDTH * usize::try_from(done).unwrap_or(0)
                / usize::try_from(total).unwrap_or(1).max(1);
            let end = if done == total { "\n" } else { "" };
            write!(
                stderr,
                "\r  {title:<18} {:░<WIDTH$} {done:>4}/{total}{end}",
                "█".repeat(filled)
            )
        } else if done == total {
            writeln!(stderr, "{title}: {total} operations done")
        } else {
            Ok(())
        };
        let _ = stderr.flush();
    }
}
