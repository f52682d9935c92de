//! An operator frees a key whose answer every cache has. Whoever asks after the key may have been executed
//! again must not be shown the old answer: not by a proxy that had it in memory, not by one whose Redis is
//! slow, not by one that slept through it all.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use onlyonce_test::client::{Response, post};
use onlyonce_test::detour::Detour;
use onlyonce_test::event::within;
use onlyonce_test::process::{Launch, Proxy};
use onlyonce_test::redis::Server;
use onlyonce_test::upstream::{Legacy, Reply};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::setup::{
    BODY, PATH, Setup, answer, assert_replays, code, on_each_store, retry_while_in_progress,
};

on_each_store!(
    a_key_is_freed_under_load_with_warm_caches_and_a_slow_reader,
    a_proxy_that_slept_through_the_decision_shows_no_old_answer,
);

const CLIENTS_PER_PROXY: usize = 3;

/// When the upstream executed, in order: its answers are numbered from 1.
type Executions = Arc<Mutex<Vec<Instant>>>;

fn number_executions(legacy: &Legacy) -> Executions {
    let executions = Executions::default();
    let noted = Arc::clone(&executions);
    legacy.answer_with(move |_| {
        let mut noted = noted.lock().unwrap_or_else(PoisonError::into_inner);
        noted.push(Instant::now());
        Reply::new(201).body(format!("execution {}", noted.len()))
    });
    executions
}

/// A proxy with both caches.
fn launch(setup: &Setup, redis: &str) -> Launch {
    setup.launch().arg("--cache").arg(redis)
}

async fn a_key_is_freed_under_load_with_warm_caches_and_a_slow_reader(setup: Setup) {
    let executions = number_executions(&setup.legacy);
    let redis = Server::start().expect("a Redis");
    let detour = Detour::to(redis.addr()).await;
    let warm = launch(&setup, &redis.url());
    // It has nothing but Redis to remember by, and all the patience in the world.
    let slow = launch(&setup, &format!("redis://{}", detour.addr()))
        .env("ONLYONCE__CACHE__MEMORY_MAX", "0B")
        .env("ONLYONCE__CACHE__DEADLINE", "20s");
    let (one, two, slow) = tokio::join!(warm.start(), warm.start(), slow.start());
    let first = answer(&one, "key").await;
    assert_eq!((first.status, first.text()), (201, "execution 1"));
    for proxy in [&one, &two, &slow] {
        assert_replays(&answer(proxy, "key").await, &first);
    }
    until_redis_is_read(&redis, &slow).await;

    let (seen, stop) = (Arc::new(watch::Sender::new(0)), watch::Sender::new(false));
    let mut clients = JoinSet::new();
    for proxy in [&one, &two] {
        for _ in 0..CLIENTS_PER_PROXY {
            let (seen, stop) = (Arc::clone(&seen), stop.subscribe());
            clients.spawn(repeat(proxy.addr(), seen, stop));
        }
    }
    let held = detour.hold();
    let addr = slow.addr();
    let reading = tokio::spawn(async move { post(addr, PATH, "key", BODY).await });
    held.reached(1).await;

    let [(id, _)] = &setup.list().await[..] else {
        panic!("one key was used")
    };
    setup.records(["forget", id]).await;
    setup.legacy.wait_for_effects(2).await;
    let everybody = CLIENTS_PER_PROXY * 2;
    let mut seen = seen.subscribe();
    let all_see = seen.wait_for(|count| *count == everybody);
    within("all clients to see the second execution", all_see)
        .await
        .expect("the sender is here");

    held.open();
    let late = reading.await.expect("no panic").expect("an answer");
    assert_eq!(
        late.text(),
        "execution 2",
        "what a slow Redis said was shown"
    );
    stop.send_replace(true);
    let answers: Vec<_> = clients.join_all().await.into_iter().flatten().collect();
    assert_no_old_answer(&answers, &executions);
    assert_eq!(setup.legacy.effects_of("key"), 2);
}

/// Asks until Redis has had an answer: what is put there goes out behind the client's back.
async fn until_redis_is_read(redis: &Server, reader: &Proxy) {
    within("a reader to be answered by Redis", async {
        while redis.hits().expect("Redis answers") == 0 {
            answer(reader, "key").await;
        }
    })
    .await;
}

/// One request: when it was sent, and what came.
struct Asked {
    at: Instant,
    answer: Response,
}

/// Repeats the request until told to stop. Counts itself once when it sees the second execution.
async fn repeat(
    addr: std::net::SocketAddr,
    seen: Arc<watch::Sender<usize>>,
    stop: watch::Receiver<bool>,
) -> Vec<Asked> {
    let (mut answers, mut counted) = (Vec::new(), false);
    while !*stop.borrow() {
        let at = Instant::now();
        let answer = post(addr, PATH, "key", BODY).await.expect("an answer");
        if !counted && answer.status == 201 && answer.text() == "execution 2" {
            counted = true;
            seen.send_modify(|count| *count += 1);
        }
        let busy = answer.status == 409;
        answers.push(Asked { at, answer });
        if busy {
            // As clients do. Without it the machine is busy saying 409.
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    answers
}

/// Whoever asked after the second execution had begun saw nothing of the first.
fn assert_no_old_answer(answers: &[Asked], executions: &Executions) {
    let executions = executions.lock().unwrap_or_else(PoisonError::into_inner);
    let [_, second] = executions[..] else {
        panic!("{} executions", executions.len())
    };
    let (mut old, mut new) = (0, 0);
    for Asked { at, answer } in answers {
        match (answer.status, answer.text()) {
            (201, "execution 1") => {
                let late = at.saturating_duration_since(second);
                assert!(late.is_zero(), "the old answer, asked {late:?} too late");
                old += 1;
            }
            (201, "execution 2") => new += 1,
            _ => assert_eq!(code(answer), "request-in-progress", "{answer:?}"),
        }
    }
    println!(
        "{old} old answers, {new} new ones, {} in all",
        answers.len()
    );
    assert!(old > 0 && new > 0, "too little happened");
}

async fn a_proxy_that_slept_through_the_decision_shows_no_old_answer(setup: Setup) {
    number_executions(&setup.legacy);
    let redis = Server::start().expect("a Redis");
    let launch = launch(&setup, &redis.url());
    let (sleeper, other) = tokio::join!(launch.start(), launch.start());
    let first = answer(&sleeper, "key").await;
    assert_replays(&answer(&sleeper, "key").await, &first);
    let addr = sleeper.addr();

    sleeper.freeze();
    sleeper.frozen().await;
    let [(id, _)] = &setup.list().await[..] else {
        panic!("one key was used")
    };
    setup.records(["forget", id]).await;
    let second = retry_while_in_progress(&other, "key").await;
    assert_eq!((second.text(), second.is_replay()), ("execution 2", false));
    // It is in the sleeper's socket when that wakes up: nothing it does by itself comes before.
    let asked = tokio::spawn(async move { post(addr, PATH, "key", BODY).await });
    tokio::task::yield_now().await;
    sleeper.thaw();
    let woken = asked.await.expect("no panic").expect("an answer");
    assert_replays(&woken, &second);
    assert_eq!(setup.legacy.effects_of("key"), 2);
}
