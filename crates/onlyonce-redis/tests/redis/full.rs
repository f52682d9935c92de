//! More than fits: into Redis, and into the queue before it.

use std::time::Duration;

use onlyonce::RecordId;
use onlyonce::cached::SharedCache;
use onlyonce::store::Generation;
use onlyonce_redis::RedisCache;
use onlyonce_test::redis::Server;
use tokio::time::Instant;

use crate::support::*;

fn numbered(number: u64) -> RecordId {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&number.to_be_bytes());
    RecordId::from_bytes(bytes)
}

#[tokio::test]
async fn what_redis_has_no_memory_for_is_dropped_and_it_is_used_again_when_it_has() {
    let redis = Server::start().unwrap();
    let cache = RedisCache::new(settings(&redis.url())).unwrap();
    let mut other = Client::connect(&redis.url()).await;
    let generation = Generation::random();
    kept(&cache, &generation, &id(1), &entry(20)).await;
    // Without a policy to evict by, which is the default, it refuses to write.
    other.run(&["CONFIG", "SET", "maxmemory", "1"]).await;
    for number in 0..1000 {
        cache.put(&generation, &numbered(number), &entry(1000), HOUR);
    }
    // What is there is found all the same: refusing to write is no reason to leave it alone.
    for _ in 0..100 {
        assert_eq!(cache.get(&generation, &id(1)).await, Some(entry(20)));
    }
    other.run(&["CONFIG", "SET", "maxmemory", "0"]).await;
    kept(&cache, &generation, &id(2), &entry(1000)).await;
}

#[tokio::test]
async fn putting_never_waits_and_what_does_not_fit_is_dropped() {
    let redis = Server::start().unwrap();
    let cache = RedisCache::new(settings(&redis.url())).unwrap();
    let generation = Generation::random();
    kept(&cache, &generation, &id(1), &entry(20)).await;
    redis.freeze();
    let large = entry(60 << 10);
    let started = Instant::now();
    // 600 MB, if they were all held. Nothing else runs meanwhile: no `await`.
    for number in 0..10_000 {
        cache.put(&generation, &numbered(number), &large, HOUR);
    }
    assert!(started.elapsed() < Duration::from_secs(5));
    redis.thaw();
    kept(&cache, &generation, &id(2), &entry(20)).await;
    let mut other = Client::connect(&redis.url()).await;
    let names: u64 = other.run(&["DBSIZE"]).await.parse().unwrap();
    // The two others, and 16 MiB.
    assert!(names <= 2 + (16 << 10) / 60, "{names}");
}
