//! F11: the synchronous standby is gone, and every commit waits for it: written, and not yet promised.

use onlyonce_test::postgres::Cluster;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, ConnectOptions, raw_sql};

use crate::setup::{
    Setup, answer, assert_problem, assert_replays, cluster, retry_while_unavailable,
};

async fn wait_for_standby(cluster: &Cluster, name: &str) {
    let options: sqlx::postgres::PgConnectOptions = cluster.url("postgres").parse().expect("a URL");
    let mut admin: PgConnection = options.connect().await.expect("it answers");
    for statement in [
        &*format!("alter system set synchronous_standby_names = '{name}'"),
        "select pg_reload_conf()",
    ] {
        let done = raw_sql(AssertSqlSafe(statement.to_owned()))
            .execute(&mut admin)
            .await;
        done.expect("a superuser may");
    }
}

/// A claim that waits is none: nothing is forwarded, and the client is told within its deadline. When the
/// standby is back, what waited is found out and released, long before its lease is over.
#[tokio::test(flavor = "multi_thread")]
async fn f11_the_synchronous_standby_is_gone() {
    let cluster = cluster();
    let setup = Setup::cluster(&cluster).await;
    let proxy = setup.launch().arg("--deadline").arg("4s").start().await;
    let before = answer(&proxy, "before").await;
    wait_for_standby(&cluster, "gone").await;
    let refused = answer(&proxy, "key").await;
    assert_problem(&refused, 503, "store-unavailable");
    assert_eq!(setup.legacy.effects_of("key"), 0);
    // What needs no commit is answered all the same.
    assert_replays(&answer(&proxy, "before").await, &before);

    wait_for_standby(&cluster, "").await;
    let first = retry_while_unavailable(&proxy, "key").await;
    assert_eq!((first.status, first.is_replay()), (200, false), "{first:?}");
    assert_replays(&answer(&proxy, "key").await, &first);
    assert_eq!(setup.legacy.effects_of("key"), 1);
}
