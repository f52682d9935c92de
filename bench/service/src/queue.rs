//! The outbox that many have: a table as a queue. Rows are taken with `for update skip locked`, published, and deleted in
//! the same transaction. What `cargo xtask bench --only held-snapshot` holds against the relay.

use std::error::Error;
use std::time::Duration;

use redis::{Client, pipe};
use sqlx::postgres::PgConnection;
use sqlx::{Connection, Row};
use tokio::time::sleep;

/// As many at a time as our relay sends in one round trip, in the order of their ids. `any(array(…))` leaves the planner
/// no other way than the index.
const TAKE: &str = "delete from queue where id = any(array( \
        select id from queue order by id limit 1000 for update skip locked)) \
    returning id, topic, key, payload";

/// The wait of one who found nothing.
const IDLE: Duration = Duration::from_millis(10);

/// Publishes for ever.
pub(crate) async fn run(database: &str, server: &str) -> Result<(), Box<dyn Error>> {
    let mut session = PgConnection::connect(database).await?;
    let client = Client::open(server)?;
    let mut redis = client.get_multiplexed_async_connection().await?;
    loop {
        let mut transaction = session.begin().await?;
        let mut rows = sqlx::query(TAKE).fetch_all(&mut *transaction).await?;
        if rows.is_empty() {
            transaction.rollback().await?;
            sleep(IDLE).await;
            continue;
        }
        rows.sort_by_cached_key(|row| row.get::<i64, _>("id"));
        let mut commands = pipe();
        for row in &rows {
            let command = commands
                .cmd("XADD")
                .arg(row.get::<&str, _>("topic"))
                .arg("*");
            command.arg("id").arg(row.get::<i64, _>("id"));
            command.arg("key").arg(row.get::<&str, _>("key"));
            command
                .arg("payload")
                .arg(row.get::<&[u8], _>("payload"))
                .ignore();
        }
        commands.exec_async(&mut redis).await?;
        transaction.commit().await?;
    }
}
