//! [`RedisCache`].

use std::sync::Arc;
use std::time::Duration;

use onlyonce::RecordId;
use onlyonce::cached::{Entry, SharedCache};
use onlyonce::store::Generation;
use redis::Value;
use tokio::time::timeout;

use crate::dial::{Dialer, TlsError};
use crate::link::{Failure, Link};
use crate::puts::{Put, Puts};
use crate::settings::Settings;
use crate::value;

/// A cache in Redis. Clones share it. What it promises, and what not, is in the [crate's](crate) first words.
#[derive(Debug, Clone)]
pub struct RedisCache {
    dialer: Arc<Dialer>,
    lookups: Arc<Link>,
    puts: Arc<Puts>,
}

impl RedisCache {
    /// A cache at the server that the settings name. It connects when it is first used.
    ///
    /// # Errors
    /// Where the settings ask for TLS and that cannot be set up. A server that is away is no error.
    pub fn new(settings: Settings) -> Result<Self, TlsError> {
        let dialer = Arc::new(Dialer::new(settings)?);
        Ok(Self {
            lookups: Arc::new(Link::new(Arc::clone(&dialer))),
            puts: Arc::new(Puts::new(Arc::new(Link::new(Arc::clone(&dialer))))),
            dialer,
        })
    }

    /// Connects now, so that the first lookup need not; whether it could. Why it could not is logged, and it
    /// goes on trying whenever it is used.
    pub async fn connect(&self) -> bool {
        self.lookups.connected().await.is_some()
    }

    async fn look_up(&self, generation: &Generation, id: &RecordId) -> Option<Vec<u8>> {
        let mut up = self.lookups.up()?;
        let settings = self.dialer.settings();
        // No value of ours is longer, and what somebody else put there may be half a gigabyte.
        let mut command = redis::cmd("GETRANGE");
        command
            .arg(value::name(generation, id))
            .arg(0)
            .arg(value::HEAD_BYTES + settings.response_max - 1);
        let answer = up.requests.send_packed_command(&command);
        let failure = match timeout(settings.deadline, answer).await {
            Ok(Ok(Value::BulkString(value))) => {
                self.lookups.succeeded(&up);
                return Some(value);
            }
            // Something under our name that is no string.
            Ok(Ok(Value::ServerError(error))) if error.code() == "WRONGTYPE" => {
                self.lookups.succeeded(&up);
                return None;
            }
            Ok(Ok(Value::ServerError(error))) => error.into(),
            Ok(Ok(_other)) => return None,
            Ok(Err(error)) => error.into(),
            Err(_elapsed) => Failure::Late,
        };
        self.lookups.failed(&up, &failure);
        None
    }
}

impl SharedCache for RedisCache {
    async fn get(&self, generation: &Generation, id: &RecordId) -> Option<Entry> {
        let value = self.look_up(generation, id).await?;
        value::open(generation, id, &value)
    }

    fn put(&self, generation: &Generation, id: &RecordId, entry: &Entry, remaining: Duration) {
        let settings = self.dialer.settings();
        if entry.response.len() > settings.response_max {
            return;
        }
        self.puts.put(Put {
            generation: *generation,
            id: *id,
            entry: entry.clone(),
            ttl: remaining.min(settings.ttl),
        });
    }
}
