//! Insertions of records that nobody has yet: the first step of a claim, and mostly the only one.

use std::time::Duration;

use onlyonce::store::Claim;
use onlyonce::{Epoch, RecordId};
use sqlx::query;

use super::super::claim::insert;
use super::super::failure::Failure;
use super::super::id::Uuid;
use super::super::row::micros;
use super::super::session::Session;
use super::{Grouped, durable_group, written_ids};

/// A claim's insertion. Done where the record was not there; else somebody has to look at what is.
#[derive(Debug)]
pub(in super::super) struct Insertion(pub(in super::super) Claim);

const INSERT: &str = durable_group!(
    ", inserted as ( \
     insert into onlyonce_records \
     (id, token, fingerprint, credential, epoch, state, claimed_at, lease_until, expires_at) \
     select i.id, i.token, i.fingerprint, i.credential, 1, 1, statement_timestamp(), \
     statement_timestamp() + i.lease * interval '1 microsecond', \
     statement_timestamp() + i.retention * interval '1 microsecond' \
     from durable, \
     unnest($1::uuid[], $2::uuid[], $3::bytea[], $4::bytea[], $5::bigint[], $6::bigint[]) \
         as i (id, token, fingerprint, credential, lease, retention) \
     on conflict (id) do nothing returning id) \
     select array_agg(id) as ids from inserted"
);

impl Grouped for Insertion {
    type Done = Epoch;

    fn id(&self) -> RecordId {
        self.0.id
    }

    fn bytes(&self) -> usize {
        size_of::<Claim>()
    }

    async fn write(
        group: &[Self],
        session: &mut Session<'_>,
    ) -> Result<Vec<Option<Epoch>>, Failure> {
        // Its values go without arrays.
        if let [only] = group {
            return Ok(vec![insert(session, &only.0).await?]);
        }
        fn column<T>(group: &[Insertion], of: impl Fn(&Claim) -> T) -> Vec<T> {
            group.iter().map(|insertion| of(&insertion.0)).collect()
        }
        let duration = |of: fn(&Claim) -> Duration| column(group, |claim| micros(of(claim)));
        let fingerprints = group.iter().map(|i| i.0.fingerprint.as_bytes().as_slice());
        let credentials = group.iter().map(|i| i.0.credential.as_bytes().as_slice());
        let statement = query(INSERT)
            .bind(column(group, |claim| Uuid(*claim.id.as_bytes())))
            .bind(column(group, |claim| Uuid(*claim.token.as_bytes())))
            .bind(fingerprints.collect::<Vec<_>>())
            .bind(credentials.collect::<Vec<_>>())
            .bind(duration(|claim| claim.lease))
            .bind(duration(|claim| claim.retention));
        let inserted = written_ids(session, statement).await?;
        Ok(column(group, |claim| {
            inserted
                .binary_search(&claim.id)
                .is_ok()
                .then_some(Epoch::FIRST)
        }))
    }
}
