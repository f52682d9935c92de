//! `onlyonce records` on the store of a running proxy: what an operator sees, and what a decision does.

use std::net::SocketAddr;
use std::time::Duration;

use onlyonce_test::client::{Response, post};
use onlyonce_test::event::within;
use onlyonce_test::process::{Launch, Proxy};
use onlyonce_test::upstream::{At, Break, Legacy, Reply};
use serde_json::Value;

struct Scene {
    directory: tempfile::TempDir,
    upstream: Legacy,
    proxy: Proxy,
}

impl Scene {
    async fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let upstream = Legacy::start().await;
        let launch = Launch::serve(["--upstream", &upstream.url(), "--store", &url(&directory)]);
        let proxy = launch.start().await;
        Self {
            directory,
            upstream,
            proxy,
        }
    }

    fn addr(&self) -> SocketAddr {
        self.proxy.addr()
    }

    async fn post(&self, key: &str) -> Response {
        post(self.addr(), "/charges", key, "amount=1")
            .await
            .expect("an answer")
    }

    /// Charges, and loses the reply.
    async fn lose(&self, key: &str) -> String {
        self.upstream
            .script(Reply::new(201).breaks(At::AfterRequest, Break::Reset));
        let problem = self.post(key).await;
        assert_eq!(problem.status, 502);
        let problem: Value = serde_json::from_str(problem.text()).expect("a problem");
        problem["instance"]
            .as_str()
            .expect("an instance")
            .to_owned()
    }

    /// Runs `onlyonce records …`; answers its exit code, standard output and standard error.
    /// Repeats a request whose key was freed until it executes: for a moment it is answered as before, then the
    /// key rests.
    async fn executes(&self, key: &str) -> Response {
        within("the key to execute", async {
            loop {
                let answer = self.post(key).await;
                if answer.status != 409 && !answer.is_replay() {
                    return answer;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        })
        .await
    }

    async fn records(&self, args: &[&str]) -> (i32, String, String) {
        let launch = args
            .iter()
            .fold(Launch::of(["records"]), |launch, arg| launch.arg(arg));
        let output = launch
            .arg("--store")
            .arg(&url(&self.directory))
            .output()
            .await;
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
        (
            output.status.code().expect("it ended"),
            text(output.stdout),
            text(output.stderr),
        )
    }

    async fn json(&self, args: &[&str]) -> Value {
        let (code, out, err) = self.records(&[args, &["--json"]].concat()).await;
        assert_eq!(code, 0, "{err}");
        serde_json::from_str(&out).expect("JSON")
    }
}

fn url(directory: &tempfile::TempDir) -> String {
    format!(
        "sqlite://{}",
        directory.path().join("onlyonce.db").display()
    )
}

#[tokio::test]
async fn records_are_listed_and_shown() {
    let scene = Scene::new().await;
    scene
        .upstream
        .script(Reply::new(201).field("X-Charge", "7").body("private"));
    scene.post("paid").await;
    let urn = scene.lose("lost").await;
    let id = urn.strip_prefix("urn:onlyonce:record:").expect("a record");

    let all = scene.json(&["list"]).await;
    let states: Vec<_> = all
        .as_array()
        .expect("a list")
        .iter()
        .map(|r| &r["state"])
        .collect();
    assert_eq!(states, ["unknown", "completed"], "newest first");
    let unknown = scene
        .json(&["list", "--state", "unknown", "--limit", "5"])
        .await;
    assert_eq!(unknown[0]["id"], id);
    assert_eq!(unknown[0]["epoch"], 1);
    for time in ["claimed_at", "lease_until", "settled_at", "expires_at"] {
        let text = unknown[0][time].as_str().expect(time);
        assert!(text.parse::<jiff::Timestamp>().is_ok(), "{time}: {text}");
    }
    assert_eq!(
        scene
            .json(&["list", "--limit", "1"])
            .await
            .as_array()
            .map(Vec::len),
        Some(1)
    );

    let (code, table, _) = scene.records(&["list"]).await;
    assert_eq!((code, table.lines().count()), (0, 3), "{table}");
    assert!(table.starts_with("RECORD") && table.contains(id), "{table}");

    // Both spellings of an id; no body unless asked for.
    let completed = all[1]["id"].as_str().expect("an id");
    let (code, shown, _) = scene.records(&["show", completed]).await;
    assert_eq!(code, 0);
    assert!(
        shown.contains("201 Created") && shown.contains("x-charge: 7"),
        "{shown}"
    );
    assert!(
        shown.contains("7 bytes") && !shown.contains("private"),
        "{shown}"
    );
    let shown = scene.json(&["show", completed]).await;
    assert_eq!(
        (&shown["response"]["body_bytes"], &shown["response"]["body"]),
        (&7.into(), &Value::Null)
    );
    let shown = scene
        .json(&[
            "show",
            &format!("urn:onlyonce:record:{completed}"),
            "--body",
        ])
        .await;
    assert_eq!(shown["response"]["body"], "private");
    assert_eq!(scene.json(&["show", &urn]).await["response"], Value::Null);
}

#[tokio::test]
async fn it_happened() {
    let scene = Scene::new().await;
    let urn = scene.lose("lost").await;
    let answer = scene.directory.path().join("answer");
    let message = "HTTP/1.1 201 Created\nContent-Type: application/json\n\n{\"id\":\"ch_1\"}";
    std::fs::write(&answer, message).expect("written");
    let answer = answer.to_str().expect("text");

    // Its owner might live: refused, and the message says what would be done with --force.
    let (code, out, err) = scene
        .records(&["resolve", &urn, "--response", answer])
        .await;
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(
        err.contains("less than the request's deadline") && err.contains("--force"),
        "{err}"
    );
    assert_eq!(scene.post("lost").await.status, 409);

    let (code, out, err) = scene
        .records(&["resolve", &urn, "--response", answer, "--force"])
        .await;
    assert_eq!(code, 0, "{err}");
    assert!(
        out.contains("completed: retries get the response given (epoch 2)"),
        "{out}"
    );
    let retry = scene.post("lost").await;
    assert_eq!((retry.status, retry.text()), (201, r#"{"id":"ch_1"}"#));
    assert!(retry.is_replay());
    assert_eq!(scene.upstream.effects(), 1);

    // There is nothing unknown any more.
    let (code, _, err) = scene
        .records(&["resolve", &urn, "--not-executed", "--force"])
        .await;
    assert_eq!(code, 1);
    assert!(err.contains("nothing unknown to resolve"), "{err}");
}

#[tokio::test]
async fn it_did_not_happen_and_forget_it() {
    let scene = Scene::new().await;
    let urn = scene.lose("lost").await;
    let decided = scene
        .json(&["resolve", &urn, "--not-executed", "--force"])
        .await;
    assert_eq!(
        (&decided[0]["result"], &decided[0]["epoch"]),
        (&"done".into(), &2.into())
    );
    let retry = scene.executes("lost").await;
    assert_eq!((retry.status, retry.is_replay()), (200, false));
    assert_eq!(scene.upstream.effects(), 2);

    assert!(scene.post("lost").await.is_replay());
    let nobody = "00000000000000000000000000000001";
    let (code, out, err) = scene.records(&["forget", &urn, nobody, "--json"]).await;
    assert_eq!(code, 1, "one of them was not there");
    let decided: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(
        (&decided[0]["result"], &decided[1]["result"]),
        (&"done".into(), &"not-found".into())
    );
    assert!(
        err.contains(nobody) && err.contains("no such record"),
        "{err}"
    );
    assert_eq!(scene.executes("lost").await.status, 200);
    assert_eq!(scene.upstream.effects(), 3);
}

#[tokio::test]
async fn mistakes_change_nothing() {
    let scene = Scene::new().await;
    let urn = scene.lose("lost").await;
    let answer = scene.directory.path().join("answer");
    std::fs::write(&answer, "{\"id\":\"ch_1\"}").expect("written");
    let answer = answer.to_str().expect("text");
    for (args, code, message) in [
        (
            &["resolve", &urn, "--response", answer, "--force"][..],
            64,
            "not an HTTP/1.1 response",
        ),
        (
            &["resolve", &urn, "--response", "/nowhere", "--force"],
            64,
            "--response /nowhere: ",
        ),
        (&["resolve", &urn, "--force"], 64, "--not-executed"),
        (
            &[
                "resolve",
                &urn,
                "--force",
                "--not-executed",
                "--response",
                answer,
            ],
            64,
            "cannot be used with",
        ),
        (
            &["show", "00000000000000000000000000000001"],
            1,
            "there is no such record",
        ),
    ] {
        let (found, out, err) = scene.records(args).await;
        assert_eq!((found, out.as_str()), (code, ""), "{args:?} {err}");
        assert!(err.contains(message), "{args:?} {err}");
    }
    assert_eq!(scene.post("lost").await.status, 409);
    assert_eq!(scene.upstream.effects(), 1);
}

#[tokio::test]
async fn a_store_that_is_not_there_is_not_made() {
    let directory = tempfile::tempdir().expect("a directory");
    let output = Launch::of(["records", "list", "--store", &url(&directory)])
        .output()
        .await;
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("there is no store at sqlite://"));
    assert!(!directory.path().join("onlyonce.db").exists());
    let output = Launch::of(["records", "list", "--store", "memory:"])
        .output()
        .await;
    assert_eq!(output.status.code(), Some(64));
}
