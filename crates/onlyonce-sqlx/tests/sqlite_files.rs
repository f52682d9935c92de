//! The file: who may read it, which files are refused, and what happens when it goes away.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use onlyonce::store::{Claimed, Present, Store, StoreError, StoreErrorKind, Sweep};
use onlyonce::{Epoch, RecordId};
use onlyonce_sqlx::{SqliteOptions, SqliteStore};
use onlyonce_test::conformance::sample::{acquired, claim, completed, id, response};
use rusqlite::Connection;
use tempfile::TempDir;

fn directory() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn refused(path: &Path) -> StoreError {
    let refused = SqliteStore::open(path).expect_err("it cannot be opened");
    assert!(!refused.may_have_applied());
    refused
}

/// What a person reads: the error and everything below it.
fn text(error: &StoreError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

async fn complete(store: &SqliteStore, number: u16, body: Vec<u8>) {
    let owner = claim(number);
    let epoch = acquired(store.claim(&owner).await);
    store.settle(&owner, epoch, &completed(body)).await.unwrap();
}

#[tokio::test]
async fn a_new_file_is_its_owners_alone() {
    let directory = directory();
    let path = directory.path().join("onlyonce.db");
    let store = SqliteStore::open(&path).unwrap();
    acquired(store.claim(&claim(1)).await);
    for name in ["onlyonce.db", "onlyonce.db-wal", "onlyonce.db-shm"] {
        let mode = fs::metadata(directory.path().join(name))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
}

#[tokio::test]
async fn what_was_acknowledged_is_there_after_opening_again() {
    let directory = directory();
    let path = directory.path().join("onlyonce.db");
    let owner = claim(1);
    let store = SqliteStore::open(&path).unwrap();
    let epoch = acquired(store.claim(&owner).await);
    drop(store);

    let store = SqliteStore::open(&path).unwrap();
    assert_eq!(acquired(store.claim(&owner).await), epoch);
    store
        .settle(&owner, epoch, &completed("answer"))
        .await
        .unwrap();
    drop(store);

    let store = SqliteStore::open(&path).unwrap();
    assert_eq!(
        response(store.find(&owner.id).await.unwrap()),
        Some("answer".into())
    );
}

#[tokio::test]
async fn the_last_handle_writes_what_is_queued() {
    let directory = directory();
    let path = directory.path().join("onlyonce.db");
    let store = SqliteStore::open(&path).unwrap();
    let owner = claim(1);
    let epoch = acquired(store.claim(&owner).await);
    let answer = completed("answer");
    let mut settle = Box::pin(store.settle(&owner, epoch, &answer));
    // Polled once, it is in the queue; then its caller goes away, and so does the store.
    let polled = std::future::poll_fn(|cx| std::task::Poll::Ready(settle.as_mut().poll(cx))).await;
    drop(settle);
    drop((polled, store));

    let store = SqliteStore::open(&path).unwrap();
    assert_eq!(
        response(store.find(&owner.id).await.unwrap()),
        Some("answer".into())
    );
}

#[test]
fn a_path_that_leads_nowhere_is_named() {
    let directory = directory();
    let path = directory.path().join("missing").join("onlyonce.db");
    let error = refused(&path);
    assert_eq!(error.kind(), StoreErrorKind::Unavailable);
    assert!(
        text(&error).contains(path.to_str().unwrap()),
        "{}",
        text(&error)
    );
    let error = refused(directory.path());
    assert_eq!(error.kind(), StoreErrorKind::Unavailable);
    assert!(
        text(&error).contains("must be writable"),
        "{}",
        text(&error)
    );
}

#[test]
fn what_is_not_a_database_is_left_alone() {
    let directory = directory();
    let path = directory.path().join("letter.txt");
    let letter = "Dear customer, ".repeat(1000);
    fs::write(&path, &letter).unwrap();
    let error = refused(&path);
    assert_eq!(
        error.kind(),
        StoreErrorKind::Incompatible,
        "{}",
        text(&error)
    );
    assert_eq!(fs::read_to_string(&path).unwrap(), letter);
}

#[test]
fn another_programs_database_is_left_alone() {
    let directory = directory();
    let path = directory.path().join("shop.db");
    let shop = Connection::open(&path).unwrap();
    shop.execute_batch("create table record (price integer)")
        .unwrap();
    drop(shop);
    let error = refused(&path);
    assert_eq!(error.kind(), StoreErrorKind::Incompatible);
    assert!(text(&error).contains("another program"), "{}", text(&error));
    let shop = Connection::open(&path).unwrap();
    let tables: i64 = shop
        .query_row("select count(*) from sqlite_schema", [], |row| row.get(0))
        .unwrap();
    assert_eq!(tables, 1);
}

/// A newer program only added something: this one works on. A newer major version is refused.
#[tokio::test]
async fn a_newer_schema_is_used_and_a_newer_major_version_refused() {
    let directory = directory();
    let path = directory.path().join("onlyonce.db");
    drop(SqliteStore::open(&path).unwrap());
    let newer = Connection::open(&path).unwrap();
    newer
        .execute_batch("alter table record add column note text; pragma user_version = 2003")
        .unwrap();
    let store = SqliteStore::open(&path).unwrap();
    complete(&store, 1, b"answer".to_vec()).await;
    assert_eq!(
        response(store.find(&id(1)).await.unwrap()),
        Some("answer".into())
    );
    drop(store);

    newer.execute_batch("pragma user_version = 3001").unwrap();
    let error = refused(&path);
    assert_eq!(error.kind(), StoreErrorKind::Incompatible);
    assert!(text(&error).contains("3001"), "{}", text(&error));
}

#[test]
fn one_new_file_may_be_opened_by_many_at_once() {
    let directory = directory();
    let path = directory.path().join("onlyonce.db");
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| SqliteStore::open(&path).unwrap());
        }
    });
}

/// SQLite would go on writing into a file that has no name any more.
#[tokio::test]
async fn a_file_that_was_replaced_takes_no_claims() {
    let directory = directory();
    let path = directory.path().join("onlyonce.db");
    let store = SqliteStore::open(&path).unwrap();
    acquired(store.claim(&claim(1)).await);
    fs::rename(&path, directory.path().join("old.db")).unwrap();
    for _ in 0..2 {
        let error = store
            .claim(&claim(2))
            .await
            .expect_err("nobody would find it again");
        assert_eq!(error.kind(), StoreErrorKind::Unavailable);
        assert!(!error.may_have_applied());
        assert!(text(&error).contains("restart"), "{}", text(&error));
        // Another file in its place is another file.
        fs::write(&path, "").unwrap();
    }
}

/// Nor may it write into a log that nobody else will read.
#[tokio::test]
async fn a_file_whose_log_was_deleted_takes_no_claims() {
    for suffix in ["-wal", "-shm"] {
        let directory = directory();
        let path = directory.path().join("onlyonce.db");
        let store = SqliteStore::open(&path).unwrap();
        acquired(store.claim(&claim(1)).await);
        fs::remove_file(directory.path().join(format!("onlyonce.db{suffix}"))).unwrap();
        let error = store
            .claim(&claim(2))
            .await
            .expect_err("others would not see it");
        assert!(!error.may_have_applied());
        assert!(text(&error).contains(suffix), "{}", text(&error));
        drop(store);
        // What was acknowledged before is not lost.
        let store = SqliteStore::open(&path).unwrap();
        assert!(store.find(&id(1)).await.unwrap().is_some(), "{suffix}");
    }
}

/// A file whose pages were overwritten fails claims; it neither panics nor acquires.
#[tokio::test]
async fn a_damaged_file_is_an_error() {
    let directory = directory();
    let path = directory.path().join("onlyonce.db");
    let store = SqliteStore::open(&path).unwrap();
    for number in 0..100 {
        complete(&store, number, vec![7; 500]).await;
    }
    drop(store);
    let length = fs::metadata(&path).unwrap().len();
    let mut bytes = fs::read(&path).unwrap();
    bytes[4096..].fill(0xFF);
    fs::write(&path, bytes).unwrap();
    assert!(length > 8192);

    let store = SqliteStore::open(&path).unwrap();
    let error = store.claim(&claim(1)).await.expect_err("it cannot be read");
    assert_eq!(
        error.kind(),
        StoreErrorKind::Incompatible,
        "{}",
        text(&error)
    );
    assert!(store.find(&id(1)).await.is_err());
    assert!(store.sweep(10).await.is_err());
}

/// A row that another version, or somebody by hand, wrote.
#[tokio::test]
async fn a_state_that_is_not_known_is_an_error() {
    let directory = directory();
    let path = directory.path().join("onlyonce.db");
    let store = SqliteStore::open(&path).unwrap();
    acquired(store.claim(&claim(1)).await);
    Connection::open(&path)
        .unwrap()
        .execute("update record set state = 9", [])
        .unwrap();
    let error = store
        .claim(&claim(1))
        .await
        .expect_err("nobody knows what 9 means");
    assert_eq!(error.kind(), StoreErrorKind::Incompatible);
    assert!(!error.may_have_applied());
    assert!(store.find(&id(1)).await.is_err());
    acquired(store.claim(&claim(2)).await);
}

/// Behind a lock that does not go away, requests fail, and fail one by one once the queue is full.
#[tokio::test]
async fn a_locked_file_is_a_time_out_and_a_full_queue_refuses() {
    let directory = directory();
    let path = directory.path().join("onlyonce.db");
    let options = SqliteOptions::new(&path).with_queue_max(1);
    let store = options
        .with_busy_max(Duration::from_millis(500))
        .open()
        .unwrap();
    acquired(store.claim(&claim(1)).await);
    let foreign = Connection::open(&path).unwrap();
    foreign.execute_batch("begin immediate").unwrap();

    let (first, second, third) = (claim(2), claim(3), claim(4));
    let answers = [&first, &second, &third].map(|claim| {
        let (store, claim) = (store.clone(), claim.clone());
        tokio::spawn(async move { store.claim(&claim).await })
    });
    let mut kinds = Vec::new();
    for answer in answers {
        let error = answer.await.unwrap().expect_err("the file is locked");
        assert!(error.is_transient());
        assert!(!error.may_have_applied());
        kinds.push(error.kind());
    }
    // At least one waited for the lock; what found no place was refused at once.
    assert!(kinds.contains(&StoreErrorKind::Timeout), "{kinds:?}");
    assert!(kinds.contains(&StoreErrorKind::Unavailable), "{kinds:?}");

    foreign.execute_batch("rollback").unwrap();
    for claim in [first, second, third] {
        assert_eq!(
            store.claim(&claim).await.unwrap(),
            Claimed::Acquired(Epoch::FIRST)
        );
    }
}

#[tokio::test]
async fn the_log_stays_bounded() {
    let directory = directory();
    let path = directory.path().join("onlyonce.db");
    let store = SqliteStore::open(&path).unwrap();
    for number in 0..100 {
        complete(&store, number, vec![7; 1 << 20]).await;
    }
    let log = fs::metadata(directory.path().join("onlyonce.db-wal"))
        .unwrap()
        .len();
    assert!(log < 32 << 20, "the log has {log} bytes after 100 MiB");
}

/// Times of the wall clock, where nobody injects another.
#[tokio::test]
async fn a_lease_lapses_by_the_systems_clock() {
    let directory = directory();
    let store = SqliteStore::open(directory.path().join("onlyonce.db")).unwrap();
    let mut owner = claim(1);
    owner.lease = Duration::from_millis(1);
    acquired(store.claim(&owner).await);
    tokio::time::timeout(Duration::from_secs(10), async {
        while !matches!(find(&store, &owner.id).await, Some(Present::Unknown { .. })) {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("it lapses after a millisecond");
}

async fn find(store: &SqliteStore, id: &RecordId) -> Option<Present> {
    store.find(id).await.unwrap()
}
