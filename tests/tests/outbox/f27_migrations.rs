//! F27: migrations that are cut, killed, cancelled and doubled: nothing is half-made, nothing stays locked, and the
//! next one succeeds.

use onlyonce_outbox::{migrate, schema};
use onlyonce_test::event::{Gate, within};
use onlyonce_test::fault::{Action, PgFault};
use onlyonce_test::postgres::ask::{eventually, run, value, waiting};
use onlyonce_test::process::Launch;
use sqlx::ConnectOptions;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use tokio::task::JoinSet;

use crate::shop::Shop;
use crate::writers::commit;

/// Tables, sequences, indexes, views.
const MADE: &str =
    "select count(*) from pg_class where relname like 'onlyonce\\_%' and relkind <> 't'";
/// Tables of a day that no partitioned table has.
const STRAY: &str = "select count(*) from pg_class where relname ~ '^onlyonce_outbox_event_[0-9]{8}$' \
     and relkind = 'r' and not relispartition";
const UNLOCKED: &str = "select count(*) = 0 from pg_locks \
     where locktype = 'advisory' and database = (select oid from pg_database where datname = current_database())";

/// All or nothing: either there is no trace of a migration, or the tables can be used.
async fn assert_whole(admin: &mut PgConnection, when: &str) -> bool {
    eventually(admin, "the locks to be free", UNLOCKED).await;
    let made: i64 = value(admin, MADE).await;
    let usable = schema::check(admin).await.is_ok();
    assert!(usable || made == 0, "{made} things are half made, {when}");
    if usable {
        assert_eq!(value::<i64>(admin, STRAY).await, 0, "stray days, {when}");
    }
    usable
}

/// The connection is lost before each statement, and after each.
#[tokio::test]
async fn f27_a_migration_that_is_cut_anywhere_is_whole_or_was_not() {
    let shop = Shop::without_tables().await;
    let fault = PgFault::start(&shop.database.url()).await;
    let through: PgConnectOptions = fault.url().parse().expect("a URL");
    let mut admin = shop.database.connect().await;
    let (mut outcomes, mut cuts) = ([0, 0], 0);
    for action in [Action::CutBefore, Action::CutAfter] {
        for number in 0.. {
            run(
                &mut admin,
                "drop schema public cascade; create schema public",
            )
            .await;
            let mut connection = through.clone().connect().await.expect("a connection");
            let mut left = number;
            let nth = move |_: &str| {
                left -= 1;
                left < 0
            };
            let nth = std::sync::Mutex::new(nth);
            let cut = fault.on_next(
                move |sql| (nth.lock().expect("nothing panics"))(sql),
                action.clone(),
            );
            let migrated = within("the migration to end", migrate(&mut connection)).await;
            let when = format!("{action:?} of statement {number}");
            let usable = assert_whole(&mut admin, &when).await;
            if cut.hits() == 0 {
                cut.stop();
                migrated.expect("nothing was cut");
                break;
            }
            assert!(migrated.is_err(), "{when}");
            outcomes[usize::from(usable)] += 1;
            cuts += 1;
            migrate(&mut admin).await.expect("the next one succeeds");
            assert!(assert_whole(&mut admin, &when).await, "{when}");
        }
    }
    println!("{cuts} cuts; left nothing and left all: {outcomes:?}");
    assert!(outcomes.iter().all(|count| *count > 3), "{outcomes:?}");
}

/// As a process, while it holds the lock that all migrations take.
#[tokio::test]
async fn f27_a_migration_that_is_killed_or_cancelled_leaves_nothing() {
    let shop = Shop::without_tables().await;
    let mut admin = shop.database.connect().await;
    let mut other = shop.database.connect().await;
    for end in ["kill -9", "pg_cancel_backend", "pg_terminate_backend"] {
        // It comes no further than to this table.
        run(&mut other, "begin; create table onlyonce_outbox_schema ()").await;
        let mut migration = shop.migrate().spawn();
        eventually(&mut admin, "the migration to wait", &waiting(1)).await;
        assert!(!value::<bool>(&mut admin, UNLOCKED).await);
        if end == "kill -9" {
            migration.kill().await;
        } else {
            let end = format!(
                "select {end}(pid) from pg_stat_activity \
                 where datname = current_database() and wait_event_type = 'Lock'"
            );
            assert!(value::<bool>(&mut admin, &end).await);
            assert_eq!(migration.exited().await.code(), Some(1));
            migration.logged("the database failed").await;
        }
        // A killed client is noticed when the server has something to say to it.
        run(&mut other, "rollback").await;
        assert!(!assert_whole(&mut admin, end).await);
    }
    // And in the middle of its tables.
    let fault = PgFault::start(&shop.database.url()).await;
    let gate = Gate::default();
    let making = |sql: &str| sql.contains("create table onlyonce_outbox_cursor");
    let held = fault.on_next(making, Action::Hold(gate.clone()));
    let mut migration = Launch::of(["migrate", "--outbox", "--database", fault.url()]).spawn();
    within("the statement", held.happened(1)).await;
    migration.kill().await;
    gate.open();
    assert!(!assert_whole(&mut admin, "killed in the middle").await);

    let mut migrations = JoinSet::new();
    for _ in 0..4 {
        let migration = shop.migrate();
        migrations.spawn(async move { migration.output().await });
    }
    for output in migrations.join_all().await {
        assert!(output.status.success(), "{output:?}");
    }
    assert!(assert_whole(&mut admin, "in the end").await);
    crate::shop::number(&mut admin).await;
    assert_eq!(
        commit(&mut admin, ["1".to_owned()].into_iter()).await.len(),
        1
    );
}
