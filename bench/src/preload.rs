//! Fills a store in Postgres with records, as if it had run for a day.

use onlyonce_test::postgres::Database;
use sqlx::{Executor, PgConnection};

use crate::Failure;

/// Around the filling, which is quicker without indexes on random ids.
const BEFORE: &str = "
set synchronous_commit = off;
set maintenance_work_mem = '1GB';
alter table onlyonce_records drop constraint onlyonce_records_pkey;
drop index onlyonce_records_expires_at;
";
const AFTER: [&str; 3] = [
    "alter table onlyonce_records add primary key (id)",
    "create index onlyonce_records_expires_at on onlyonce_records (expires_at)",
    // Autovacuum would come in the middle of what is measured.
    "vacuum (analyze) onlyonce_records, onlyonce_responses",
];

/// Completed records whose expiry is spread over a day. Ids look as random as real ones.
const RECORDS: &str = "
insert into onlyonce_records
    (id, token, claimed_at, lease_until, expires_at, settled_at, epoch, state, fingerprint, credential)
select md5('id' || number)::uuid, md5('token' || number)::uuid, now(), now() + interval '65 s',
       now() + interval '1 h' + number * interval '23 h' / $1, now(), 1, 2,
       sha256('fingerprint'), sha256('credential')
from generate_series(1, $1) as number
";

/// Their responses, as long as those of the service behind.
const RESPONSES: &str = "
insert into onlyonce_responses (day, token, epoch, expires_at, response)
select (now() at time zone 'UTC')::date, token, epoch, expires_at, decode(repeat('61', 200), 'hex')
from onlyonce_records
";

/// Puts so many records into an empty store.
pub(crate) async fn fill(database: &Database, records: u64) -> Result<(), Failure> {
    let mut session: PgConnection = database.connect().await;
    session.execute(BEFORE).await?;
    sqlx::query(RECORDS)
        .bind(i64::try_from(records)?)
        .execute(&mut session)
        .await?;
    session.execute(RESPONSES).await?;
    for statement in AFTER {
        session.execute(statement).await?;
    }
    Ok(())
}

/// Bytes of all tables and indexes, and the records in them.
pub(crate) async fn size(database: &Database) -> Result<(i64, i64), Failure> {
    const SIZE: &str = "
        select coalesce(sum(pg_total_relation_size(oid)), 0)::bigint, (select count(*) from onlyonce_records)
        from pg_class where relname in ('onlyonce_records', 'onlyonce_responses')
            or oid in (select inhrelid from pg_inherits where inhparent = 'onlyonce_responses'::regclass)";
    let mut session = database.connect().await;
    Ok(sqlx::query_as(SIZE).fetch_one(&mut session).await?)
}
