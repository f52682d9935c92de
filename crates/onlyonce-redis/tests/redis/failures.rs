//! Servers that are away, come back, break, freeze, or take their time.

use std::time::Duration;

use onlyonce::cached::SharedCache;
use onlyonce::store::Generation;
use onlyonce_redis::RedisCache;
use onlyonce_test::event::{Counter, within};
use onlyonce_test::redis::Server;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

use crate::support::*;

/// Longer than any deadline here, and much shorter than what would be waited without one.
const PROMPT: Duration = Duration::from_secs(5);

/// A lookup that must end soon, whatever the server does.
async fn miss(cache: &RedisCache, generation: &Generation) {
    let looked = tokio::time::timeout(PROMPT, cache.get(generation, &id(1))).await;
    assert_eq!(looked.expect("the deadline holds"), None);
}

#[tokio::test]
async fn a_server_that_was_away_at_the_start_is_used_when_it_comes() {
    let mut redis = Server::start().unwrap();
    redis.stop();
    let cache = RedisCache::new(settings(&redis.url())).unwrap();
    let generation = Generation::random();
    assert!(!cache.connect().await);
    cache.put(&generation, &id(1), &entry(20), HOUR);
    miss(&cache, &generation).await;
    redis.launch().unwrap();
    kept(&cache, &generation, &id(1), &entry(20)).await;
}

#[tokio::test]
async fn a_server_that_stops_and_starts_again_is_used_again() {
    let mut redis = Server::start().unwrap();
    let cache = RedisCache::new(settings(&redis.url())).unwrap();
    let generation = Generation::random();
    for _ in 0..2 {
        kept(&cache, &generation, &id(1), &entry(20)).await;
        redis.stop();
        for _ in 0..20 {
            cache.put(&generation, &id(1), &entry(20), HOUR);
            miss(&cache, &generation).await;
        }
        redis.launch().unwrap();
    }
    kept(&cache, &generation, &id(1), &entry(20)).await;
}

#[tokio::test]
async fn a_frozen_server_costs_no_more_than_the_deadline_and_is_left_alone() {
    let redis = Server::start().unwrap();
    let deadline = Duration::from_millis(200);
    let cache = RedisCache::new(settings(&redis.url()).with_deadline(deadline)).unwrap();
    let generation = Generation::random();
    kept(&cache, &generation, &id(1), &entry(20)).await;
    redis.freeze();
    let started = Instant::now();
    // A thousand deadlines one after the other would take 200 s.
    for _ in 0..1000 {
        miss(&cache, &generation).await;
        cache.put(&generation, &id(1), &entry(20), HOUR);
    }
    assert!(started.elapsed() < Duration::from_secs(60));
    redis.thaw();
    // It lost nothing.
    assert_eq!(found(&cache, &generation, &id(1)).await, entry(20));
}

#[tokio::test]
async fn lookups_at_the_same_time_wait_no_longer_than_one() {
    let redis = Server::start().unwrap();
    let deadline = Duration::from_millis(200);
    let cache = RedisCache::new(settings(&redis.url()).with_deadline(deadline)).unwrap();
    let generation = Generation::random();
    kept(&cache, &generation, &id(1), &entry(20)).await;
    redis.freeze();
    let lookups: Vec<_> = (0..3000)
        .map(|_| {
            let cache = cache.clone();
            tokio::spawn(async move { miss(&cache, &generation).await })
        })
        .collect();
    for lookup in lookups {
        within("the lookup", lookup).await.unwrap();
    }
}

/// Accepts everybody, and lets `serve` do the rest.
async fn listen<F>(serve: impl Fn(TcpStream) -> F + Send + 'static) -> (String, Counter)
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("redis://{}", listener.local_addr().unwrap());
    let accepted = Counter::default();
    let count = accepted.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            count.add();
            tokio::spawn(serve(stream));
        }
    });
    (url, accepted)
}

#[tokio::test]
async fn a_server_that_accepts_and_never_answers_is_waited_for_by_nobody() {
    let (url, accepted) = listen(|stream| async move {
        let _open = stream;
        std::future::pending::<()>().await;
    })
    .await;
    let cache = RedisCache::new(settings(&url)).unwrap();
    let generation = Generation::random();
    let started = Instant::now();
    while accepted.get() < 2 {
        for _ in 0..100 {
            miss(&cache, &generation).await;
            cache.put(&generation, &id(1), &entry(20), HOUR);
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert!(started.elapsed() < Duration::from_secs(20));
    }
    assert!(!within("the connection to be given up", cache.connect()).await);
}

/// Says OK to everything that a connection begins with, until somebody looks for something: then `then`.
async fn greet(mut stream: TcpStream, then: &'static [u8]) {
    let mut seen = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(read @ 1..) = stream.read(&mut buffer).await {
        seen.extend_from_slice(&buffer[..read]);
        let text = String::from_utf8_lossy(&seen).into_owned();
        let answer = if text.contains("GETRANGE") {
            then.to_vec()
        } else {
            b"+OK\r\n".repeat(text.matches('*').count())
        };
        seen.clear();
        if stream.write_all(&answer).await.is_err() || answer.is_empty() {
            return;
        }
    }
}

#[tokio::test]
async fn a_server_that_greets_and_then_answers_nonsense_is_a_miss_and_soon_left_alone() {
    for nonsense in [
        &b""[..],
        b"*1\r\n$1\r\nx\r\n",
        b":1\r\n",
        b"$-1\r\n",
        b"+OK\r\n",
        b"-ERR no\r\n",
        b"-NOPERM no\r\n",
        b"$5\r\nx\r\n",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\xff\xfe\xfd",
    ] {
        let (url, accepted) = listen(move |stream| greet(stream, nonsense)).await;
        let deadline = Duration::from_millis(50);
        let cache = RedisCache::new(settings(&url).with_deadline(deadline)).unwrap();
        let generation = Generation::random();
        assert!(cache.connect().await, "{nonsense:?}");
        for _ in 0..200 {
            miss(&cache, &generation).await;
        }
        assert!(accepted.get() < 20, "{nonsense:?}: {}", accepted.get());
    }
}

#[tokio::test]
async fn an_answer_that_comes_too_late_is_not_taken_for_the_next() {
    let redis = Server::start().unwrap();
    let deadline = Duration::from_millis(200);
    let cache = RedisCache::new(settings(&redis.url()).with_deadline(deadline)).unwrap();
    let generation = Generation::random();
    kept(&cache, &generation, &id(1), &entry(20)).await;
    kept(&cache, &generation, &id(2), &entry(40)).await;
    redis.freeze();
    miss(&cache, &generation).await;
    redis.thaw();
    // On the same connection, behind the answer that nobody took.
    assert_eq!(found(&cache, &generation, &id(2)).await, entry(40));
}
