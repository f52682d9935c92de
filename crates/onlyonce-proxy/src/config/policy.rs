//! `[policy]`: which requests are guarded, and how.

use std::time::Duration;

use http::{HeaderName, Method};

use super::section::Section;
use super::value::ByteSize;

/// What is guarded, and how. The same words as the library's policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// The guarded methods.
    pub methods: Vec<Method>,
    /// Whether a request without a key is refused.
    pub require_key: bool,
    /// The header that carries the key.
    pub key_header: HeaderName,
    /// How long a guarded request may take from claim to settlement.
    pub deadline: Duration,
    /// How long records are kept.
    pub retention: Duration,
    /// How long a duplicate of a request in flight is held; zero answers 409 at once.
    pub wait: Duration,
    /// The largest request body.
    pub request_max: ByteSize,
    /// The largest response body that is kept.
    pub response_max: ByteSize,
}

impl Policy {
    pub(super) fn read(section: Section<'_>) -> Self {
        Self {
            methods: section.get("methods", vec![Method::POST, Method::PATCH]),
            require_key: section.get("require-key", false),
            key_header: section.get("key-header", HeaderName::from_static("idempotency-key")),
            deadline: section.get("deadline", Duration::from_secs(60)),
            retention: section.get("retention", Duration::from_secs(24 * 60 * 60)),
            wait: section.get("wait", Duration::ZERO),
            request_max: section.get("request-max", ByteSize(8 << 20)),
            response_max: section.get("response-max", ByteSize(8 << 20)),
        }
    }
}
