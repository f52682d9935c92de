//! F14: the store cannot grow, or takes no writes at all. No success without a durable claim; clear answers;
//! and all is well when there is room again.

use onlyonce_test::client::Raw;
use onlyonce_test::process::Launch;
use onlyonce_test::upstream::Reply;
use sqlx::{AssertSqlSafe, raw_sql};

use crate::setup::{
    Setup, answer, assert_problem, assert_replays, code, retry_while_in_progress,
    retry_while_unavailable, until_not_relied_on,
};

/// Files cannot grow beyond 256 KiB. Ignored, the signal becomes an error of the write, as on a full disk.
const LITTLE_ROOM: [&str; 3] = [
    "sh",
    "-c",
    "trap '' XFSZ; ulimit -f 512; exec \"$0\" \"$@\"",
];

#[tokio::test(flavor = "multi_thread")]
async fn f14_the_disk_of_sqlite_is_full() {
    let setup = Setup::sqlite().await;
    setup.legacy.answer_with(|request| {
        Reply::new(201).body(format!("{:>4000}", request.key().unwrap_or_default()))
    });
    let launch = setup
        .launch()
        .arg("--deadline")
        .arg("1s")
        .arg("--admin")
        .arg("127.0.0.1:0");
    let launch = launch.env("ONLYONCE__LIMITS__SETTLE_HOLD", "200ms");
    let full = launch.clone().under(LITTLE_ROOM).start().await;

    let mut successes = Vec::new();
    let refused = loop {
        let key = successes.len().to_string();
        let answer = answer(&full, &key).await;
        if answer.status != 201 {
            break answer;
        }
        successes.push(answer);
        assert!(successes.len() < 1000, "256 KiB hold all of this");
    };
    assert_problem(&refused, 503, "store-unavailable");
    let executed = setup.legacy.effects();
    for number in 0..20 {
        let refused = answer(&full, &format!("more-{number}")).await;
        assert_problem(&refused, 503, "store-unavailable");
    }
    assert_eq!(
        setup.legacy.effects(),
        executed,
        "nothing executes without a claim"
    );
    assert_eq!(ready(full.admin()).await, 503);
    drop(full);

    // There is room again.
    let proxy = launch.start().await;
    assert_eq!(ready(proxy.admin()).await, 200);
    for (number, first) in successes.iter().enumerate() {
        let replay = retry_while_in_progress(&proxy, &number.to_string()).await;
        // The last ones were answered while their records found no room: held, then unknown.
        if code(&replay) == "outcome-unknown" {
            assert!(
                number + 3 > successes.len(),
                "{number} of {}",
                successes.len()
            );
        } else {
            assert_replays(&replay, first);
        }
        assert_eq!(setup.legacy.effects_of(&number.to_string()), 1);
    }
    let more = answer(&proxy, "more-0").await;
    assert_eq!((more.status, more.is_replay()), (201, false));
}

async fn ready(admin: std::net::SocketAddr) -> u16 {
    let mut client = Raw::connect(admin).await;
    client
        .send("GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        .await;
    client.response().await.expect("an answer").status
}

/// Root may write to any file, so it has to lay that right down.
fn without_privileges(launch: Launch) -> Launch {
    use std::os::unix::fs::MetadataExt;
    match std::fs::metadata("/proc/self").expect("procfs").uid() {
        0 => launch.under([
            "setpriv",
            "--bounding-set=-dac_override,-dac_read_search",
            "--",
        ]),
        _ => launch,
    }
}

#[tokio::test]
async fn f14_the_file_of_sqlite_is_read_only() {
    let setup = Setup::sqlite().await;
    let first = answer(&setup.launch().start().await, "key").await;
    let file = setup.store.file();
    let writable = std::fs::metadata(&file).expect("it is there").permissions();
    let mut read_only = writable.clone();
    read_only.set_readonly(true);
    std::fs::set_permissions(&file, read_only).expect("it is ours");

    let mut refused = without_privileges(setup.launch()).spawn();
    assert_eq!(refused.exited().await.code(), Some(1));
    let said = refused.logged("is read-only for this process").await;
    assert!(said.contains(&setup.store.url()), "{said}");

    std::fs::set_permissions(&file, writable).expect("it is ours");
    assert_replays(&answer(&setup.launch().start().await, "key").await, &first);
}

/// As a managed Postgres becomes when its disk is nearly full.
#[tokio::test]
async fn f14_postgres_becomes_read_only() {
    let setup = Setup::postgres().await;
    let proxy = setup
        .launch()
        .arg("--admin")
        .arg("127.0.0.1:0")
        .start()
        .await;
    let before = answer(&proxy, "before").await;
    read_only(&setup, "on").await;
    until_not_relied_on(&proxy, "before", &before).await;
    for key in ["before", "during"] {
        assert_problem(&answer(&proxy, key).await, 503, "store-unavailable");
    }
    assert_eq!(ready(proxy.admin()).await, 503);
    proxy.logged("it is read-only").await;
    assert_eq!(setup.legacy.effects(), 1);

    // Also for a proxy that starts now: it waits for better times.
    let late = setup.launch().start().await;
    assert_problem(&answer(&late, "during").await, 503, "store-unavailable");

    read_only(&setup, "off").await;
    for proxy in [&proxy, &late] {
        let during = retry_while_unavailable(proxy, "during").await;
        assert_eq!((during.status, during.text()), (200, "done"));
    }
    assert_replays(&answer(&proxy, "before").await, &before);
    assert_eq!(setup.legacy.effects(), 2);
}

/// For connections made from now on; those of before are ended.
async fn read_only(setup: &Setup, value: &str) {
    let database = setup.store.database();
    let name = database.name();
    let mut admin = database.connect().await;
    let statements = format!(
        "begin read write; alter database {name} set default_transaction_read_only = {value}; commit; \
         select pg_terminate_backend(pid) from pg_stat_activity \
         where application_name = 'onlyonce' and datname = current_database()"
    );
    let done = raw_sql(AssertSqlSafe(statements)).execute(&mut admin).await;
    done.expect("a superuser may");
}
