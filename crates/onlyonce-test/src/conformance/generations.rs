//! What lets completed records be kept elsewhere: generations, the rest of freed keys, and the store's time.

use std::sync::Arc;
use std::time::Duration;

use onlyonce::StoredState;
use onlyonce::store::operator::{FREED_REST, Refused, Resolution, Resolved};
use onlyonce::store::{
    Cacheable, Claim, Claimed, Generation, Operator, Present, Settlement, Store, Sweep,
};
use tokio::task::JoinSet;

use super::Fixture;
use super::sample::{
    PAST_DOUBT, PAST_LEASE, PAST_REST, PAST_RETENTION, RETENTION, acquired, claim, completed, id,
    outcome, present, reexecuting, rival,
};

async fn generation<F: Fixture>(f: &F) -> Generation {
    let first = f.store().confirm().await.unwrap().generation;
    let second = f.second().confirm().await.unwrap().generation;
    assert_eq!(first, second, "two handles to one store");
    first
}

/// A record that is completed.
async fn complete<F: Fixture>(f: &F, number: u16) -> Claim {
    let owner = claim(number);
    let epoch = acquired(f.store().claim(&owner).await);
    let settled = f.store().settle(&owner, epoch, &completed("answer")).await;
    settled.unwrap();
    owner
}

async fn decide<F: Fixture>(f: &F, claim: &Claim, decision: &Resolution) {
    let resolved = f.second().resolve(&claim.id, decision, true).await.unwrap();
    assert!(matches!(resolved, Resolved::Done(_)), "{resolved:?}");
}

/// Whatever else happens to records, copies of those that are completed stay good.
pub async fn a_decision_changes_the_generation_and_nothing_else_does<F: Fixture>(f: Arc<F>) {
    let before = generation(&*f).await;
    let owner = complete(&*f, 1).await;
    let released = claim(2);
    let epoch = acquired(f.store().claim(&released).await);
    let settled = f.store().settle(&released, epoch, &Settlement::Released);
    settled.await.unwrap();
    acquired(f.store().claim(&rival(&released)).await);
    f.advance(PAST_LEASE).await;
    acquired(f.store().claim(&reexecuting(&released)).await);
    assert_eq!(generation(&*f).await, before);

    let mut seen = vec![before];
    for decision in [
        Resolution::Executed("by hand".into()),
        Resolution::Forget,
        Resolution::Forget,
    ] {
        decide(&*f, &released, &decision).await;
        let now = generation(&*f).await;
        assert!(!seen.contains(&now), "{decision:?} brought back an old one");
        seen.push(now);
    }
    let unknown = claim(3);
    acquired(f.store().claim(&unknown).await);
    decide(&*f, &unknown, &Resolution::NotExecuted).await;
    let last = generation(&*f).await;
    assert!(!seen.contains(&last));

    f.advance(PAST_RETENTION).await;
    assert_eq!(f.store().sweep(100).await.unwrap(), 3);
    acquired(f.store().claim(&rival(&owner)).await);
    assert_eq!(generation(&*f).await, last);
}

/// Nothing was decided, so nothing is worth less.
pub async fn a_decision_that_was_refused_changes_no_generation<F: Fixture>(f: Arc<F>) {
    let before = generation(&*f).await;
    let owner = claim(1);
    acquired(f.store().claim(&owner).await);
    let refused = f.store().resolve(&owner.id, &Resolution::Forget, false);
    let refused = refused.await.unwrap();
    assert_eq!(refused, Resolved::Refused(Refused::InFlight));
    let absent = id(2);
    let absent = f.store().resolve(&absent, &Resolution::Forget, true).await;
    assert_eq!(absent.unwrap(), Resolved::NotFound);
    assert_eq!(generation(&*f).await, before);
}

/// Random, not a counter: what one store kept elsewhere means nothing to another.
pub async fn two_stores_are_of_two_generations<F: Fixture>(f: Arc<F>) {
    let first = generation(&*f).await;
    assert_ne!(first, Generation::from_bytes([0; 32]));
    assert_ne!(first, Generation::random());
    decide(&*f, &complete(&*f, 1).await, &Resolution::Forget).await;
    assert_ne!(generation(&*f).await, first);
}

/// Others may answer with what they kept for a moment, so nobody may execute anew yet.
pub async fn a_freed_key_rests_before_it_takes_a_claim<F: Fixture>(f: Arc<F>) {
    for (number, decision) in (1..).zip([Resolution::NotExecuted, Resolution::Forget]) {
        let owner = claim(number);
        let first = acquired(f.store().claim(&owner).await);
        decide(&*f, &owner, &decision).await;
        for resting in [
            Some(present(f.store().claim(&rival(&owner)).await)),
            Some(present(f.store().claim(&reexecuting(&owner)).await)),
            f.second().find(&owner.id).await.unwrap(),
        ] {
            let Some(Present::InFlight { lease_remaining }) = resting else {
                panic!("it rests: {resting:?}");
            };
            assert!(!lease_remaining.is_zero());
            assert!(lease_remaining <= FREED_REST, "{lease_remaining:?}");
        }
        let shown = f.store().show(&owner.id).await.unwrap().unwrap().summary;
        assert_eq!(shown.state, StoredState::Free);

        // Each decision is followed by a rest of its own.
        f.advance(Duration::from_secs(2)).await;
        decide(&*f, &owner, &Resolution::Forget).await;
        f.advance(Duration::from_secs(2)).await;
        let resting = present(f.second().claim(&rival(&owner)).await);
        assert!(matches!(resting, Present::InFlight { .. }));

        f.advance(PAST_REST).await;
        assert_eq!(f.store().find(&owner.id).await.unwrap(), None);
        let next = rival(&owner);
        let epoch = acquired(f.store().claim(&next).await);
        assert!(epoch > first);
        // And is over with it: what the next owner releases is free at once.
        let released = f.store().settle(&next, epoch, &Settlement::Released);
        released.await.unwrap();
        acquired(f.second().claim(&rival(&owner)).await);
    }
}

/// A released record was never completed, so nobody kept anything of it.
pub async fn a_key_that_its_owner_released_does_not_rest<F: Fixture>(f: Arc<F>) {
    let owner = claim(1);
    let epoch = acquired(f.store().claim(&owner).await);
    let settled = f.store().settle(&owner, epoch, &Settlement::Released).await;
    settled.unwrap();
    assert_eq!(f.second().find(&owner.id).await.unwrap(), None);
    acquired(f.second().claim(&rival(&owner)).await);
}

/// The end of a rest is no second way in.
pub async fn of_64_claims_of_a_rested_record_one_is_acquired<F: Fixture>(f: Arc<F>) {
    let owner = complete(&*f, 1).await;
    decide(&*f, &owner, &Resolution::Forget).await;
    f.advance(PAST_REST).await;
    let mut claims = JoinSet::new();
    for number in 0..64 {
        let (f, claim) = (Arc::clone(&f), rival(&owner));
        claims.spawn(async move {
            let store = if number % 2 == 0 {
                f.store()
            } else {
                f.second()
            };
            matches!(store.claim(&claim).await, Ok(Claimed::Acquired(_)))
        });
    }
    let acquired = claims.join_all().await;
    assert_eq!(acquired.into_iter().filter(|acquired| *acquired).count(), 1);
}

/// Nothing that was kept of it is used past its retention.
pub async fn an_expired_key_does_not_rest<F: Fixture>(f: Arc<F>) {
    let owner = complete(&*f, 1).await;
    f.advance(RETENTION - Duration::from_secs(1)).await;
    decide(&*f, &owner, &Resolution::Forget).await;
    f.advance(Duration::from_secs(1)).await;
    acquired(f.store().claim(&rival(&owner)).await);
}

/// A copy must not outlive its record: read or settled late, before or after an operator's word.
pub async fn a_completed_record_says_when_it_expires<F: Fixture>(f: Arc<F>) {
    let owner = claim(1);
    let before = f.store().confirm().await.unwrap().now;
    let epoch = acquired(f.store().claim(&owner).await);
    let after = f.store().confirm().await.unwrap().now;
    f.advance(Duration::from_secs(30)).await;
    let settled = f.store().settle(&owner, epoch, &completed("answer")).await;
    settled.unwrap();
    let expected = outcome(f.store(), &owner, "answer").await;
    let Present::Completed(completed) = &expected else {
        panic!("it is completed");
    };
    assert!(completed.expires_at >= before.plus(RETENTION));
    assert!(completed.expires_at <= after.plus(RETENTION));
    assert_eq!(
        f.second().find(&owner.id).await.unwrap(),
        Some(expected.clone())
    );
    assert_eq!(present(f.second().claim(&rival(&owner)).await), expected);

    let unknown = claim(2);
    acquired(f.store().claim(&unknown).await);
    f.advance(PAST_DOUBT).await;
    decide(&*f, &unknown, &Resolution::Executed("by hand".into())).await;
    let expected = outcome(f.store(), &unknown, "by hand").await;
    assert_eq!(f.second().find(&unknown.id).await.unwrap(), Some(expected));
}

/// Whoever keeps a record compares its end to this time.
pub async fn the_confirmed_time_is_the_one_that_records_expire_by<F: Fixture>(f: Arc<F>) {
    let owner = complete(&*f, 1).await;
    let shown = f.store().show(&owner.id).await.unwrap().unwrap().summary;
    let now = f.second().confirm().await.unwrap().now;
    assert!(now >= shown.claimed_at);
    assert!(now.since(shown.claimed_at) < Duration::from_secs(30));
    assert!(now < shown.expires_at);
    f.advance(PAST_RETENTION).await;
    let now = f.store().confirm().await.unwrap().now;
    assert!(now >= shown.expires_at);
    assert_eq!(f.store().find(&owner.id).await.unwrap(), None);
}
