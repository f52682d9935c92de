//! What an operator does with an outbox, and how it is shown: tables for people, JSON for machines.
//!
//! Field names of the JSON, state names and the RFC 3339 times are part of the interface. Payloads are shown
//! only when asked for.

mod view;

use onlyonce_outbox::dead::{self, Filter};
use onlyonce_outbox::replay::{self, From};
use onlyonce_outbox::status::{self, SinkStatus};
use onlyonce_outbox::{Connector, Error, schema};
use sqlx::Connection;
use sqlx::postgres::PgConnection;
use std::time::Duration;
use uuid::Uuid;

use crate::records::{Outcome, Output};
use crate::telemetry::causes;

const CONNECT: Duration = Duration::from_secs(10);

/// Each operation has a shorter limit of its own.
const STATEMENT: Duration = Duration::from_secs(120);

/// Which dead letters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Which {
    /// These.
    Events(Vec<Uuid>),
    /// Those of this topic and key; all where neither is named.
    Matching {
        topic: Option<String>,
        key: Option<String>,
    },
}

/// What becomes of dead letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Decision {
    /// They are tried again.
    Redrive,
    /// They are thrown away.
    Discard,
}

/// An outbox that is there, ready to be looked at.
#[derive(Debug)]
pub(crate) struct Operator {
    connection: PgConnection,
    output: Output,
}

impl Operator {
    /// Connects, and makes sure that the tables are there.
    pub(crate) async fn connect(connector: &Connector, output: Output) -> Result<Self, Error> {
        let mut connection = connector.connect(CONNECT, STATEMENT).await?;
        schema::check(&mut connection).await?;
        Ok(Self { connection, output })
    }

    /// Says goodbye to the server.
    pub(crate) async fn close(self) {
        let _ = self.connection.close().await; // what was done is done
    }

    /// How everything is.
    pub(crate) async fn status(&mut self) -> Result<Outcome, Error> {
        let status = status::status(&mut self.connection).await?;
        Ok(done(view::status(&status, self.output)))
    }

    /// The dead letters that match, the oldest first; with `alive_too` what waits or is tried again as well.
    pub(crate) async fn list(
        &mut self,
        sink: &str,
        which: &Which,
        alive_too: bool,
        limit: u32,
    ) -> Result<Outcome, Error> {
        if let Some(refusal) = self.unknown(sink).await? {
            return Ok(refusal);
        }
        let filter = filter(sink, which).limit(limit);
        let filter = if alive_too {
            filter.alive_too()
        } else {
            filter
        };
        let letters = dead::list(&mut self.connection, &filter).await?;
        Ok(done(view::letters(&letters, self.output)))
    }

    /// One parked event; its payload only where `payload` says so.
    pub(crate) async fn show(
        &mut self,
        sink: &str,
        event: Uuid,
        payload: bool,
    ) -> Result<Outcome, Error> {
        if let Some(refusal) = self.unknown(sink).await? {
            return Ok(refusal);
        }
        let envelope = dead::show(&mut self.connection, sink, event).await?;
        let one = Filter::sink(sink).event(event).alive_too();
        let letters = dead::list(&mut self.connection, &one).await?;
        Ok(match (envelope, letters.first()) {
            (Some(envelope), Some(letter)) => {
                done(view::detail(&envelope, letter, payload, self.output))
            }
            _ => refused(format!(
                "{event}: sink {sink} has no such event parked: it was delivered, discarded, or never failed"
            )),
        })
    }

    /// Carries out a decision on dead letters, and says on how many. Where the database fails half-way, what was
    /// done before is said all the same.
    pub(crate) async fn decide(
        &mut self,
        sink: &str,
        which: &Which,
        decision: Decision,
    ) -> Result<Outcome, Error> {
        if let Some(refusal) = self.unknown(sink).await? {
            return Ok(refusal);
        }
        let Which::Events(events) = which else {
            let all = filter(sink, which).limit(u32::MAX);
            let count = self.carry_out(&all, decision).await?;
            let printed = view::decided(sink, decision, count, &[], self.output);
            return Ok(done(printed));
        };
        let (mut count, mut missing, mut failed) = (0, Vec::new(), None);
        for event in events {
            let one = Filter::sink(sink).event(*event);
            match self.carry_out(&one, decision).await {
                Ok(0) => missing.push(*event),
                Ok(more) => count += more,
                Err(error) if count == 0 => return Err(error),
                Err(error) => {
                    failed = Some(format!(
                        "{event}: {}; see `outbox dead show` before you repeat it, and those after it are not done",
                        causes(&error)
                    ));
                    break;
                }
            }
        }
        let not_found = missing
            .iter()
            .map(|event| format!("{event}: sink {sink} has no such dead letter"));
        Ok(Outcome {
            printed: view::decided(sink, decision, count, &missing, self.output),
            refusals: not_found.chain(failed).collect(),
        })
    }

    /// Has everything delivered again from somewhere on.
    pub(crate) async fn replay(&mut self, sink: &str, from: From) -> Result<Outcome, Error> {
        if let Some(refusal) = self.unknown(sink).await? {
            return Ok(refusal);
        }
        let replay = replay::replay(&mut self.connection, sink, from).await?;
        Ok(done(view::replay(sink, replay, self.output)))
    }

    async fn carry_out(&mut self, filter: &Filter, decision: Decision) -> Result<u64, Error> {
        match decision {
            Decision::Redrive => dead::redrive(&mut self.connection, filter).await,
            Decision::Discard => dead::discard(&mut self.connection, filter).await,
        }
    }

    /// Why nothing is done where nobody has heard of a sink: no dead letters of a mistyped one are no good news.
    async fn unknown(&mut self, sink: &str) -> Result<Option<Outcome>, Error> {
        let sinks = status::sinks(&mut self.connection).await?;
        if sinks.iter().any(|known| known == sink) {
            return Ok(None);
        }
        let known = match &sinks[..] {
            [] => "no relay has ever run here".to_owned(),
            sinks => format!("there are: {}", sinks.join(", ")),
        };
        Ok(Some(refused(format!("there is no sink {sink}; {known}"))))
    }
}

fn filter(sink: &str, which: &Which) -> Filter {
    let mut filter = Filter::sink(sink);
    if let Which::Matching { topic, key } = which {
        if let Some(topic) = topic {
            filter = filter.topic(topic);
        }
        if let Some(key) = key {
            filter = filter.key(key);
        }
    }
    filter
}

const fn done(printed: String) -> Outcome {
    Outcome {
        printed,
        refusals: Vec::new(),
    }
}

fn refused(refusal: String) -> Outcome {
    Outcome {
        printed: String::new(),
        refusals: vec![refusal],
    }
}

/// Events of a sink that failed and will be tried again.
pub(crate) fn retrying(sink: &SinkStatus) -> u64 {
    sink.shards.iter().map(|shard| shard.retrying).sum()
}

/// Events of a sink that wait behind one of their key.
pub(crate) fn behind(sink: &SinkStatus) -> u64 {
    sink.shards.iter().map(|shard| shard.behind).sum()
}

/// Shards of a sink that a relay works on.
pub(crate) fn owned(sink: &SinkStatus) -> u64 {
    let owned = sink.shards.iter().filter(|shard| shard.owner.is_some());
    u64::try_from(owned.count()).unwrap_or(u64::MAX)
}
