//! How a claim ends: who may say so, how often, and what is kept.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use onlyonce::store::{Claim, Present, Settled, Settlement, Store, Sweep};
use onlyonce::{Epoch, Token};

use super::sample::{
    PAST_LEASE, PAST_RETENTION, RETENTION, acquired, claim, completed, misuse, outcome, present,
    reexecuting, response, rival,
};
use super::{Fixture, not_applicable};

/// The three ways to end a claim.
fn every_settlement() -> [Settlement; 3] {
    [completed("late"), Settlement::Unknown, Settlement::Released]
}

/// Claims, and forgets the row as a failover does: by what a sweep deletes after retention.
async fn claim_and_lose_the_row<F: Fixture>(f: &F, claim: &Claim) -> Epoch {
    let epoch = acquired(f.store().claim(claim).await);
    f.advance(PAST_RETENTION).await;
    assert_eq!(f.store().sweep(10).await.unwrap(), 1);
    epoch
}

/// Empty, one byte, every byte, and a mebibyte.
pub async fn responses_come_back_byte_for_byte<F: Fixture>(f: Arc<F>) {
    let every_byte: Vec<u8> = (0..=u8::MAX).collect();
    let mebibyte = every_byte.repeat(4096);
    let responses = [vec![], vec![0], every_byte, mebibyte];
    for (number, bytes) in (1..).zip(responses) {
        let bytes = Bytes::from(bytes);
        let owner = claim(number);
        let epoch = acquired(f.store().claim(&owner).await);
        let settled = f
            .store()
            .settle(&owner, epoch, &completed(bytes.clone()))
            .await;
        assert_eq!(settled.unwrap(), Settled::Done);
        let found = response(f.second().find(&owner.id).await.unwrap());
        assert!(
            found == Some(bytes.clone()),
            "find changed {} bytes",
            bytes.len()
        );
        let found = response(Some(present(f.second().claim(&rival(&owner)).await)));
        assert!(
            found == Some(bytes.clone()),
            "claim changed {} bytes",
            bytes.len()
        );
    }
}

/// A settlement whose answer was lost can be repeated.
pub async fn a_repeated_settlement_changes_nothing<F: Fixture>(f: Arc<F>) {
    for (number, settlement) in (1..).zip(every_settlement()) {
        let owner = claim(number);
        let epoch = acquired(f.store().claim(&owner).await);
        for handle in [f.store(), f.second(), f.store()] {
            let settled = handle.settle(&owner, epoch, &settlement).await.unwrap();
            assert_eq!(settled, Settled::Done, "{settlement:?}");
        }
    }
    let (first, done) = (claim(9), completed("first"));
    let epoch = acquired(f.store().claim(&first).await);
    f.store().settle(&first, epoch, &done).await.unwrap();
    let repeated = f.second().settle(&first, epoch, &completed("second")).await;
    assert_eq!(repeated.unwrap(), Settled::Done);
    assert_eq!(
        response(f.store().find(&first.id).await.unwrap()),
        Some("first".into())
    );
}

/// What was answered once is answered always: no later word of the owner changes it.
pub async fn a_completed_record_is_final<F: Fixture>(f: Arc<F>) {
    let owner = claim(1);
    let epoch = acquired(f.store().claim(&owner).await);
    f.store()
        .settle(&owner, epoch, &completed("answer"))
        .await
        .unwrap();
    for late in [Settlement::Unknown, Settlement::Released] {
        let settled = f.second().settle(&owner, epoch, &late).await.unwrap();
        assert_eq!(settled, Settled::Stale, "{late:?}");
    }
    assert_eq!(
        response(f.store().find(&owner.id).await.unwrap()),
        Some("answer".into())
    );
}

/// After a release another may be executing: the owner cannot come back with an outcome.
pub async fn a_released_record_is_final<F: Fixture>(f: Arc<F>) {
    let owner = claim(1);
    let epoch = acquired(f.store().claim(&owner).await);
    f.store()
        .settle(&owner, epoch, &Settlement::Released)
        .await
        .unwrap();
    for late in [completed("late"), Settlement::Unknown] {
        let settled = f.second().settle(&owner, epoch, &late).await.unwrap();
        assert_eq!(settled, Settled::Stale, "{late:?}");
    }
    assert_eq!(f.store().find(&owner.id).await.unwrap(), None);
}

/// The late truth is better than none.
pub async fn an_unknown_record_may_be_completed_by_its_owner<F: Fixture>(f: Arc<F>) {
    let owner = claim(1);
    let epoch = acquired(f.store().claim(&owner).await);
    f.store()
        .settle(&owner, epoch, &Settlement::Unknown)
        .await
        .unwrap();
    let settled = f.second().settle(&owner, epoch, &completed("late")).await;
    assert_eq!(settled.unwrap(), Settled::Done);
    assert_eq!(
        response(f.store().find(&owner.id).await.unwrap()),
        Some("late".into())
    );
}

/// As before, where the truth is that nothing was executed.
pub async fn an_unknown_record_may_be_released_by_its_owner<F: Fixture>(f: Arc<F>) {
    let owner = claim(1);
    let epoch = acquired(f.store().claim(&owner).await);
    f.store()
        .settle(&owner, epoch, &Settlement::Unknown)
        .await
        .unwrap();
    let settled = f
        .second()
        .settle(&owner, epoch, &Settlement::Released)
        .await;
    assert_eq!(settled.unwrap(), Settled::Done);
    acquired(f.store().claim(&rival(&owner)).await);
}

/// A caller compares fingerprints of unknown records too.
pub async fn an_unknown_record_shows_who_asked<F: Fixture>(f: Arc<F>) {
    let owner = claim(1);
    let epoch = acquired(f.store().claim(&owner).await);
    f.store()
        .settle(&owner, epoch, &Settlement::Unknown)
        .await
        .unwrap();
    let expected = Present::Unknown {
        fingerprint: owner.fingerprint,
        credential: owner.credential,
    };
    assert_eq!(present(f.second().claim(&misuse(&owner)).await), expected);
}

/// An owner that was frozen past its lease still speaks for its epoch, if nobody took over.
pub async fn a_late_owner_completes_after_its_lease_lapsed<F: Fixture>(f: Arc<F>) {
    let owner = claim(1);
    let epoch = acquired(f.store().claim(&owner).await);
    f.advance(PAST_LEASE).await;
    let settled = f.store().settle(&owner, epoch, &completed("late")).await;
    assert_eq!(settled.unwrap(), Settled::Done);
    let found = present(f.second().claim(&reexecuting(&owner)).await);
    assert_eq!(response(Some(found)), Some("late".into()));
}

/// The owner wakes up after a retry took over: it may not complete, mark or release what is another's.
pub async fn a_stale_owner_cannot_settle_after_a_take_over<F: Fixture>(f: Arc<F>) {
    let old = claim(1);
    let old_epoch = acquired(f.store().claim(&old).await);
    f.advance(PAST_LEASE).await;
    let new = reexecuting(&old);
    let epoch = acquired(f.second().claim(&new).await);
    for late in every_settlement() {
        let settled = f.store().settle(&old, old_epoch, &late).await.unwrap();
        assert_eq!(settled, Settled::Stale, "{late:?}");
        assert!(matches!(
            f.store().find(&old.id).await.unwrap(),
            Some(Present::InFlight { .. })
        ));
    }
    f.second()
        .settle(&new, epoch, &completed("new"))
        .await
        .unwrap();
    for late in every_settlement() {
        let settled = f.store().settle(&old, old_epoch, &late).await.unwrap();
        assert_eq!(settled, Settled::Stale, "{late:?}");
    }
    assert_eq!(
        response(f.store().find(&old.id).await.unwrap()),
        Some("new".into())
    );
}

/// As before, where the record changed hands through a release, and through its own token.
pub async fn a_stale_owner_cannot_settle_after_its_release<F: Fixture>(f: Arc<F>) {
    let old = claim(1);
    let old_epoch = acquired(f.store().claim(&old).await);
    f.store()
        .settle(&old, old_epoch, &Settlement::Released)
        .await
        .unwrap();
    let new = rival(&old);
    acquired(f.store().claim(&new).await);
    for late in every_settlement() {
        let settled = f.store().settle(&old, old_epoch, &late).await.unwrap();
        assert_eq!(settled, Settled::Stale, "{late:?}");
    }
    assert!(matches!(
        f.store().find(&old.id).await.unwrap(),
        Some(Present::InFlight { .. })
    ));
}

/// The right epoch with another token is another's.
pub async fn a_foreign_token_cannot_settle<F: Fixture>(f: Arc<F>) {
    let owner = claim(1);
    let epoch = acquired(f.store().claim(&owner).await);
    let mut token = *owner.token.as_bytes();
    token[15] ^= 1;
    let forged = Claim {
        token: Token::from_bytes(token),
        ..owner.clone()
    };
    for settlement in every_settlement() {
        let settled = f.store().settle(&forged, epoch, &settlement).await.unwrap();
        assert_eq!(settled, Settled::Stale, "{settlement:?}");
    }
    let settled = f.store().settle(&owner, epoch, &completed("own")).await;
    assert_eq!(settled.unwrap(), Settled::Done);
}

/// The right token with another epoch is stale.
pub async fn a_foreign_epoch_cannot_settle<F: Fixture>(f: Arc<F>) {
    let owner = claim(1);
    let epoch = acquired(f.store().claim(&owner).await);
    for settlement in every_settlement() {
        let settled = f.store().settle(&owner, epoch.next(), &settlement).await;
        assert_eq!(settled.unwrap(), Settled::Stale, "{settlement:?}");
    }
    let settled = f.store().settle(&owner, epoch, &completed("own")).await;
    assert_eq!(settled.unwrap(), Settled::Done);
}

/// A failover lost the claim. The upstream executed, so the outcome is written all the same.
pub async fn a_completion_whose_row_is_gone_is_written_anew<F: Fixture>(f: Arc<F>) {
    let owner = claim(1);
    let epoch = claim_and_lose_the_row(&*f, &owner).await;
    for _ in 0..2 {
        let settled = f.store().settle(&owner, epoch, &completed("kept")).await;
        assert_eq!(settled.unwrap(), Settled::Done);
    }
    let expected = outcome(f.store(), &owner, "kept").await;
    assert_eq!(present(f.second().claim(&rival(&owner)).await), expected);
    // It is kept as long as any other, and expires like any other.
    f.advance(RETENTION - Duration::from_secs(3600)).await;
    assert_eq!(f.second().find(&owner.id).await.unwrap(), Some(expected));
    f.advance(Duration::from_secs(2 * 3600)).await;
    assert_eq!(f.second().find(&owner.id).await.unwrap(), None);
}

/// The same for an outcome that is unknown: the key must stay held.
pub async fn an_unknown_outcome_whose_row_is_gone_is_written_anew<F: Fixture>(f: Arc<F>) {
    let owner = claim(1);
    let epoch = claim_and_lose_the_row(&*f, &owner).await;
    let settled = f.store().settle(&owner, epoch, &Settlement::Unknown).await;
    assert_eq!(settled.unwrap(), Settled::Done);
    assert!(matches!(
        present(f.second().claim(&rival(&owner)).await),
        Present::Unknown { .. }
    ));
}

/// What was lost is free already.
pub async fn a_release_whose_row_is_gone_is_done<F: Fixture>(f: Arc<F>) {
    let owner = claim(1);
    let epoch = claim_and_lose_the_row(&*f, &owner).await;
    let settled = f.store().settle(&owner, epoch, &Settlement::Released).await;
    assert_eq!(settled.unwrap(), Settled::Done);
    acquired(f.store().claim(&rival(&owner)).await);
}

/// A completed record without its response is completed: it must never be executed again.
pub async fn a_missing_response_is_completed_without_one<F: Fixture>(f: Arc<F>) {
    let owner = claim(1);
    let epoch = acquired(f.store().claim(&owner).await);
    f.store()
        .settle(&owner, epoch, &completed("answer"))
        .await
        .unwrap();
    if !f.lose_response(&owner.id).await {
        return not_applicable("this store keeps record and response in one place");
    }
    assert_eq!(response(f.store().find(&owner.id).await.unwrap()), None);
    for retry in [rival(&owner), reexecuting(&owner), owner.clone()] {
        let found = present(f.second().claim(&retry).await);
        assert_eq!(response(Some(found)), None);
    }
}

/// Retention is counted from the claim, so that `expires_at` never changes.
pub async fn a_settlement_does_not_extend_retention<F: Fixture>(f: Arc<F>) {
    let owner = claim(1);
    let epoch = acquired(f.store().claim(&owner).await);
    f.advance(RETENTION - Duration::from_secs(3600)).await;
    f.store()
        .settle(&owner, epoch, &completed("late"))
        .await
        .unwrap();
    f.advance(Duration::from_secs(2 * 3600)).await;
    assert_eq!(f.store().find(&owner.id).await.unwrap(), None);
}

/// Room for the answer was promised with the claim.
pub async fn a_full_store_still_takes_settlements<F: Fixture>(f: Arc<F>) {
    let owner = claim(1);
    let epoch = acquired(f.store().claim(&owner).await);
    if !f.fill().await {
        return not_applicable("this store cannot be filled");
    }
    let settled = f
        .store()
        .settle(&owner, epoch, &completed(vec![7; 10_000]))
        .await;
    assert_eq!(settled.unwrap(), Settled::Done);
    let found = response(f.store().find(&owner.id).await.unwrap());
    assert_eq!(found, Some(vec![7; 10_000].into()));
}
