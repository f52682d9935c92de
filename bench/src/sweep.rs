//! A backlog: records that all expire at one moment, shortly before load begins, for the proxy's own sweep to
//! delete while requests insert others.
//!
//! They are written beside the proxy, not through it, and the moment lies ahead while they are: else the
//! sweep would be done with the first of them before the last is there.

use std::path::PathBuf;
use std::time::Duration;

use rusqlite::Connection;
use serde::{Deserialize, Serialize};
use sqlx::{Executor, PgConnection};
use tokio::time::Instant;

use crate::Failure;
use crate::results::{Sample, Spread, count};
use crate::servers::Servers;
use crate::stand::Stand;
use crate::subject::Subject;

/// So many records for each second of load: more than twice what any store here takes in.
const RECORDS_PER_SECOND: u64 = 60_000;
/// Of which there are fewer in a smoke run.
const RECORDS_IN_SMOKE: u64 = 10_000;
/// A record takes at most so long to be written, and all of them as much more; they expire when they must be there.
const FILL: Duration = Duration::from_micros(35);
const FILL_MORE: Duration = Duration::from_millis(500);
/// How often it is asked whether any are left.
const POLL: Duration = Duration::from_millis(50);

/// How far a sweep came in one stretch of load.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Swept {
    /// The subject whose store it was.
    pub(crate) subject: Subject,
    pub(crate) records: u64,
    /// From their expiry until none was left, or until the load ended.
    pub(crate) seconds: f64,
    /// Requests a second meanwhile, each of which inserted a record.
    pub(crate) inserted_rate: f64,
}

impl Swept {
    pub(crate) fn rate(&self) -> f64 {
        count(self.records) / self.seconds
    }

    /// The middle of what the rounds gave, for one subject.
    pub(crate) fn spread(
        swept: &[Self],
        subject: Subject,
        of: impl Fn(&Self) -> f64,
    ) -> Option<Spread> {
        let of_subject = swept.iter().filter(|swept| swept.subject == subject);
        Spread::of(of_subject.map(of).collect())
    }
}

/// Expired records in the store of a subject.
struct Backlog {
    records: u64,
    expires_at: Instant,
    store: Opened,
}

/// The store, as seen from beside the proxy.
enum Opened {
    Postgres(PgConnection),
    Sqlite(Connection),
}

/// A stretch of load while a backlog is swept.
pub(crate) async fn measure(
    stand: &mut Stand,
    servers: &mut Servers,
    seconds: u64,
    smoke: bool,
) -> Result<(Sample, Swept), Failure> {
    let records = if smoke {
        RECORDS_IN_SMOKE
    } else {
        seconds * RECORDS_PER_SECOND
    };
    let mut backlog = Backlog::fill(stand, records).await?;
    servers.settle().await?;
    if Instant::now() > backlog.expires_at {
        return Err("writing expired records took longer than expected".into());
    }
    tokio::time::sleep_until(backlog.expires_at).await;
    let subject = stand.subject();
    let load = async { (stand.measure(servers, seconds).await, Instant::now()) };
    let (load, gone_at) = {
        let gone = backlog.gone();
        tokio::pin!(load, gone);
        tokio::select! {
            load = &mut load => (load, None),
            gone_at = &mut gone => (load.await, Some(gone_at?)),
        }
    };
    let (sample, ended_at) = load;
    let sample = sample?;
    let until = gone_at.unwrap_or(ended_at);
    let left = if gone_at.is_some() {
        0
    } else {
        backlog.left().await?
    };
    if left >= backlog.records {
        return Err("expired records were not swept".into());
    }
    let swept = Swept {
        subject,
        records: backlog.records - left,
        seconds: (until - backlog.expires_at).as_secs_f64(),
        inserted_rate: sample.rate(),
    };
    Ok((sample, swept))
}

impl Backlog {
    async fn fill(stand: &Stand, records: u64) -> Result<Self, Failure> {
        let ahead = FILL * u32::try_from(records)? + FILL_MORE;
        let expires_at = Instant::now() + ahead;
        let (records, ahead) = (i64::try_from(records)?, i64::try_from(ahead.as_micros())?);
        let store = match (stand.database(), stand.file()) {
            (Some(database), _) => {
                let mut session = database.connect().await;
                sqlx::query(IN_POSTGRES)
                    .bind(records)
                    .bind(ahead)
                    .execute(&mut session)
                    .await?;
                session.execute(PLAN).await?;
                Opened::Postgres(session)
            }
            (None, Some(file)) => {
                tokio::task::spawn_blocking(move || fill_sqlite(file, records, ahead)).await??
            }
            (None, None) => return Err("this subject keeps no records that could expire".into()),
        };
        Ok(Self {
            records: records.try_into()?,
            expires_at,
            store,
        })
    }

    /// Waits until none is left, and says when that was.
    async fn gone(&mut self) -> Result<Instant, Failure> {
        while self.ask(ANY_IN_POSTGRES, ANY_IN_SQLITE).await? > 0 {
            tokio::time::sleep(POLL).await;
        }
        Ok(Instant::now())
    }

    async fn left(&mut self) -> Result<u64, Failure> {
        Ok(self
            .ask(LEFT_IN_POSTGRES, LEFT_IN_SQLITE)
            .await?
            .try_into()?)
    }

    async fn ask(&mut self, postgres: &'static str, sqlite: &'static str) -> Result<i64, Failure> {
        Ok(match &mut self.store {
            Opened::Postgres(session) => sqlx::query_scalar(postgres).fetch_one(session).await?,
            // A look into an index: shorter than a trip to another thread.
            Opened::Sqlite(connection) => connection.query_row(sqlite, [], |row| row.get(0))?,
        })
    }
}

/// Completed records of a day ago. $1: how many; $2: when they expire, in microseconds from now.
const IN_POSTGRES: &str = "
insert into onlyonce_records
    (id, token, claimed_at, lease_until, expires_at, settled_at, epoch, state, fingerprint, credential)
select gen_random_uuid(), gen_random_uuid(), now() - interval '1 day', now() - interval '23 h',
       now() + $2 * interval '1 microsecond' - number * interval '1 microsecond', now() - interval '1 day', 1, 2,
       sha256('fingerprint'), sha256('credential')
from generate_series(1, $1) as number
";
/// Nobody has analyzed the table since.
const PLAN: &str = "set enable_seqscan = off";
const ANY_IN_POSTGRES: &str = "select count(*) from (
    select from onlyonce_records where expires_at <= statement_timestamp() limit 1) as one";
const LEFT_IN_POSTGRES: &str =
    "select count(*) from onlyonce_records where expires_at <= statement_timestamp()";

/// The same with their responses, which a sweep deletes here. Times are in microseconds.
const IN_SQLITE: &str = "
insert into record (id, token, epoch, state, fingerprint, credential, claimed_at, lease_until, settled_at, expires_at)
with recursive numbers (number) as (select 1 union all select number + 1 from numbers where number < ?1)
select randomblob(16), randomblob(16), 1, 2, zeroblob(32), zeroblob(32), ?2, ?2, ?2, ?2 - number from numbers
";
const RESPONSES_IN_SQLITE: &str = "
insert into response (record, body)
select number, zeroblob(300) from record where expires_at <= ?1 and state = 2
";
const NOW_IN_SQLITE: &str = "select cast(unixepoch('subsec') * 1000000 as integer)";
const ANY_IN_SQLITE: &str = "select count(*) from (
    select 1 from record where expires_at <= unixepoch('subsec') * 1000000 limit 1)";
const LEFT_IN_SQLITE: &str =
    "select count(*) from record where expires_at <= unixepoch('subsec') * 1000000";

fn fill_sqlite(file: PathBuf, records: i64, ahead: i64) -> Result<Opened, Failure> {
    let mut connection = Connection::open(file)?;
    connection.busy_timeout(Duration::from_secs(5))?;
    let transaction = connection.transaction()?;
    let now: i64 = transaction.query_row(NOW_IN_SQLITE, [], |row| row.get(0))?;
    transaction.execute(IN_SQLITE, (records, now + ahead))?;
    transaction.execute(RESPONSES_IN_SQLITE, [now + ahead])?;
    transaction.commit()?;
    Ok(Opened::Sqlite(connection))
}
