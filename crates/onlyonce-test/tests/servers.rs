//! The throw-away servers start, stop, crash, fail over and pool.

use onlyonce_test::pgbouncer::PgBouncer;
use onlyonce_test::postgres::{Cluster, Database, Options, find_bin_dirs, version};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions, Row, raw_sql};

async fn connect(url: &str) -> PgConnection {
    let options: PgConnectOptions = url.parse().unwrap();
    // PgBouncer refuses what it does not track.
    options.extra_float_digits(None).connect().await.unwrap()
}

async fn in_recovery(url: &str) -> bool {
    let row = raw_sql("select pg_is_in_recovery()")
        .fetch_one(&mut connect(url).await)
        .await
        .unwrap();
    row.get(0)
}

fn cluster() -> Cluster {
    let bin = find_bin_dirs()
        .into_iter()
        .next()
        .expect("a Postgres is installed");
    assert!(version(&bin).unwrap() >= 14);
    Options::default().fsync(false).start(&bin).unwrap()
}

#[tokio::test]
async fn a_cluster_survives_a_crash_and_a_standby_takes_over() {
    let mut primary = cluster();
    let url = primary.url("postgres");
    raw_sql("create table kept (n int)")
        .execute(&mut connect(&url).await)
        .await
        .unwrap();

    for crash in [Cluster::stop_immediate, Cluster::kill] {
        // Its process is one of those that are killed.
        let mut open = connect(&url).await;
        raw_sql("begin; insert into kept values (1)")
            .execute(&mut open)
            .await
            .unwrap();
        crash(&mut primary).unwrap();
        primary.start_again().unwrap();
        let rows = raw_sql("select * from kept")
            .fetch_all(&mut connect(&url).await)
            .await
            .unwrap();
        assert!(rows.is_empty(), "what was not committed is not there");
    }

    let standby = primary.standby().unwrap();
    assert!(in_recovery(&standby.url("postgres")).await);
    drop(primary);
    standby.promote().unwrap();
    assert!(!in_recovery(&standby.url("postgres")).await);
}

#[tokio::test]
async fn a_pooler_in_transaction_mode_shares_one_server_connection() {
    let cluster = cluster();
    let bouncer = PgBouncer::start(cluster.port(), 1).unwrap();
    let database = Database::fresh_at(&cluster.url("postgres")).await;
    let url = database.url_at(bouncer.port());
    let mut first = connect(&url).await;
    let mut second = connect(&url).await;
    let pid = "select pg_backend_pid()";
    let one: i32 = raw_sql(pid).fetch_one(&mut first).await.unwrap().get(0);
    let two: i32 = raw_sql(pid).fetch_one(&mut second).await.unwrap().get(0);
    assert_eq!(one, two);
}
