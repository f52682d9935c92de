//! A commit waits for the disk, whatever the database's setting says.

use std::path::PathBuf;

use onlyonce::store::{Present, Store};
use onlyonce_sqlx::PostgresStore;
use onlyonce_test::conformance::sample::{acquired, claim, completed, response};
use onlyonce_test::pgbouncer::PgBouncer;
use onlyonce_test::postgres::{Cluster, Database, Options, find_bin_dirs};

use crate::fixture::{Postgres, run, settings, value};

pub(crate) fn bin_dir() -> PathBuf {
    let found = find_bin_dirs().into_iter().next();
    found.expect("a Postgres is installed: `cargo xtask test --install` sees to it")
}

/// A server that writes commits to disk when it feels like it, and is then killed.
fn careless() -> Cluster {
    Options::default()
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
    let database = sqlx::postgres::PgConnectOptions::clone(&url.parse().unwrap());
    let mut careless = sqlx::ConnectOptions::connect(&database).await.unwrap();
    run(
        &mut careless,
        "create table t (n int); insert into t values (1)",
    )
    .await;
    cluster.stop_immediate().unwrap();
    cluster.start_again().unwrap();
    let mut after = sqlx::ConnectOptions::connect(&database).await.unwrap();
    assert!(value::<bool>(&mut after, "select to_regclass('t') is null").await);
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
    let tenant = Database::url_at(&f.database, bouncer.port());
    let options: sqlx::postgres::PgConnectOptions = tenant.parse().unwrap();
    let options = options.extra_float_digits(None);
    let mut tenant = sqlx::ConnectOptions::connect(&options).await.unwrap();
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
