//! A Redis that two proxies share: it answers retries, and whatever becomes of it, no retry gets a wrong answer.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use onlyonce_test::client;
use onlyonce_test::event::{Counter, within};
use onlyonce_test::process::Launch;
use onlyonce_test::redis::Server;
use tokio::task::JoinSet;

use crate::load::number_charges;
use crate::setup::{BODY, PATH, Setup, answer, assert_replays, code, on_each_store};

on_each_store!(
    another_process_answers_from_redis_what_the_store_has_lost,
    redis_is_flushed_garbled_stopped_and_frozen_under_load,
);

/// Without memory of their own: every retry asks Redis.
fn launch(setup: &Setup, redis: &Server, deadline: &str) -> Launch {
    setup
        .launch()
        .arg("--cache")
        .arg(&redis.url())
        .env("ONLYONCE__CACHE__MEMORY_MAX", "0B")
        .env("ONLYONCE__CACHE__DEADLINE", deadline)
}

async fn another_process_answers_from_redis_what_the_store_has_lost(setup: Setup) {
    let redis = Server::start().expect("a Redis starts");
    let launch = launch(&setup, &redis, "5s");
    let (ours, theirs) = (launch.start().await, launch.start().await);
    // The first that asks has no confirmation yet, and keeps nothing.
    let (key, first) = within("an answer to be kept", async {
        let mut number = 0;
        loop {
            let key = format!("key-{number}");
            let first = answer(&ours, &key).await;
            assert_eq!(first.status, 200);
            tokio::time::sleep(Duration::from_millis(20)).await;
            if !redis.run("DBSIZE").expect("it answers").starts_with(":0") {
                return (key, first);
            }
            number += 1;
        }
    })
    .await;
    setup
        .store
        .run("delete from response", "delete from onlyonce_responses")
        .await;
    within("the other to ask Redis", async {
        loop {
            let retry = answer(&theirs, &key).await;
            if retry.is_replay() {
                return assert_replays(&retry, &first);
            }
            assert_eq!(code(&retry), "response-unavailable");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

/// Retries that were answered between one thing that happens to Redis and the next.
const PROGRESS: usize = 100;

/// What may happen to values: every one is changed somewhere, or has the value of another.
const GARBLE: [&str; 4] = [
    "EVAL \"for _,k in ipairs(redis.call('KEYS','*')) do redis.call('SETRANGE',k,40,'garbled') end\" 0",
    "EVAL \"for _,k in ipairs(redis.call('KEYS','*')) do redis.call('APPEND',k,'x') end\" 0",
    "EVAL \"local o for _,k in ipairs(redis.call('KEYS','*')) do local v=redis.call('GET',k) \
     if o then redis.call('SET',k,o) end o=v end\" 0",
    "EVAL \"for _,k in ipairs(redis.call('KEYS','*')) do redis.call('DEL',k) redis.call('RPUSH',k,'x') end\" 0",
];

async fn redis_is_flushed_garbled_stopped_and_frozen_under_load(setup: Setup) {
    let mut redis = Server::start().expect("a Redis starts");
    number_charges(&setup.legacy);
    let launch = launch(&setup, &redis, "20ms");
    let (first, second) = tokio::join!(launch.start(), launch.start());
    let (stop, retries) = (Arc::new(AtomicBool::new(false)), Counter::default());
    let mut clients = JoinSet::new();
    for number in 0..6 {
        let addrs = [first.addr(), second.addr()];
        clients.spawn(client(number, addrs, Arc::clone(&stop), retries.clone()));
    }
    let progress = async || {
        retries
            .reach(retries.get() + PROGRESS, "more retries")
            .await;
    };
    for _ in 0..2 {
        progress().await;
        for garbled in GARBLE {
            let said = redis.run(garbled).expect("it answers");
            assert!(!said.starts_with('-'), "{said}");
            progress().await;
        }
        redis.run("FLUSHALL").expect("it answers");
        progress().await;
        redis.freeze();
        progress().await;
        redis.thaw();
        progress().await;
        redis.stop();
        progress().await;
        redis.launch().expect("it starts again");
    }
    within("Redis to be asked again", async {
        while redis.hits().expect("it answers") < 100 {
            progress().await;
        }
    })
    .await;
    stop.store(true, Ordering::Relaxed);
    let keys: usize = clients.join_all().await.into_iter().sum();
    assert_eq!(setup.legacy.effects(), keys);
}

/// Charges, and retries each charge at both proxies; how many charges it made.
async fn client(
    number: usize,
    proxies: [SocketAddr; 2],
    stop: Arc<AtomicBool>,
    retries: Counter,
) -> usize {
    let mut charge = 0;
    while !stop.load(Ordering::Relaxed) {
        let key = format!("client-{number}-{charge}");
        let send = async |turn: usize| {
            let answer = client::post(proxies[turn % 2], PATH, &key, BODY).await;
            answer.unwrap_or_else(|error| panic!("no answer for {key}: {error}"))
        };
        let first = send(charge).await;
        assert_eq!((first.status, first.is_replay()), (201, false), "{first:?}");
        for turn in 1..=6 {
            assert_replays(&send(charge + turn).await, &first);
            retries.add();
        }
        charge += 1;
    }
    charge
}
