//! Whether a message is to be applied: one statement, which leaves the row that makes it a duplicate from now
//! on.
//!
//! It inserts, and never looks first. A twin that is under way makes it wait for the end of the twin's
//! transaction; the time-out for that is set and taken back within the statement, so that it does not concern
//! the statements of the application. What was known already is read by a second statement: this one's
//! snapshot may be older than what it conflicted with.

use sqlx::Row;
use sqlx::postgres::{PgArguments, PgConnection, Postgres};
use sqlx::query::Query;

use super::fault::of_database;
use super::message::Message;
use super::message_id::Kind;
use super::options::Terms;
use super::outcome::Outcome;
use crate::error::Error;
use crate::sql;

/// What is to be done with a message, and what the open transaction holds by now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Admission {
    /// It was never applied: apply it in this transaction, and commit. The transaction has noted its id.
    New,
    /// It was applied already. The transaction has changed nothing so far.
    Duplicate,
    /// The same message, or one of its key, is being applied elsewhere, for longer than the inbox waits. The
    /// transaction has failed and can only be rolled back. The message is to be delivered again later.
    Busy,
    /// It was made before the time that the inbox remembers: it may have been applied or not. To be looked at
    /// by somebody, and not to be applied. The transaction has changed nothing so far.
    TooOld,
    /// Its id says that it was made over a week from now: the sender's clock is wrong, or the database's. To be
    /// looked at by somebody, and not to be applied. The transaction has changed nothing so far.
    TooNew,
    /// A later message of its key was applied ([`Message::ordered_by`]). The transaction has noted the
    /// message's id; committed or rolled back, the answer stays the same.
    Overtaken,
}

impl Admission {
    /// What became of a message that is not to be applied; `None` where it is.
    pub(super) fn without_work<T>(self) -> Option<Outcome<T>> {
        match self {
            Self::New => None,
            Self::Duplicate => Some(Outcome::Duplicate(None)),
            Self::Busy => Some(Outcome::Busy),
            Self::TooOld => Some(Outcome::TooOld),
            Self::TooNew => Some(Outcome::TooNew),
            Self::Overtaken => Some(Outcome::Overtaken),
        }
    }
}

/// What was answered, and in which transaction.
#[derive(Debug)]
pub(super) struct Admitted {
    pub(super) admission: Admission,
    /// Its id, as text. `0` where it has noted nothing, and so may have none.
    pub(super) xid: String,
}

impl From<Admission> for Admitted {
    fn from(admission: Admission) -> Self {
        let xid = "0".to_owned();
        Self { admission, xid }
    }
}

/// `$1` the consumer, `$2` the id, `$3` when it was made, `$4` how long to wait for a twin, `$5` the window;
/// `$6` and `$7` its key and number. Times are in milliseconds.
macro_rules! admit {
    ($too_new:literal, $admitted:literal, $row:literal) => {
        concat!(
            "with session as materialized ( \
                 select current_setting('lock_timeout') as patience, \
                     (select floor from onlyonce_inbox_consumer where consumer = $1) as floor, ",
            $too_new,
            " as too_new \
             ), admitted as materialized ( \
                 select set_config('lock_timeout', $4, true) from session \
                 where floor is not null and not too_new and ",
            $admitted,
            " to_timestamp($3::int8 / 1000.0) \
                 >= greatest(floor, statement_timestamp() - $5::int8 * interval '1 millisecond')) \
             ), inserted as ( \
                 insert into ",
            $row,
            " from admitted on conflict do nothing returning 1 \
             ), ordered as ( \
                 insert into onlyonce_inbox_order as latest (consumer, key, sequence, seen_on) \
                 select $1, $6::text, $7::int8, (greatest(statement_timestamp(), \
                     least(coalesce(to_timestamp($3::int8 / 1000.0), statement_timestamp()), \
                         statement_timestamp() + interval '8 days')) at time zone 'UTC')::date \
                 from inserted where $6 is not null \
                 on conflict (consumer, key) do update set sequence = excluded.sequence, \
                     seen_on = greatest(latest.seen_on, excluded.seen_on) \
                 where latest.sequence < excluded.sequence returning 1 \
             ) \
             select floor is not null as registered, too_new, admitted.n as admitted, inserted.n as inserted, \
                 ordered.n as ordered, \
                 case when inserted.n > 0 then pg_current_xact_id() else '0' end::text as xid, \
                 set_config('lock_timeout', patience, true) \
             from session, (select count(*) as n from admitted) admitted, \
                 (select count(*) as n from inserted) inserted, (select count(*) as n from ordered) ordered"
        )
    };
}

/// The statements for ids of one kind.
struct Statements {
    admit: &'static str,
    /// `$1` the consumer, `$2` the id, `$3` its time where it has one.
    kept: &'static str,
    /// `$1` the consumer, `$2` the id, `$3` what to keep, `$4` its time where it has one.
    keep: &'static str,
}

static TIMED: Statements = Statements {
    // The days that there are partitions for, see the sweep.
    admit: admit!(
        "date '1970-01-01' + ($3::int8 / 86400000)::int4 > (statement_timestamp() at time zone 'UTC')::date + 7",
        "(",
        "onlyonce_inbox_message (bucket, consumer, message_id) \
         select date '1970-01-01' + ($3::int8 / 86400000)::int4, $1, $2"
    ),
    kept: "select result from onlyonce_inbox_message where consumer = $1 and message_id = $2 \
         and bucket = date '1970-01-01' + ($3::int8 / 86400000)::int4",
    keep: "update onlyonce_inbox_message set result = $3 where consumer = $1 and message_id = $2 \
         and bucket = date '1970-01-01' + ($4::int8 / 86400000)::int4",
};

static FOREIGN: Statements = Statements {
    admit: admit!(
        "false",
        "($3 is null or ",
        "onlyonce_inbox_foreign (consumer, message_id, seen_at) \
         select $1, $2, greatest(statement_timestamp(), \
             least(to_timestamp($3::int8 / 1000.0), statement_timestamp() + interval '1 day'))"
    ),
    kept: "select result from onlyonce_inbox_foreign where consumer = $1 and message_id = $2",
    keep: "update onlyonce_inbox_foreign set result = $3 where consumer = $1 and message_id = $2",
};

impl Statements {
    fn of(message: &Message) -> &'static Self {
        match message.id.0 {
            Kind::Timed(_) => &TIMED,
            Kind::Foreign(_) => &FOREIGN,
        }
    }
}

type Statement<'q> = Query<'q, Postgres, PgArguments>;

/// Asks for a message to be admitted, in the transaction that is open on `connection`.
pub(super) async fn admit(
    connection: &mut PgConnection,
    terms: &Terms,
    message: &Message,
) -> Result<Admitted, Error> {
    let (key, sequence) = message.order.as_ref().map(|(key, n)| (key, *n)).unzip();
    let asked = about(Statements::of(message).admit, terms, message)
        .bind(message.made_ms())
        .bind(terms.twin_wait_ms.to_string())
        .bind(terms.window_ms)
        .bind(key)
        .bind(sequence);
    let row = match asked.fetch_one(connection).await.map_err(of_database) {
        Err(error) if error.sqlstate().as_deref() == Some("55P03") => {
            return Ok(Admission::Busy.into());
        }
        answered => answered?,
    };
    let registered: bool = row.try_get("registered").map_err(of_database)?;
    if !registered {
        return Err(Error::Settings(format!(
            "the consumer {:?} is not known to this database: open its inbox",
            terms.consumer
        )));
    }
    if row.try_get("too_new").map_err(of_database)? {
        return Ok(Admission::TooNew.into());
    }
    let happened = |column| {
        let rows = row.try_get::<i64, _>(column).map_err(of_database)?;
        Ok::<_, Error>(rows > 0)
    };
    let admission = match (happened("admitted")?, happened("inserted")?) {
        (false, _) => Admission::TooOld,
        (true, false) => Admission::Duplicate,
        (true, true) if message.order.is_some() && !happened("ordered")? => Admission::Overtaken,
        (true, true) => Admission::New,
    };
    let xid = row.try_get("xid").map_err(of_database)?;
    Ok(Admitted { admission, xid })
}

/// What applying it came to, where that was kept.
pub(super) async fn kept(
    connection: &mut PgConnection,
    terms: &Terms,
    message: &Message,
) -> Result<Option<Vec<u8>>, Error> {
    let asked = about(Statements::of(message).kept, terms, message);
    let row = with_time(asked, message).fetch_optional(connection).await;
    let result = row.and_then(|row| row.map_or(Ok(None), |row| row.try_get(0)));
    result.map_err(of_database)
}

/// Keeps what applying it came to.
pub(super) async fn keep(
    connection: &mut PgConnection,
    terms: &Terms,
    message: &Message,
    result: &[u8],
) -> Result<(), Error> {
    let asked = about(Statements::of(message).keep, terms, message).bind(result);
    let done = with_time(asked, message).execute(connection).await;
    done.map(drop).map_err(of_database)
}

fn about<'q>(statement: &'static str, terms: &'q Terms, message: &'q Message) -> Statement<'q> {
    let query = sqlx::query(statement).persistent(terms.prepared);
    let query = query.bind(terms.consumer.as_str());
    match &message.id.0 {
        Kind::Timed(id) => query.bind(sql::Uuid(*id)),
        Kind::Foreign(id) => query.bind(id.as_str()),
    }
}

fn with_time<'q>(query: Statement<'q>, message: &Message) -> Statement<'q> {
    match message.id.0 {
        Kind::Timed(_) => query.bind(message.made_ms()),
        Kind::Foreign(_) => query,
    }
}
