//! Settings of a relay as a user meets them.

use onlyonce_test::postgres::Database;
use onlyonce_test::process::Launch;
use sqlx::Row;

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[tokio::test]
async fn every_fault_is_named_and_nothing_is_started() {
    let output = Launch::of(["relay", "--sink", "https://u:hunter2@h/", "--lease", "5s"])
        .env("ONLYONCE__RELAY__SECRETS", "hunter2")
        .env("ONLYONCE__RELAY__RETENTON", "1h")
        .output()
        .await;
    let err = text(&output.stderr);
    assert_eq!(output.status.code(), Some(64), "{err}");
    for fault in [
        "6 faults in the settings; nothing was started",
        "--sink: relay.sink: a webhook's URL has no user in it",
        "ONLYONCE__RELAY__SECRETS: relay.secrets: expected a list",
        "ONLYONCE__RELAY__RETENTON: relay.retenton: unknown key; did you mean `retention`?",
        "relay.publish-timeout: a lease of 5s does not outlast a publish",
        "relay.database: not set",
        "relay.name: not set",
    ] {
        assert!(err.contains(fault), "{fault}\n{err}");
    }
    assert!(!err.contains("hunter2"), "{err}");
    assert!(output.stdout.is_empty());
}

#[tokio::test]
async fn a_file_of_secrets_that_has_none_is_a_fault() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("secrets");
    std::fs::write(&path, "hunter2\n").expect("written");
    let output = Launch::of(["relay", "--sink", "http://h/", "--name", "hooks"])
        .env("ONLYONCE__RELAY__DATABASE", "postgres://127.0.0.1:1/x")
        .env(
            "ONLYONCE__RELAY__SECRETS_FILE",
            path.to_str().expect("text"),
        )
        .output()
        .await;
    let err = text(&output.stderr);
    assert_eq!(output.status.code(), Some(64), "{err}");
    assert!(
        err.contains("line 1: expected `whsec_`") && !err.contains("hunter2"),
        "{err}"
    );
}

#[tokio::test]
async fn check_understands_a_relays_file_and_shows_no_secret() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("relay.toml");
    let write = |file: &str| std::fs::write(&path, file).expect("written");
    let check = || Launch::of(["check", "--config"]).arg(path.to_str().expect("text"));
    let relay = "[relay]\ndatabase = 'postgres://app:s3cret@db/x'\nsink = 'https://h/s3cret'\nname = 'hooks'\n\
                 secrets = ['whsec_czNjcmV0LXMzY3JldC1zM2NyZXQh']\nheaders = ['Authorization: s3cret']\n";
    for file in [
        relay.to_owned(),
        format!("{relay}[upstream]\nurl = 'http://a'\n"),
    ] {
        write(&file);
        let output = check().output().await;
        let out = text(&output.stdout);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        let row = |key: &str| out.lines().find(|line| line.starts_with(key)).expect(key);
        assert!(
            row("relay.database").contains("postgres://app:***@db/x"),
            "{out}"
        );
        assert!(row("relay.sink").contains("https://h/…"), "{out}");
        assert!(row("relay.headers").contains("authorization: ***"), "{out}");
        assert!(row("relay.lease").ends_with("default"), "{out}");
        assert!(!out.contains("s3cret") && !out.contains("whsec_"), "{out}");
        assert_eq!(out.contains("policy.deadline"), file != relay);
    }
    write("[relay]\nsink = 'stdout:'\n");
    let output = check().output().await;
    let err = text(&output.stderr);
    assert_eq!(output.status.code(), Some(64));
    assert!(
        err.contains("relay.name: not set") && !err.contains("upstream"),
        "{err}"
    );
}

/// Who only guards gets no tables of an outbox, and who only relays none of the store.
#[tokio::test]
async fn migrating_makes_the_tables_that_are_asked_for() {
    let database = Database::fresh().await;
    let tables = async || {
        let mut connection = database.connect().await;
        let query = "select count(*) filter (where relname = 'onlyonce_records'), \
             count(*) filter (where relname = 'onlyonce_outbox_event') from pg_class";
        let row = sqlx::query(query)
            .fetch_one(&mut connection)
            .await
            .expect("counted");
        (row.get::<i64, _>(0), row.get::<i64, _>(1))
    };
    let migrate = |args: &[&str]| {
        let launch = Launch::of(["migrate", "--store", &database.url()]);
        args.iter().fold(launch, |launch, arg| launch.arg(arg))
    };
    let output = migrate(&["--outbox"]).output().await;
    assert_eq!(
        text(&output.stdout),
        format!("the outbox at {} is up to date\n", database.url())
    );
    assert_eq!(tables().await, (0, 1));
    let output = migrate(&[]).output().await;
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(tables().await, (1, 1));

    let output = Launch::of(["migrate", "--outbox"]).output().await;
    assert_eq!(output.status.code(), Some(64), "{}", text(&output.stderr));
    let output = migrate(&["--database", "postgres://db/x"]).output().await;
    assert_eq!(output.status.code(), Some(64), "only with --outbox");
}
