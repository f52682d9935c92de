//! Servers, entries, and somebody else who uses the same Redis.

use std::time::Duration;

use bytes::Bytes;
use onlyonce::cached::{Entry, SharedCache};
use onlyonce::store::Generation;
use onlyonce::{CredentialHash, Fingerprint, RecordId, Timestamp};
use onlyonce_redis::{RedisCache, Settings};
use onlyonce_test::event::within;
use onlyonce_test::redis::Server;
use redis::aio::MultiplexedConnection;

pub(crate) const HOUR: Duration = Duration::from_secs(3600);

/// A Redis that a test shares with others, where one is named, or has for itself.
pub(crate) struct Redis {
    url: String,
    _own: Option<Server>,
}

impl Redis {
    pub(crate) fn start() -> Self {
        if let Ok(url) = std::env::var("ONLYONCE_TEST_REDIS_URL") {
            return Self { url, _own: None };
        }
        Self::own()
    }

    /// For tests that flush it.
    pub(crate) fn own() -> Self {
        let own = Server::start().unwrap();
        Self {
            url: own.url(),
            _own: Some(own),
        }
    }

    /// With a deadline that a busy machine keeps, for tests that are about something else.
    pub(crate) fn settings(&self) -> Settings {
        settings(&self.url)
    }

    /// A cache that is connected.
    pub(crate) async fn cache(&self) -> RedisCache {
        let cache = RedisCache::new(self.settings()).unwrap();
        assert!(cache.connect().await);
        cache
    }

    pub(crate) async fn client(&self) -> Client {
        Client::connect(&self.url).await
    }
}

pub(crate) fn settings(url: &str) -> Settings {
    let settings: Settings = url.parse().unwrap();
    settings.with_deadline(Duration::from_secs(10))
}

/// Somebody else who may do as he likes.
pub(crate) struct Client(MultiplexedConnection);

impl Client {
    pub(crate) async fn connect(url: &str) -> Self {
        let client = redis::Client::open(url).unwrap();
        Self(client.get_multiplexed_async_connection().await.unwrap())
    }

    /// Runs a command; its answer as text.
    pub(crate) async fn run(&mut self, command: &[&str]) -> String {
        let (name, args) = command.split_first().unwrap();
        let answer = redis::cmd(name).arg(args).query_async(&mut self.0).await;
        match answer.unwrap() {
            redis::Value::Int(number) => number.to_string(),
            redis::Value::BulkString(bytes) => String::from_utf8(bytes).unwrap(),
            other => format!("{other:?}"),
        }
    }

    pub(crate) async fn get(&mut self, name: &str) -> Vec<u8> {
        let mut command = redis::cmd("GET");
        command.arg(name).query_async(&mut self.0).await.unwrap()
    }

    pub(crate) async fn set(&mut self, name: &str, value: &[u8]) {
        let mut command = redis::cmd("SET");
        command.arg(name).arg(value);
        command.exec_async(&mut self.0).await.unwrap();
    }
}

pub(crate) fn id(byte: u8) -> RecordId {
    RecordId::from_bytes([byte; 16])
}

pub(crate) fn entry(len: usize) -> Entry {
    Entry {
        fingerprint: Fingerprint::from_bytes([2; 32]),
        credential: CredentialHash::from_bytes([3; 32]),
        expires_at: Timestamp::from_micros(1_800_000_000_000_000),
        response: Bytes::from_iter((0..=u8::MAX).cycle().take(len)),
    }
}

/// Looks until it is there.
pub(crate) async fn found(cache: &RedisCache, generation: &Generation, id: &RecordId) -> Entry {
    within("the entry to be there", async {
        loop {
            if let Some(entry) = cache.get(generation, id).await {
                return entry;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await
}

/// Puts an entry, and waits until it is there.
pub(crate) async fn kept(
    cache: &RedisCache,
    generation: &Generation,
    id: &RecordId,
    entry: &Entry,
) {
    kept_for(cache, generation, id, entry, HOUR).await;
}

/// Puts an entry until it is there: Redis may be left alone just now, or the machine so busy that a put was
/// given up.
pub(crate) async fn kept_for(
    cache: &RedisCache,
    generation: &Generation,
    id: &RecordId,
    entry: &Entry,
    remaining: Duration,
) {
    within("the entry to be kept", async {
        while cache.get(generation, id).await.as_ref() != Some(entry) {
            cache.put(generation, id, entry, remaining);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}
