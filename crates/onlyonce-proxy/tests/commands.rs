//! The commands as a user runs them: exit codes, where output goes, and that every fault is named.

use std::process::Output;

use onlyonce_test::process::Launch;

fn code(output: &Output) -> i32 {
    output.status.code().expect("it ended by itself")
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("text")
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("text")
}

#[tokio::test]
async fn help_is_asked_for_and_mistakes_are_64() {
    for (args, expected) in [
        (&["--help"][..], 0),
        (&["--version"], 0),
        (&["serve", "--help"], 0),
        (&["records", "resolve", "--help"], 0),
        (&[], 64),
        (&["sevre"], 64),
        (&["serve", "--colour"], 64),
        (&["records", "show"], 64),
        (&["records", "show", "not-an-id"], 64),
        (&["records", "forget"], 64),
        (
            &["records", "resolve", "00000000000000000000000000000001"],
            64,
        ),
        (&["records", "list", "--state", "lost"], 64),
    ] {
        let launch = args
            .iter()
            .fold(Launch::of([]), |launch, arg| launch.arg(arg));
        let output = launch.output().await;
        assert_eq!(code(&output), expected, "{args:?}: {}", stderr(&output));
        assert_eq!(stdout(&output).is_empty(), expected == 64, "{args:?}");
    }
}

#[tokio::test]
async fn serve_reports_every_fault_and_binds_nothing() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("bound").to_string();
    let output = Launch::of(["serve", "--deadline", "soon", "--store", "mysql://u:hunter2@h/d"])
        .arg("--listen")
        .arg(&address) // were it bound, the fault would be that it is in use
        .env("ONLYONCE__POLICY__RETENTION", "24")
        .env("ONLYONCE__POLCY__WAIT", "1s")
        .output()
        .await;
    let text = stderr(&output);
    assert_eq!(code(&output), 64, "{text}");
    for fault in [
        "5 faults in the settings; nothing was started",
        "--deadline: policy.deadline: expected a duration with units",
        "--store: store.url: expected sqlite://PATH",
        "ONLYONCE__POLICY__RETENTION: policy.retention: expected a duration with units",
        "ONLYONCE__POLCY__WAIT: polcy.wait: unknown key; did you mean `policy.wait`?",
        "upstream.url: not set",
    ] {
        assert!(text.contains(fault), "{fault}\n{text}");
    }
    assert!(
        !text.contains("hunter2") && !text.contains("in use"),
        "{text}"
    );
    assert_eq!(stdout(&output), "");
}

#[tokio::test]
async fn contradictions_are_faults() {
    let output = Launch::of([
        "serve",
        "--upstream",
        "http://127.0.0.1:8080",
        "--retention",
        "1m",
    ])
    .arg("--wait")
    .arg("2m")
    .output()
    .await;
    let text = stderr(&output);
    assert_eq!(code(&output), 64, "{text}");
    assert!(
        text.contains("--retention: policy.retention: retention must be longer"),
        "{text}"
    );
    assert!(
        text.contains("--wait: policy.wait: duplicates must not wait longer"),
        "{text}"
    );
    assert!(
        text.contains("--upstream: upstream.url: this is where onlyonce itself listens"),
        "{text}"
    );
}

#[tokio::test]
async fn check_shows_what_is_in_force_or_every_fault() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("onlyonce.toml");
    let check = || Launch::of(["check", "--config"]).arg(path.to_str().expect("text"));

    std::fs::write(&path, "[upstream]\nurl = 'http://127.0.0.1:3000'\nname = 'payments'\n[store]\nurl = 'postgres://app:s3cret@db/x'\n").expect("written");
    let output = check().env("ONLYONCE__POLICY__WAIT", "2s").output().await;
    let text = stdout(&output);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let row = |key: &str| text.lines().find(|line| line.starts_with(key)).expect(key);
    assert!(
        row("policy.wait").contains("2s") && row("policy.wait").ends_with("ONLYONCE__POLICY__WAIT")
    );
    assert!(row("upstream.url").ends_with("onlyonce.toml:2"));
    assert!(row("policy.deadline").ends_with("default"));
    assert!(row("store.url").contains("postgres://app:***@db/x"));
    assert!(text.contains("warning: upstream.name decide"), "{text}");

    std::fs::write(
        &path,
        "[upstream]\nurll = 'http://127.0.0.1:3000'\n[log]\nlevel = 3\n",
    )
    .expect("written");
    let output = check().output().await;
    let text = stderr(&output);
    assert_eq!(code(&output), 64);
    assert!(
        text.contains("onlyonce.toml:2: upstream.urll: unknown key; did you mean `url`?"),
        "{text}"
    );
    assert!(
        text.contains("onlyonce.toml:4: log.level: expected a level"),
        "{text}"
    );
    assert!(text.contains("upstream.url: not set"), "{text}");

    let output = Launch::of(["check"])
        .env("ONLYONCE__UPSTREAM__URL", "http://127.0.0.1:3000")
        .env("ONLYONCE__STORE__URL", "memory:")
        .env("ONLYONCE__POLICY__ON_UNKNOWN", "reexecute")
        .output()
        .await;
    let text = stdout(&output);
    assert_eq!(code(&output), 0);
    assert!(
        text.contains("warning: store.url = memory: a restart forgets every key"),
        "{text}"
    );
    assert!(
        text.contains("warning: policy.on-unknown = reexecute"),
        "{text}"
    );

    let output = Launch::of(["check", "--config", "/nowhere.toml"])
        .output()
        .await;
    assert_eq!(code(&output), 64);
    assert!(
        stderr(&output).contains("/nowhere.toml: cannot be read"),
        "{}",
        stderr(&output)
    );
}

/// Where connections alone can take all descriptors.
#[tokio::test]
async fn check_says_where_there_are_too_few_descriptors() {
    for (connections, warned) in [("100", false), ("300", true)] {
        let output = Launch::of(["check"])
            .env("ONLYONCE__UPSTREAM__URL", "http://127.0.0.1:3000")
            .env("ONLYONCE__UPSTREAM__IDLE_CONNECTIONS_MAX", "8")
            .env("ONLYONCE__LISTEN__CONNECTIONS_MAX", connections)
            .under(["sh", "-c", "ulimit -n 512; exec \"$0\" \"$@\""])
            .output()
            .await;
        assert_eq!(code(&output), 0, "{}", stderr(&output));
        let text = stdout(&output);
        let warning = "warning: listen.connections-max = 300: the process may open 512 files";
        assert_eq!(text.contains(warning), warned, "{text}");
    }
}

#[tokio::test]
async fn a_port_that_is_taken_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("bound").to_string();
    for flag in ["--listen", "--admin"] {
        let listen = if flag == "--listen" {
            "--admin"
        } else {
            "--listen"
        };
        let output = Launch::of([
            "serve",
            "--upstream",
            "http://127.0.0.1:1",
            "--store",
            "memory:",
        ])
        .arg(flag)
        .arg(&address)
        .arg(listen)
        .arg("127.0.0.1:0")
        .output()
        .await;
        let text = stderr(&output);
        assert_eq!(code(&output), 1, "{text}");
        assert!(
            text.contains(&format!("could not listen on {address}: ")),
            "{text}"
        );
    }
}

#[tokio::test]
async fn a_store_that_cannot_work_is_an_error_and_no_panic() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("not-a-database");
    std::fs::write(
        &file,
        "this is a letter to my mother, and no database at all. ".repeat(100),
    )
    .expect("written");
    for path in [
        file.as_path(),
        directory.path(),
        &directory.path().join("no/such/directory/x.db"),
    ] {
        let url = format!("sqlite://{}", path.display());
        let output = Launch::of([
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--upstream",
            "http://127.0.0.1:1",
        ])
        .arg("--store")
        .arg(&url)
        .output()
        .await;
        let text = stderr(&output);
        assert_eq!(code(&output), 1, "{text}");
        assert!(
            text.contains(&format!("onlyonce: the store at {url} cannot be used: ")),
            "{text}"
        );
        assert!(!text.contains("panicked"), "{text}");
        assert_eq!(stdout(&output), "", "nothing listened");
    }
}

#[tokio::test]
async fn migrate_makes_a_store() {
    let directory = tempfile::tempdir().expect("a directory");
    let url = format!("sqlite://{}", directory.path().join("x.db").display());
    let output = Launch::of(["migrate", "--store"]).arg(&url).output().await;
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert_eq!(stdout(&output), format!("{url} is up to date\n"));
    assert!(directory.path().join("x.db").exists());

    let output = Launch::of(["migrate", "--store", "memory:"]).output().await;
    assert_eq!(code(&output), 64);
    let limits = ["migrate", "--lock-timeout", "10s", "--statement-timeout"];
    for (limit, expected) in [("2h", 0), ("0s", 64), ("soon", 64)] {
        let migrate = Launch::of(limits).arg(limit).arg("--store").arg(&url);
        let output = migrate.output().await;
        assert_eq!(code(&output), expected, "{limit}: {}", stderr(&output));
    }
    let output = Launch::of(["migrate", "--store", "postgres://u:hunter2@127.0.0.1:1/d"])
        .output()
        .await;
    assert_eq!(code(&output), 1);
    let text = stderr(&output);
    assert!(
        text.contains("the store at postgres://u:***@127.0.0.1:1/d cannot be used"),
        "{text}"
    );
}

/// The demo shows what it promises: duplicates straight, none through the proxy.
#[tokio::test]
async fn the_demo_shows_the_difference() {
    let output = Launch::of(["demo", "--once"]).output().await;
    let text = stdout(&output);
    assert_eq!(code(&output), 0, "{text}{}", stderr(&output));
    let row = |title: &str| -> Vec<String> {
        let line = text
            .lines()
            .find_map(|line| line.trim_start().strip_prefix(title))
            .expect(title);
        line.split_whitespace().map(str::to_owned).collect()
    };
    let number = |title: &str| -> Vec<u32> {
        row(title)
            .iter()
            .map(|cell| cell.parse().expect("a number"))
            .collect()
    };
    let (operations, charges) = (number("operations"), number("charges made"));
    assert_eq!(operations[0], operations[1]);
    let duplicates = number("duplicates");
    assert!(duplicates[0] > 10, "straight, retries charge again: {text}");
    assert_eq!(duplicates[1], 0);
    assert_eq!(charges[0], operations[0] + duplicates[0]);
    assert_eq!(charges[1], operations[1], "each was charged once");
    assert_eq!(row("money charged twice")[1], "$0.00");
    assert!(
        number("outcome unknown")[1] > 0,
        "replies were lost behind the proxy too: {text}"
    );
    assert!(number("answers replayed")[1] > 0, "{text}");
}
