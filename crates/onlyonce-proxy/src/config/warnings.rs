//! Settings that are allowed and worth a second look.

use onlyonce::policy::OnStoreFailure;
use onlyonce::scope::PrincipalSource;
use onlyonce::store::OnUnknown;

use super::{Config, Recorded, Relay, StoreUrl};

/// Settings that decide which requests are the same: changing one starts new keys.
const IDENTITY: [&str; 4] = [
    "upstream.name",
    "policy.key-header",
    "policy.scope",
    "policy.principal",
];

impl Config {
    /// What weakens the promise, in a sentence each. `serve` logs them, `check` prints them.
    pub fn warnings(&self) -> Vec<&'static str> {
        let policy = &self.policy;
        let conditions = [
            (
                self.store.url == StoreUrl::Memory,
                "store.url = memory: a restart forgets every key, and the retries that come after it \
                 execute again; other processes do not see them",
            ),
            (
                self.store.url == StoreUrl::Memory && self.cache.url.is_some(),
                "cache.url is not used with store.url = memory: there is nothing to ask that is further away",
            ),
            (
                policy.on_unknown == OnUnknown::Reexecute,
                "policy.on-unknown = reexecute: a retry of a key whose outcome nobody knows executes again; \
                 only for services that are themselves idempotent",
            ),
            (
                policy.on_store_failure == OnStoreFailure::Forward,
                "policy.on-store-failure = forward: while the store is away every retry executes",
            ),
            (
                policy.record == Recorded::SuccessOnly,
                "policy.record = success-only: a retry after an error executes again; only for services \
                 whose errors undo what they did",
            ),
            (
                matches!(policy.principal, PrincipalSource::Header(_)),
                "policy.principal = header: clients can write headers; have a trusted hop in front set it",
            ),
        ];
        let met = conditions.into_iter().filter(|(met, _)| *met);
        let relay = self.relay.iter().flat_map(Relay::warnings);
        met.map(|(_, warning)| warning).chain(relay).collect()
    }

    /// The settings written somewhere that decide which requests are the same. To change them on a
    /// running service starts new keys: a retry that crosses the change executes again.
    pub fn identity(&self) -> Vec<&str> {
        let written = self
            .effective
            .iter()
            .filter(|setting| setting.origin.is_some());
        let keys = written.map(|setting| setting.key.as_str());
        keys.filter(|key| IDENTITY.contains(key)).collect()
    }
}
