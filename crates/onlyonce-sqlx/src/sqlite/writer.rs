//! The writing thread: everything that waits goes into one transaction.

use std::sync::Arc;
use std::sync::mpsc::Receiver;

use onlyonce::clock::Clock;
use onlyonce::store::StoreError;
use rusqlite::Connection;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::connection::{FileIdentity, Opened};
use super::fault::Fault;
use super::options::SqliteOptions;
use super::queue::{Queue, answer};
use super::writes::{Batch, Write};
use crate::runtimes::tell_where_they_are;

/// A batch is closed at so many requests, or so many bytes of bodies: both bound how long the first of
/// them waits, and the second how far the log grows between two checkpoints.
const BATCH_REQUESTS_MAX: usize = 256;
const BATCH_BYTES_MAX: usize = 4 << 20;

/// Sends requests to the writing thread.
#[derive(Debug)]
pub(super) struct Writer(Queue<Box<dyn Waiting>>);

impl Writer {
    pub(super) fn start(
        opened: Opened,
        clock: Arc<dyn Clock>,
        options: &SqliteOptions,
    ) -> Result<Self, StoreError> {
        let thread = WriterThread {
            connection: opened.connection,
            file: opened.file,
            clock,
            bytes_max: options.bytes_max,
            batch_max: if options.group_commit {
                BATCH_REQUESTS_MAX
            } else {
                1
            },
        };
        let run = move |requests| thread.run(&requests);
        Queue::start("onlyonce-sqlite-writer", options.queue_max, run).map(Self)
    }

    /// Queues a request and waits until it is committed.
    pub(super) async fn write<W: Write>(&self, write: W) -> Result<W::Answer, StoreError> {
        let (caller, receiver) = oneshot::channel();
        self.0.push(Box::new(Request {
            write,
            caller,
            runtime: Handle::try_current().ok(),
            answer: None,
        }))?;
        answer(receiver).await
    }
}

/// A request in the queue, whatever its answer.
trait Waiting: Send + std::fmt::Debug {
    /// Whether it need not run any more.
    fn is_abandoned(&self) -> bool;
    /// Runs it, and keeps what to answer once that is committed.
    fn run(&mut self, batch: Batch<'_>) -> Result<(), Fault>;
    /// Its own failure, which the rest of the batch does not share.
    fn fail_alone(&mut self, fault: Fault);
    /// The transaction is committed, or it failed for all.
    fn answer(self: Box<Self>, committed: Result<(), StoreError>);
    fn bytes(&self) -> usize;
    /// Where its caller waits.
    fn runtime(&self) -> Option<&Handle>;
}

struct Request<W: Write> {
    write: W,
    caller: oneshot::Sender<Result<W::Answer, StoreError>>,
    runtime: Option<Handle>,
    answer: Option<Result<W::Answer, StoreError>>,
}

impl<W: Write> std::fmt::Debug for Request<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(std::any::type_name::<W>())
    }
}

impl<W: Write> Waiting for Request<W> {
    fn is_abandoned(&self) -> bool {
        W::ONLY_WHILE_AWAITED && self.caller.is_closed()
    }

    fn run(&mut self, batch: Batch<'_>) -> Result<(), Fault> {
        self.answer = Some(Ok(self.write.run(batch)?));
        Ok(())
    }

    fn fail_alone(&mut self, fault: Fault) {
        self.answer = Some(Err(fault.not_applied()));
    }

    fn answer(self: Box<Self>, committed: Result<(), StoreError>) {
        let answer = match (committed, self.answer) {
            (Ok(()), Some(answer)) | (Err(_), Some(answer @ Err(_))) => answer,
            (Err(error), _) => Err(error),
            // It was abandoned: nobody listens.
            (Ok(()), None) => return,
        };
        // A caller that is gone does not want to know.
        let _ = self.caller.send(answer);
    }

    fn bytes(&self) -> usize {
        self.write.bytes()
    }

    fn runtime(&self) -> Option<&Handle> {
        self.runtime.as_ref()
    }
}

struct WriterThread {
    connection: Connection,
    file: FileIdentity,
    clock: Arc<dyn Clock>,
    bytes_max: Option<u64>,
    /// How many requests may share a transaction.
    batch_max: usize,
}

impl WriterThread {
    fn run(&self, requests: &Receiver<Box<dyn Waiting>>) {
        while let Ok(first) = requests.recv() {
            let mut bytes = first.bytes();
            let mut batch = vec![first];
            while batch.len() < self.batch_max
                && bytes < BATCH_BYTES_MAX
                && let Ok(next) = requests.try_recv()
            {
                bytes += next.bytes();
                batch.push(next);
            }
            batch.retain(|request| !request.is_abandoned());
            self.write(batch);
        }
    }

    /// Runs a batch in one transaction, and answers when that is durable.
    fn write(&self, mut batch: Vec<Box<dyn Waiting>>) {
        if batch.is_empty() {
            return;
        }
        let committed = match self.run_batch(&mut batch) {
            Ok(()) => self
                .execute("commit")
                .map_err(|fault| (fault, Fault::uncertain as fn(Fault) -> _)),
            Err(fault) => Err((fault, Fault::not_applied as fn(Fault) -> _)),
        };
        let committed = committed.map_err(|(fault, error): (Fault, fn(Fault) -> StoreError)| {
            tracing::warn!(error = %fault, requests = batch.len(), "a batch of writes failed");
            self.roll_back();
            error(fault)
        });
        tell_where_they_are(
            batch,
            |request| request.runtime(),
            move |request| request.answer(committed.clone()),
        );
    }

    /// Leaves a transaction that is ready for COMMIT, or an error for all.
    fn run_batch(&self, batch: &mut [Box<dyn Waiting>]) -> Result<(), Fault> {
        if !self.file.still_there() {
            return Err(Fault::Replaced);
        }
        let transaction = self.begin()?;
        if batch
            .iter_mut()
            .try_for_each(|request| Self::run_among_others(request.as_mut(), transaction))
            .is_ok()
        {
            return Ok(());
        }
        // Only now is it worth the savepoints, which cost a request half as much again: SQLite keeps a
        // copy of every page that changes in one.
        self.roll_back();
        let transaction = self.begin()?;
        batch
            .iter_mut()
            .try_for_each(|request| self.run_apart(request.as_mut(), transaction))
    }

    fn begin(&self) -> Result<Batch<'_>, Fault> {
        self.execute("begin immediate")?;
        Ok(Batch {
            connection: &self.connection,
            // Only now: waiting for another process's lock took its time.
            now: self.clock.now(),
            bytes_max: self.bytes_max,
        })
    }

    /// Runs a request that can undo nothing by itself. One that finds no room has written nothing, and fails alone: a
    /// store that is full is not to do everything twice.
    fn run_among_others(request: &mut dyn Waiting, transaction: Batch<'_>) -> Result<(), Fault> {
        match request.run(transaction) {
            Err(full @ Fault::Full { .. }) => {
                request.fail_alone(full);
                Ok(())
            }
            outcome => outcome,
        }
    }

    /// Runs a request so that it fails alone, if it does. An error is one for all.
    fn run_apart(&self, request: &mut dyn Waiting, transaction: Batch<'_>) -> Result<(), Fault> {
        self.execute("savepoint request")?;
        if let Err(fault) = request.run(transaction) {
            // A full disk or a failed read may have ended the transaction, for everyone.
            if self.connection.is_autocommit() {
                return Err(Fault::RolledBack(Box::new(fault)));
            }
            self.execute("rollback to request")?;
            request.fail_alone(fault);
        }
        self.execute("release request")
    }

    /// Leaves no transaction open, so that the next batch begins its own.
    fn roll_back(&self) {
        if !self.connection.is_autocommit()
            && let Err(fault) = self.execute("rollback")
        {
            tracing::error!(error = %fault, "could not roll back");
        }
    }

    fn execute(&self, sql: &'static str) -> Result<(), Fault> {
        self.connection.prepare_cached(sql)?.execute([])?;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
