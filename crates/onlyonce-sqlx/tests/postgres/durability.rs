//! A commit waits for the disk, whatever the database's setting says.

use std::path::PathBuf;
use std::time::Duration;

use onlyonce::Epoch;
use onlyonce::store::{Claimed, Present, Store, StoreErrorKind};
use onlyonce_sqlx::PostgresStore;
use onlyonce_test::conformance::sample::{acquired, claim, completed, present, response, rival};
use onlyonce_test::event::within;
use onlyonce_test::pgbouncer::PgBouncer;
use onlyonce_test::postgres::{Cluster, Options, find_bin_dirs};

use crate::fixture::{Postgres, connect, run, settings, value};

pub(crate) fn bin_dir() -> PathBuf {
    let found = find_bin_dirs().into_iter().next();
    found.expect("a Postgres is installed: `cargo xtask test --install` sees to it")
}

/// A server that keeps commits in its own memory until it feels like writing them, and is then killed. (What
/// it wrote survives the kill, synced or not: the machine goes on.)
fn careless() -> Cluster {
    Options::default()
        .fsync(false)
        .set("synchronous_commit", "off")
        .set("wal_writer_delay", "10s")
        .set("wal_writer_flush_after", "0")
        .set("autovacuum", "off")
        .start(&bin_dir())
        .unwrap()
}

#[tokio::test]
async fn an_acknowledged_claim_and_settlement_survive_a_crash_of_a_careless_server() {
    for pooled in [false, true] {
        let mut cluster = careless();
        let bouncer = pooled.then(|| PgBouncer::start(cluster.port(), 2).unwrap());
        let direct = cluster.url("postgres");
        let url = bouncer.as_ref().map_or_else(
            || direct.clone(),
            |bouncer| {
                let port = bouncer.port();
                format!("postgres://postgres@127.0.0.1:{port}/postgres?pooler=transaction")
            },
        );
        let store = PostgresStore::connect(settings(&url)).await.unwrap();
        let (owner, other) = (claim(1), claim(2));
        let epoch = acquired(store.claim(&owner).await);
        store
            .settle(&owner, epoch, &completed("answer"))
            .await
            .unwrap();
        acquired(store.claim(&other).await);
        cluster.stop_immediate().unwrap();
        cluster.start_again().unwrap();

        let store = PostgresStore::open(settings(&direct));
        let found = store.find(&owner.id).await.unwrap();
        assert_eq!(response(found), Some("answer".into()), "pooled: {pooled}");
        let found = store.find(&other.id).await.unwrap();
        assert!(
            matches!(found, Some(Present::InFlight { .. })),
            "pooled: {pooled}"
        );
    }
}

/// That the test above can fail: a plain insertion on such a server is lost.
#[tokio::test]
async fn an_insertion_that_asks_for_nothing_is_lost_in_the_same_crash() {
    let mut cluster = careless();
    let url = cluster.url("postgres");
    let store = PostgresStore::connect(settings(&url)).await.unwrap();
    // Commits of the store flush what was before them.
    acquired(store.claim(&claim(1)).await);
    let mut careless = connect(&url).await;
    run(
        &mut careless,
        "create table t (n int); insert into t values (1)",
    )
    .await;
    cluster.stop_immediate().unwrap();
    cluster.start_again().unwrap();
    let mut after = connect(&url).await;
    assert!(value::<bool>(&mut after, "select to_regclass('t') is null").await);
}

/// F7, F11: the synchronous standby is gone, so commits wait, written but invisible. The repeat conflicts
/// with the first try's row instead of not finding it; nothing is cancelled (a cancelled wait says that it
/// committed, P3), and the server is not flooded with connections.
#[tokio::test]
async fn a_commit_that_waits_for_its_standby_is_a_timeout_and_found_by_its_repeat() {
    let cluster = Options::default().fsync(false).start(&bin_dir()).unwrap();
    let url = settings(&cluster.url("postgres"));
    let reader = PostgresStore::connect(url.clone()).await.unwrap();
    let mut admin = connect(&cluster.url("postgres")).await;
    run(
        &mut admin,
        "alter system set synchronous_standby_names = 'ghost'",
    )
    .await;
    run(&mut admin, "select pg_reload_conf()").await;

    let store = PostgresStore::open(
        url.with_connections(4)
            .with_call_timeout(Duration::from_millis(300)),
    );
    let owner = claim(1);
    let (mut tries, hanging) = (
        0,
        "select count(*) from pg_stat_activity where wait_event = 'SyncRep'",
    );
    while value::<i64>(&mut admin, hanging).await == 0 {
        // The new setting may arrive a moment after the first try; its claim is then simply there.
        tries += 1;
        let claimed = store.claim(&claim(100 + tries)).await;
        assert!(claimed.is_ok() || claimed.unwrap_err().may_have_applied());
    }
    let error = store.claim(&owner).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Timeout);
    assert!(error.may_have_applied());
    for round in 0..5 {
        let mut claiming = tokio::task::JoinSet::new();
        for number in 0..4 {
            for claim in [rival(&owner), claim(200 + 10 * round + number)] {
                let store = store.clone();
                claiming.spawn(async move { store.claim(&claim).await.unwrap_err() });
            }
        }
        for error in claiming.join_all().await {
            assert_eq!(error.kind(), StoreErrorKind::Timeout);
        }
    }
    // Four for calls, and four aside.
    let sessions = "select count(*) from pg_stat_activity \
         where application_name = 'onlyonce' and state <> 'idle'";
    assert!(value::<i64>(&mut admin, sessions).await <= 8);

    run(&mut admin, "alter system reset synchronous_standby_names").await;
    run(&mut admin, "select pg_reload_conf()").await;
    let repeated = within("the repeat is acquired", async {
        loop {
            match store.claim(&owner).await {
                Ok(claimed) => break claimed,
                Err(error) => assert!(error.is_transient()),
            }
        }
    })
    .await;
    assert_eq!(repeated, Claimed::Acquired(Epoch::FIRST));
    let present = present(reader.claim(&rival(&owner)).await);
    assert!(matches!(present, Present::InFlight { .. }));
}

#[tokio::test]
async fn a_stricter_setting_is_never_lowered() {
    let f = Postgres::fresh().await;
    f.run(
        "create table levels (level text); \
         create function note_level() returns trigger language plpgsql as $$ begin \
         insert into levels values (current_setting('synchronous_commit')); return new; end $$; \
         create trigger note_level before insert or update on onlyonce_records \
         for each row execute function note_level()",
    )
    .await;
    let cases = [
        ("off", "on"),
        ("local", "on"),
        ("remote_write", "remote_write"),
        ("on", "on"),
        ("remote_apply", "remote_apply"),
    ];
    for (number, (set, effective)) in (1..).zip(cases) {
        let name = f.database.name();
        f.run(&format!(
            "alter database {name} set synchronous_commit = {set}; truncate levels"
        ))
        .await;
        let store = f.another(|settings| settings);
        let owner = claim(number);
        let epoch = acquired(store.claim(&owner).await);
        store
            .settle(&owner, epoch, &completed("answer"))
            .await
            .unwrap();
        let noted = "select string_agg(level, ' ') from levels";
        let levels: String = value(&mut *f.admin.lock().await, noted).await;
        assert_eq!(levels, format!("{effective} {effective}"), "set to {set}");
    }
}

/// The settings that the store makes are gone with its transaction: in a pool they would be somebody else's.
#[tokio::test]
async fn no_setting_leaks_through_a_pooler() {
    let f = Postgres::behind_pgbouncer().await;
    let name = f.database.name();
    f.run(&format!(
        "alter database {name} set synchronous_commit = off"
    ))
    .await;
    f.run(
        "select pg_terminate_backend(pid) from pg_stat_activity \
         where datname = current_database() and pid <> pg_backend_pid()",
    )
    .await;
    for number in 1..20 {
        acquired(f.store.claim(&claim(number)).await);
    }
    let bouncer = f.bouncer.as_ref().unwrap();
    let tenant = f.database.url_at(bouncer.port());
    let mut tenant = connect(&tenant).await;
    for setting in [
        "synchronous_commit = off",
        "lock_timeout = 0",
        "statement_timeout = 0",
    ] {
        let (setting, expected) = setting.split_once(" = ").unwrap();
        let query = format!("select current_setting('{setting}')");
        assert_eq!(
            value::<String>(&mut tenant, &query).await,
            expected,
            "{setting}"
        );
    }
}
