//! Places at which a test can end or freeze the process: `failpoint!("after_claim")`.
//!
//! A crash between two writes cannot be hit by killing a process at random. Each place where a crash
//! would hurt is therefore named in the code; what happens there comes from the environment of a binary
//! that was built with the feature `failpoints`. Without the feature, and in every release, the macro
//! expands to nothing.
//!
//! `ONLYONCE_FAILPOINTS` is a list, separated by `;`, of `name=action` or `name=N*action` (only the first
//! `N` times that the place is reached):
//!
//! | action | what happens |
//! |---|---|
//! | `abort` | the process is gone at once, as after `kill -9` |
//! | `stop` | the process freezes, as after `kill -STOP`; `kill -CONT` thaws it |
//! | `sleep(MS)` | this task waits for so many milliseconds |
//! | `pause(FILE)` | this task waits until the file exists |
//!
//! Before it acts it writes `failpoint NAME: …` to stderr, so that a test can wait for that.
//!
//! # Hazards
//! The macro awaits: it is for async code, and dropping the future ends a pause. A list that cannot be
//! read ends the process: a crash test that crashes nothing would pass.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustix::process::{Signal, getpid, kill_process};

const VARIABLE: &str = "ONLYONCE_FAILPOINTS";
const POLL: Duration = Duration::from_millis(10);
/// A process keeps running for a moment after it has sent itself a signal.
const SIGNAL_ARRIVES: Duration = Duration::from_millis(200);

#[derive(Debug, PartialEq, Eq)]
enum Action {
    Abort,
    Stop,
    Sleep(Duration),
    Pause(PathBuf),
}

#[derive(Debug)]
struct Point {
    action: Action,
    left: AtomicUsize,
}

/// Does what the environment wants done at `name`. Called by [`failpoint!`](crate::failpoint!).
pub async fn reach(name: &str) {
    static POINTS: OnceLock<HashMap<String, Point>> = OnceLock::new();
    let points = POINTS.get_or_init(|| {
        let list = std::env::var(VARIABLE).unwrap_or_default();
        parse(&list).unwrap_or_else(|entry| {
            eprintln!("{VARIABLE}: cannot read {entry:?}");
            std::process::abort()
        })
    });
    let Some(point) = points.get(name) else {
        return;
    };
    let taken = |left: usize| left.checked_sub(1);
    if point
        .left
        .fetch_update(Ordering::SeqCst, Ordering::SeqCst, taken)
        .is_err()
    {
        return;
    }
    eprintln!("failpoint {name}: {:?}", point.action);
    act(&point.action).await;
}

async fn act(action: &Action) {
    match action {
        Action::Abort => signal(Signal::KILL).await,
        Action::Stop => signal(Signal::STOP).await,
        Action::Sleep(time) => tokio::time::sleep(*time).await,
        Action::Pause(file) => {
            while !file.exists() {
                tokio::time::sleep(POLL).await;
            }
        }
    }
}

async fn signal(signal: Signal) {
    if kill_process(getpid(), signal).is_err() {
        std::process::abort();
    }
    tokio::time::sleep(SIGNAL_ARRIVES).await;
}

/// Reads the list; the entry that cannot be read where there is one.
fn parse(list: &str) -> Result<HashMap<String, Point>, &str> {
    let entries = list
        .split(';')
        .map(str::trim)
        .filter(|entry| !entry.is_empty());
    entries
        .map(|entry| parse_point(entry).ok_or(entry))
        .collect()
}

fn parse_point(entry: &str) -> Option<(String, Point)> {
    let (name, rest) = entry.split_once('=')?;
    let (times, action) = match rest.split_once('*') {
        Some((times, action)) => (times.parse().ok()?, action),
        None => (usize::MAX, rest),
    };
    let argument = |prefix: &str| action.strip_prefix(prefix)?.strip_suffix(')');
    let action = match action {
        "abort" => Action::Abort,
        "stop" => Action::Stop,
        _ => match (argument("sleep("), argument("pause(")) {
            (Some(ms), _) => Action::Sleep(Duration::from_millis(ms.parse().ok()?)),
            (_, Some(file)) => Action::Pause(file.into()),
            (None, None) => return None,
        },
    };
    let left = AtomicUsize::new(times);
    Some((name.to_owned(), Point { action, left }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_points_is_read() {
        let points = parse("a=abort; b=2*stop;c=sleep(5);d=pause(/run/x)").unwrap();
        let action = |name: &str| &points[name].action;
        assert_eq!(action("a"), &Action::Abort);
        assert_eq!(action("b"), &Action::Stop);
        assert_eq!(points["b"].left.load(Ordering::SeqCst), 2);
        assert_eq!(action("c"), &Action::Sleep(Duration::from_millis(5)));
        assert_eq!(action("d"), &Action::Pause("/run/x".into()));
    }

    #[test]
    fn an_entry_that_cannot_be_read_is_named() {
        for wrong in [
            "a",
            "a=explode",
            "a=x*stop",
            "a=sleep(soon)",
            "a=pause(",
            "a=sleep(1",
        ] {
            assert_eq!(parse(wrong).unwrap_err(), wrong);
        }
    }

    #[tokio::test]
    async fn a_pause_ends_when_its_file_is_there() {
        let file = std::env::temp_dir().join(format!("onlyonce-failpoint-{}", std::process::id()));
        let action = Action::Pause(file.clone());
        let paused = tokio::spawn(async move { act(&action).await });
        std::fs::write(&file, "").unwrap();
        paused.await.unwrap();
        std::fs::remove_file(&file).unwrap();
    }
}
