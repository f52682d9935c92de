//! [`Buffer`]: events that a piece of work emits, until they are written with its transaction.

use sqlx::postgres::PgConnection;

use crate::append::{Appended, Appender, Origin};
use crate::error::Error;
use crate::event::Event;

/// Collects events, and writes them all at once just before the commit.
///
/// Emitting touches no database: a handler may emit early without holding locks while it works.
///
/// ```no_run
/// use onlyonce_outbox::{Buffer, Event};
/// # async fn charge(pool: sqlx::PgPool) -> Result<(), Box<dyn std::error::Error>> {
/// let mut tx = pool.begin().await?;
/// let mut outbox = Buffer::default();
/// sqlx::query("insert into payments (amount) values (1200)").execute(&mut *tx).await?;
/// outbox.emit(Event::new("payments", 4711).kind("charged").json(&1200)?);
/// let appended = outbox.flush(&mut tx, None).await?;
/// tx.commit().await?;
/// # Ok(()) }
/// ```
#[derive(Debug, Default)]
#[must_use = "events that are not flushed are not published"]
pub struct Buffer {
    appender: Appender,
    events: Vec<Event>,
}

impl Buffer {
    /// An empty one, which writes in this way.
    pub fn new(appender: Appender) -> Self {
        Self {
            appender,
            events: Vec::new(),
        }
    }

    /// Takes an event, to be published if the transaction commits.
    pub fn emit(&mut self, event: Event) {
        self.events.push(event);
    }

    /// The events so far, in their order.
    pub fn events(&self) -> &[Event] {
        &self.events
    }

    /// Writes the events into the open transaction, in one statement; the last one before `COMMIT`. The buffer
    /// is empty afterwards; where this fails it is not, so that a transaction that is repeated can flush again.
    ///
    /// # Errors
    /// As [`append`](crate::append()).
    pub async fn flush(
        &mut self,
        connection: &mut PgConnection,
        origin: Option<&Origin>,
    ) -> Result<Appended, Error> {
        let appended = self
            .appender
            .append(connection, &self.events, origin)
            .await?;
        self.events.clear();
        Ok(appended)
    }
}
