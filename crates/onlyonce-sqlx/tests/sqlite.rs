//! The conformance suite on SQLite: two handles to one file, each with its own connections; with groups and without.

use std::path::PathBuf;
use std::time::Duration;

use onlyonce::RecordId;
use onlyonce::clock::ManualClock;
use onlyonce::store::{Settled, Store};
use onlyonce_sqlx::{SqliteOptions, SqliteStore};
use onlyonce_test::conformance::{Fixture, sample};
use tempfile::TempDir;

const BYTES_MAX: usize = 8 << 20;

struct Sqlite {
    store: SqliteStore,
    second: SqliteStore,
    clock: ManualClock,
    path: PathBuf,
    // Deleted after the stores are closed: fields are dropped in order.
    _directory: TempDir,
}

async fn sqlite() -> Sqlite {
    opened(true)
}

fn opened(group_commit: bool) -> Sqlite {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("onlyonce.db");
    let clock = ManualClock::default();
    let options = SqliteOptions::new(&path)
        .with_clock(clock.clone())
        .with_group_commit(group_commit)
        .with_bytes_max(u64::try_from(BYTES_MAX).unwrap());
    Sqlite {
        store: options.open().unwrap(),
        second: options.open().unwrap(),
        clock,
        path,
        _directory: directory,
    }
}

impl Fixture for Sqlite {
    type Store = SqliteStore;

    fn store(&self) -> &SqliteStore {
        &self.store
    }

    fn second(&self) -> &SqliteStore {
        &self.second
    }

    async fn advance(&self, by: Duration) {
        self.clock.advance(by);
    }

    async fn lose_response(&self, id: &RecordId) -> bool {
        let connection = rusqlite::Connection::open(&self.path).unwrap();
        let sql = "delete from response where record = (select number from record where id = ?1)";
        assert_eq!(connection.execute(sql, [id.as_bytes()]).unwrap(), 1);
        true
    }

    async fn fill(&self) -> bool {
        let large = sample::claim(60_000);
        let epoch = sample::acquired(self.store.claim(&large).await);
        let body = sample::completed(vec![0; BYTES_MAX]);
        let settled = self.store.settle(&large, epoch, &body).await.unwrap();
        assert_eq!(settled, Settled::Done);
        true
    }
}

onlyonce_test::store_conformance!(sqlite);

mod alone {
    use super::{Sqlite, opened};

    async fn sqlite() -> Sqlite {
        opened(false)
    }

    onlyonce_test::store_conformance!(sqlite);
}
