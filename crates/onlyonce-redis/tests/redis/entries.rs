//! The cache on a real Redis that answers, and on what somebody else has put there.

use std::time::Duration;

use onlyonce::cached::SharedCache;
use onlyonce::store::Generation;
use onlyonce_redis::{RedisCache, Settings, value};
use onlyonce_test::event::within;
use onlyonce_test::redis::Server;

use crate::support::*;

#[tokio::test]
async fn what_one_process_keeps_another_finds() {
    let redis = Redis::start();
    let (ours, theirs) = (redis.cache().await, redis.cache().await);
    let generation = Generation::random();
    for (byte, len) in [(1, 0), (2, 300), (3, 64 << 10)] {
        let entry = entry(len);
        assert_eq!(theirs.get(&generation, &id(byte)).await, None);
        kept(&ours, &generation, &id(byte), &entry).await;
        assert_eq!(found(&theirs, &generation, &id(byte)).await, entry);
    }
}

#[tokio::test]
async fn it_connects_by_itself() {
    let redis = Redis::start();
    let cache = RedisCache::new(redis.settings()).unwrap();
    let generation = Generation::random();
    kept(&cache, &generation, &id(1), &entry(10)).await;
}

#[tokio::test]
async fn another_generation_finds_nothing() {
    let redis = Redis::start();
    let cache = redis.cache().await;
    let generation = Generation::random();
    kept(&cache, &generation, &id(1), &entry(10)).await;
    assert_eq!(cache.get(&Generation::random(), &id(1)).await, None);
}

#[tokio::test]
async fn a_value_with_any_bit_changed_is_a_miss() {
    let redis = Redis::start();
    let cache = redis.cache().await;
    let mut other = redis.client().await;
    let generation = Generation::random();
    kept(&cache, &generation, &id(1), &entry(20)).await;
    let name = value::name(&generation, &id(1));
    let sealed = other.get(&name).await;
    for bit in 0..sealed.len() * 8 {
        let mut damaged = sealed.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        other.set(&name, &damaged).await;
        assert_eq!(cache.get(&generation, &id(1)).await, None, "bit {bit}");
    }
    other.set(&name, &sealed).await;
    assert_eq!(cache.get(&generation, &id(1)).await, Some(entry(20)));
}

#[tokio::test]
async fn what_was_not_put_there_under_this_name_is_a_miss() {
    let redis = Redis::start();
    let cache = redis.cache().await;
    let mut other = redis.client().await;
    let generation = Generation::random();
    kept(&cache, &generation, &id(1), &entry(20)).await;
    let name = value::name(&generation, &id(1));
    let sealed = other.get(&name).await;
    let older = Generation::random();
    let foreign = value::seal(&older, &id(1), &entry(20));
    let another = value::seal(&generation, &id(2), &entry(20));
    let huge = vec![b'x'; 8 << 20];
    let longer = [&sealed[..], b"x"].concat();
    for planted in [
        &b""[..],
        b"x",
        &sealed[..sealed.len() - 1],
        &longer,
        &foreign,
        &another,
        &huge,
    ] {
        other.set(&name, planted).await;
        assert_eq!(cache.get(&generation, &id(1)).await, None);
    }
    for command in [
        &["RPUSH", &name, "x"][..],
        &["HSET", &name, "x", "y"],
        &["SADD", &name, "x"],
        &["SETBIT", &name, "9", "1"],
    ] {
        other.run(&["DEL", &name]).await;
        other.run(command).await;
        for _ in 0..20 {
            assert_eq!(cache.get(&generation, &id(1)).await, None, "{command:?}");
        }
    }
    // All that is no reason to leave the server alone.
    other.set(&name, &sealed).await;
    assert_eq!(cache.get(&generation, &id(1)).await, Some(entry(20)));
}

#[tokio::test]
async fn entries_go_when_redis_is_flushed_and_can_be_put_again() {
    let redis = Redis::start();
    let cache = redis.cache().await;
    let generation = Generation::random();
    kept(&cache, &generation, &id(1), &entry(20)).await;
    redis.client().await.run(&["FLUSHALL"]).await;
    assert_eq!(cache.get(&generation, &id(1)).await, None);
    kept(&cache, &generation, &id(1), &entry(20)).await;
}

#[tokio::test]
async fn entries_stay_for_what_remains_and_never_longer_than_the_ttl() {
    let redis = Redis::start();
    let settings = redis.settings().with_ttl(Duration::from_secs(100));
    let cache = RedisCache::new(settings).unwrap();
    let mut other = redis.client().await;
    let generation = Generation::random();
    for (byte, remaining, at_most) in [(1, HOUR, 100_000), (2, Duration::from_secs(50), 50_000)] {
        kept_for(&cache, &generation, &id(byte), &entry(20), remaining).await;
        let left = other
            .run(&["PTTL", &value::name(&generation, &id(byte))])
            .await;
        let left: i64 = left.parse().unwrap();
        assert!((at_most - 40_000..=at_most).contains(&left), "{left}");
    }
    // Less than Redis can count is not for ever.
    cache.put(&generation, &id(3), &entry(20), Duration::from_nanos(1));
    kept(&cache, &generation, &id(4), &entry(20)).await;
    let name = value::name(&generation, &id(3));
    within("the entry to expire", async {
        while other.run(&["EXISTS", &name]).await != "0" {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn responses_above_the_limit_are_not_kept() {
    let redis = Redis::start();
    let cache = RedisCache::new(redis.settings().with_response_max(100)).unwrap();
    let generation = Generation::random();
    cache.put(&generation, &id(1), &entry(101), HOUR);
    kept(&cache, &generation, &id(2), &entry(100)).await;
    assert_eq!(cache.get(&generation, &id(1)).await, None);
}

#[tokio::test]
async fn a_database_and_a_password_are_used() {
    let redis = Server::start().unwrap();
    let mut other = Client::connect(&redis.url()).await;
    other.run(&["CONFIG", "SET", "requirepass", "p:w/"]).await;
    let url = format!("redis://:p%3Aw%2F@{}/3", redis.addr());
    let cache = RedisCache::new(url.parse::<Settings>().unwrap()).unwrap();
    assert!(cache.connect().await);
    let generation = Generation::random();
    kept(&cache, &generation, &id(1), &entry(20)).await;
    for wrong in [
        format!("redis://:wrong@{}/3", redis.addr()),
        format!("redis://{}/3", redis.addr()),
    ] {
        let cache = RedisCache::new(wrong.parse::<Settings>().unwrap()).unwrap();
        assert!(!cache.connect().await);
        assert_eq!(cache.get(&generation, &id(1)).await, None);
    }
}
