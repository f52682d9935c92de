//! One form, from its start to its balance.

use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use onlyonce_outbox::status::status;
use onlyonce_test::postgres::Cluster;
use sqlx::PgPool;
use tokio::time::{sleep, timeout};

use crate::balance::Balance;
use crate::crashes::{Crashes, System};
use crate::form::Form;
use crate::part::{Part, free_address};
use crate::{clients, database};

/// How long clients and relays may take to finish once nothing is killed any more.
const FINISH: Duration = Duration::from_secs(60);

/// How a run goes.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// For how long there is load, and crashes.
    pub(crate) load: Duration,
    /// How many clients.
    pub(crate) clients: usize,
    /// Whether anything is killed.
    pub(crate) crashes: bool,
    /// The database to use; else a throw-away one, which is killed too.
    pub(crate) database: Option<String>,
}

/// Runs one form and draws up its balance. The database that is thrown away is there, in order, before and after.
///
/// # Errors
/// Where something fails that nobody killed.
pub(crate) async fn run(
    form: Form,
    plan: &Plan,
    throw_away: &mut Option<Cluster>,
) -> Result<(Balance, Crashes), Box<dyn Error>> {
    let cluster = throw_away.as_ref();
    let given = plan
        .database
        .clone()
        .or_else(|| cluster.map(|cluster| cluster.url("postgres")));
    let run = std::process::id().to_string();
    let url = database::prepare(&given.ok_or("no database")?, form, &run).await?;
    let services = [free_address()?, free_address()?];
    let mut system = System {
        parts: start(form, &url, &services)?,
        database: throw_away.as_mut(),
    };
    let pool = database::connect(&url)?;
    let stop = Arc::new(AtomicBool::new(false));
    let clients = tokio::spawn(clients::run(plan.clients, services, Arc::clone(&stop)));
    let mut crashes = Crashes::default();
    if plan.crashes {
        // Ends in the midst of a crash, or of a recovery: as it comes.
        timeout(plan.load, system.crash(&mut crashes))
            .await
            .unwrap_or(Ok(()))?;
    } else {
        sleep(plan.load).await;
    }
    stop.store(true, Ordering::Relaxed);
    system.heal()?;
    let operations = timeout(FINISH, clients)
        .await
        .map_err(|_| "clients still wait for an answer")??;
    if form == Form::SameTransaction {
        timeout(FINISH, drained(&pool))
            .await
            .map_err(|_| "the outbox does not get empty")?;
    }
    let balance = Balance::draw_up(form, &pool, &operations).await?;
    Ok((balance, crashes))
}

fn start(form: Form, url: &str, services: &[SocketAddr]) -> Result<Vec<Part>, Box<dyn Error>> {
    let ledger = free_address()?.to_string();
    let part = |args: &[&str]| {
        Part::start(
            args.iter()
                .chain(&["--database", url])
                .map(|&arg| arg.to_owned()),
        )
    };
    let mut parts = vec![part(&["ledger", "--listen", &ledger])?];
    for service in services {
        let listen = service.to_string();
        parts.push(part(&[
            "service",
            "--form",
            form.name(),
            "--listen",
            &listen,
            "--ledger",
            &ledger,
        ])?);
    }
    if form == Form::SameTransaction {
        // Two, so that one goes on where the other was killed.
        parts.push(part(&["relay", "--ledger", &ledger])?);
        parts.push(part(&["relay", "--ledger", &ledger])?);
    }
    Ok(parts)
}

/// Waits until every event was delivered.
async fn drained(pool: &PgPool) {
    loop {
        match outstanding(pool).await {
            Ok(0) => return,
            Ok(events) => tracing::debug!(events, "not delivered yet"),
            Err(error) => tracing::debug!(%error, "the outbox cannot be read"),
        }
        sleep(Duration::from_millis(100)).await;
    }
}

async fn outstanding(pool: &PgPool) -> Result<u64, Box<dyn Error + Send + Sync>> {
    let status = status(&mut *pool.acquire().await?).await?;
    if status.sinks.is_empty() {
        return Err("no relay has ever run".into());
    }
    let shards = status.sinks.iter().flat_map(|sink| &sink.shards);
    Ok(shards
        .map(|shard| shard.undelivered + shard.retrying + shard.behind + shard.dead)
        .sum())
}
