//! Batches by hand: what fails alone, what fails together, and what is certain afterwards.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use onlyonce::clock::ManualClock;
use onlyonce::store::operator::{FREED_REST, Resolution, Resolved};
use onlyonce::store::{Claim, Claimed, Present, Settled, StoreErrorKind};
use onlyonce::{Epoch, Timestamp};
use onlyonce_test::conformance::sample::{claim, completed, rival};
use tempfile::TempDir;

use super::*;
use crate::sqlite::connection;
use crate::sqlite::row::Record;
use crate::sqlite::writes::{BeginRest, Claiming, Resolve, Settle};

type Answer<T> = oneshot::Receiver<Result<T, StoreError>>;

fn open() -> (WriterThread, TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let options = SqliteOptions::new(directory.path().join("onlyonce.db"));
    let opened = connection::open_for_writing(&options).unwrap();
    let thread = WriterThread {
        connection: opened.connection,
        file: opened.file,
        clock: Arc::new(ManualClock::default()),
        bytes_max: None,
        batch_max: BATCH_REQUESTS_MAX,
    };
    (thread, directory)
}

fn request<W: Write>(write: W) -> (Box<dyn Waiting>, Answer<W::Answer>) {
    let (caller, answer) = oneshot::channel();
    let request = Request {
        write,
        caller,
        runtime: None,
        answer: None,
    };
    (Box::new(request), answer)
}

/// Runs SQL after a claim's own writes, so that there is something to roll back.
struct Then(Claim, &'static str);

impl Write for Then {
    type Answer = Claiming;

    fn run(&self, batch: Batch<'_>) -> Result<Claiming, Fault> {
        let claimed = self.0.run(batch)?;
        batch.connection.execute_batch(self.1)?;
        Ok(claimed)
    }
}

fn exists(thread: &WriterThread, claim: &Claim) -> bool {
    Record::load(&thread.connection, &claim.id)
        .unwrap()
        .is_some()
}

#[test]
fn a_request_that_fails_does_so_alone() {
    let (thread, _directory) = open();
    let (first, mut first_answer) = request(claim(1));
    let failing = Then(claim(2), "insert into nowhere values (1)");
    let (failing, mut failing_answer) = request(failing);
    let (last, mut last_answer) = request(claim(3));
    thread.write(vec![first, failing, last]);

    for answer in [&mut first_answer, &mut last_answer] {
        let answer = answer.try_recv().unwrap().unwrap();
        assert_eq!(answer, Claiming::Told(Claimed::Acquired(Epoch::FIRST)));
    }
    let error = failing_answer.try_recv().unwrap().unwrap_err();
    assert!(!error.may_have_applied());
    assert!(exists(&thread, &claim(1)) && exists(&thread, &claim(3)));
    assert!(
        !exists(&thread, &claim(2)),
        "its claim is rolled back with the rest of it"
    );
}

/// SQLite itself ends the transaction: what ran before the failure must not be answered as done.
#[test]
fn a_request_that_ends_the_transaction_fails_all() {
    let (thread, _directory) = open();
    let (first, mut first_answer) = request(claim(1));
    let ending = Then(claim(2), "rollback; insert into nowhere values (1)");
    let (ending, mut ending_answer) = request(ending);
    let (last, mut last_answer) = request(claim(3));
    thread.write(vec![first, ending, last]);

    for answer in [&mut first_answer, &mut ending_answer, &mut last_answer] {
        assert!(!answer.try_recv().unwrap().unwrap_err().may_have_applied());
    }
    assert!(!exists(&thread, &claim(1)));
    let (again, mut answer) = request(claim(1));
    thread.write(vec![again]);
    assert!(
        answer.try_recv().unwrap().is_ok(),
        "the next batch has a transaction of its own"
    );
}

/// After COMMIT failed nobody may say "not written".
#[test]
fn a_failed_commit_is_uncertain_for_all() {
    let (thread, _directory) = open();
    thread
        .connection
        .execute_batch(
            "create table parent (id integer primary key);
             create table child (id references parent (id) deferrable initially deferred);
             pragma foreign_keys = on",
        )
        .unwrap();
    let (first, mut first_answer) = request(claim(1));
    let (orphan, mut orphan_answer) = request(Then(claim(2), "insert into child values (1)"));
    thread.write(vec![first, orphan]);

    for answer in [&mut first_answer, &mut orphan_answer] {
        assert!(answer.try_recv().unwrap().unwrap_err().may_have_applied());
    }
    assert!(
        thread.connection.is_autocommit(),
        "no transaction is left open"
    );
    assert!(!exists(&thread, &claim(1)));
}

#[test]
fn a_full_disk_refuses_and_recovers() {
    let (thread, _directory) = open();
    thread
        .connection
        .execute_batch("pragma max_page_count = 12")
        .unwrap();
    let mut acknowledged = Vec::new();
    let refused = (0..1000).map(claim).find_map(|claim| {
        let (request, mut answer) = request(claim.clone());
        thread.write(vec![request]);
        match answer.try_recv().unwrap() {
            Ok(_) => {
                acknowledged.push(claim);
                None
            }
            Err(error) => Some((claim, error)),
        }
    });
    let (refused, error) = refused.expect("12 pages hold fewer than 1000 records");
    assert_eq!(error.kind(), StoreErrorKind::Full);
    assert!(!error.may_have_applied());
    assert!(!exists(&thread, &refused));
    assert!(acknowledged.iter().all(|claim| exists(&thread, claim)));

    thread
        .connection
        .execute_batch("pragma max_page_count = 1000")
        .unwrap();
    let (again, mut answer) = request(refused);
    thread.write(vec![again]);
    assert!(answer.try_recv().unwrap().is_ok());
}

#[test]
fn a_read_only_file_is_full() {
    let (thread, _directory) = open();
    thread
        .connection
        .execute_batch("pragma query_only = on")
        .unwrap();
    let (request, mut answer) = request(claim(1));
    thread.write(vec![request]);
    let error = answer.try_recv().unwrap().unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Full);
    assert!(!error.may_have_applied());
}

#[test]
fn another_processs_lock_is_a_time_out() {
    let (thread, directory) = open();
    let limit = Duration::from_millis(50);
    thread.connection.busy_timeout(limit).unwrap();
    let foreign = Connection::open(directory.path().join("onlyonce.db")).unwrap();
    foreign.execute_batch("begin immediate").unwrap();
    let (request, mut answer) = request(claim(1));
    thread.write(vec![request]);
    let error = answer.try_recv().unwrap().unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Timeout);
    assert!(!error.may_have_applied());
}

/// A claim whose caller left before its turn would be an orphan; a settlement is wanted all the same.
#[test]
fn a_claim_that_nobody_waits_for_is_left_out() {
    let (thread, _directory) = open();
    let (dropped, answer) = request(claim(1));
    drop(answer);
    let (waiting, _answer) = request(claim(2));
    let (sender, receiver) = std::sync::mpsc::channel();
    sender.send(dropped).unwrap();
    sender.send(waiting).unwrap();
    drop(sender);
    thread.run(&receiver);
    assert!(!exists(&thread, &claim(1)));
    assert!(exists(&thread, &claim(2)));
}

/// A claim that shares its transaction with a decision sees it before anybody else can. Were its rest begun then, it
/// would pass while the commit waits for the disk.
#[test]
fn no_rest_begins_in_the_transaction_of_its_decision() {
    let (mut thread, _directory) = open();
    let clock = Arc::new(ManualClock::default());
    thread.clock = Arc::<ManualClock>::clone(&clock);
    let (first, _answer) = request(claim(1));
    thread.write(vec![first]);

    let forget = Resolve {
        id: claim(1).id,
        resolution: Resolution::Forget,
        force: true,
    };
    let (forget, mut forgotten) = request(forget);
    let (second, mut second_answer) = request(rival(&claim(1)));
    thread.write(vec![forget, second]);
    let epoch = Epoch::new(2);
    assert_eq!(
        forgotten.try_recv().unwrap().unwrap(),
        Resolved::Done(epoch)
    );
    let told = second_answer.try_recv().unwrap().unwrap();
    assert_eq!(told, Claiming::RestNotBegun(epoch));

    // However long that took.
    clock.advance(FREED_REST * 100);
    let begin = BeginRest {
        id: claim(1).id,
        epoch,
    };
    let (begin, _answer) = request(begin);
    let (third, mut third_answer) = request(rival(&claim(1)));
    thread.write(vec![begin, third]);
    let told = third_answer.try_recv().unwrap().unwrap();
    let resting = Present::InFlight {
        lease_remaining: FREED_REST,
    };
    assert_eq!(told, Claiming::Told(Claimed::Present(resting)));

    clock.advance(FREED_REST);
    let (last, mut last_answer) = request(rival(&claim(1)));
    thread.write(vec![last]);
    let told = last_answer.try_recv().unwrap().unwrap();
    assert_eq!(told, Claiming::Told(Claimed::Acquired(Epoch::new(3))));
}

/// A clock that shows how often it was read.
#[derive(Debug, Default)]
struct Counting(AtomicI64);

impl Clock for Counting {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(self.0.fetch_add(1, Ordering::SeqCst))
    }
}

#[test]
fn all_that_waits_shares_a_transaction() {
    let (mut thread, _directory) = open();
    let clock = Arc::new(Counting::default());
    thread.clock = Arc::<Counting>::clone(&clock);
    let (sender, receiver) = std::sync::mpsc::channel();
    let mut answers = Vec::new();
    for number in 0..600 {
        let (request, answer) = request(claim(number));
        sender.send(request).unwrap();
        answers.push(answer);
    }
    drop(sender);
    thread.run(&receiver);
    for mut answer in answers {
        assert!(answer.try_recv().unwrap().is_ok());
    }
    // 600 requests in batches of at most 256: the time was read once in each.
    assert_eq!(clock.0.load(Ordering::SeqCst), 3);
}

/// A full store settles what it has, and refuses what is new, without doing either twice.
#[test]
fn a_full_store_runs_a_batch_once() {
    let (mut thread, _directory) = open();
    let owner = claim(1);
    let (first, _answer) = request(owner.clone());
    thread.write(vec![first]);
    thread.bytes_max = Some(1);
    let clock = Arc::new(Counting::default());
    thread.clock = Arc::<Counting>::clone(&clock);

    let settle = Settle {
        claim: owner.clone(),
        epoch: Epoch::FIRST,
        settlement: completed("answer"),
    };
    let (refused, mut refused_answer) = request(claim(2));
    let (settle, mut settled) = request(settle);
    let (known, mut known_answer) = request(rival(&owner));
    thread.write(vec![refused, settle, known]);
    let error = refused_answer.try_recv().unwrap().unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Full);
    assert!(!error.may_have_applied());
    assert_eq!(settled.try_recv().unwrap().unwrap(), Settled::Done);
    let told = known_answer.try_recv().unwrap().unwrap();
    assert!(matches!(
        told,
        Claiming::Told(Claimed::Present(Present::Completed(_)))
    ));
    assert_eq!(clock.0.load(Ordering::SeqCst), 1, "one transaction");
}

#[test]
fn every_commit_is_synced() {
    let (thread, _directory) = open();
    let pragma = |name| -> String {
        let read = |row: &rusqlite::Row<'_>| row.get::<_, rusqlite::types::Value>(0);
        let value = thread
            .connection
            .pragma_query_value(None, name, read)
            .unwrap();
        match value {
            rusqlite::types::Value::Text(text) => text,
            other => format!("{other:?}"),
        }
    };
    assert_eq!(pragma("journal_mode"), "wal");
    assert_eq!(pragma("synchronous"), "Integer(2)", "2 is FULL");
}
