//! A connection that is somebody else's, and a transaction of ours on it.
//!
//! The driver's own `begin` is not used: cancelled, it leaves a transaction open that nobody knows of. And
//! statements are sent unnamed, inside a transaction, which works behind every pooler.

use sqlx::postgres::{PgArguments, PgConnection, PgRow, Postgres};
use sqlx::query::Query;
use sqlx::{AssertSqlSafe, raw_sql};

use crate::error::Error;

/// Waits for no lock for long, and does not depend on the session's defaults.
pub(crate) const BEGIN: &str = "begin isolation level read committed; set local lock_timeout = '5s'; \
     set local statement_timeout = '60s'";

/// Runs statements without values, as they are.
pub(crate) async fn run(
    connection: &mut PgConnection,
    statements: &str,
) -> Result<Vec<PgRow>, Error> {
    // All of them are constants of ours, and names made from dates.
    let statements = AssertSqlSafe(statements.to_owned());
    Ok(raw_sql(statements).fetch_all(connection).await?)
}

/// Runs one statement inside the open transaction.
pub(crate) async fn fetch(
    connection: &mut PgConnection,
    query: Query<'_, Postgres, PgArguments>,
) -> Result<Vec<PgRow>, Error> {
    Ok(query.persistent(false).fetch_all(connection).await?)
}

/// Ends the transaction: commits what went well, rolls back what did not.
pub(crate) async fn end<T>(
    connection: &mut PgConnection,
    result: Result<T, Error>,
) -> Result<T, Error> {
    match result {
        Ok(value) => {
            run(connection, "commit").await?;
            Ok(value)
        }
        Err(error) => {
            // Where this fails too, the connection is gone, and its transaction with it.
            let _ = run(connection, "rollback").await;
            Err(error)
        }
    }
}
