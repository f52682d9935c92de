//! Questions that a test asks a database by itself, in the simple query protocol, which poolers take as well.

use std::time::Duration;

use sqlx::postgres::{PgConnection, Postgres};
use sqlx::{AssertSqlSafe, Decode, Row, Type, raw_sql};

use crate::event::within;

/// Runs statements.
///
/// # Panics
/// Where one fails.
pub async fn run(connection: &mut PgConnection, statements: &str) {
    raw_sql(AssertSqlSafe(statements.to_owned()))
        .execute(connection)
        .await
        .unwrap();
}

/// The first column of the first row.
///
/// # Panics
/// Where the query fails or gives no row, or something else.
pub async fn value<T>(connection: &mut PgConnection, query: &str) -> T
where
    T: for<'r> Decode<'r, Postgres> + Type<Postgres>,
{
    raw_sql(AssertSqlSafe(query.to_owned()))
        .fetch_one(connection)
        .await
        .unwrap()
        .get(0)
}

/// Waits until a query answers `true`: Postgres tells nobody when what its views show changes.
///
/// # Panics
/// As [`within`], and where the query fails.
pub async fn eventually(connection: &mut PgConnection, what: &str, query: &str) {
    let wait = async {
        while !value::<bool>(connection, query).await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    within(what, wait).await;
}

/// A query for [`eventually`]: whether so many backends of the database wait for a lock.
pub fn waiting(backends: u32) -> String {
    format!(
        "select count(*) = {backends} from pg_stat_activity \
         where datname = current_database() and wait_event_type = 'Lock'"
    )
}
