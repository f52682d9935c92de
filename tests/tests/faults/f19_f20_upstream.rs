//! F19, F20: the upstream breaks off at each point of an exchange, closes a connection just as a request is
//! written to it, or answers too late. Each request reaches it at most once, and what nobody can know is
//! said to be unknown.

use std::time::Duration;

use onlyonce_test::client::Response;
use onlyonce_test::event::Gate;
use onlyonce_test::process::Proxy;
use onlyonce_test::upstream::{At, Break, Legacy, Reply};
use tokio::time::Instant;

use crate::setup::{Setup, answer, assert_problem, assert_replays, code, post};

/// One way to break off.
#[derive(Debug, Clone, Copy)]
struct Case {
    at: At,
    how: Break,
    /// Whether the response's body is chunked, or has a length.
    chunked: bool,
    /// Whether the connection to the upstream was used before.
    reused: bool,
}

impl Case {
    fn reply(self) -> Reply {
        let reply = match (self.chunked, "x".repeat(100)) {
            (true, body) => Reply::new(201).chunked([&body, &body], []),
            (false, body) => Reply::new(201).body(body),
        };
        let reply = match self.at {
            At::AfterInterim => reply.interim(100),
            _ => reply,
        };
        reply.breaks(self.at, self.how)
    }

    /// Where the head was passed on already, the client sees that the body is not whole.
    fn head_was_sent(self) -> bool {
        self.at >= At::AfterHead
    }

    fn effects(self) -> usize {
        usize::from(self.at >= At::AfterRequest)
    }
}

#[tokio::test]
async fn f19_the_upstream_breaks_off() {
    let setup = Setup::sqlite().await;
    let proxy = setup.launch().start().await;
    let points = [
        At::FirstByte,
        At::InRequest(0),
        At::InRequest(5),
        At::AfterRequest,
        At::AfterInterim,
        At::AfterHead,
        At::InBody(50),
    ];
    let mut number = 0;
    for at in points {
        for how in [Break::Reset, Break::Finish] {
            for (chunked, reused) in [(false, false), (false, true), (true, false), (true, true)] {
                let case = Case {
                    at,
                    how,
                    chunked,
                    reused,
                };
                breaks_off(&setup, &proxy, case, &format!("key-{number}")).await;
                number += 1;
            }
        }
    }
}

async fn breaks_off(setup: &Setup, proxy: &Proxy, case: Case, key: &str) {
    if case.reused {
        assert_eq!(answer(proxy, &format!("before-{key}")).await.status, 200);
    }
    let before = setup.legacy.requests();
    setup.legacy.script(case.reply());
    match post(proxy, key).await {
        Ok(first) if case.head_was_sent() => assert!(
            first.status == 502 || !first.is_whole(),
            "{case:?}: {first:?}"
        ),
        Ok(first) => assert_problem(&first, 502, "outcome-unknown"),
        // The reset that breaks off the answer may get past the head that was sent before it.
        Err(error) => assert!(case.head_was_sent(), "{case:?}: {error}"),
    }
    assert_eq!(setup.legacy.effects_of(key), case.effects(), "{case:?}");
    assert_problem(&answer(proxy, key).await, 409, "outcome-unknown");
    let sent = setup.legacy.requests() - before;
    assert_eq!(sent, 1, "{case:?}: sent once, and never again");
}

/// The end of an idle connection and a request cross each other. Whatever the moment, nothing is lost and
/// nothing is sent twice.
#[tokio::test(flavor = "multi_thread")]
async fn f19_the_upstream_closes_a_connection_as_a_request_is_written() {
    let setup = Setup::sqlite().await;
    let proxy = setup.launch().start().await;
    let mut unknown = 0;
    for round in 0..200 {
        let key = format!("key-{round}");
        let how = if round % 2 == 0 {
            Break::Finish
        } else {
            Break::Reset
        };
        let close = async {
            // A little later in each round than in the one before; timers are too coarse.
            let start = Instant::now();
            while start.elapsed() < Duration::from_micros(20) * round {
                tokio::task::yield_now().await;
            }
            setup.legacy.close_idle(how);
        };
        let (first, ()) = tokio::join!(answer(&proxy, &key), close);
        let effects = setup.legacy.effects_of(&key);
        let then = answer(&proxy, &key).await;
        match (first.status, code(&first).as_str()) {
            (200, _) => assert_replays(&then, &first),
            // Closed before the first byte, as was the fresh connection: the key is free again.
            (502, "upstream-unreachable") => {
                assert_eq!((effects, then.is_replay()), (0, false), "{key}: {then:?}");
            }
            _ => {
                unknown += 1;
                assert_problem(&first, 502, "outcome-unknown");
                assert_problem(&then, 409, "outcome-unknown");
                assert_eq!(setup.legacy.effects_of(&key), effects, "{key}");
            }
        }
        assert!(setup.legacy.effects_of(&key) <= 1, "{key}");
    }
    println!("{unknown} of 200 are unknown");
}

/// An idle connection that the upstream has ended already is no reason for an error: nothing was sent on it.
#[tokio::test]
async fn f19_the_upstream_had_closed_its_idle_connections() {
    let setup = Setup::sqlite().await;
    let proxy = setup.launch().start().await;
    for round in 0..10 {
        let first = answer(&proxy, &format!("key-{round}")).await;
        assert_eq!(first.status, 200, "{first:?}");
        setup.legacy.close_idle(Break::Finish);
        // The end has reached the proxy when a new connection of ours has been served.
        let straight = onlyonce_test::client::post(setup.legacy.addr(), "/", "straight", "").await;
        assert!(straight.is_ok());
    }
    assert_eq!(setup.legacy.effects(), 20);
}

/// Nothing was sent, provably: the key is free again.
#[tokio::test]
async fn f19_the_upstream_is_down() {
    let setup = Setup::sqlite().await;
    let nobody = onlyonce_test::upstream::refusing_addr().await;
    let store = setup.store.url();
    let launch = onlyonce_test::process::Launch::serve([
        "--upstream",
        &format!("http://{nobody}"),
        "--store",
        &store,
    ]);
    let proxy = launch.start().await;
    for _ in 0..2 {
        assert_problem(&answer(&proxy, "key").await, 502, "upstream-unreachable");
    }
    let states = setup.list().await;
    assert!(
        states.iter().all(|(_, state)| state == "free"),
        "{states:?}"
    );
}

#[tokio::test]
async fn f20_the_upstream_answers_after_the_deadline() {
    let setup = Setup::postgres().await;
    let proxy = setup.launch().arg("--deadline").arg("1s").start().await;
    let gate = Gate::default();
    setup
        .legacy
        .script(Reply::new(201).body("late").held_at(&gate));
    let first = answer(&proxy, "key").await;
    assert_problem(&first, 504, "outcome-unknown");
    assert_unknown(&setup.legacy, &proxy).await;
    gate.open();
    assert_unknown(&setup.legacy, &proxy).await;
}

/// The head came in time, the rest of the body does not.
#[tokio::test]
async fn f20_the_upstream_ends_its_answer_after_the_deadline() {
    let setup = Setup::postgres().await;
    let proxy = setup.launch().arg("--deadline").arg("1s").start().await;
    let (reply, stream) = Reply::streaming(201);
    setup.legacy.script(reply);
    stream.send("a part");
    let first = post(&proxy, "key").await.expect("a head");
    assert_eq!(
        (first.status, first.text(), first.is_whole()),
        (201, "a part", false)
    );
    stream.send("and the rest");
    stream.end();
    assert_unknown(&setup.legacy, &proxy).await;
}

async fn assert_unknown(legacy: &Legacy, proxy: &Proxy) {
    let retry: Response = answer(proxy, "key").await;
    assert_eq!(
        (retry.status, code(&retry).as_str()),
        (409, "outcome-unknown")
    );
    assert_eq!(retry.fields.get("x-should-retry"), Some("false"));
    assert_eq!((legacy.effects(), legacy.requests()), (1, 1));
}
