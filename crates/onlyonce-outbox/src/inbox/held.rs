//! A connection of the application's pool, which goes back there only when all on it ended in order.
//!
//! A future can be dropped at any await. The driver's pool takes such a connection back, and with it whatever
//! it was in the middle of: a `begin` that was cancelled leaves a transaction open, into which the next
//! borrower writes. Here it is closed, and the server rolls back. It is never cancelled: a cancelled commit
//! that waits for its standby succeeds, and is not replicated.

use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnection, PgPool, Postgres};

use super::fault::of_database;
use crate::error::Error;

/// A borrowed connection: [`give_back`](Self::give_back) keeps it, dropping it closes it.
#[derive(Debug)]
pub(super) struct Held(Option<PoolConnection<Postgres>>);

impl Held {
    pub(super) async fn acquire(pool: &PgPool) -> Result<Self, Error> {
        let connection = pool.acquire().await.map_err(of_database)?;
        Ok(Self(Some(connection)))
    }

    pub(super) fn connection(&mut self) -> &mut PgConnection {
        self.0
            .as_mut()
            .expect("the connection is taken only by what consumes the guard")
    }

    /// No transaction is open, and no answer is due.
    pub(super) fn give_back(mut self) {
        drop(self.0.take());
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(mut connection) = self.0.take() {
            // Its place in the pool stays taken until it is closed.
            connection.close_on_drop();
        }
    }
}
