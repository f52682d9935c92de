//! Real processes: one that is killed, and several on one file.
//!
//! The tests start their own program again; an environment variable tells the child what it is.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use onlyonce::store::{Claimed, Present, Settlement, Store};
use onlyonce::{CredentialHash, Fingerprint, RecordId};
use onlyonce_sqlx::SqliteStore;
use onlyonce_test::conformance::sample::{claim, completed, response};

const FILE: &str = "ONLYONCE_TEST_FILE";
const CLAIMANTS: usize = 3;
const IDS: u16 = 200;

/// A child that is killed when the test ends, however it ends.
struct Process(Child);

impl Process {
    /// Starts one test of this program again, on a file.
    fn start(test: &str, file: &Path) -> (Self, BufReader<ChildStdout>) {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture"])
            .env(FILE, file)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        (Self(child), output)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Says something to the parent at once; `println!` is caught by the test's harness.
fn say(line: &str) {
    let mut output = std::io::stdout().lock();
    output.write_all(format!("\n@{line}\n").as_bytes()).unwrap();
    output.flush().unwrap();
}

/// What a child said, without what its harness says.
fn said(line: std::io::Result<String>) -> Option<String> {
    line.unwrap().strip_prefix('@').map(str::to_owned)
}

/// Claims id after id, and completes every second one, until it is killed.
async fn claim_until_killed(file: &str) {
    let store = SqliteStore::open(file).unwrap();
    for number in 0..u16::MAX {
        let owner = claim(number);
        let Claimed::Acquired(epoch) = store.claim(&owner).await.unwrap() else {
            continue; // by a child that was killed before
        };
        say(&format!("claimed {}", owner.id));
        if number % 2 == 0 {
            let answer = completed(vec![7; 5000]);
            store.settle(&owner, epoch, &answer).await.unwrap();
            say(&format!("completed {}", owner.id));
        }
    }
}

/// `kill -9`, again and again on one file: every claim and every response that was acknowledged is there.
#[tokio::test]
async fn what_was_acknowledged_survives_kill_9() {
    if let Ok(file) = std::env::var(FILE) {
        return claim_until_killed(&file).await;
    }
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("onlyonce.db");
    let mut acknowledged = Vec::new();
    for kill_after in [1, 2, 50, 150] {
        let (mut process, output) = Process::start("what_was_acknowledged_survives_kill_9", &file);
        let mut lines = output.lines().filter_map(said);
        let before = acknowledged.len();
        acknowledged.extend(lines.by_ref().take(kill_after));
        assert_eq!(acknowledged.len(), before + kill_after);
        process.0.kill().unwrap();
        // What it said between then and now counts as well.
        acknowledged.extend(lines);
    }

    let store = SqliteStore::open(&file).unwrap();
    for line in acknowledged {
        let (what, id) = line.split_once(' ').unwrap();
        let found = store.find(&id.parse().unwrap()).await.unwrap();
        match what {
            "claimed" => assert!(found.is_some(), "{id} was lost"),
            _ => assert_eq!(response(found), Some(vec![7; 5000].into()), "{id}"),
        }
    }
}

/// Claims every id; says which it got, and settles them.
async fn claim_all(file: &str) {
    let store = SqliteStore::open(file).unwrap();
    say("ready");
    std::io::stdin().read_line(&mut String::new()).unwrap();
    for number in 0..IDS {
        let owner = claim(number);
        if let Claimed::Acquired(epoch) = store.claim(&owner).await.unwrap() {
            say(&format!("acquired {}", owner.id));
            let settled = store.settle(&owner, epoch, &Settlement::Unknown).await;
            settled.unwrap();
        }
    }
    say("done");
}

/// Several processes open a new file at once and want the same keys: each key goes to one of them.
#[tokio::test]
async fn processes_share_a_file() {
    if let Ok(file) = std::env::var(FILE) {
        return claim_all(&file).await;
    }
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("onlyonce.db");
    let mut processes: Vec<_> = (0..CLAIMANTS)
        .map(|_| {
            let (process, output) = Process::start("processes_share_a_file", &file);
            (process, output.lines().filter_map(said))
        })
        .collect();
    for (_, said) in &mut processes {
        assert_eq!(said.next().as_deref(), Some("ready"));
    }
    for (process, _) in &mut processes {
        // Its standard input ends: it begins.
        drop(process.0.stdin.take());
    }
    let mut owners: HashMap<RecordId, usize> = HashMap::new();
    for (number, (process, said)) in processes.iter_mut().enumerate() {
        let acquired = said.take_while(|line| line != "done");
        for id in acquired.filter_map(|line| Some(line.strip_prefix("acquired ")?.to_owned())) {
            let before = owners.insert(id.parse().unwrap(), number);
            assert_eq!(before, None, "{id} was acquired twice");
        }
        assert!(process.0.wait().unwrap().success());
    }
    assert_eq!(owners.len(), usize::from(IDS));

    let store = SqliteStore::open(&file).unwrap();
    for id in owners.keys() {
        assert_eq!(
            store.find(id).await.unwrap(),
            Some(Present::Unknown {
                fingerprint: Fingerprint::from_bytes([0x11; 32]),
                credential: CredentialHash::from_bytes([0x22; 32]),
            })
        );
    }
}
