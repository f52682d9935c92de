//! The relay: a process that publishes the outbox's events to the ledger.

use std::error::Error;
use std::net::SocketAddr;
use std::time::Duration;

use onlyonce_outbox::sinks::Webhook;
use onlyonce_outbox::{Relay, RelayOptions};

use crate::database;
use crate::ledger::SECRET;

/// Publishes, until the process is killed.
///
/// # Errors
/// Where it cannot start.
pub(crate) async fn run(url: &str, ledger: SocketAddr) -> Result<(), Box<dyn Error>> {
    let pool = database::connect(url)?;
    let sink = Webhook::to(&format!("http://{ledger}/events"), "/payments")?
        .named("ledger")
        .secret(SECRET.parse()?);
    // Short, since relays are killed here all the time, and what one had is free when its lease lapses.
    let options = RelayOptions::default()
        .lease(Duration::from_secs(2))
        .publish_timeout(Duration::from_secs(1))
        .retry(Duration::from_millis(50), Duration::from_secs(1))
        .breaker(Duration::from_millis(50), Duration::from_millis(500));
    Relay::new(&pool, sink, options)?
        .run(std::future::pending())
        .await?;
    Ok(())
}
