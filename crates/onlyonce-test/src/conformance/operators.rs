//! What people do: list, show, resolve, forget.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use onlyonce::store::operator::{Filter, Refused, Resolution, Resolved, Summary};
use onlyonce::store::{Operator, Settled, Settlement, Store};
use onlyonce::{Epoch, RecordId, StoredState};

use super::Fixture;
use super::sample::{
    LEASE, PAST_DOUBT, PAST_LEASE, PAST_REST, PAST_RETENTION, RETENTION, acquired, claim,
    completed, id, misuse, outcome, reexecuting, response, rival,
};

const SECOND: Duration = Duration::from_secs(1);

fn filter(state: impl Into<Option<StoredState>>) -> Filter {
    Filter {
        state: state.into(),
        limit: 100,
    }
}

async fn list<F: Fixture>(f: &F, filter: &Filter) -> Vec<RecordId> {
    let found = f.second().list(filter).await.unwrap();
    found.into_iter().map(|summary| summary.id).collect()
}

async fn summary<F: Fixture>(f: &F, id: &RecordId) -> Summary {
    let detail = f.store().show(id).await.unwrap();
    detail.expect("the record is there").summary
}

#[track_caller]
fn done(resolved: Resolved) -> Epoch {
    match resolved {
        Resolved::Done(epoch) => epoch,
        other => panic!("not done: {other:?}"),
    }
}

/// Every decision that an operator can take.
fn every_resolution() -> [Resolution; 3] {
    [
        Resolution::Executed("by hand".into()),
        Resolution::NotExecuted,
        Resolution::Forget,
    ]
}

/// Nothing there is not an error.
pub async fn an_empty_store_lists_and_shows_nothing<F: Fixture>(f: Arc<F>) {
    assert_eq!(f.store().list(&filter(None)).await.unwrap(), []);
    assert_eq!(f.store().show(&id(1)).await.unwrap(), None);
}

/// Newest claim first, in every state and for each state.
pub async fn records_are_listed_newest_claim_first<F: Fixture>(f: Arc<F>) {
    for number in [3, 1, 2, 4] {
        let owner = claim(number);
        let epoch = acquired(f.store().claim(&owner).await);
        let settlement = match number {
            1 => Settlement::Released,
            2 => Settlement::Unknown,
            _ => completed("answer"),
        };
        if number != 4 {
            f.store().settle(&owner, epoch, &settlement).await.unwrap();
        }
        f.advance(SECOND).await;
    }
    assert_eq!(list(&*f, &filter(None)).await, [id(4), id(2), id(1), id(3)]);
    assert_eq!(list(&*f, &filter(StoredState::InFlight)).await, [id(4)]);
    assert_eq!(list(&*f, &filter(StoredState::Unknown)).await, [id(2)]);
    assert_eq!(list(&*f, &filter(StoredState::Free)).await, [id(1)]);
    assert_eq!(list(&*f, &filter(StoredState::Completed)).await, [id(3)]);

    // A take-over is a new claim.
    acquired(f.store().claim(&claim(1)).await);
    assert_eq!(list(&*f, &filter(None)).await, [id(1), id(4), id(2), id(3)]);
}

/// The newest of those that match, however many do not.
pub async fn lists_keep_to_their_limit<F: Fixture>(f: Arc<F>) {
    for number in 0..12 {
        let owner = claim(number);
        let epoch = acquired(f.store().claim(&owner).await);
        if number % 2 == 0 {
            f.store()
                .settle(&owner, epoch, &Settlement::Unknown)
                .await
                .unwrap();
        }
        f.advance(SECOND).await;
    }
    let limited = |state, limit| Filter { state, limit };
    assert_eq!(list(&*f, &limited(None, 3)).await, [id(11), id(10), id(9)]);
    let unknown = limited(Some(StoredState::Unknown), 3);
    assert_eq!(list(&*f, &unknown).await, [id(10), id(8), id(6)]);
    assert_eq!(list(&*f, &limited(None, 0)).await, []);
    assert_eq!(list(&*f, &limited(None, u32::MAX)).await.len(), 12);
}

/// A lapsed lease needs no write to be on the operator's list.
pub async fn lists_derive_unknown_from_the_lease<F: Fixture>(f: Arc<F>) {
    acquired(f.store().claim(&claim(1)).await);
    f.advance(PAST_LEASE).await;
    acquired(f.store().claim(&claim(2)).await);
    assert_eq!(list(&*f, &filter(StoredState::Unknown)).await, [id(1)]);
    assert_eq!(list(&*f, &filter(StoredState::InFlight)).await, [id(2)]);
    let lapsed = summary(&*f, &id(1)).await;
    assert_eq!(lapsed.state, StoredState::Unknown);
    assert_eq!(lapsed.settled_at, None);
    assert_eq!(summary(&*f, &id(2)).await.state, StoredState::InFlight);
}

/// What has expired is not there, swept or not.
pub async fn expired_records_are_neither_listed_nor_shown<F: Fixture>(f: Arc<F>) {
    let owner = claim(1);
    let epoch = acquired(f.store().claim(&owner).await);
    f.store()
        .settle(&owner, epoch, &Settlement::Unknown)
        .await
        .unwrap();
    f.advance(PAST_RETENTION).await;
    assert_eq!(f.store().list(&filter(None)).await.unwrap(), []);
    assert_eq!(
        f.store().list(&filter(StoredState::Unknown)).await.unwrap(),
        []
    );
    assert_eq!(f.store().show(&owner.id).await.unwrap(), None);
}

/// Times are the store's own, and fit the claim.
pub async fn a_record_is_shown_with_its_times_and_response<F: Fixture>(f: Arc<F>) {
    let owner = claim(1);
    let epoch = acquired(f.store().claim(&owner).await);
    let in_flight = f.store().show(&owner.id).await.unwrap().unwrap();
    assert_eq!(in_flight.response, None);
    assert_eq!(in_flight.summary.state, StoredState::InFlight);
    assert_eq!(in_flight.summary.settled_at, None);

    f.advance(10 * SECOND).await;
    f.store()
        .settle(&owner, epoch, &completed(vec![0, 255]))
        .await
        .unwrap();
    let detail = f.second().show(&owner.id).await.unwrap().unwrap();
    assert_eq!(detail.response, Some(Bytes::from_static(&[0, 255])));
    let summary = detail.summary;
    assert_eq!(summary.id, owner.id);
    assert_eq!(summary.state, StoredState::Completed);
    assert_eq!(summary.epoch, epoch);
    assert_eq!(summary.lease_until.since(summary.claimed_at), LEASE);
    assert_eq!(summary.expires_at.since(summary.claimed_at), RETENTION);
    let took = summary
        .settled_at
        .expect("it is settled")
        .since(summary.claimed_at);
    assert!(took >= 10 * SECOND && took < 30 * SECOND, "{took:?}");
    assert_eq!(f.second().list(&filter(None)).await.unwrap(), [summary]);
}

/// Its owner may be executing at this moment.
pub async fn what_is_in_flight_is_refused_without_force<F: Fixture>(f: Arc<F>) {
    let owner = claim(1);
    let epoch = acquired(f.store().claim(&owner).await);
    for resolution in every_resolution() {
        let resolved = f.second().resolve(&owner.id, &resolution, false).await;
        assert_eq!(resolved.unwrap(), Resolved::Refused(Refused::InFlight));
    }
    let settled = f.store().settle(&owner, epoch, &completed("answer")).await;
    assert_eq!(settled.unwrap(), Settled::Done);
}

/// `force` is the operator's word that the owner is gone; if it was not, it finds itself stale.
pub async fn what_is_in_flight_is_freed_by_force_and_its_owner_is_stale<F: Fixture>(f: Arc<F>) {
    for (number, resolution) in (1..).zip(every_resolution()) {
        let owner = claim(number);
        let epoch = acquired(f.store().claim(&owner).await);
        let resolved = f.second().resolve(&owner.id, &resolution, true).await;
        assert!(done(resolved.unwrap()) > epoch);
        for late in [completed("late"), Settlement::Unknown, Settlement::Released] {
            let settled = f.store().settle(&owner, epoch, &late).await.unwrap();
            assert_eq!(settled, Settled::Stale, "{late:?} after {resolution:?}");
        }
    }
    f.advance(PAST_REST).await;
    let by_hand = response(f.store().find(&id(1)).await.unwrap());
    assert_eq!(by_hand, Some("by hand".into()));
    assert_eq!(f.store().find(&id(2)).await.unwrap(), None);
    assert_eq!(f.store().find(&id(3)).await.unwrap(), None);
}

/// Unknown for less than the request's deadline: its late truth may still come.
pub async fn what_is_recently_unknown_is_refused_without_force<F: Fixture>(f: Arc<F>) {
    let owner = claim(1);
    let epoch = acquired(f.store().claim(&owner).await);
    f.store()
        .settle(&owner, epoch, &Settlement::Unknown)
        .await
        .unwrap();
    f.advance(30 * SECOND).await;
    for resolution in every_resolution() {
        let resolved = f.second().resolve(&owner.id, &resolution, false).await;
        assert_eq!(
            resolved.unwrap(),
            Resolved::Refused(Refused::RecentlyUnknown)
        );
    }
    let settled = f.store().settle(&owner, epoch, &completed("late")).await;
    assert_eq!(settled.unwrap(), Settled::Done);

    let forced = claim(2);
    let epoch = acquired(f.store().claim(&forced).await);
    f.store()
        .settle(&forced, epoch, &Settlement::Unknown)
        .await
        .unwrap();
    let resolved = f
        .second()
        .resolve(&forced.id, &Resolution::NotExecuted, true)
        .await;
    assert!(done(resolved.unwrap()) > epoch);
}

/// The same counted from the lapse of the lease, where nothing was settled.
pub async fn a_recently_lapsed_lease_is_refused_without_force<F: Fixture>(f: Arc<F>) {
    let owner = claim(1);
    let epoch = acquired(f.store().claim(&owner).await);
    f.advance(PAST_LEASE).await;
    let resolved = f
        .second()
        .resolve(&owner.id, &Resolution::NotExecuted, false)
        .await;
    assert_eq!(
        resolved.unwrap(),
        Resolved::Refused(Refused::RecentlyUnknown)
    );
    f.advance(PAST_DOUBT - PAST_LEASE).await;
    let resolved = f
        .second()
        .resolve(&owner.id, &Resolution::NotExecuted, false)
        .await;
    assert!(done(resolved.unwrap()) > epoch);
}

/// "It did not happen": the next request executes, in a later epoch; the old owner is stale.
pub async fn an_unknown_record_is_freed<F: Fixture>(f: Arc<F>) {
    let owner = claim(1);
    let epoch = acquired(f.store().claim(&owner).await);
    f.store()
        .settle(&owner, epoch, &Settlement::Unknown)
        .await
        .unwrap();
    f.advance(PAST_DOUBT).await;
    let freed = f
        .second()
        .resolve(&owner.id, &Resolution::NotExecuted, false)
        .await;
    let freed = done(freed.unwrap());
    assert!(freed > epoch);
    f.advance(PAST_REST).await;
    assert_eq!(f.store().find(&owner.id).await.unwrap(), None);
    let shown = summary(&*f, &owner.id).await;
    assert_eq!((shown.state, shown.epoch), (StoredState::Free, freed));

    let late = f
        .store()
        .settle(&owner, epoch, &completed("late"))
        .await
        .unwrap();
    assert_eq!(late, Settled::Stale);
    assert!(acquired(f.store().claim(&misuse(&owner)).await) > freed);
}

/// "It happened: answer with this": for the request that was made, not for another under its key.
pub async fn an_unknown_record_gets_the_operators_response<F: Fixture>(f: Arc<F>) {
    let owner = claim(1);
    let epoch = acquired(f.store().claim(&owner).await);
    f.advance(PAST_DOUBT).await;
    let answer = Resolution::Executed("by hand".into());
    let resolved = f.second().resolve(&owner.id, &answer, false).await.unwrap();
    assert!(done(resolved) > epoch);
    let expected = outcome(f.store(), &owner, "by hand").await;
    assert_eq!(f.store().find(&owner.id).await.unwrap(), Some(expected));
    let late = f
        .store()
        .settle(&owner, epoch, &completed("late"))
        .await
        .unwrap();
    assert_eq!(late, Settled::Stale);
    assert_eq!(
        response(f.store().find(&owner.id).await.unwrap()),
        Some("by hand".into())
    );
}

/// A completed or free record has an outcome already; force does not change that.
pub async fn what_is_not_unknown_has_nothing_to_resolve<F: Fixture>(f: Arc<F>) {
    let (first, second) = (claim(1), claim(2));
    let epoch = acquired(f.store().claim(&first).await);
    f.store()
        .settle(&first, epoch, &completed("answer"))
        .await
        .unwrap();
    let epoch = acquired(f.store().claim(&second).await);
    f.store()
        .settle(&second, epoch, &Settlement::Released)
        .await
        .unwrap();
    for id in [first.id, second.id] {
        for force in [false, true] {
            for resolution in &every_resolution()[..2] {
                let resolved = f.second().resolve(&id, resolution, force).await;
                assert_eq!(resolved.unwrap(), Resolved::Refused(Refused::NotUnknown));
            }
        }
    }
    assert_eq!(
        response(f.store().find(&first.id).await.unwrap()),
        Some("answer".into())
    );
}

/// Forgetting frees the key, and the old answer is gone for good.
pub async fn a_completed_record_is_forgotten_and_executes_again<F: Fixture>(f: Arc<F>) {
    let old = claim(1);
    let epoch = acquired(f.store().claim(&old).await);
    f.store()
        .settle(&old, epoch, &completed("old"))
        .await
        .unwrap();
    let forgotten = f
        .second()
        .resolve(&old.id, &Resolution::Forget, false)
        .await;
    let forgotten = done(forgotten.unwrap());
    assert!(forgotten > epoch);
    let shown = f.store().show(&old.id).await.unwrap().unwrap();
    assert_eq!(shown.summary.state, StoredState::Free);
    assert_eq!(shown.response, None);
    // A repeat of the settlement cannot bring it back.
    let late = f
        .store()
        .settle(&old, epoch, &completed("old"))
        .await
        .unwrap();
    assert_eq!(late, Settled::Stale);

    f.advance(PAST_REST).await;
    let new = rival(&old);
    let epoch = acquired(f.store().claim(&new).await);
    assert!(epoch > forgotten);
    f.store()
        .settle(&new, epoch, &completed("new"))
        .await
        .unwrap();
    assert_eq!(
        response(f.store().find(&new.id).await.unwrap()),
        Some("new".into())
    );
}

/// There is nothing to decide about.
pub async fn what_is_absent_or_expired_is_not_found<F: Fixture>(f: Arc<F>) {
    let owner = claim(1);
    let epoch = acquired(f.store().claim(&owner).await);
    f.store()
        .settle(&owner, epoch, &Settlement::Unknown)
        .await
        .unwrap();
    f.advance(PAST_RETENTION).await;
    for id in [owner.id, id(2)] {
        for resolution in every_resolution() {
            for force in [false, true] {
                let resolved = f.second().resolve(&id, &resolution, force).await;
                assert_eq!(resolved.unwrap(), Resolved::NotFound);
            }
        }
    }
}

/// Through release, take-over, decision, forgetting and expiry: every owner's epoch is higher.
pub async fn epochs_never_go_down<F: Fixture>(f: Arc<F>) {
    let first = claim(1);
    let mut last = acquired(f.store().claim(&first).await);
    f.store()
        .settle(&first, last, &Settlement::Released)
        .await
        .unwrap();
    let mut raise = |epoch: Epoch| {
        assert!(epoch > last, "{epoch} is not after {last}");
        last = epoch;
    };

    let second = rival(&first);
    raise(acquired(f.second().claim(&second).await));
    f.advance(PAST_LEASE).await;
    raise(acquired(f.store().claim(&reexecuting(&first)).await));
    f.advance(PAST_DOUBT).await;
    let resolved = f
        .second()
        .resolve(&first.id, &Resolution::NotExecuted, false)
        .await;
    raise(done(resolved.unwrap()));
    f.advance(PAST_REST).await;
    let third = misuse(&first);
    let epoch = acquired(f.store().claim(&third).await);
    raise(epoch);
    f.store()
        .settle(&third, epoch, &completed("answer"))
        .await
        .unwrap();
    let forgotten = f
        .second()
        .resolve(&first.id, &Resolution::Forget, false)
        .await;
    raise(done(forgotten.unwrap()));
    let forgotten = f
        .second()
        .resolve(&first.id, &Resolution::Forget, false)
        .await;
    raise(done(forgotten.unwrap()));
    f.advance(PAST_RETENTION).await;
    raise(acquired(f.store().claim(&rival(&first)).await));
    assert_eq!(summary(&*f, &first.id).await.epoch, last);
}
