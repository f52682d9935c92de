//! The process's own memory, and the store's word that it depends on.

use std::time::Duration;

use onlyonce::cached::{CONFIRMED_FOR, Cached};
use onlyonce::store::operator::FREED_REST;
use onlyonce::store::{Cacheable, Claimed, Present, Settled, Settlement, Store};
use onlyonce::{CredentialHash, Fingerprint};
use tokio::time::sleep;

use crate::fixture::{Asked, RETENTION, claim, confirmed, execute, forget, replayed, started};

const SECOND: Duration = Duration::from_secs(1);
const MILLI: Duration = Duration::from_millis(1);

/// Executed here: the very first retry does not get to the store.
#[tokio::test(start_paused = true)]
async fn a_retry_of_what_was_executed_here_does_not_ask_the_store() {
    let asked = Asked::new();
    let cached = confirmed(&asked).await;
    let first = claim(1);
    execute(&cached, &first, "answer").await;
    let reads = asked.reads();
    sleep(MILLI).await;
    let from_store = asked.elsewhere().find(&first.id).await.unwrap();
    let Some(Present::Completed(expected)) = from_store else {
        panic!("it is completed");
    };
    for retry in [
        cached.claim(&claim(1)).await.unwrap(),
        cached.claim(&first).await.unwrap(),
        Claimed::Present(cached.find(&first.id).await.unwrap().unwrap()),
    ] {
        let Claimed::Present(Present::Completed(completed)) = retry else {
            panic!("not completed: {retry:?}");
        };
        assert_eq!(
            (
                completed.fingerprint,
                completed.credential,
                &completed.response
            ),
            (
                expected.fingerprint,
                expected.credential,
                &expected.response
            )
        );
        assert!(completed.expires_at <= expected.expires_at);
        assert!(completed.expires_at >= expected.expires_at.minus(SECOND));
    }
    assert_eq!(asked.reads(), reads);
}

/// Executed elsewhere: the first retry here asks the store, the second does not. What was asked for and by whom
/// comes from the record, not from the retry.
#[tokio::test(start_paused = true)]
async fn what_a_retry_found_is_kept_as_it_was_found() {
    let asked = Asked::new();
    let cached = confirmed(&asked).await;
    execute(asked.elsewhere(), &claim(1), "answer").await;
    let mut other = claim(1);
    other.fingerprint = Fingerprint::from_bytes([7; 32]);
    other.credential = CredentialHash::from_bytes([8; 32]);
    let found = cached.claim(&other).await.unwrap();
    assert_eq!(found, asked.elsewhere().claim(&claim(1)).await.unwrap());
    let reads = asked.reads();
    assert_eq!(cached.claim(&other).await.unwrap(), found);
    assert_eq!(asked.reads(), reads);

    // By way of `find`, too.
    execute(asked.elsewhere(), &claim(2), "answer").await;
    cached.find(&claim(2).id).await.unwrap();
    let reads = asked.reads();
    assert_eq!(replayed(&cached, 2).await, Some("answer".into()));
    assert_eq!(asked.reads(), reads);
}

/// What is not completed may change at any time.
#[tokio::test(start_paused = true)]
async fn only_what_is_completed_is_kept() {
    let asked = Asked::new();
    let cached = confirmed(&asked).await;
    let (free, flying, unknown) = (claim(1), claim(2), claim(3));
    for (claim, settlement) in [
        (&free, Some(Settlement::Released)),
        (&flying, None),
        (&unknown, Some(Settlement::Unknown)),
    ] {
        let Claimed::Acquired(epoch) = cached.claim(claim).await.unwrap() else {
            panic!("acquired");
        };
        if let Some(settlement) = settlement {
            cached.settle(claim, epoch, &settlement).await.unwrap();
        }
        let reads = asked.reads();
        cached.find(&claim.id).await.unwrap();
        cached.find(&claim.id).await.unwrap();
        assert_eq!(asked.reads(), reads + 2);
    }
}

/// While the store confirms nothing, it is asked, however good what is kept may be.
#[tokio::test(start_paused = true)]
async fn nothing_is_used_that_was_not_confirmed_within_two_seconds() {
    let asked = Asked::new();
    let cached = confirmed(&asked).await;
    execute(&cached, &claim(1), "answer").await;
    asked.hold_confirmations();
    let held = tokio::time::Instant::now();
    let reads = asked.reads();
    while held.elapsed() < SECOND {
        replayed(&cached, 1).await;
        sleep(MILLI).await;
    }
    assert_eq!(asked.reads(), reads, "the last answer is good for a while");
    sleep(CONFIRMED_FOR - held.elapsed()).await;
    replayed(&cached, 1).await;
    assert_eq!(asked.reads(), reads + 1);
    // Nor is anything added: nobody knows in which generation it was read.
    execute(&cached, &claim(2), "answer").await;

    asked.let_confirmations_through();
    sleep(SECOND).await;
    let reads = asked.reads();
    replayed(&cached, 1).await;
    assert_eq!(asked.reads(), reads, "confirmed again");
    replayed(&cached, 2).await;
    assert_eq!(asked.reads(), reads + 1, "was not kept");
}

/// An answer counts from when its question was sent, not from when it came.
#[tokio::test(start_paused = true)]
async fn an_answer_that_was_long_on_its_way_is_old_when_it_comes() {
    let asked = Asked::new();
    let cached = confirmed(&asked).await;
    execute(&cached, &claim(1), "answer").await;
    asked.hold_confirmations();
    let confirms = asked.confirms();
    while asked.confirms() == confirms {
        sleep(MILLI).await;
    }
    let sent = tokio::time::Instant::now();
    sleep(1500 * MILLI).await;
    asked.let_confirmations_through();
    sleep(MILLI).await;
    asked.hold_confirmations();
    let reads = asked.reads();
    sleep(400 * MILLI).await;
    replayed(&cached, 1).await;
    assert_eq!(asked.reads(), reads, "it came, and is good for a moment");
    sleep(CONFIRMED_FOR - sent.elapsed()).await;
    replayed(&cached, 1).await;
    assert_eq!(asked.reads(), reads + 1);
}

/// The store is away: replays from memory for two seconds, then whoever asks is told.
#[tokio::test(start_paused = true)]
async fn a_store_that_is_away_is_replayed_from_for_two_seconds_at_the_most() {
    let asked = Asked::new();
    let cached = confirmed(&asked).await;
    execute(&cached, &claim(1), "answer").await;
    asked.go_away();
    replayed(&cached, 1).await;
    sleep(CONFIRMED_FOR).await;
    let error = cached.claim(&claim(1)).await.unwrap_err();
    assert!(error.is_transient());
}

/// Another process forgets a record: its old answer is used for two seconds at the most, nobody executes before
/// three, and the new answer is the one that is kept.
#[tokio::test(start_paused = true)]
async fn a_decision_made_elsewhere_ends_the_old_answer_before_a_new_one_can_come() {
    let asked = Asked::new();
    let cached = confirmed(&asked).await;
    execute(&cached, &claim(1), "old").await;
    let forgotten = tokio::time::Instant::now();
    forget(asked.elsewhere(), 1).await;
    let mut last_old = Duration::ZERO;
    let executed = loop {
        let retry = claim(1);
        match cached.claim(&retry).await.unwrap() {
            Claimed::Acquired(epoch) => {
                let new = Settlement::Completed("new".into());
                cached.settle(&retry, epoch, &new).await.unwrap();
                break forgotten.elapsed();
            }
            Claimed::Present(Present::Completed(old)) => {
                assert_eq!(old.response, Some("old".into()));
                last_old = forgotten.elapsed();
            }
            Claimed::Present(resting) => assert!(matches!(resting, Present::InFlight { .. })),
        }
        sleep(MILLI).await;
    };
    assert!(last_old < CONFIRMED_FOR, "{last_old:?}");
    assert!(executed >= FREED_REST, "{executed:?}");
    let reads = asked.reads();
    assert_eq!(replayed(&cached, 1).await, Some("new".into()));
    assert_eq!(asked.reads(), reads);
}

/// A decision made here is respected here at once.
#[tokio::test(start_paused = true)]
async fn a_decision_made_here_ends_the_old_answer_at_once() {
    let asked = Asked::new();
    let cached = confirmed(&asked).await;
    execute(&cached, &claim(1), "old").await;
    forget(&cached, 1).await;
    let claimed = cached.claim(&claim(1)).await.unwrap();
    assert!(matches!(
        claimed,
        Claimed::Present(Present::InFlight { .. })
    ));
}

/// As the last, while a question sent before the decision is on its way: its answer must not be believed.
#[tokio::test(start_paused = true)]
async fn an_answer_to_a_question_from_before_the_decision_is_not_believed() {
    let asked = Asked::new();
    let cached = confirmed(&asked).await;
    execute(&cached, &claim(1), "old").await;
    asked.hold_confirmations();
    let confirms = asked.confirms();
    while asked.confirms() == confirms {
        sleep(MILLI).await;
    }
    forget(&cached, 1).await;
    asked.let_confirmations_through();
    sleep(MILLI).await;
    let claimed = cached.claim(&claim(1)).await.unwrap();
    assert!(matches!(
        claimed,
        Claimed::Present(Present::InFlight { .. })
    ));
}

/// Read before the decision, and long on its way: kept with the generation from before it was read.
#[tokio::test(start_paused = true)]
async fn what_was_read_before_a_decision_is_kept_as_of_before() {
    let asked = Asked::new();
    let cached = confirmed(&asked).await;
    execute(asked.elsewhere(), &claim(1), "old").await;
    asked.hold_answers();
    let slow = tokio::spawn({
        let cached = cached.clone();
        async move { replayed(&cached, 1).await }
    });
    sleep(MILLI).await;
    forget(asked.elsewhere(), 1).await;
    // By now the new generation is confirmed, and the old answer arrives.
    sleep(SECOND).await;
    asked.let_answers_through();
    assert_eq!(slow.await.unwrap(), Some("old".into()));
    let claimed = cached.claim(&claim(1)).await.unwrap();
    assert!(matches!(
        claimed,
        Claimed::Present(Present::InFlight { .. })
    ));
}

/// The same for what was settled before the decision, and heard of that after it.
#[tokio::test(start_paused = true)]
async fn what_was_settled_before_a_decision_is_kept_as_of_before() {
    let asked = Asked::new();
    let cached = confirmed(&asked).await;
    let owner = claim(1);
    let Claimed::Acquired(epoch) = cached.claim(&owner).await.unwrap() else {
        panic!("acquired");
    };
    asked.hold_answers();
    let slow = tokio::spawn({
        let cached = cached.clone();
        let old = Settlement::Completed("old".into());
        async move { cached.settle(&owner, epoch, &old).await.unwrap() }
    });
    sleep(MILLI).await;
    forget(asked.elsewhere(), 1).await;
    sleep(SECOND).await;
    asked.let_answers_through();
    assert_eq!(slow.await.unwrap(), Settled::Done);
    let claimed = cached.claim(&claim(1)).await.unwrap();
    assert!(matches!(
        claimed,
        Claimed::Present(Present::InFlight { .. })
    ));
}

/// A settlement that is stale leaves nothing behind.
#[tokio::test(start_paused = true)]
async fn what_was_settled_too_late_is_not_kept() {
    let asked = Asked::new();
    let cached = confirmed(&asked).await;
    let owner = claim(1);
    let Claimed::Acquired(epoch) = cached.claim(&owner).await.unwrap() else {
        panic!("acquired");
    };
    let by_force = onlyonce::store::operator::Resolution::Forget;
    let operator = asked.elsewhere();
    onlyonce::store::Operator::resolve(operator, &owner.id, &by_force, true)
        .await
        .unwrap();
    let late = Settlement::Completed("late".into());
    cached.settle(&owner, epoch, &late).await.unwrap();
    let reads = asked.reads();
    let claimed = cached.claim(&claim(1)).await.unwrap();
    assert!(matches!(
        claimed,
        Claimed::Present(Present::InFlight { .. })
    ));
    assert_eq!(asked.reads(), reads + 1);
}

/// Up to the end of retention, and not a moment past it.
#[tokio::test(start_paused = true)]
async fn nothing_is_used_past_its_retention() {
    let asked = Asked::new();
    let cached = confirmed(&asked).await;
    execute(&cached, &claim(1), "executed here").await;
    execute(asked.elsewhere(), &claim(2), "executed elsewhere").await;
    let expiry = RETENTION.as_millis();
    replayed(&cached, 2).await;
    let started = tokio::time::Instant::now();
    sleep(RETENTION - 3 * SECOND).await;
    for number in [1, 2] {
        let reads = asked.reads();
        replayed(&cached, number).await;
        assert_eq!(asked.reads(), reads, "{number} is good until {expiry} ms");
    }
    while started.elapsed() < RETENTION - 5 * MILLI {
        replayed(&cached, 1).await;
        replayed(&cached, 2).await;
        sleep(MILLI).await;
    }
    sleep(5 * MILLI).await;
    for number in [1, 2] {
        assert!(matches!(
            cached.claim(&claim(number)).await.unwrap(),
            Claimed::Acquired(_)
        ));
    }
}

/// An owner's own record expires as it was claimed, however long its claim took.
#[tokio::test(start_paused = true)]
async fn a_claim_that_was_long_on_its_way_does_not_lengthen_retention() {
    let asked = Asked::new();
    let cached = confirmed(&asked).await;
    let owner = claim(1);
    // Written now, and answered much later.
    asked.hold_answers();
    let claiming = tokio::spawn({
        let (cached, owner) = (cached.clone(), owner.clone());
        async move { cached.claim(&owner).await.unwrap() }
    });
    sleep(40 * SECOND).await;
    asked.let_answers_through();
    let Claimed::Acquired(epoch) = claiming.await.unwrap() else {
        panic!("acquired");
    };
    let answer = Settlement::Completed("answer".into());
    cached.settle(&owner, epoch, &answer).await.unwrap();
    let Some(Present::Completed(kept)) = cached.find(&owner.id).await.unwrap() else {
        panic!("completed");
    };
    let Some(Present::Completed(record)) = asked.elsewhere().find(&owner.id).await.unwrap() else {
        panic!("completed");
    };
    assert!(kept.expires_at <= record.expires_at);
    assert!(kept.expires_at >= record.expires_at.minus(SECOND));
}

/// Long responses would drive out many short ones.
#[tokio::test(start_paused = true)]
async fn what_is_too_long_is_not_kept() {
    let asked = Asked::new();
    let cached = started(Cached::new(asked.clone()).with_entry_max(6)).await;
    for (number, answer, kept) in [(1, "answer", true), (2, "answers", false)] {
        execute(&cached, &claim(number), answer).await;
        let reads = asked.reads();
        assert_eq!(replayed(&cached, number).await, Some(answer.into()));
        assert_eq!(asked.reads() == reads, kept, "{answer}");
    }
    let none = started(Cached::new(asked.clone()).with_memory_max(0)).await;
    replayed(&none, 1).await;
    let reads = asked.reads();
    replayed(&none, 1).await;
    assert_eq!(asked.reads(), reads + 1);
}

/// What does not fit drives out what was there; the rest is asked for.
#[tokio::test(start_paused = true)]
async fn memory_is_bounded() {
    let asked = Asked::new();
    let room = 8 * 1024;
    let cached = started(Cached::new(asked.clone()).with_memory_max(room)).await;
    for number in 0..100 {
        execute(&cached, &claim(number), "an answer").await;
    }
    let mut kept = 0;
    for number in (0..100).rev() {
        let reads = asked.reads();
        replayed(&cached, number).await;
        kept += usize::from(asked.reads() == reads);
    }
    assert!((1..=room / 256).contains(&kept), "{kept} were kept");
}

/// A store that is done with is asked nothing more, and is closed at once.
#[tokio::test(start_paused = true)]
async fn a_store_that_is_dropped_leaves_no_task_behind() {
    let asked = Asked::new();
    let cached = confirmed(&asked).await;
    sleep(2 * SECOND).await;
    let confirms = asked.confirms();
    assert!(confirms >= 4, "asked twice a second: {confirms}");
    let clone = cached.clone();
    drop(cached);
    sleep(SECOND).await;
    assert!(asked.confirms() > confirms);

    // One that is waited for is no longer.
    asked.hold_confirmations();
    sleep(SECOND).await;
    drop(clone);
    sleep(MILLI).await;
    assert_eq!(asked.handles(), 1);
    let confirms = asked.confirms();
    sleep(10 * SECOND).await;
    assert_eq!(asked.confirms(), confirms);
}

/// Nobody asks a store that nobody uses.
#[tokio::test(start_paused = true)]
async fn the_task_starts_with_the_first_call() {
    let asked = Asked::new();
    let cached = Cached::new(asked.clone());
    sleep(10 * SECOND).await;
    assert_eq!(asked.confirms(), 0);
    started(cached).await;
}

/// The task went with the runtime that it ran on; the next call starts it on its own.
#[test]
fn the_task_starts_again_on_another_runtime() {
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap()
    };
    let (first, second) = (runtime(), runtime());
    let (asked, cached) = first.block_on(async {
        let asked = Asked::new();
        let cached = confirmed(&asked).await;
        (asked, cached)
    });
    drop(first);
    second.block_on(async {
        let confirms = asked.confirms();
        sleep(10 * SECOND).await;
        assert_eq!(asked.confirms(), confirms);
        started(cached).await;
    });
}

/// The contract of `confirm`, on the store in memory.
#[tokio::test]
async fn a_store_in_memory_is_of_a_generation_of_its_own() {
    let (first, second) = (Asked::new(), Asked::new());
    assert_ne!(
        first.confirm().await.unwrap().generation,
        second.confirm().await.unwrap().generation
    );
}
