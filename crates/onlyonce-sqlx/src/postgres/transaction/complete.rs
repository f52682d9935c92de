//! The response, and what became of a commit whose answer was lost.

use sqlx::Row;
use sqlx::postgres::PgConnection;
use sqlx::query;

use super::super::id::Uuid;
use super::{Taken, named};

/// Within the transaction that took the record `now()` is what it was then: the day is that of `settled_at`, and the
/// expiry is the record's.
const RESPOND: &str = "insert into onlyonce_responses (day, token, epoch, expires_at, response) \
     select (now() at time zone 'UTC')::date, $1, $2, now() + $3 * interval '1 microsecond', $4 \
     where pg_current_xact_id_if_assigned()::text = $5";

const IS_OPEN: &str = "select coalesce(pg_current_xact_id_if_assigned()::text = $1, false) as open";

/// A row of the same id. It meets the one that is in doubt, and waits for that one's transaction to end.
const MEET: &str = "insert into onlyonce_records \
     (id, token, fingerprint, credential, epoch, state, claimed_at, lease_until, expires_at) \
     values ($1, $2, '', '', 1, 0, statement_timestamp(), statement_timestamp(), statement_timestamp()) \
     on conflict (id) do nothing";

/// A row that was there before, and that the transaction in doubt took over, is met by its lock.
const WHOSE: &str =
    "select token = $2 and epoch = $3 as ours from onlyonce_records where id = $1 for update";

impl Taken {
    /// Writes the response (encoded by [`onlyonce::codec`]) into the transaction. To be followed by events, if there
    /// are any, and the commit.
    ///
    /// `false`: the transaction in which the record was written is not open any more, and nothing was written. The
    /// work ended it itself.
    ///
    /// # Errors
    /// Where the database fails. The transaction can only be rolled back then.
    pub async fn complete(
        &self,
        connection: &mut PgConnection,
        response: &[u8],
    ) -> Result<bool, sqlx::Error> {
        let written = query(RESPOND)
            .bind(Uuid(*self.token.as_bytes()))
            .bind(self.epoch_number()?)
            .bind(self.retention)
            .bind(response)
            .bind(&self.xid)
            .persistent(self.statements.persistent())
            .execute(connection)
            .await?;
        Ok(written.rows_affected() == 1)
    }

    /// Writes the response and commits, and begins the next transaction (`commit and chain`: of the same isolation), in
    /// one message. [`prepare`](super::named::prepare) came before, on this connection.
    ///
    /// `false`: as with [`complete`](Self::complete); nothing was committed either.
    ///
    /// # Errors
    /// Where the server refuses, and nothing was committed; or where it does not answer, and
    /// [`is_committed`](Self::is_committed) can find out.
    pub async fn complete_and_commit(
        &self,
        connection: &mut PgConnection,
        response: &[u8],
    ) -> Result<bool, sqlx::Error> {
        named::respond(connection, self, self.epoch_number()?, response).await
    }

    /// Whether the transaction in which the record was written is still open on `connection`. One in which a statement
    /// failed is: it can be rolled back.
    ///
    /// # Errors
    /// Where the database does not say.
    pub async fn is_open(&self, connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
        let open = query(IS_OPEN)
            .bind(&self.xid)
            .persistent(self.statements.persistent())
            .fetch_one(connection)
            .await;
        match open {
            Ok(row) => row.try_get("open"),
            Err(error) if is_aborted(&error) => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Finds out whether the transaction has committed, in another one that is open on `connection` and that the
    /// caller rolls back.
    ///
    /// Not finding the row would prove nothing: the old server process may still wait for its standbys, and be seen
    /// later (P2). So this conflicts with it, which waits until it has ended one way or the other: the caller sets
    /// the limit of time. In `read committed` only.
    ///
    /// # Errors
    /// Where the database fails; it is not known then.
    pub async fn is_committed(&self, connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
        let id = Uuid(*self.id.as_bytes());
        let token = Uuid(*self.token.as_bytes());
        let met = query(MEET)
            .bind(id)
            .bind(token)
            .persistent(false)
            .execute(&mut *connection)
            .await?;
        if met.rows_affected() == 1 {
            return Ok(false);
        }
        let whose = query(WHOSE)
            .bind(id)
            .bind(token)
            .bind(self.epoch_number()?)
            .persistent(false);
        let row = whose.fetch_optional(connection).await?;
        // No row: it was another's, and has left meanwhile.
        row.map_or(Ok(false), |row| row.try_get("ours"))
    }

    fn epoch_number(&self) -> Result<i32, sqlx::Error> {
        let number = i32::try_from(self.epoch.get());
        number.map_err(|error| sqlx::Error::Encode(error.into()))
    }
}

/// `in_failed_sql_transaction`
fn is_aborted(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    code.is_some_and(|code| code == "25P02")
}
