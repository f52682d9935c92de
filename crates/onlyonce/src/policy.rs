//! What a route wants: which requests are guarded, how, and within which limits.
//!
//! A policy is plain data with builder methods. Defaults are those of the default dialect: `POST` and
//! `PATCH`, the key optional, 24 hours of retention, a deadline of a minute, 8 MiB each way, duplicates
//! answered at once, an unknown outcome held, no forwarding without a store.
//!
//! **Identity.** [`with_service`](Policy::with_service), [`with_scope`](Policy::with_scope),
//! [`with_principal`](Policy::with_principal) and [`with_target`](Policy::with_target) are part of what
//! makes two requests the same. Changing them starts new keys: do it when no retries are under way.
//!
//! ```
//! use std::time::Duration;
//! use onlyonce::policy::{OnDuplicate, Policy};
//!
//! let policy = Policy::default()
//!     .require_key()
//!     .with_retention(Duration::from_secs(7 * 86_400))
//!     .with_on_duplicate(OnDuplicate::Wait(Duration::from_secs(2)));
//! assert!(policy.validate().is_ok());
//! ```

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::request::Parts;
use http::{HeaderName, HeaderValue, Method};

use crate::classify::StatusRules;
use crate::key::KeySyntax;
use crate::replay::HeaderFilter;
use crate::scope::{CredentialSource, PrincipalSource, Scope};
use crate::store::OnUnknown;
use crate::store::operator::LEASE_MARGIN;

/// Whether a request without a key is answered with an error or forwarded unguarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KeyRequirement {
    /// Forwarded, once, without any guard.
    #[default]
    Optional,
    /// Answered 400 `idempotency-key-missing`; nothing is forwarded.
    Required,
}

/// What is done with a request whose twin is in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnDuplicate {
    /// 409 at once, with `Retry-After`.
    #[default]
    Reject,
    /// Hold it for so long, then replay the twin's response, or 409.
    Wait(Duration),
}

/// What is done when the store cannot take a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnStoreFailure {
    /// 503; nothing is forwarded.
    #[default]
    Refuse,
    /// Forward unguarded: duplicates may execute while the store is away.
    Forward,
}

/// How the body takes part in the fingerprint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BodyFingerprint {
    /// Its bytes, after transfer decoding.
    #[default]
    Raw,
    /// JSON bodies by value: order of members and white space do not matter. Bodies in which that could
    /// make two different requests equal (duplicate members, numbers out of reach) count by their bytes.
    CanonicalJson,
    /// Not at all, nor its type: a request with another body gets the first one's answer.
    Ignored,
}

type Target = dyn Fn(&Parts) -> Option<String> + Send + Sync;

/// The settings of one route. See the [module's documentation](self).
#[derive(Clone)]
pub struct Policy {
    pub(crate) methods: Vec<Method>,
    pub(crate) requirement: KeyRequirement,
    pub(crate) key_header: HeaderName,
    pub(crate) key_syntax: KeySyntax,
    pub(crate) service: Box<str>,
    pub(crate) scope: Scope,
    pub(crate) principal: PrincipalSource,
    pub(crate) credential: CredentialSource,
    pub(crate) target: Option<Arc<Target>>,
    pub(crate) body_fingerprint: BodyFingerprint,
    pub(crate) fingerprint_headers: Vec<HeaderName>,
    pub(crate) statuses: StatusRules,
    pub(crate) response_headers: HeaderFilter,
    pub(crate) replay_markers: Vec<HeaderName>,
    pub(crate) echo_key: bool,
    pub(crate) request_bytes_max: usize,
    pub(crate) response_bytes_max: usize,
    pub(crate) body_idle_max: Duration,
    pub(crate) body_total_max: Duration,
    pub(crate) deadline: Duration,
    pub(crate) retention: Duration,
    pub(crate) on_duplicate: OnDuplicate,
    pub(crate) on_unknown: OnUnknown,
    pub(crate) on_store_failure: OnStoreFailure,
    pub(crate) documentation: Option<HeaderValue>,
    pub(crate) proxy_name: Option<Box<str>>,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            methods: vec![Method::POST, Method::PATCH],
            requirement: KeyRequirement::Optional,
            key_header: HeaderName::from_static("idempotency-key"),
            key_syntax: KeySyntax::default(),
            service: "".into(),
            scope: Scope::default(),
            principal: PrincipalSource::default(),
            credential: CredentialSource::default(),
            target: None,
            body_fingerprint: BodyFingerprint::Raw,
            fingerprint_headers: Vec::new(),
            statuses: StatusRules::default(),
            response_headers: HeaderFilter::default(),
            replay_markers: vec![HeaderName::from_static("idempotent-replayed")],
            echo_key: false,
            request_bytes_max: 8 << 20,
            response_bytes_max: 8 << 20,
            body_idle_max: Duration::from_secs(30),
            body_total_max: Duration::from_secs(5 * 60),
            deadline: Duration::from_secs(60),
            retention: Duration::from_secs(24 * 60 * 60),
            on_duplicate: OnDuplicate::Reject,
            on_unknown: OnUnknown::Hold,
            on_store_failure: OnStoreFailure::Refuse,
            documentation: None,
            proxy_name: None,
        }
    }
}

/// Settings that contradict each other.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// Records would be forgotten while their request may still run.
    #[error("retention must be longer than twice the deadline and 5 s more")]
    RetentionTooShort,
    /// Nothing could be sent within half of it.
    #[error("the deadline must be at least 100 ms")]
    DeadlineTooShort,
    /// A waiting duplicate would outlive the request it waits for.
    #[error("duplicates must not wait longer than the deadline")]
    WaitTooLong,
}

impl Policy {
    /// The guarded methods. Default: `POST` and `PATCH`.
    #[must_use]
    pub fn with_methods(mut self, methods: impl IntoIterator<Item = Method>) -> Self {
        self.methods = methods.into_iter().collect();
        self
    }

    /// Answers requests without a key with 400.
    #[must_use]
    pub fn require_key(self) -> Self {
        self.with_key_requirement(KeyRequirement::Required)
    }

    /// Whether a key is required. Default: optional.
    #[must_use]
    pub fn with_key_requirement(mut self, requirement: KeyRequirement) -> Self {
        self.requirement = requirement;
        self
    }

    /// The request header that carries the key. Default: `Idempotency-Key`.
    #[must_use]
    pub fn with_key_header(mut self, name: HeaderName) -> Self {
        self.key_header = name;
        self
    }

    /// Which keys are accepted. Default: lenient, 255 bytes.
    #[must_use]
    pub fn with_key_syntax(mut self, syntax: KeySyntax) -> Self {
        self.key_syntax = syntax;
        self
    }

    /// The upstream's name, part of every record's identity: two services on one store never share keys.
    /// Default: empty.
    #[must_use]
    pub fn with_service(mut self, name: impl Into<Box<str>>) -> Self {
        self.service = name.into();
        self
    }

    /// Whether method and path are part of a key's identity. Default: they are.
    #[must_use]
    pub fn with_scope(mut self, scope: Scope) -> Self {
        self.scope = scope;
        self
    }

    /// Where the principal is read from. Default: [`PrincipalSource::Default`].
    #[must_use]
    pub fn with_principal(mut self, source: PrincipalSource) -> Self {
        self.principal = source;
        self
    }

    /// Where the credential is read from. Default: [`CredentialSource::Default`].
    #[must_use]
    pub fn with_credential(mut self, source: CredentialSource) -> Self {
        self.credential = source;
        self
    }

    /// How the path and query of a request are found, where the request's own URI is not the client's:
    /// axum's `nest` strips prefixes, and keeps the whole in its `OriginalUri` extension. `None` falls
    /// back to the request's URI.
    #[must_use]
    pub fn with_target(
        mut self,
        target: impl Fn(&Parts) -> Option<String> + Send + Sync + 'static,
    ) -> Self {
        self.target = Some(Arc::new(target));
        self
    }

    /// How bodies are compared. Default: by their bytes.
    #[must_use]
    pub fn with_body_fingerprint(mut self, body: BodyFingerprint) -> Self {
        self.body_fingerprint = body;
        self
    }

    /// Further request headers whose values are part of the fingerprint, such as an API version.
    #[must_use]
    pub fn with_fingerprint_headers(mut self, names: impl IntoIterator<Item = HeaderName>) -> Self {
        self.fingerprint_headers = names.into_iter().collect();
        self
    }

    /// Which statuses are kept, released or unknown.
    #[must_use]
    pub fn with_statuses(mut self, rules: StatusRules) -> Self {
        self.statuses = rules;
        self
    }

    /// Which response headers are recorded.
    #[must_use]
    pub fn with_response_headers(mut self, filter: HeaderFilter) -> Self {
        self.response_headers = filter;
        self
    }

    /// The headers set to `true` on replays. Default: `Idempotent-Replayed`.
    #[must_use]
    pub fn with_replay_markers(mut self, names: impl IntoIterator<Item = HeaderName>) -> Self {
        self.replay_markers = names.into_iter().collect();
        self
    }

    /// Whether responses repeat the request's key header. Default: no.
    #[must_use]
    pub fn with_echo_key(mut self, echo: bool) -> Self {
        self.echo_key = echo;
        self
    }

    /// The largest request body in bytes; 413 above. Default: 8 MiB.
    #[must_use]
    pub fn with_request_bytes_max(mut self, bytes: usize) -> Self {
        self.request_bytes_max = bytes;
        self
    }

    /// The largest response body that is kept, in bytes. A larger one is delivered in full, and a retry
    /// gets `response-unavailable`. Default: 8 MiB.
    #[must_use]
    pub fn with_response_bytes_max(mut self, bytes: usize) -> Self {
        self.response_bytes_max = bytes;
        self
    }

    /// How long an upload may pause before it is given up with 408. Default: 30 s.
    #[must_use]
    pub fn with_body_idle_max(mut self, limit: Duration) -> Self {
        self.body_idle_max = limit;
        self
    }

    /// How long an upload may take in all before it is given up with 408. Default: 5 min.
    #[must_use]
    pub fn with_body_total_max(mut self, limit: Duration) -> Self {
        self.body_total_max = limit;
        self
    }

    /// How long a guarded request may take from claim to settlement. Default: 60 s.
    #[must_use]
    pub fn with_deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// How long records are kept, counted from the claim. Default: 24 h.
    #[must_use]
    pub fn with_retention(mut self, retention: Duration) -> Self {
        self.retention = retention;
        self
    }

    /// What is done with a request whose twin is in flight. Default: 409 at once.
    #[must_use]
    pub fn with_on_duplicate(mut self, on_duplicate: OnDuplicate) -> Self {
        self.on_duplicate = on_duplicate;
        self
    }

    /// What is done with a key whose outcome is unknown. Default: hold.
    #[must_use]
    pub fn with_on_unknown(mut self, on_unknown: OnUnknown) -> Self {
        self.on_unknown = on_unknown;
        self
    }

    /// What is done when the store cannot take a claim. Default: refuse.
    #[must_use]
    pub fn with_on_store_failure(mut self, on_store_failure: OnStoreFailure) -> Self {
        self.on_store_failure = on_store_failure;
        self
    }

    /// A page for people, sent as `Link: <…>; rel="describedby"` with errors about keys.
    #[must_use]
    pub fn with_documentation(mut self, link: HeaderValue) -> Self {
        self.documentation = Some(link);
        self
    }

    /// The name in the `Proxy-Status` field (RFC 9209) of generated errors; none is sent where unset.
    #[must_use]
    pub fn with_proxy_name(mut self, name: impl Into<Box<str>>) -> Self {
        self.proxy_name = Some(name.into());
        self
    }

    /// The request header that carries the key.
    pub fn key_header(&self) -> &HeaderName {
        &self.key_header
    }

    /// Which statuses are kept, released or unknown.
    pub fn statuses(&self) -> &StatusRules {
        &self.statuses
    }

    /// Which response headers are recorded.
    pub fn response_headers(&self) -> &HeaderFilter {
        &self.response_headers
    }

    /// The largest response body that is kept, in bytes.
    pub fn response_bytes_max(&self) -> usize {
        self.response_bytes_max
    }

    /// What is done with requests while the store takes no claims.
    pub fn on_store_failure(&self) -> OnStoreFailure {
        self.on_store_failure
    }

    /// The lease of a claim: the deadline and a margin.
    pub fn lease(&self) -> Duration {
        self.deadline + LEASE_MARGIN
    }

    /// Looks for settings that contradict each other, all at once.
    ///
    /// # Errors
    /// Every contradiction found.
    pub fn validate(&self) -> Result<(), Vec<PolicyError>> {
        let mut errors = Vec::new();
        if self.retention <= self.lease() + self.deadline {
            errors.push(PolicyError::RetentionTooShort);
        }
        if self.deadline < Duration::from_millis(100) {
            errors.push(PolicyError::DeadlineTooShort);
        }
        if matches!(self.on_duplicate, OnDuplicate::Wait(wait) if wait > self.deadline) {
            errors.push(PolicyError::WaitTooLong);
        }
        if errors.is_empty() {
            Ok(())
        } else {
            Err(errors)
        }
    }
}

impl fmt::Debug for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Policy")
            .field("methods", &self.methods)
            .field("requirement", &self.requirement)
            .field("key_header", &self.key_header)
            .field("service", &self.service)
            .field("scope", &self.scope)
            .field("deadline", &self.deadline)
            .field("retention", &self.retention)
            .field("on_duplicate", &self.on_duplicate)
            .field("on_unknown", &self.on_unknown)
            .field("on_store_failure", &self.on_store_failure)
            .finish_non_exhaustive()
    }
}
