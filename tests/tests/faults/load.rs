//! Load while something breaks: clients that charge once for each key, retry as clients do, and remember
//! what they were told.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use onlyonce_test::client::{Raw, Response, post_bytes};
use onlyonce_test::event::within;
use onlyonce_test::upstream::{Legacy, Reply};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::setup::{BODY, PATH, code};

/// A client gives up on a key, as clients do, after so many tries.
const TRIES: usize = 4;
const PAUSE: Duration = Duration::from_millis(20);

/// What became of one key.
#[derive(Debug)]
pub(crate) struct Charge {
    pub(crate) key: String,
    /// The success that its client was told of, where it was told of one.
    pub(crate) success: Option<Response>,
}

/// Running clients.
pub(crate) struct Load {
    clients: JoinSet<Vec<Charge>>,
    stop: Arc<AtomicBool>,
    told: Arc<AtomicUsize>,
}

/// Every charge gets an answer of its own, so that a second execution shows in the bytes too.
pub(crate) fn number_charges(legacy: &Legacy) {
    let count = AtomicUsize::new(0);
    legacy.answer_with(move |request| {
        let number = count.fetch_add(1, Ordering::Relaxed);
        let key = request.key().unwrap_or_default();
        Reply::new(201).body(format!("charge {number} for {key}"))
    });
}

impl Load {
    /// So many clients, each going round the proxies whose addresses are the newest.
    pub(crate) fn start(clients: usize, proxies: &watch::Receiver<Vec<SocketAddr>>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::new(AtomicUsize::new(0));
        let mut tasks = JoinSet::new();
        for number in 0..clients {
            let charges = client(
                number,
                proxies.clone(),
                Arc::clone(&stop),
                Arc::clone(&told),
            );
            tasks.spawn(charges);
        }
        Self {
            clients: tasks,
            stop,
            told,
        }
    }

    /// How many successes clients were told of so far.
    pub(crate) fn told(&self) -> usize {
        self.told.load(Ordering::Relaxed)
    }

    /// Lets every client finish the key it is at.
    pub(crate) async fn stop(self) -> Vec<Charge> {
        self.stop.store(true, Ordering::Relaxed);
        self.clients
            .join_all()
            .await
            .into_iter()
            .flatten()
            .collect()
    }
}

async fn client(
    number: usize,
    proxies: watch::Receiver<Vec<SocketAddr>>,
    stop: Arc<AtomicBool>,
    told: Arc<AtomicUsize>,
) -> Vec<Charge> {
    let mut charges = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let key = format!("client-{number}-{}", charges.len());
        let mut success = None;
        for attempt in number..number + TRIES {
            let addr = {
                let proxies = proxies.borrow();
                proxies[attempt % proxies.len()]
            };
            match try_post(addr, &key).await {
                Some(answer) if answer.status == 201 => {
                    success = Some(answer);
                    told.fetch_add(1, Ordering::Relaxed);
                    break;
                }
                Some(answer) => assert_is_honest(&answer),
                None => {}
            }
            tokio::time::sleep(PAUSE).await;
        }
        charges.push(Charge { key, success });
    }
    charges
}

/// A whole answer; nothing where the connection was refused or broke.
async fn try_post(addr: SocketAddr, key: &str) -> Option<Response> {
    let mut client = Raw::try_connect(addr).await.ok()?;
    client.send(post_bytes(PATH, key, BODY)).await;
    client.response().await.ok().filter(Response::is_whole)
}

/// While something is broken, these are the answers that say so and promise nothing.
fn assert_is_honest(answer: &Response) {
    let told = (answer.status, code(answer));
    let honest = [
        (409, "request-in-progress"),
        (409, "outcome-unknown"),
        (502, "outcome-unknown"),
        (504, "outcome-unknown"),
        (503, "store-unavailable"),
    ];
    assert!(
        honest
            .iter()
            .any(|(status, code)| (*status, *code) == (told.0, &told.1)),
        "{answer:?}"
    );
}

/// When all is well again: no key had two effects, and each success that a client was told of is what any
/// proxy replays, byte for byte. Answers how many successes there were.
pub(crate) async fn assert_consistent(
    legacy: &Legacy,
    addr: SocketAddr,
    charges: Vec<Charge>,
) -> usize {
    let mut keys = charges
        .iter()
        .map(|charge| charge.key.clone())
        .collect::<Vec<_>>();
    let told = charges
        .iter()
        .filter(|charge| charge.success.is_some())
        .count();
    let mut checks = JoinSet::new();
    let share = charges.len().div_ceil(8).max(1);
    let mut charges = charges.into_iter().peekable();
    while charges.peek().is_some() {
        let part: Vec<_> = charges.by_ref().take(share).collect();
        checks.spawn(async move {
            for charge in part {
                assert_settled(addr, charge).await;
            }
        });
    }
    while let Some(checked) = checks.join_next().await {
        checked.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
    }
    let mut executed: Vec<_> = legacy
        .journal()
        .iter()
        .filter_map(|request| request.key().map(str::to_owned))
        .collect();
    executed.sort_unstable();
    keys.sort_unstable();
    if let Some(twice) = executed.windows(2).find(|pair| pair[0] == pair[1]) {
        panic!("{} was executed twice", twice[0]);
    }
    told
}

async fn assert_settled(addr: SocketAddr, charge: Charge) {
    // What is in progress ends; a store that was away is asked again within a second of its return.
    let final_answer = async {
        loop {
            let answer = try_post(addr, &charge.key).await;
            let answer = answer.unwrap_or_else(|| panic!("no answer for {}", charge.key));
            if !matches!(&*code(&answer), "request-in-progress" | "store-unavailable") {
                break answer;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let answer = within("a final answer", final_answer).await;
    match charge.success {
        Some(first) => {
            assert!(
                answer.is_replay(),
                "{} was a success, and now {answer:?}",
                charge.key
            );
            assert_eq!(
                (answer.status, answer.body),
                (first.status, first.body),
                "{}",
                charge.key
            );
        }
        None => assert!(
            answer.status == 201 || code(&answer) == "outcome-unknown",
            "{}: {answer:?}",
            charge.key
        ),
    }
}
