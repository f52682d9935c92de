//! Many at once, through two handles: at most one executes, and nobody is told an untruth.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Waker};

use onlyonce::store::operator::{Resolution, Resolved};
use onlyonce::store::{Claim, Claimed, Operator, Present, Settled, Settlement, Store, Sweep};
use onlyonce::{Epoch, StoredState};
use tokio::sync::Barrier;
use tokio::task::JoinSet;

use super::Fixture;
use super::sample::{
    PAST_LEASE, PAST_RETENTION, acquired, claim, completed, reexecuting, response, rival,
};

const CLAIMANTS: usize = 64;
const ROUNDS: u16 = 16;

/// Claims everything at the same moment, half through each handle; the answers in order.
async fn claim_all<F: Fixture>(f: &Arc<F>, claims: Vec<Claim>) -> Vec<Claimed> {
    let start = Arc::new(Barrier::new(claims.len()));
    let mut tasks = JoinSet::new();
    for (number, claim) in claims.into_iter().enumerate() {
        let (f, start) = (Arc::clone(f), Arc::clone(&start));
        tasks.spawn(async move {
            start.wait().await;
            let handle = if number % 2 == 0 {
                f.store()
            } else {
                f.second()
            };
            (
                number,
                handle.claim(&claim).await.expect("the store answers"),
            )
        });
    }
    let mut answers = tasks.join_all().await;
    answers.sort_by_key(|(number, _)| *number);
    answers.into_iter().map(|(_, answer)| answer).collect()
}

/// One of the answers is an acquisition, in `epoch`; all others find that one in flight.
#[track_caller]
fn assert_one_acquired(answers: &[Claimed]) -> Epoch {
    let mut epochs = answers.iter().filter_map(|answer| match answer {
        Claimed::Acquired(epoch) => Some(*epoch),
        Claimed::Present(Present::InFlight { .. }) => None,
        Claimed::Present(other) => panic!("the winner is in flight, found {other:?}"),
    });
    let epoch = epochs.next().expect("somebody wins");
    assert_eq!(epochs.next(), None, "two were acquired");
    epoch
}

/// The heart of it: one key, many requests, two processes.
pub async fn of_64_claims_through_two_handles_one_is_acquired<F: Fixture>(f: Arc<F>) {
    for number in 0..ROUNDS {
        let first = claim(number);
        let rivals = (0..CLAIMANTS).map(|_| rival(&first)).collect();
        let epoch = assert_one_acquired(&claim_all(&f, rivals).await);
        assert_eq!(epoch, Epoch::FIRST);
    }
}

/// A release wakes every waiting retry at once.
pub async fn of_64_claims_of_a_free_record_one_is_acquired<F: Fixture>(f: Arc<F>) {
    for number in 0..ROUNDS {
        let first = claim(number);
        let epoch = acquired(f.store().claim(&first).await);
        f.store()
            .settle(&first, epoch, &Settlement::Released)
            .await
            .unwrap();
        let rivals = (0..CLAIMANTS).map(|_| rival(&first)).collect();
        let later = assert_one_acquired(&claim_all(&f, rivals).await);
        assert!(later > epoch, "{later} is not after {epoch}");
    }
}

/// At the end of retention, "delete it, then insert mine" would let two in.
pub async fn of_64_claims_of_an_expired_record_one_is_acquired<F: Fixture>(f: Arc<F>) {
    for number in 0..ROUNDS {
        let first = claim(number);
        let epoch = acquired(f.store().claim(&first).await);
        f.store()
            .settle(&first, epoch, &completed("old"))
            .await
            .unwrap();
        f.advance(PAST_RETENTION).await;
        let rivals = (0..CLAIMANTS).map(|_| rival(&first)).collect();
        assert_one_acquired(&claim_all(&f, rivals).await);
    }
}

/// `reexecute` means once, not once for each retry.
pub async fn of_64_reexecutions_of_an_unknown_record_one_is_acquired<F: Fixture>(f: Arc<F>) {
    for number in 0..ROUNDS {
        let first = claim(number);
        let epoch = acquired(f.store().claim(&first).await);
        f.advance(PAST_LEASE).await;
        let rivals = (0..CLAIMANTS).map(|_| reexecuting(&first)).collect();
        let later = assert_one_acquired(&claim_all(&f, rivals).await);
        assert!(later > epoch, "{later} is not after {epoch}");
    }
}

/// A claim and its repeats, all under way at once, are one claim.
pub async fn copies_of_one_claim_agree_on_its_epoch<F: Fixture>(f: Arc<F>) {
    for number in 0..ROUNDS {
        let copies = vec![claim(number); CLAIMANTS / 4];
        let answers = claim_all(&f, copies).await;
        for answer in answers {
            assert_eq!(answer, Claimed::Acquired(Epoch::FIRST));
        }
    }
}

/// Sharing a batch or a pool must not make strangers refuse each other.
pub async fn claims_of_many_ids_are_all_acquired<F: Fixture>(f: Arc<F>) {
    let answers = claim_all(&f, (0..256).map(claim).collect()).await;
    for answer in answers {
        assert_eq!(answer, Claimed::Acquired(Epoch::FIRST));
    }
}

/// While the sweep deletes the old row, claims neither fail nor win twice.
pub async fn a_claim_that_races_a_sweep_is_acquired_once<F: Fixture>(f: Arc<F>) {
    for number in 0..ROUNDS {
        let first = claim(number);
        let epoch = acquired(f.store().claim(&first).await);
        f.store()
            .settle(&first, epoch, &completed("old"))
            .await
            .unwrap();
        f.advance(PAST_RETENTION).await;

        let sweeps = {
            let f = Arc::clone(&f);
            tokio::spawn(async move {
                for _ in 0..4 {
                    f.store()
                        .sweep(100)
                        .await
                        .expect("a sweep never fails for a claim");
                    f.second()
                        .sweep(100)
                        .await
                        .expect("a sweep never fails for a claim");
                }
            })
        };
        let rivals = (0..CLAIMANTS / 4).map(|_| rival(&first)).collect();
        assert_one_acquired(&claim_all(&f, rivals).await);
        sweeps.await.unwrap();
        // The new record is not what the sweeps were after.
        assert!(f.store().find(&first.id).await.unwrap().is_some());
    }
}

/// A retry that arrives while the owner releases finds it in flight or takes it over.
pub async fn a_claim_that_races_a_release_is_acquired_at_most_once<F: Fixture>(f: Arc<F>) {
    for number in 0..ROUNDS {
        let first = claim(number);
        let epoch = acquired(f.store().claim(&first).await);
        let release = {
            let (f, first) = (Arc::clone(&f), first.clone());
            tokio::spawn(async move {
                f.second()
                    .settle(&first, epoch, &Settlement::Released)
                    .await
            })
        };
        let rivals = (0..CLAIMANTS / 4).map(|_| rival(&first)).collect();
        let answers = claim_all(&f, rivals).await;
        assert_eq!(release.await.unwrap().unwrap(), Settled::Done);
        if answers
            .iter()
            .any(|answer| matches!(answer, Claimed::Acquired(_)))
        {
            let later = assert_one_acquired(&answers);
            assert!(later > epoch, "{later} is not after {epoch}");
        } else {
            acquired(f.store().claim(&rival(&first)).await);
        }
    }
}

/// The owner completes as an operator frees the key by force: one of them wins, and both know who.
pub async fn a_settlement_that_races_an_operator_leaves_one_outcome<F: Fixture>(f: Arc<F>) {
    for number in 0..ROUNDS {
        let owner = claim(number);
        let epoch = acquired(f.store().claim(&owner).await);
        let operator = {
            let (f, id) = (Arc::clone(&f), owner.id);
            tokio::spawn(async move {
                f.second()
                    .resolve(&id, &Resolution::NotExecuted, true)
                    .await
            })
        };
        let settled = f
            .store()
            .settle(&owner, epoch, &completed("answer"))
            .await
            .unwrap();
        let resolved = operator.await.unwrap().unwrap();

        let state = f
            .store()
            .show(&owner.id)
            .await
            .unwrap()
            .unwrap()
            .summary
            .state;
        match settled {
            Settled::Stale => {
                assert_eq!(state, StoredState::Free);
                assert!(matches!(resolved, Resolved::Done(later) if later > epoch));
            }
            Settled::Done => {
                assert_eq!(state, StoredState::Completed);
                assert!(matches!(resolved, Resolved::Refused(_)), "{resolved:?}");
            }
        }
    }
}

/// An owner wakes up after its lease just as a retry takes over: one of them has the record.
pub async fn a_late_owner_that_races_a_take_over_leaves_one_outcome<F: Fixture>(f: Arc<F>) {
    for number in 0..ROUNDS {
        let owner = claim(number);
        let epoch = acquired(f.store().claim(&owner).await);
        f.advance(PAST_LEASE).await;
        let late = {
            let (f, owner) = (Arc::clone(&f), owner.clone());
            tokio::spawn(async move { f.second().settle(&owner, epoch, &completed("late")).await })
        };
        let retry = f.store().claim(&reexecuting(&owner)).await.unwrap();
        match (late.await.unwrap().unwrap(), retry) {
            (Settled::Stale, Claimed::Acquired(later)) => assert!(later > epoch),
            (Settled::Done, Claimed::Present(present)) => {
                assert_eq!(response(Some(present)), Some("late".into()));
            }
            both => panic!("two owners, or none: {both:?}"),
        }
    }
}

/// Owners that release and complete in any order, through both handles: never two at work on one record,
/// and nobody after its completion.
pub async fn owners_of_one_record_exclude_each_other<F: Fixture>(f: Arc<F>) {
    let records: Arc<[AtWork]> = (0..4).map(|_| AtWork::default()).collect();
    let mut tasks = JoinSet::new();
    for task in 0..16 {
        let (f, records) = (Arc::clone(&f), Arc::clone(&records));
        tasks.spawn(async move {
            let handle = if task % 2 == 0 { f.store() } else { f.second() };
            for turn in 0..24 {
                let number = (task + turn) % records.len();
                let number_of_id = u16::try_from(number).expect("there are four");
                records[number]
                    .work_once(handle, claim(number_of_id), turn)
                    .await;
            }
        });
    }
    tasks.join_all().await;
}

/// What the upstream of one record sees.
#[derive(Debug, Default)]
struct AtWork {
    busy: AtomicBool,
    completed: AtomicBool,
}

impl AtWork {
    async fn work_once<S: Store>(&self, handle: &S, claim: Claim, turn: usize) {
        let completed_before = self.completed.load(Ordering::SeqCst);
        let epoch = match handle.claim(&claim).await.expect("the store answers") {
            Claimed::Acquired(epoch) => epoch,
            Claimed::Present(_) => return,
        };
        assert!(!completed_before, "acquired after it was completed");
        assert!(
            !self.busy.swap(true, Ordering::SeqCst),
            "two owners are at work"
        );
        tokio::task::yield_now().await;
        // Before the settlement: as soon as that is written, the next owner may begin.
        self.busy.store(false, Ordering::SeqCst);
        let settlement = if turn < 20 {
            Settlement::Released
        } else {
            completed("answer")
        };
        let settled = handle
            .settle(&claim, epoch, &settlement)
            .await
            .expect("the store answers");
        assert_eq!(settled, Settled::Done);
        if turn >= 20 {
            self.completed.store(true, Ordering::SeqCst);
        }
    }
}

/// Polls a future at most `polls` times, then drops it.
async fn poll_and_drop<T>(future: impl Future<Output = T>, polls: usize) {
    let mut future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    for _ in 0..polls {
        if future.as_mut().poll(&mut context).is_ready() {
            return;
        }
        tokio::task::yield_now().await;
    }
}

/// A future that is dropped before, in or after its write leaves no transaction and no lock.
pub async fn dropped_claims_leave_the_store_usable<F: Fixture>(f: Arc<F>) {
    for number in 0..32 {
        let dropped = claim(number);
        poll_and_drop(f.store().claim(&dropped), usize::from(number % 8)).await;
        // Whether it was written or not, the claim can be repeated, by both handles.
        assert_eq!(acquired(f.store().claim(&dropped).await), Epoch::FIRST);
        assert_eq!(acquired(f.second().claim(&dropped).await), Epoch::FIRST);
        acquired(f.second().claim(&claim(1000 + number)).await);
    }
}

/// The same for settlements: repeating one completes it.
pub async fn dropped_settlements_leave_the_store_usable<F: Fixture>(f: Arc<F>) {
    for number in 0..32 {
        let owner = claim(number);
        let epoch = acquired(f.store().claim(&owner).await);
        let answer = completed("answer");
        let polls = usize::from(number % 8);
        poll_and_drop(f.store().settle(&owner, epoch, &answer), polls).await;
        let settled = f.second().settle(&owner, epoch, &answer).await.unwrap();
        assert_eq!(settled, Settled::Done);
        assert_eq!(
            response(f.store().find(&owner.id).await.unwrap()),
            Some("answer".into())
        );
    }
}
