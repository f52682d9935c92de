//! Who may execute: what a claim finds, one request at a time.

use std::sync::Arc;
use std::time::Duration;

use onlyonce::store::{Operator, Present, Settled, Settlement, Store, StoreErrorKind};
use onlyonce::{Epoch, RecordId};

use super::sample::{
    LEASE, PAST_DOUBT, PAST_LEASE, PAST_RETENTION, acquired, claim, completed, id, misuse, outcome,
    present, reexecuting, response, rival,
};
use super::{Fixture, not_applicable};

/// The first claim of an id owns it.
pub async fn a_new_id_is_acquired_in_the_first_epoch<F: Fixture>(f: Arc<F>) {
    assert_eq!(f.store().find(&id(1)).await.unwrap(), None);
    assert_eq!(acquired(f.store().claim(&claim(1)).await), Epoch::FIRST);
    assert!(matches!(
        f.second().find(&id(1)).await.unwrap(),
        Some(Present::InFlight { .. })
    ));
}

/// Ids that differ in one bit are two records.
pub async fn different_ids_are_independent<F: Fixture>(f: Arc<F>) {
    let first = claim(1);
    let mut bytes = *first.id.as_bytes();
    bytes[15] ^= 1;
    let mut second = rival(&first);
    second.id = RecordId::from_bytes(bytes);

    let epoch = acquired(f.store().claim(&first).await);
    acquired(f.store().claim(&second).await);
    let settled = f.store().settle(&first, epoch, &completed("one")).await;
    assert_eq!(settled.unwrap(), Settled::Done);
    assert!(matches!(
        f.store().find(&second.id).await.unwrap(),
        Some(Present::InFlight { .. })
    ));
}

/// While the owner is at work nobody else is acquired, and what is left of the lease is told.
pub async fn a_record_in_flight_stands_in_the_way_of_every_fingerprint<F: Fixture>(f: Arc<F>) {
    let owner = claim(1);
    acquired(f.store().claim(&owner).await);
    f.advance(Duration::from_secs(10)).await;
    for other in [rival(&owner), misuse(&owner)] {
        let Present::InFlight { lease_remaining } = present(f.second().claim(&other).await) else {
            panic!("it is in flight");
        };
        assert!(
            lease_remaining > Duration::from_secs(20),
            "{lease_remaining:?}"
        );
        assert!(
            lease_remaining <= LEASE - Duration::from_secs(10),
            "{lease_remaining:?}"
        );
    }
}

/// A claim whose answer was lost can be repeated, through any handle.
pub async fn a_repeated_claim_is_acquired_again_in_the_same_epoch<F: Fixture>(f: Arc<F>) {
    let owner = claim(1);
    let epoch = acquired(f.store().claim(&owner).await);
    assert_eq!(acquired(f.store().claim(&owner).await), epoch);
    assert_eq!(acquired(f.second().claim(&owner).await), epoch);
    let settled = f.second().settle(&owner, epoch, &completed("done")).await;
    assert_eq!(settled.unwrap(), Settled::Done);
}

/// An owner that was slow to repeat its claim is told that it is its own, so that it can release it.
pub async fn a_repeated_claim_is_its_own_even_after_its_lease<F: Fixture>(f: Arc<F>) {
    let owner = claim(1);
    let epoch = acquired(f.store().claim(&owner).await);
    f.advance(PAST_LEASE).await;
    assert_eq!(acquired(f.store().claim(&owner).await), epoch);
    let released = f.store().settle(&owner, epoch, &Settlement::Released).await;
    assert_eq!(released.unwrap(), Settled::Done);
    acquired(f.store().claim(&rival(&owner)).await);
}

/// The deadline of a request started before its first try, so no repeat may move its lease.
pub async fn a_repeated_claim_does_not_extend_its_lease<F: Fixture>(f: Arc<F>) {
    let owner = claim(1);
    acquired(f.store().claim(&owner).await);
    f.advance(Duration::from_secs(50)).await;
    acquired(f.store().claim(&owner).await);
    f.advance(Duration::from_secs(30)).await;
    assert!(matches!(
        f.store().find(&owner.id).await.unwrap(),
        Some(Present::Unknown { .. })
    ));
}

/// Fingerprint and credential are those of the claim, whoever asks.
pub async fn a_completed_record_is_shown_with_who_made_it<F: Fixture>(f: Arc<F>) {
    let owner = claim(1);
    let epoch = acquired(f.store().claim(&owner).await);
    f.store()
        .settle(&owner, epoch, &completed("answer"))
        .await
        .unwrap();
    f.advance(PAST_DOUBT).await;
    let expected = outcome(f.store(), &owner, "answer").await;
    assert_eq!(present(f.second().claim(&rival(&owner)).await), expected);
    assert_eq!(present(f.second().claim(&misuse(&owner)).await), expected);
    assert_eq!(f.second().find(&owner.id).await.unwrap(), Some(expected));
}

/// A claim statement that was delayed past its own settlement must not execute again.
pub async fn an_owner_sees_its_own_completed_record_rather_than_acquiring_it<F: Fixture>(
    f: Arc<F>,
) {
    let owner = claim(1);
    let epoch = acquired(f.store().claim(&owner).await);
    f.store()
        .settle(&owner, epoch, &completed("answer"))
        .await
        .unwrap();
    let found = present(f.store().claim(&owner).await);
    assert_eq!(response(Some(found)), Some("answer".into()));
}

/// Released means claimable, and the row keeps counting.
pub async fn a_free_record_is_taken_over_in_a_higher_epoch<F: Fixture>(f: Arc<F>) {
    let first = claim(1);
    let epoch = acquired(f.store().claim(&first).await);
    f.store()
        .settle(&first, epoch, &Settlement::Released)
        .await
        .unwrap();
    assert_eq!(f.second().find(&first.id).await.unwrap(), None);

    let second = rival(&first);
    let later = acquired(f.second().claim(&second).await);
    assert!(later > epoch, "{later} is not after {epoch}");
    // The lease is counted from the new claim.
    f.advance(Duration::from_secs(30)).await;
    assert!(matches!(
        present(f.store().claim(&first).await),
        Present::InFlight { .. }
    ));
}

/// Nothing was executed under a free record, so its fingerprint binds nobody.
pub async fn a_free_record_is_taken_over_by_another_fingerprint<F: Fixture>(f: Arc<F>) {
    let first = claim(1);
    let epoch = acquired(f.store().claim(&first).await);
    f.store()
        .settle(&first, epoch, &Settlement::Released)
        .await
        .unwrap();
    let second = misuse(&first);
    let epoch = acquired(f.store().claim(&second).await);
    f.store()
        .settle(&second, epoch, &completed("second"))
        .await
        .unwrap();
    let expected = outcome(f.store(), &second, "second").await;
    assert_eq!(f.store().find(&first.id).await.unwrap(), Some(expected));
}

/// What a store knows by itself, if anything, spares a claim: so it must be what the claim would have found.
pub async fn what_is_recalled_is_what_a_claim_finds<F: Fixture>(f: Arc<F>) {
    let (free, flying, unknown, owner) = (claim(1), claim(2), claim(3), claim(4));
    for (claim, settlement) in [
        (&free, Some(Settlement::Released)),
        (&flying, None),
        (&unknown, Some(Settlement::Unknown)),
        (&owner, Some(completed("answer"))),
    ] {
        let epoch = acquired(f.store().claim(claim).await);
        if let Some(settlement) = settlement {
            f.store().settle(claim, epoch, &settlement).await.unwrap();
        }
    }
    for other in [&free, &flying, &unknown, &claim(5)] {
        assert_eq!(f.store().recall(&other.id), None);
    }
    let expected = outcome(f.store(), &owner, "answer").await;
    for store in [f.store(), f.second()] {
        if let Some(known) = store.recall(&owner.id) {
            assert_eq!(Present::Completed(known), expected);
        }
    }
    f.advance(PAST_RETENTION).await;
    assert_eq!(f.store().recall(&owner.id), None);
}

/// No write is needed for a silent owner's record to become unknown.
pub async fn a_lapsed_lease_means_unknown<F: Fixture>(f: Arc<F>) {
    let owner = claim(1);
    acquired(f.store().claim(&owner).await);
    f.advance(PAST_LEASE).await;
    let expected = Present::Unknown {
        fingerprint: owner.fingerprint,
        credential: owner.credential,
    };
    assert_eq!(present(f.second().claim(&misuse(&owner)).await), expected);
    assert_eq!(f.second().find(&owner.id).await.unwrap(), Some(expected));
}

/// By default nobody executes again what may have been executed, however long ago.
pub async fn an_unknown_record_is_held<F: Fixture>(f: Arc<F>) {
    let owner = claim(1);
    let epoch = acquired(f.store().claim(&owner).await);
    f.store()
        .settle(&owner, epoch, &Settlement::Unknown)
        .await
        .unwrap();
    for _ in 0..2 {
        assert!(matches!(
            present(f.second().claim(&rival(&owner)).await),
            Present::Unknown { .. }
        ));
        // Its own token does not open it either: settled is settled.
        assert!(matches!(
            present(f.second().claim(&owner).await),
            Present::Unknown { .. }
        ));
        f.advance(PAST_DOUBT).await;
    }
}

/// With the policy `reexecute` a retry takes over, settled unknown or lapsed.
pub async fn an_unknown_record_is_taken_over_by_reexecute<F: Fixture>(f: Arc<F>) {
    let (settled, lapsed) = (claim(1), claim(2));
    let epoch = acquired(f.store().claim(&settled).await);
    f.store()
        .settle(&settled, epoch, &Settlement::Unknown)
        .await
        .unwrap();
    acquired(f.store().claim(&lapsed).await);
    f.advance(PAST_LEASE).await;
    for old in [settled, lapsed] {
        let retry = reexecuting(&old);
        let later = acquired(f.second().claim(&retry).await);
        assert!(later > Epoch::FIRST);
        // One take-over: the next retry finds it in flight, with a lease of its own.
        assert!(matches!(
            present(f.store().claim(&reexecuting(&old)).await),
            Present::InFlight { .. }
        ));
        let done = f.store().settle(&retry, later, &completed("again")).await;
        assert_eq!(done.unwrap(), Settled::Done);
    }
}

/// A reused key must not execute in the place of what is unknown.
pub async fn reexecute_with_another_fingerprint_is_refused<F: Fixture>(f: Arc<F>) {
    let owner = claim(1);
    acquired(f.store().claim(&owner).await);
    f.advance(PAST_LEASE).await;
    let other = reexecuting(&misuse(&owner));
    let Present::Unknown { fingerprint, .. } = present(f.store().claim(&other).await) else {
        panic!("it is unknown");
    };
    assert_eq!(fingerprint, owner.fingerprint);
}

/// `reexecute` is about unknown outcomes only.
pub async fn reexecute_does_not_touch_what_is_in_flight_or_completed<F: Fixture>(f: Arc<F>) {
    let owner = claim(1);
    let epoch = acquired(f.store().claim(&owner).await);
    assert!(matches!(
        present(f.store().claim(&reexecuting(&owner)).await),
        Present::InFlight { .. }
    ));
    f.store()
        .settle(&owner, epoch, &completed("answer"))
        .await
        .unwrap();
    f.advance(PAST_DOUBT).await;
    let found = present(f.store().claim(&reexecuting(&owner)).await);
    assert_eq!(response(Some(found)), Some("answer".into()));
}

/// Expiry is decided by the claim: nobody has to sweep first.
pub async fn an_expired_record_is_claimable_before_any_sweep<F: Fixture>(f: Arc<F>) {
    let old = claim(1);
    let epoch = acquired(f.store().claim(&old).await);
    f.store()
        .settle(&old, epoch, &completed("old"))
        .await
        .unwrap();
    f.advance(PAST_RETENTION).await;
    assert_eq!(f.store().find(&old.id).await.unwrap(), None);

    let new = misuse(&old);
    let epoch = acquired(f.second().claim(&new).await);
    let detail = f.store().show(&new.id).await.unwrap().unwrap();
    assert_eq!(detail.response, None, "the old answer is gone");
    assert!(matches!(
        f.store().find(&new.id).await.unwrap(),
        Some(Present::InFlight { .. })
    ));
    f.store()
        .settle(&new, epoch, &completed("new"))
        .await
        .unwrap();
    assert_eq!(
        response(f.store().find(&new.id).await.unwrap()),
        Some("new".into())
    );
}

/// What nobody decided about is forgotten at the end of its retention like everything else.
pub async fn an_expired_unknown_record_is_claimable<F: Fixture>(f: Arc<F>) {
    let old = claim(1);
    acquired(f.store().claim(&old).await);
    f.advance(PAST_RETENTION).await;
    assert_eq!(f.store().find(&old.id).await.unwrap(), None);
    acquired(f.store().claim(&misuse(&old)).await);
}

/// A claim statement got stuck; its repeat was acquired and released; then the stuck one arrives. Nobody
/// waits for its answer, so it must not be able to pass for the claim that was released.
pub async fn a_claim_that_arrives_after_its_repeat_was_released_gets_a_later_epoch<F: Fixture>(
    f: Arc<F>,
) {
    let stuck = claim(1);
    let epoch = acquired(f.store().claim(&stuck).await);
    f.store()
        .settle(&stuck, epoch, &Settlement::Released)
        .await
        .unwrap();

    let later = acquired(f.second().claim(&stuck).await);
    assert!(later > epoch, "{later} is not after {epoch}");
    for late in [completed("late"), Settlement::Unknown] {
        let settled = f.store().settle(&stuck, epoch, &late).await.unwrap();
        assert_eq!(settled, Settled::Stale);
    }
    // Whoever repeats the claim to clean up finds it, and can release it.
    assert_eq!(acquired(f.store().claim(&stuck).await), later);
    let released = f.store().settle(&stuck, later, &Settlement::Released).await;
    assert_eq!(released.unwrap(), Settled::Done);
    acquired(f.store().claim(&rival(&stuck)).await);
}

/// Looking does not claim, extend or free.
pub async fn finding_writes_nothing<F: Fixture>(f: Arc<F>) {
    assert_eq!(f.store().find(&id(1)).await.unwrap(), None);
    let owner = claim(1);
    assert_eq!(acquired(f.store().claim(&owner).await), Epoch::FIRST);
    f.advance(PAST_LEASE).await;
    for _ in 0..3 {
        assert!(matches!(
            f.second().find(&owner.id).await.unwrap(),
            Some(Present::Unknown { .. })
        ));
    }
    let settled = f
        .store()
        .settle(&owner, Epoch::FIRST, &completed("late"))
        .await;
    assert_eq!(settled.unwrap(), Settled::Done);
}

/// A store without room refuses; it never makes room by forgetting what is still kept.
pub async fn a_full_store_refuses_and_changes_nothing<F: Fixture>(f: Arc<F>) {
    let kept = claim(1);
    let epoch = acquired(f.store().claim(&kept).await);
    f.store()
        .settle(&kept, epoch, &completed("kept"))
        .await
        .unwrap();
    if !f.fill().await {
        return not_applicable("this store cannot be filled");
    }
    let refused = f
        .store()
        .claim(&claim(2))
        .await
        .expect_err("there is no room");
    assert_eq!(refused.kind(), StoreErrorKind::Full);
    assert!(!refused.may_have_applied());
    assert!(!refused.is_transient());
    assert_eq!(f.store().find(&id(2)).await.unwrap(), None);
    assert_eq!(
        response(f.store().find(&kept.id).await.unwrap()),
        Some("kept".into())
    );
}
