//! What an operator does with records, and how it is shown: tables for people, JSON for machines.
//!
//! Field names of the JSON, state names and the RFC 3339 times are part of the interface. Bodies are
//! shown only when asked for: they are the clients' data.

mod raw_response;
mod view;

use onlyonce::store::operator::{Detail, Operator, Refused, Resolution, Resolved};
use onlyonce::store::{StoreError, operator::Filter};
use onlyonce::{RecordId, StoredState};

pub(crate) use self::raw_response::parse as parse_response;
use crate::readiness;
use crate::telemetry::causes;

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Output {
    /// Tables and sentences.
    Text,
    /// One JSON value.
    Json,
}

/// What is printed, and whether everything was done.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// For standard output.
    pub(crate) printed: String,
    /// What was not done, and what would do it; one line each.
    pub(crate) refusals: Vec<String>,
}

/// Lists records, newest claim first.
pub(crate) async fn list(
    store: &impl Operator,
    state: Option<StoredState>,
    limit: u32,
    output: Output,
) -> Result<Outcome, StoreError> {
    let mut records = store.list(&Filter { state, limit }).await?;
    records.retain(|record| !readiness::is_probe(&record.id));
    Ok(Outcome {
        printed: view::list(&records, output),
        refusals: Vec::new(),
    })
}

/// Shows one record; its body only where `body` says so.
pub(crate) async fn show(
    store: &impl Operator,
    id: &RecordId,
    body: bool,
    output: Output,
) -> Result<Outcome, StoreError> {
    let found: Option<Detail> = store.show(id).await?;
    Ok(match found {
        Some(detail) => Outcome {
            printed: view::detail(&detail, body, output),
            refusals: Vec::new(),
        },
        None => Outcome {
            printed: String::new(),
            refusals: vec![refusal(id, Resolved::NotFound)],
        },
    })
}

/// Carries out one decision on each of `ids`, in order; a refusal does not keep the others from it, a store
/// that fails does. What was done before is said all the same.
pub(crate) async fn decide(
    store: &impl Operator,
    ids: &[RecordId],
    resolution: &Resolution,
    force: bool,
    output: Output,
) -> Result<Outcome, StoreError> {
    let mut decided = Vec::new();
    let mut failed = None;
    for id in ids {
        match store.resolve(id, resolution, force).await {
            Ok(resolved) => decided.push((*id, resolved)),
            Err(error) if decided.is_empty() && !error.may_have_applied() => return Err(error),
            Err(error) => {
                failed = Some(failure(id, &error));
                break;
            }
        }
    }
    let refused = |(id, resolved): &(RecordId, Resolved)| match resolved {
        Resolved::Done(_) => None,
        resolved => Some(refusal(id, *resolved)),
    };
    Ok(Outcome {
        printed: view::decided(&decided, resolution, output),
        refusals: decided.iter().filter_map(refused).chain(failed).collect(),
    })
}

/// What a failed decision leaves behind, and what to do.
fn failure(id: &RecordId, error: &StoreError) -> String {
    let causes = causes(error);
    if error.may_have_applied() {
        format!("{id}: {causes}; it may be done: see `records show {id}` before you repeat it")
    } else {
        format!("{id}: {causes}; neither this nor those after it are done")
    }
}

/// Why nothing was done, and what would be the way.
fn refusal(id: &RecordId, resolved: Resolved) -> String {
    match resolved {
        Resolved::NotFound => format!("{id}: there is no such record, or its retention is over"),
        Resolved::Refused(Refused::InFlight) => format!(
            "{id}: the request is in flight; wait for it. With --force it loses its record: whatever it \
             does later is not recorded, and a retry may execute beside it"
        ),
        Resolved::Refused(Refused::RecentlyUnknown) => format!(
            "{id}: unknown for less than the request's deadline, so its owner may still be at work; try \
             again later. With --force the owner loses its record, and a retry may execute beside it"
        ),
        Resolved::Refused(Refused::NotUnknown) => format!(
            "{id}: completed or free, so there is nothing unknown to resolve, with --force neither; \
             `forget` frees a completed key"
        ),
        Resolved::Done(epoch) => format!("{id}: done, epoch {epoch}"),
    }
}

#[cfg(test)]
mod tests {
    use onlyonce::Epoch;
    use onlyonce::store::operator::{Filter, Summary};
    use onlyonce::store::{
        Claim, Claimed, Completed, Present, Settled, Settlement, Store, StoreErrorKind,
    };

    use super::*;

    /// A store that is lost in the midst of its second decision.
    struct Lost;

    impl Store for Lost {
        fn recall(&self, _: &RecordId) -> Option<Completed> {
            None
        }

        async fn claim(&self, _: &Claim) -> Result<Claimed, StoreError> {
            Err(lost())
        }

        async fn settle(&self, _: &Claim, _: Epoch, _: &Settlement) -> Result<Settled, StoreError> {
            Err(lost())
        }

        async fn find(&self, _: &RecordId) -> Result<Option<Present>, StoreError> {
            Err(lost())
        }
    }

    impl Operator for Lost {
        async fn list(&self, _: &Filter) -> Result<Vec<Summary>, StoreError> {
            Err(lost())
        }

        async fn show(&self, _: &RecordId) -> Result<Option<Detail>, StoreError> {
            Err(lost())
        }

        async fn resolve(
            &self,
            id: &RecordId,
            _: &Resolution,
            _: bool,
        ) -> Result<Resolved, StoreError> {
            match id.as_bytes()[0] {
                1 => Ok(Resolved::Done(Epoch::new(2))),
                _ => Err(lost()),
            }
        }
    }

    fn lost() -> StoreError {
        StoreError::new(StoreErrorKind::Unavailable, "connection reset")
    }

    #[tokio::test]
    async fn a_store_that_is_lost_half_way_hides_neither_what_was_done_nor_what_may_be() {
        let ids = [1, 2, 3].map(|number| RecordId::from_bytes([number; 16]));
        let outcome = decide(&Lost, &ids, &Resolution::Forget, false, Output::Text)
            .await
            .unwrap();
        assert!(outcome.printed.contains(&ids[0].to_string()), "{outcome:?}");
        let [refusal] = &outcome.refusals[..] else {
            panic!("{outcome:?}");
        };
        assert!(refusal.contains(&ids[1].to_string()), "{refusal}");
        assert!(
            refusal.contains("connection reset; it may be done"),
            "{refusal}"
        );
    }
}
