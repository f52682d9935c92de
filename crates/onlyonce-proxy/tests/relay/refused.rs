//! A server that does not let a relay in: at its start that ends it, later it goes on asking.

use onlyonce_test::event::within;
use onlyonce_test::postgres::ask::run;
use onlyonce_test::postgres::{Cluster, Database, Options, find_bin_dirs};
use onlyonce_test::process::Launch;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions, Connection};

use crate::fixture::{commit, get, payment, relay};

/// A server with an outbox and a role that needs a password. The file of rules lives as long as the directory.
async fn guarded() -> (Cluster, PgConnection, tempfile::TempDir) {
    let directory = tempfile::tempdir().expect("a directory");
    let rules = directory.path().join("rules");
    let text = "host all postgres 127.0.0.1/32 trust\nhost all all 127.0.0.1/32 scram-sha-256\n";
    std::fs::write(&rules, text).expect("written");
    for path in [directory.path(), &rules] {
        let all_may_read = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(path, all_may_read).expect("shared");
    }
    let bin = find_bin_dirs().pop().expect("a Postgres is installed");
    let options = Options::default().set("hba_file", rules.to_str().expect("text"));
    let cluster = options.start(&bin).expect("a Postgres of our own");
    let url = cluster.url("postgres");
    let migrate = Launch::of(["migrate", "--outbox", "--database", &url]);
    let migrated = migrate.output().await;
    assert!(migrated.status.success(), "{migrated:?}");
    let options: PgConnectOptions = url.parse().expect("a URL");
    let mut admin = options.connect().await.expect("connected");
    run(
        &mut admin,
        "create role courier login superuser password 'right'",
    )
    .await;
    (cluster, admin, directory)
}

fn as_courier(cluster: &Cluster, password: &str) -> String {
    let account = format!("courier:{password}@");
    cluster.url("postgres").replacen("postgres@", &account, 1)
}

#[tokio::test]
async fn what_the_server_refuses_at_the_start_ends_it() {
    let database = Database::fresh().await;
    let (cluster, mut admin, _rules) = guarded().await;
    run(&mut admin, "create role stranger login password 'right'").await;
    let url = database.url();
    for (url, said) in [
        (
            url.replace(database.name(), "nowhere"),
            "there is no such database: look at its name",
        ),
        (
            url.replacen("postgres@", "nobody@", 1),
            "the server does not let this role in: look at the role",
        ),
        (
            as_courier(&cluster, "wr0ng"),
            "the server does not let this role in: look at the role",
        ),
        (
            as_courier(&cluster, "right").replacen("courier", "stranger", 1),
            "the account lacks rights",
        ),
    ] {
        let launch = relay(&url, "stdout:").arg("--admin").arg("127.0.0.1:0");
        let output = within("the relay to end", launch.output()).await;
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(
            text.contains("cannot be used") && text.contains(said),
            "{text}"
        );
        assert!(!text.contains("wr0ng"), "{text}");
    }
}

/// Its connection is cut, and it is not let in again until somebody sets things right.
#[tokio::test]
async fn a_password_that_changes_later_is_told_and_waited_for() {
    let (cluster, mut admin, _rules) = guarded().await;
    let launch = relay(&as_courier(&cluster, "right"), "stdout:");
    let mut relay = launch.arg("--admin").arg("127.0.0.1:0").spawn();
    relay.logged("ready").await;
    run(
        &mut admin,
        "alter role courier password 'new'; \
         select pg_terminate_backend(pid) from pg_stat_activity where usename = 'courier'",
    )
    .await;
    relay
        .logged("the relay's database refuses it, and nothing is delivered")
        .await;
    assert_eq!(get(&relay, "/readyz").await.status, 503);
    let errors = relay.log();
    let errors = errors.iter().filter(|line| line.contains("ERROR"));
    assert!(errors.count() > 0, "{:?}", relay.log());

    run(&mut admin, "alter role courier password 'right'").await;
    let event = payment("a", 1);
    commit(&mut admin, std::slice::from_ref(&event)).await;
    relay.logged(&event.event_id().to_string()).await;
    assert!(relay.terminate().await.success());
    admin.close().await.expect("closed");
}
