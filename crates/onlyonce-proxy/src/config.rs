//! Settings: one type for each section, all faults at once, every value traced to where it was written.
//!
//! Order: defaults, then the file, then `ONLYONCE__SECTION__KEY`, then flags; later ones win. All of them
//! go through the same parsers, so that `30` without a unit is refused from each in the same words.
//! Nothing is opened or bound here: a program with a fault in its settings has done nothing yet.
//!
//! Not serde: it stops at the first fault of a section, and its messages quote the value, which may be a
//! password under the wrong key.
//!
//! Every key, with its default:
//! ```toml
#![doc = include_str!("../reference.toml")]
//! ```

mod admin;
mod cache;
mod cache_url;
mod fault;
mod limits;
mod listen;
mod log;
mod policy;
mod relay;
mod section;
mod sources;
mod store;
mod upstream;
mod url;
pub(crate) mod value;
mod warnings;

pub use self::admin::Admin;
pub use self::cache::Cache;
pub use self::cache_url::CacheUrl;
pub use self::fault::{Fault, Faults, Origin};
pub use self::limits::Limits;
pub use self::listen::Listen;
pub use self::log::{Log, LogFormat};
pub use self::policy::{Policy, Recorded, Syntax};
pub use self::relay::{
    Broker, BrokerUrl, HookUrl, KafkaSetting, Outbox, OutboxUrl, Relay, RelayConfig, SentHeader,
    SinkName, SinkUrl, Timing, Webhook,
};
pub use self::section::Effective;
use self::section::Reader;
pub use self::sources::Sources;
pub use self::store::Store;
pub use self::upstream::Upstream;
pub use self::url::{DatabaseUrl, StoreUrl};
pub use self::value::ByteSize;

use crate::forward::ForwardSettings;

/// Everything `serve` needs.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// `[listen]`: where clients come in.
    pub listen: Listen,
    /// `[admin]`: where readiness is asked for.
    pub admin: Admin,
    /// `[upstream]`: the service that is guarded.
    pub upstream: Upstream,
    /// `[store]`: where records are kept.
    pub store: Store,
    /// `[cache]`: what is kept of it nearer.
    pub cache: Cache,
    /// `[policy]`: what is guarded, and how.
    pub policy: Policy,
    /// `[limits]`: bounds over all requests.
    pub limits: Limits,
    /// `[log]`: what is written to standard error.
    pub log: Log,
    /// `[relay]`: what `onlyonce relay` does, where anything is written there. `serve` only checks it.
    pub relay: Option<Relay>,
    /// Every setting in force, in the order of the sections.
    pub effective: Vec<Effective>,
}

impl Config {
    /// Understands what was written.
    ///
    /// # Errors
    /// Everything that is wrong, at once.
    pub fn load(sources: Sources) -> Result<Self, Faults> {
        let reader = Reader::new(sources);
        let listen = Listen::read(reader.section("listen"));
        let admin = Admin::read(reader.section("admin"));
        let upstream = Upstream::read(reader.section("upstream"));
        let store = Store::read(reader.section("store"));
        let policy = Policy::read(reader.section("policy"));
        let limits = Limits::read(reader.section("limits"));
        // After `policy`: a `deadline` under the wrong section is most likely that one.
        let cache = Cache::read(reader.section("cache"));
        let log = Log::read(reader.section("log"));
        let with_relay = reader.is_written("relay");
        let keys = relay::Keys::read(reader.section("relay"));
        let relay = with_relay.then(|| keys.relay(&reader, &store)).flatten();
        for (key, message) in policy.contradictions() {
            reader.fault(key, message);
        }
        if upstream
            .as_ref()
            .is_some_and(|upstream| upstream.url.is_at(listen.address))
        {
            let message = "this is where onlyonce itself listens; name the service's own address, or \
                           have onlyonce listen elsewhere (--listen)";
            reader.fault("upstream.url", message);
        }
        let (mut effective, Some(upstream)) = (reader.finish()?, upstream) else {
            unreachable!("an upstream that is not set is a fault")
        };
        effective.retain(|setting| with_relay || !setting.key.starts_with("relay."));
        Ok(Self {
            listen,
            admin,
            upstream,
            store,
            cache,
            policy,
            limits,
            log,
            relay,
            effective,
        })
    }

    /// The settings as the forwarder takes them: those of its section, and what others say of requests.
    pub fn forward(&self) -> ForwardSettings {
        let mut settings = self.upstream.settings();
        settings.trusted_peers = self.listen.trusted_peers();
        settings.problems = self.policy.guard(&self.upstream.name);
        settings.protected_names = vec![self.policy.key_header.clone()];
        settings
    }
}

#[cfg(test)]
mod tests;
