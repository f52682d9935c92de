//! PgBouncer in transaction mode, which knows no prepared statements and shares its connections.

use onlyonce::store::{Claimed, Settled, Store, StoreErrorKind};
use onlyonce_sqlx::PostgresStore;
use onlyonce_test::conformance::sample::{acquired, claim, completed, response, rival};

use crate::fixture::{Postgres, connect, run, settings, value};

/// 64 at once on two server connections: each statement's halves must meet the same one.
#[tokio::test]
async fn sixty_four_requests_share_two_server_connections() {
    let f = Postgres::behind_pgbouncer().await;
    let mut working = tokio::task::JoinSet::new();
    for number in 0..64_u16 {
        let store = if number % 2 == 0 { &f.store } else { &f.second };
        let store = store.clone();
        working.spawn(async move {
            let owner = claim(number / 4);
            match store.claim(&owner).await.unwrap() {
                Claimed::Acquired(epoch) => {
                    let answer = completed(number.to_string());
                    let settled = store.settle(&owner, epoch, &answer).await;
                    assert_eq!(settled.unwrap(), Settled::Done);
                    1
                }
                Claimed::Present(_) => 0,
            }
        });
    }
    let won: usize = working.join_all().await.into_iter().sum();
    assert_eq!(won, 16);
    let backends = "select count(*) from pg_stat_activity \
         where datname = current_database() and pid <> pg_backend_pid()";
    assert!(value::<i64>(&mut *f.admin.lock().await, backends).await <= 2);
    let found = f.store.find(&claim(0).id).await.unwrap();
    assert!(response(found).is_some());
}

/// F15: the pooler drops and renews its connections under load.
#[tokio::test]
async fn a_pooler_that_reconnects_and_kills_loses_no_claim() {
    let f = Postgres::behind_pgbouncer().await;
    let mut working = tokio::task::JoinSet::new();
    for part in 0..4_u16 {
        let store = f.store.clone();
        working.spawn(async move {
            for number in 0..30 {
                let owner = claim(part * 100 + number);
                // A pooler that is told to kill refuses for a moment: callers then repeat.
                while let Err(error) = store.claim(&owner).await {
                    assert_eq!(error.kind(), StoreErrorKind::Unavailable);
                    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                }
            }
        });
    }
    let bouncer = f.bouncer.as_ref().unwrap();
    let mut console = connect(&bouncer.admin_url()).await;
    for _ in 0..5 {
        for command in ["RECONNECT", "KILL", "RESUME"] {
            let database = if command == "RECONNECT" {
                ""
            } else {
                f.database.name()
            };
            run(&mut console, &format!("{command} {database}")).await;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    working.join_all().await;
    let all = "select count(*) from onlyonce_records where epoch = 1 and state = 1";
    assert_eq!(value::<i64>(&mut *f.admin.lock().await, all).await, 120);
}

#[tokio::test]
async fn a_pooler_that_the_settings_do_not_mention_is_recognised() {
    let f = Postgres::behind_pgbouncer().await;
    let port = f.bouncer.as_ref().unwrap().port();
    let store = PostgresStore::open(settings(&f.database.url_at(port)));
    let error = store.claim(&rival(&claim(1))).await.unwrap_err();
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(source.contains("pooler=transaction"), "{source}");
    acquired(f.store.claim(&claim(1)).await);

    // Where they mention it, and something else is wrong, that is what is said.
    let url = f
        .database
        .url_at(port)
        .replace(f.database.name(), "nowhere");
    let store = PostgresStore::open(settings(&format!("{url}?pooler=transaction")));
    let error = store.claim(&rival(&claim(1))).await.unwrap_err();
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(source.contains("nowhere"), "{source}");
    assert!(!source.contains("pooler=transaction"), "{source}");
}
