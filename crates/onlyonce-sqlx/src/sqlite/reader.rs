//! The reading thread: what needs no write does not wait for those that do.

use std::sync::Arc;
use std::sync::mpsc::Receiver;

use onlyonce::clock::Clock;
use onlyonce::store::operator::{Detail, Filter, Summary};
use onlyonce::store::{Confirmed, Present, StoreError};
use onlyonce::{RecordId, StoredState, Timestamp};
use rusqlite::Connection;
use tokio::sync::oneshot;

use super::connection::FileIdentity;
use super::fault::Fault;
use super::queue::{Queue, answer};
use super::row::{self, Record, columns};

type Read = Box<dyn FnOnce(&Reading<'_>) + Send>;

/// Sends reads to the reading thread.
pub(super) struct Reader(Queue<Read>);

/// The file and the time, as a read sees them. Each read is one statement, hence one snapshot.
#[derive(Debug)]
pub(super) struct Reading<'a> {
    connection: &'a Connection,
    file: &'a FileIdentity,
    now: Timestamp,
}

impl Reader {
    pub(super) fn start(
        connection: Connection,
        file: FileIdentity,
        clock: Arc<dyn Clock>,
        places: usize,
    ) -> Result<Self, StoreError> {
        let run = move |reads: Receiver<Read>| {
            while let Ok(read) = reads.recv() {
                read(&Reading {
                    connection: &connection,
                    file: &file,
                    now: clock.now(),
                });
            }
        };
        Queue::start("onlyonce-sqlite-reader", places, run).map(Self)
    }

    /// Queues a read and waits for its answer.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Reading<'_>) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (caller, receiver) = oneshot::channel();
        self.0.push(Box::new(move |reading| {
            if !caller.is_closed() {
                // A caller that left meanwhile does not want to know.
                let _ = caller.send(read(reading).map_err(Fault::not_applied));
            }
        }))?;
        answer(receiver).await
    }
}

const WITH_BODY: &str = concat!(
    "select ",
    columns!(),
    ", body from record left join response on response.record = record.number where id = ?1"
);

const NEWEST_FIRST: &str = concat!(
    "select ",
    columns!(),
    " from record where expires_at > ?1 and case \
         when ?2 is null then true \
         when state = 1 and lease_until <= ?1 then ?2 = 3 \
         else state = ?2 end \
     order by claimed_at desc, id desc limit ?3"
);

impl Reading<'_> {
    /// Not for a file that the writer would refuse: nobody else sees what is in it.
    pub(super) fn confirm(&self) -> Result<Confirmed, Fault> {
        if !self.file.still_there() {
            return Err(Fault::Replaced);
        }
        Ok(Confirmed {
            generation: row::generation(self.connection)?,
            now: self.now,
        })
    }

    pub(super) fn find(&self, id: &RecordId) -> Result<Option<Present>, Fault> {
        let mut statement = self.connection.prepare_cached(WITH_BODY)?;
        let mut rows = statement.query([id.as_bytes()])?;
        let Some(row) = rows.next()? else {
            return Ok(None);
        };
        Record::read(row)?.present(self.now, || row::body(row, row::BODY))
    }

    pub(super) fn show(&self, id: &RecordId) -> Result<Option<Detail>, Fault> {
        let mut statement = self.connection.prepare_cached(WITH_BODY)?;
        let mut rows = statement.query([id.as_bytes()])?;
        let Some(row) = rows.next()? else {
            return Ok(None);
        };
        let record = Record::read(row)?;
        if record.seen_at(self.now).expired {
            return Ok(None);
        }
        Ok(Some(Detail {
            summary: record.summary(self.now),
            response: row::body(row, row::BODY)?,
        }))
    }

    pub(super) fn list(&self, filter: &Filter) -> Result<Vec<Summary>, Fault> {
        let mut statement = self.connection.prepare_cached(NEWEST_FIRST)?;
        let state = filter.state.map(StoredState::code);
        let mut rows = statement.query((self.now.as_micros(), state, filter.limit))?;
        let mut found = Vec::new();
        while let Some(row) = rows.next()? {
            found.push(Record::read(row)?.summary(self.now));
        }
        Ok(found)
    }
}
