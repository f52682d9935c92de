//! Sweeping: what goes, how much at a time, and what it leaves behind.

use std::sync::Arc;
use std::time::Duration;

use onlyonce::store::{Operator, Settlement, Store, Sweep};

use super::Fixture;
use super::sample::{
    PAST_LEASE, PAST_RETENTION, RETENTION, acquired, claim, completed, response, rival,
};

/// Completed, free, unknown and lapsed: everything goes at its expiry and not before.
pub async fn a_sweep_deletes_what_is_expired_and_nothing_else<F: Fixture>(f: Arc<F>) {
    let endings = [
        Some(completed("answer")),
        Some(Settlement::Released),
        Some(Settlement::Unknown),
        None,
    ];
    for (number, ending) in (1..).zip(endings) {
        let owner = claim(number);
        let epoch = acquired(f.store().claim(&owner).await);
        if let Some(ending) = ending {
            f.store().settle(&owner, epoch, &ending).await.unwrap();
        }
    }
    f.advance(RETENTION - Duration::from_secs(3600)).await;
    assert_eq!(f.store().sweep(100).await.unwrap(), 0);
    let kept = claim(9);
    let epoch = acquired(f.store().claim(&kept).await);
    f.store()
        .settle(&kept, epoch, &completed("kept"))
        .await
        .unwrap();
    f.advance(Duration::from_secs(2 * 3600)).await;
    assert_eq!(f.second().sweep(100).await.unwrap(), 4);
    assert_eq!(f.store().sweep(100).await.unwrap(), 0);
    assert_eq!(
        response(f.store().find(&kept.id).await.unwrap()),
        Some("kept".into())
    );
}

/// A sweep never holds the store for long.
pub async fn a_sweep_is_bounded<F: Fixture>(f: Arc<F>) {
    for number in 0..10 {
        acquired(f.store().claim(&claim(number)).await);
    }
    f.advance(PAST_RETENTION).await;
    assert_eq!(f.store().sweep(0).await.unwrap(), 0);
    for expected in [4, 4, 2, 0] {
        assert_eq!(f.store().sweep(4).await.unwrap(), expected);
    }
}

/// Once its row is gone, an id is as new as any other.
pub async fn a_swept_id_starts_again<F: Fixture>(f: Arc<F>) {
    let old = claim(1);
    acquired(f.store().claim(&old).await);
    f.advance(PAST_RETENTION).await;
    assert_eq!(f.store().sweep(10).await.unwrap(), 1);
    let new = rival(&old);
    let epoch = acquired(f.store().claim(&new).await);
    f.store()
        .settle(&new, epoch, &completed("new"))
        .await
        .unwrap();
    assert_eq!(
        response(f.second().find(&new.id).await.unwrap()),
        Some("new".into())
    );
}

/// A response belongs to one settlement: whoever has the id next never sees it.
pub async fn a_swept_response_is_not_found_by_the_next_owner<F: Fixture>(f: Arc<F>) {
    let old = claim(1);
    let epoch = acquired(f.store().claim(&old).await);
    f.store()
        .settle(&old, epoch, &completed("old"))
        .await
        .unwrap();
    f.advance(PAST_RETENTION).await;
    assert_eq!(f.store().sweep(10).await.unwrap(), 1);

    let new = rival(&old);
    let epoch = acquired(f.store().claim(&new).await);
    let detail = f.store().show(&new.id).await.unwrap().unwrap();
    assert_eq!(detail.response, None);
    f.advance(PAST_LEASE).await;
    f.store()
        .settle(&new, epoch, &completed("new"))
        .await
        .unwrap();
    assert_eq!(
        response(f.store().find(&new.id).await.unwrap()),
        Some("new".into())
    );
}
