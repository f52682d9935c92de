//! Makes payments, and prints their events as soon as they are committed: the README's.
//!
//! `DATABASE_URL=postgres://… cargo run -p onlyonce-outbox --example shop`

use std::error::Error;

use onlyonce_outbox::sinks::Stdout;
use onlyonce_outbox::{Buffer, Event, Relay, RelayOptions, Wake};
use sqlx::PgPool;
use tokio::signal::ctrl_c;
use tokio::sync::oneshot;

/// A payment and the event that tells of it: both, or none.
pub(crate) async fn pay(pool: &PgPool, amount: i64) -> Result<i64, Box<dyn Error>> {
    let mut tx = pool.begin().await?;
    let id: i64 = sqlx::query_scalar("insert into payments (amount) values ($1) returning id")
        .bind(amount)
        .fetch_one(&mut *tx)
        .await?;
    let charge = serde_json::json!({ "amount": amount });
    let mut outbox = Buffer::default();
    outbox.emit(Event::new("payments", id).kind("charged").json(&charge)?);
    outbox.flush(&mut tx, None).await?; // the last statement before the commit; without it there are no events
    tx.commit().await?;
    Ok(id)
}

/// Makes the tables: the shop's own, and those of the outbox.
pub(crate) async fn prepare(pool: &PgPool) -> Result<(), Box<dyn Error>> {
    let payments = "create table if not exists payments ( \
        id bigint generated always as identity primary key, amount bigint not null)";
    sqlx::query(payments).execute(pool).await?;
    onlyonce_outbox::migrate(&mut *pool.acquire().await?).await?;
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .init();
    let pool = PgPool::connect(&std::env::var("DATABASE_URL")?).await?;
    prepare(&pool).await?;

    let wake = Wake::default();
    let options = RelayOptions::default().wake(wake.clone());
    let relay = Relay::new(&pool, Stdout::new("/payments"), options)?;
    let (stop, stopped) = oneshot::channel::<()>();
    let running = tokio::spawn(relay.run(async { drop(stopped.await) }));

    for amount in [100, 200, 300] {
        pay(&pool, amount).await?;
        wake.wake(); // saves the wait for the relay's next look, a quarter of a second at the most
    }
    ctrl_c().await?;
    drop(stop); // it finishes what is under way, and writes down how far it came
    Ok(running.await??)
}
