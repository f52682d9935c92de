//! Writing events into the caller's transaction, as its last statement before `COMMIT`.
//!
//! Unlike a plain `INSERT`, this takes a lock for each key before it draws the events' sequence numbers, and
//! the lock lasts until the commit is visible. Without it a transaction can draw its number early, commit
//! late, and be overtaken. That is why events are collected first ([`Buffer`](crate::Buffer)) and written
//! last: the locks are held for about one commit.
//!
//! Several appends in one transaction are correct too, and can deadlock with others that take the same keys
//! in another order: Postgres then fails one of them with `40P01`.

use sqlx::postgres::{PgArguments, PgConnection};
use sqlx::query::Query;

use crate::error::Error;
use crate::event::Event;
use crate::shard::Place;
use crate::sql;

/// One append locks no more keys than this; the server's table of locks is shared by all.
const KEYS_MAX: usize = 1_000;

/// The locks are in the order in which they are to be taken. All of them are had before the first row is
/// joined, and so before its number is drawn; and the transaction has its id before. They are named by the table: outboxes in other schemas have
/// their own.
const APPEND: &str = "with lock as materialized ( \
         select pg_advisory_xact_lock('onlyonce_outbox_event'::regclass::oid::int4, number) \
         from unnest($1::int4[]) as number \
     ), held as materialized (select count(*), pg_current_xact_id() as xid from lock) \
     insert into onlyonce_outbox_event (xid, shard, event_id, topic, key, kind, content_type, headers, payload, \
         origin_scope, origin_key) \
     select held.xid, shard, event_id, topic, key, kind, content_type, headers::jsonb, payload, $10, $11 \
     from held, unnest($2::int2[], $3::uuid[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], \
         $9::bytea[]) with ordinality \
         as event (shard, event_id, topic, key, kind, content_type, headers, payload, position) \
     order by position";

/// Which idempotency record made the events: kept beside them for audits, and not sent anywhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    scope: String,
    key: String,
}

impl Origin {
    /// The record's scope (or its id) and the key that the client sent.
    pub fn new(scope: impl Into<String>, key: impl Into<String>) -> Self {
        Self {
            scope: scope.into(),
            key: key.into(),
        }
    }
}

/// What was appended. Once its transaction has committed, a relay can be told ([`Wake`](crate::Wake)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    events: usize,
}

impl Appended {
    /// How many events.
    pub fn events(self) -> usize {
        self.events
    }

    /// Whether there were none; then nothing was sent to the database either.
    pub fn is_empty(self) -> bool {
        self.events == 0
    }
}

/// How events are written. By default the statement is sent unnamed, which works behind every pooler.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Appender {
    prepared: bool,
}

impl Appender {
    /// Prepares the statement once for each connection: one round trip less. Only for connections straight
    /// to the server, or through a pooler that keeps prepared statements apart (PgBouncer from 1.21 on with
    /// `max_prepared_statements`).
    #[must_use]
    pub fn prepared(mut self) -> Self {
        self.prepared = true;
        self
    }

    /// As [`append`].
    ///
    /// # Errors
    /// As [`append`].
    pub async fn append(
        self,
        connection: &mut PgConnection,
        events: &[Event],
        origin: Option<&Origin>,
    ) -> Result<Appended, Error> {
        if events.is_empty() {
            return Ok(Appended { events: 0 });
        }
        for event in events {
            event.validate()?;
        }
        let query = statement(events, origin)?;
        query.persistent(self.prepared).execute(connection).await?;
        Ok(Appended {
            events: events.len(),
        })
    }
}

/// Writes events into the transaction that is open on `connection`; they go out if it commits, and leave no
/// trace if it does not. To be called as the last thing before `COMMIT`.
///
/// At most 1 000 different keys at a time. Without an open transaction it commits by itself.
///
/// # Errors
/// [`Error::Invalid`] and [`Error::TooManyKeys`] before anything is sent; [`Error::Database`] where the server
/// fails, after which the transaction can only be rolled back.
pub async fn append(
    connection: &mut PgConnection,
    events: &[Event],
    origin: Option<&Origin>,
) -> Result<Appended, Error> {
    Appender::default().append(connection, events, origin).await
}

fn statement<'q>(
    events: &'q [Event],
    origin: Option<&'q Origin>,
) -> Result<Query<'q, sqlx::Postgres, PgArguments>, Error> {
    let places: Vec<_> = events.iter().map(place).collect();
    let keyed = events
        .iter()
        .zip(&places)
        .filter(|(event, _)| event.key.is_some());
    let mut locks: Vec<i32> = keyed.map(|(_, place)| place.lock).collect();
    // The same order in every transaction. By the locks and not by the keys: two keys may share one.
    locks.sort_unstable();
    locks.dedup();
    if locks.len() > KEYS_MAX {
        return Err(Error::TooManyKeys {
            keys: locks.len(),
            max: KEYS_MAX,
        });
    }
    let headers: Result<Vec<_>, _> = events
        .iter()
        .map(|event| serde_json::to_string(&event.headers))
        .collect();
    Ok(sqlx::query(APPEND)
        .bind(locks)
        .bind(column(&places, |place| place.shard))
        .bind(column(events, |event| sql::Uuid(event.id)))
        .bind(column(events, |event| event.topic.as_str()))
        .bind(column(events, |event| event.key.as_deref()))
        .bind(column(events, Event::kind_or_topic))
        .bind(column(events, |event| event.content_type.as_str()))
        .bind(headers.map_err(Error::Json)?)
        .bind(column(events, |event| &*event.payload))
        .bind(origin.map(|origin| origin.scope.as_str()))
        .bind(origin.map(|origin| origin.key.as_str())))
}

fn place(event: &Event) -> Place {
    match &event.key {
        Some(key) => Place::of_key(&event.topic, key),
        None => Place::of_event(event.id),
    }
}

fn column<'a, R, T>(rows: &'a [R], value: impl Fn(&'a R) -> T) -> Vec<T> {
    rows.iter().map(value).collect()
}
