//! `[policy]`: which requests are guarded, and how. The words are those of [`onlyonce::policy`].

use std::time::Duration;

use http::{HeaderName, HeaderValue, Method, StatusCode};
use onlyonce::classify::StatusRules;
use onlyonce::key::KeySyntax;
use onlyonce::policy::{
    BodyFingerprint, KeyRequirement, OnDuplicate, OnStoreFailure, Policy as Guard, PolicyError,
};
use onlyonce::replay::HeaderFilter;
use onlyonce::scope::{CredentialSource, PrincipalSource, Scope};
use onlyonce::store::OnUnknown;

use super::section::Section;
use super::value::{ByteSize, Setting, choice};

/// What is guarded, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// The guarded methods.
    pub methods: Vec<Method>,
    /// Whether a request without a key is refused.
    pub require_key: bool,
    /// The header that carries the key.
    pub key_header: HeaderName,
    /// Whether raw keys are accepted beside quoted ones.
    pub key_syntax: Syntax,
    /// The longest key.
    pub key_max: ByteSize,
    /// Whether method and path are part of a key's identity.
    pub scope: Scope,
    /// Whose key it is.
    pub principal: PrincipalSource,
    /// Who may be told a recorded answer.
    pub credential: CredentialSource,
    /// How bodies are compared.
    pub body_fingerprint: BodyFingerprint,
    /// Request headers that are compared too.
    pub fingerprint_headers: Vec<HeaderName>,
    /// How long a guarded request may take from claim to settlement.
    pub deadline: Duration,
    /// How long records are kept.
    pub retention: Duration,
    /// How long a duplicate of a request in flight is held; zero answers 409 at once.
    pub wait: Duration,
    /// What is done with a key whose outcome nobody knows.
    pub on_unknown: OnUnknown,
    /// What is done while the store is away.
    pub on_store_failure: OnStoreFailure,
    /// Which responses are recorded where no list below names their status.
    pub record: Recorded,
    /// Statuses that are recorded.
    pub statuses_kept: Vec<StatusCode>,
    /// Statuses that mean that nothing was executed.
    pub statuses_released: Vec<StatusCode>,
    /// Statuses that do not tell.
    pub statuses_unknown: Vec<StatusCode>,
    /// Response headers that are recorded though they are left out by default.
    pub headers_kept: Vec<HeaderName>,
    /// Further response headers that are not recorded.
    pub headers_dropped: Vec<HeaderName>,
    /// The headers set to `true` on replays.
    pub replay_markers: Vec<HeaderName>,
    /// Whether responses repeat the key.
    pub echo_key: bool,
    /// The largest request body.
    pub request_max: ByteSize,
    /// The largest response body that is kept.
    pub response_max: ByteSize,
    /// How long an upload may pause.
    pub body_idle_max: Duration,
    /// How long an upload may take in all.
    pub body_total_max: Duration,
    /// A page for people, linked from errors about keys.
    pub documentation: Option<HeaderValue>,
    /// The name in `Proxy-Status` fields.
    pub proxy_name: Option<String>,
}

/// Which keys are accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Syntax {
    /// Quoted or raw.
    Lenient,
    /// Only quoted, as the draft has it.
    Strict,
}

/// Which responses are recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recorded {
    /// Whatever the service answered, errors included.
    All,
    /// Only 2xx and 3xx: a retry after an error executes again.
    SuccessOnly,
}

choice!(Syntax { "lenient" => Syntax::Lenient, "strict" => Syntax::Strict });
choice!(Recorded { "all" => Recorded::All, "success-only" => Recorded::SuccessOnly });
choice!(Scope { "route" => Scope::Route, "account" => Scope::Account });
choice!(OnUnknown { "hold" => OnUnknown::Hold, "reexecute" => OnUnknown::Reexecute });
choice!(OnStoreFailure { "refuse" => OnStoreFailure::Refuse, "forward" => OnStoreFailure::Forward });
choice!(BodyFingerprint {
    "raw" => BodyFingerprint::Raw,
    "canonical-json" => BodyFingerprint::CanonicalJson,
    "ignored" => BodyFingerprint::Ignored,
});

/// `default`, `header:NAME` or `cookie:NAME`, for the two sources of identity alike.
macro_rules! source {
    ($source:ident) => {
        impl Setting for $source {
            fn expected() -> String {
                "`default`, `header:NAME` or `cookie:NAME`".to_owned()
            }

            fn parse(text: &str) -> Option<Self> {
                match text.split_once(':') {
                    None => (text == "default").then_some(Self::Default),
                    Some(("header", name)) => name.parse().ok().map(Self::Header),
                    Some(("cookie", name)) => (!name.is_empty()).then(|| Self::Cookie(name.into())),
                    Some(_) => None,
                }
            }

            fn show(&self) -> String {
                match self {
                    Self::Default => "default".to_owned(),
                    Self::Header(name) => format!("header:{name}"),
                    Self::Cookie(name) => format!("cookie:{name}"),
                }
            }
        }
    };
}

source!(PrincipalSource);
source!(CredentialSource);

impl Policy {
    pub(super) fn read(section: Section<'_>) -> Self {
        Self {
            methods: section.above_zero("methods", vec![Method::POST, Method::PATCH]),
            require_key: section.get("require-key", false),
            key_header: section.get("key-header", HeaderName::from_static("idempotency-key")),
            key_syntax: section.get("key-syntax", Syntax::Lenient),
            key_max: section.above_zero("key-max", ByteSize(255)),
            scope: section.get("scope", Scope::Route),
            principal: section.get("principal", PrincipalSource::Default),
            credential: section.get("credential", CredentialSource::Default),
            body_fingerprint: section.get("body-fingerprint", BodyFingerprint::Raw),
            fingerprint_headers: section.get("fingerprint-headers", Vec::new()),
            deadline: section.get("deadline", Duration::from_secs(60)),
            retention: section.get("retention", Duration::from_secs(24 * 60 * 60)),
            wait: section.get("wait", Duration::ZERO),
            on_unknown: section.get("on-unknown", OnUnknown::Hold),
            on_store_failure: section.get("on-store-failure", OnStoreFailure::Refuse),
            record: section.get("record", Recorded::All),
            statuses_kept: section.get("statuses-kept", Vec::new()),
            statuses_released: section.get("statuses-released", Vec::new()),
            statuses_unknown: section.get("statuses-unknown", Vec::new()),
            headers_kept: section.get("headers-kept", Vec::new()),
            headers_dropped: section.get("headers-dropped", Vec::new()),
            replay_markers: section.get(
                "replay-markers",
                vec![HeaderName::from_static("idempotent-replayed")],
            ),
            echo_key: section.get("echo-key", false),
            request_max: section.get("request-max", ByteSize(8 << 20)),
            response_max: section.get("response-max", ByteSize(8 << 20)),
            body_idle_max: section.above_zero("body-idle-max", Duration::from_secs(30)),
            body_total_max: section.above_zero("body-total-max", Duration::from_secs(300)),
            documentation: section.optional("documentation"),
            proxy_name: section.optional("proxy-name"),
        }
    }

    /// The library's policy for the service of this name.
    pub fn guard(&self, service: &str) -> Guard {
        let mut guard = self.limits(Guard::default());
        if let Some(link) = &self.documentation {
            guard = guard.with_documentation(link.clone());
        }
        if let Some(name) = &self.proxy_name {
            guard = guard.with_proxy_name(name.as_str());
        }
        guard
            .with_service(service)
            .with_methods(self.methods.iter().cloned())
            .with_key_requirement(if self.require_key {
                KeyRequirement::Required
            } else {
                KeyRequirement::Optional
            })
            .with_key_header(self.key_header.clone())
            .with_key_syntax(self.syntax())
            .with_scope(self.scope)
            .with_principal(self.principal.clone())
            .with_credential(self.credential.clone())
            .with_body_fingerprint(self.body_fingerprint)
            .with_fingerprint_headers(self.fingerprint_headers.iter().cloned())
            .with_on_unknown(self.on_unknown)
            .with_on_store_failure(self.on_store_failure)
            .with_statuses(self.statuses())
            .with_response_headers(
                HeaderFilter::default()
                    .with_kept(self.headers_kept.iter().cloned())
                    .with_dropped(self.headers_dropped.iter().cloned()),
            )
            .with_replay_markers(self.replay_markers.iter().cloned())
            .with_echo_key(self.echo_key)
    }

    fn limits(&self, guard: Guard) -> Guard {
        guard
            .with_deadline(self.deadline)
            .with_retention(self.retention)
            .with_on_duplicate(match self.wait {
                Duration::ZERO => OnDuplicate::Reject,
                wait => OnDuplicate::Wait(wait),
            })
            .with_request_bytes_max(self.request_max.in_memory())
            .with_response_bytes_max(self.response_max.in_memory())
            .with_body_idle_max(self.body_idle_max)
            .with_body_total_max(self.body_total_max)
    }

    fn syntax(&self) -> KeySyntax {
        let syntax = match self.key_syntax {
            Syntax::Lenient => KeySyntax::lenient(),
            Syntax::Strict => KeySyntax::strict(),
        };
        syntax.with_bytes_max(self.key_max.in_memory())
    }

    fn statuses(&self) -> StatusRules {
        let rules = match self.record {
            Recorded::All => StatusRules::default(),
            Recorded::SuccessOnly => StatusRules::success_only(),
        };
        rules
            .with_kept(self.statuses_kept.iter().copied())
            .with_released(self.statuses_released.iter().copied())
            .with_unknown(self.statuses_unknown.iter().copied())
    }

    /// Looks for settings that contradict each other; tells the key and what is wrong.
    pub(super) fn contradictions(&self) -> Vec<(&'static str, String)> {
        let mut found = Vec::new();
        for error in self.guard("").validate().err().unwrap_or_default() {
            let key = match error {
                PolicyError::RetentionTooShort => "policy.retention",
                PolicyError::WaitTooLong => "policy.wait",
                _ => "policy.deadline",
            };
            found.push((key, error.to_string()));
        }
        let lists = [
            ("policy.statuses-kept", &self.statuses_kept),
            ("policy.statuses-released", &self.statuses_released),
            ("policy.statuses-unknown", &self.statuses_unknown),
        ];
        for (index, (key, statuses)) in lists.iter().enumerate() {
            for (other, before) in &lists[..index] {
                for status in statuses.iter().filter(|status| before.contains(status)) {
                    found.push((*key, format!("{} is in {other} too", status.as_str())));
                }
            }
        }
        let markers = self.replay_markers.iter();
        let names = markers.map(|name| ("policy.replay-markers", name));
        for (key, name) in names.chain([("policy.key-header", &self.key_header)]) {
            if TAKEN.contains(&name.as_str()) {
                found.push((key, format!("{name} has a meaning of its own in HTTP")));
            }
        }
        found
    }
}

/// Fields that are read by others: a key in them would be no key, and a marker would break the answer.
const TAKEN: [&str; 17] = [
    "authorization",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "cookie",
    "date",
    "expect",
    "host",
    "idempotency-outcome",
    "location",
    "set-cookie",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
];
