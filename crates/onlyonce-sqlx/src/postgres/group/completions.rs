//! Completions of records that are their owner's still: the last step of nearly every request.

use bytes::Bytes;
use onlyonce::{Epoch, RecordId, Token};
use sqlx::query;

use super::super::days;
use super::super::failure::Failure;
use super::super::id::Uuid;
use super::super::row::epoch_number;
use super::super::session::Session;
use super::super::settle::complete_one;
use super::{Grouped, durable_group, written_ids};

/// A record's completion. Done where token, epoch and state are what they should be; else somebody has to
/// look at what they are.
#[derive(Debug)]
pub(in super::super) struct Completion {
    pub(in super::super) id: RecordId,
    pub(in super::super) token: Token,
    pub(in super::super) epoch: Epoch,
    pub(in super::super) response: Bytes,
}

/// One plan only, whatever the statistics say: each value is looked up by the primary key, in the order of
/// the arrays, which is the order of the locks. `r.id = given.id` would say the same, and could be planned the
/// other way round or by reading the whole table; an array of one leaves nothing but the index.
const COMPLETE: &str = durable_group!(
    ", settled as ( \
     update onlyonce_records r set state = 2, settled_at = statement_timestamp() \
     from durable, unnest($1::uuid[], $2::uuid[], $3::integer[], $4::bytea[]) \
         as given (id, token, epoch, response) \
     where r.id = any(array[given.id]) \
     and r.token = given.token and r.epoch = given.epoch and r.state in (1, 3) \
     returning r.id, r.token, r.epoch, r.settled_at, r.expires_at, given.response), \
     kept as ( \
     insert into onlyonce_responses (day, token, epoch, expires_at, response) \
     select (settled_at at time zone 'UTC')::date, token, epoch, expires_at, response from settled) \
     select array_agg(id) as ids from settled"
);

impl Grouped for Completion {
    type Done = ();

    fn id(&self) -> RecordId {
        self.id
    }

    fn bytes(&self) -> usize {
        self.response.len() + size_of::<Self>()
    }

    async fn write(group: &[Self], session: &mut Session<'_>) -> Result<Vec<Option<()>>, Failure> {
        match complete(group, session).await {
            // A store that nobody swept for days, or midnight right after a migration.
            Err(failure) if failure.lacks_partition() => {
                days::prepare(session).await?;
                complete(group, session).await
            }
            result => result,
        }
    }
}

async fn complete(
    group: &[Completion],
    session: &mut Session<'_>,
) -> Result<Vec<Option<()>>, Failure> {
    if let [only] = group {
        let settled = complete_one(session, only.id, only.token, only.epoch, &only.response);
        return Ok(vec![settled.await?.then_some(())]);
    }
    let ids = group.iter().map(|write| Uuid(*write.id.as_bytes()));
    let tokens = group.iter().map(|write| Uuid(*write.token.as_bytes()));
    let epochs = group.iter().map(|write| epoch_number(write.epoch));
    let responses = group.iter().map(|write| &write.response[..]);
    let statement = query(COMPLETE)
        .bind(ids.collect::<Vec<_>>())
        .bind(tokens.collect::<Vec<_>>())
        .bind(epochs.collect::<Result<Vec<_>, _>>()?)
        .bind(responses.collect::<Vec<_>>());
    let settled = written_ids(session, statement).await?;
    let done = |write: &Completion| settled.binary_search(&write.id).is_ok().then_some(());
    Ok(group.iter().map(done).collect())
}
