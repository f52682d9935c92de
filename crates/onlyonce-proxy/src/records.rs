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

/// Carries out one decision on each of `ids`, in order; a refusal does not keep the others from it.
pub(crate) async fn decide(
    store: &impl Operator,
    ids: &[RecordId],
    resolution: &Resolution,
    force: bool,
    output: Output,
) -> Result<Outcome, StoreError> {
    let mut decided = Vec::new();
    for id in ids {
        decided.push((*id, store.resolve(id, resolution, force).await?));
    }
    let refused = |(id, resolved): &(RecordId, Resolved)| match resolved {
        Resolved::Done(_) => None,
        resolved => Some(refusal(id, *resolved)),
    };
    Ok(Outcome {
        printed: view::decided(&decided, resolution, output),
        refusals: decided.iter().filter_map(refused).collect(),
    })
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
