//! `[cache]`: completed records that are kept nearer than the store.

use std::path::PathBuf;
use std::time::Duration;

use onlyonce::cached::Cached;
use onlyonce::store::Cacheable;
use onlyonce_redis::{RedisCache, TlsError};

use super::cache_url::CacheUrl;
use super::section::Section;
use super::value::ByteSize;

/// What is kept for retries. None of it is the authority: it changes how fast an answer comes, never which.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cache {
    /// What this process's memory may hold; nothing is kept where it is zero.
    pub memory_max: ByteSize,
    /// The longest recorded response that is kept.
    pub entry_max: ByteSize,
    /// A Redis that several processes share, if there is one.
    pub url: Option<CacheUrl>,
    /// Which authorities its certificate may come from, instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// How long looking something up there may take before the store is asked instead.
    pub deadline: Duration,
    /// How long an entry stays there at the most.
    pub ttl: Duration,
}

impl Cache {
    /// The store with what is kept of it; `None` where nothing is.
    ///
    /// # Errors
    /// Where the shared cache wants TLS and that cannot be set up. One that is away is no error.
    pub(crate) fn around<S: Cacheable>(&self, store: S) -> Result<Option<Cached<S>>, TlsError> {
        if self.memory_max.0 == 0 && self.url.is_none() {
            return Ok(None);
        }
        let cached = Cached::new(store)
            .with_memory_max(self.memory_max.in_memory())
            .with_entry_max(self.entry_max.in_memory());
        let Some(url) = &self.url else {
            return Ok(Some(cached));
        };
        let redis = self.redis(url)?;
        let connecting = redis.clone();
        // Not waited for: without it everything works as well.
        tokio::spawn(async move { connecting.connect().await });
        Ok(Some(cached.with_shared(redis)))
    }

    fn redis(&self, url: &CacheUrl) -> Result<RedisCache, TlsError> {
        let settings = url
            .settings()
            .with_deadline(self.deadline)
            .with_ttl(self.ttl)
            .with_response_max(self.entry_max.in_memory());
        RedisCache::new(match &self.ca_file {
            Some(path) => settings.with_ca_file(path),
            None => settings,
        })
    }

    pub(super) fn read(section: Section<'_>) -> Self {
        Self {
            memory_max: section.get("memory-max", ByteSize(64 << 20)),
            entry_max: section.above_zero("entry-max", ByteSize(64 << 10)),
            url: section.optional("url"),
            ca_file: section.optional("ca-file"),
            deadline: section.above_zero("deadline", Duration::from_millis(5)),
            ttl: section.above_zero("ttl", Duration::from_secs(3600)),
        }
    }
}
