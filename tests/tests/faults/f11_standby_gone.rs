//! F11: the synchronous standby is gone, and every commit waits for it: written, and not yet promised.

use onlyonce_test::event::within;
use onlyonce_test::postgres::Cluster;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, ConnectOptions, raw_sql};

use crate::setup::{
    Setup, answer, assert_problem, assert_replays, cluster, retry_while_unavailable,
};

async fn connect(cluster: &Cluster) -> PgConnection {
    let options: sqlx::postgres::PgConnectOptions = cluster.url("postgres").parse().expect("a URL");
    options.connect().await.expect("it answers")
}

async fn run(connection: &mut PgConnection, statement: &str) {
    let done = raw_sql(AssertSqlSafe(statement.to_owned()))
        .execute(connection)
        .await;
    done.expect("a superuser may");
}

async fn set_standby(admin: &mut PgConnection, name: &str) {
    let set = format!("alter system set synchronous_standby_names = '{name}'");
    run(admin, &set).await;
    run(admin, "select pg_reload_conf()").await;
}

/// From its return on every commit waits. A reload takes effect some time after it was asked for, so
/// somebody commits until that waits.
async fn lose_standby(cluster: &Cluster) {
    let (mut admin, mut writer) = (connect(cluster).await, connect(cluster).await);
    run(&mut admin, "create table written ()").await;
    set_standby(&mut admin, "gone").await;
    tokio::spawn(async move {
        loop {
            run(&mut writer, "insert into written default values").await;
        }
    });
    let waits = "do $$ begin loop \
         perform pg_stat_clear_snapshot(); \
         exit when exists (select from pg_stat_activity where wait_event = 'SyncRep'); \
         perform pg_sleep(0.01); end loop; end $$";
    within("a commit waits for the standby", run(&mut admin, waits)).await;
}

/// A claim that waits is none: nothing is forwarded, and the client is told within its deadline. When the
/// standby is back, what waited is found out and released, long before its lease is over.
#[tokio::test(flavor = "multi_thread")]
async fn f11_the_synchronous_standby_is_gone() {
    let cluster = cluster();
    let setup = Setup::cluster(&cluster).await;
    let proxy = setup.launch().arg("--deadline").arg("4s").start().await;
    let before = answer(&proxy, "before").await;
    lose_standby(&cluster).await;
    let refused = answer(&proxy, "key").await;
    assert_problem(&refused, 503, "store-unavailable");
    assert_eq!(setup.legacy.effects_of("key"), 0);
    // What needs no commit is answered all the same.
    assert_replays(&answer(&proxy, "before").await, &before);

    set_standby(&mut connect(&cluster).await, "").await;
    let first = retry_while_unavailable(&proxy, "key").await;
    assert_eq!((first.status, first.is_replay()), (200, false), "{first:?}");
    assert_replays(&answer(&proxy, "key").await, &first);
    assert_eq!(setup.legacy.effects_of("key"), 1);
}
