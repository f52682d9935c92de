//! Books each event that it reads once, however often it reads it: the README's.
//!
//! `DATABASE_URL=postgres://… cargo run -p onlyonce-outbox --example ledger < events`

use std::error::Error;
use std::time::Duration;

use onlyonce_outbox::inbox::{self, Inbox, Message, MessageId, Outcome};
use serde::Deserialize;
use sqlx::PgPool;
use tokio::io::{AsyncBufReadExt, BufReader, stdin};

#[derive(Deserialize)]
pub(crate) struct CloudEvent {
    id: String,
    data: Charged,
}

#[derive(Deserialize)]
struct Charged {
    amount: i64,
}

pub(crate) async fn book(inbox: &Inbox, event: &CloudEvent) -> Result<Outcome<()>, Box<dyn Error>> {
    let message = Message::new(event.id.parse::<MessageId>()?);
    let outcome = inbox.process(&message, async |tx| {
        sqlx::query("insert into ledger (amount) values ($1)")
            .bind(event.data.amount)
            .execute(&mut *tx)
            .await?;
        Ok::<_, sqlx::Error>(())
    });
    Ok(outcome.await?) // an error: nothing to acknowledge, so that it comes again
}

/// Makes the tables: the ledger's own, and those of the inbox.
pub(crate) async fn prepare(pool: &PgPool) -> Result<Inbox, Box<dyn Error>> {
    let ledger = "create table if not exists ledger (amount bigint not null)";
    sqlx::query(ledger).execute(pool).await?;
    inbox::migrate(&mut *pool.acquire().await?).await?;
    Ok(Inbox::consumer("ledger").open(pool).await?)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .init();
    let pool = PgPool::connect(&std::env::var("DATABASE_URL")?).await?;
    let inbox = prepare(&pool).await?;
    tokio::spawn(inbox.clone().sweep_every(Duration::from_secs(3_600))); // forgets what is past the window
    let mut lines = BufReader::new(stdin()).lines();
    while let Some(line) = lines.next_line().await? {
        let event: CloudEvent = serde_json::from_str(&line)?;
        match book(&inbox, &event).await? {
            Outcome::Applied(()) => println!("{}: booked", event.id),
            done if done.is_done() => println!("{}: known already", event.id),
            Outcome::Busy => println!("{}: to be delivered again, a little later", event.id),
            refused => println!("{}: for somebody to look at: {refused:?}", event.id),
        }
    }
    Ok(())
}
