//! What a response says about execution: keep it, free the key, or admit that nobody knows.
//!
//! A status code alone is weak evidence. A `503` from the service itself means "not now"; a `503` from a
//! gateway in front of it may mean that the connection broke after the charge was made. So, in this order:
//!
//! 1. [`Evidence`] that the inner service left in the response's extensions: it saw what happened;
//! 2. the upstream's own word, `Idempotency-Outcome: not-executed`, `executed` or `unknown`, which is removed.
//!    Two words that contradict each other are no knowledge: unknown;
//! 3. [`StatusRules`].
//!
//! `101 Switching Protocols` is always unknown: what follows it is no response, and cannot be recorded.
//!
//! ```
//! use http::{Response, StatusCode};
//! use onlyonce::Evidence;
//! use onlyonce::classify::{StatusRules, Verdict, classify};
//!
//! let rules = StatusRules::default().with_released([StatusCode::CONFLICT]);
//! let (mut parts, ()) = Response::builder().status(500).body(()).unwrap().into_parts();
//! assert_eq!(classify(&mut parts, &rules), Verdict::Keep); // it executed, and failed
//!
//! parts.extensions.insert(Evidence::Unknown);
//! assert_eq!(classify(&mut parts, &rules), Verdict::Unknown);
//! ```

use http::header::RETRY_AFTER;
use http::response::Parts;
use http::{HeaderMap, HeaderName, StatusCode};

use crate::evidence::Evidence;

/// The header by which an upstream says whether it executed: `executed`, `not-executed` or `unknown`. Not
/// passed on. Our own answers carry it, for another guard in front of this one.
pub const OUTCOME: HeaderName = HeaderName::from_static("idempotency-outcome");

/// What is done with a key once its response is here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// The response is recorded and replayed.
    Keep,
    /// Nothing was executed: the key is free again.
    Release,
    /// It may have been executed: the key is held.
    Unknown,
}

/// Which statuses are kept, released or unknown where nothing better is known.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StatusRules {
    success_only: bool,
    named: Vec<(StatusCode, Verdict)>,
}

impl StatusRules {
    /// Keeps 2xx and 3xx and releases every other status, 500 included: a retry after an error executes
    /// again. Only 502, 504, and 503 without `Retry-After` stay unknown, since a gateway may have sent them.
    ///
    /// Hazard: a service that charges and then fails with 500 charges twice. Only for services whose
    /// errors undo what they did.
    #[must_use]
    pub const fn success_only() -> Self {
        Self {
            success_only: true,
            named: Vec::new(),
        }
    }

    /// Statuses whose responses are recorded.
    #[must_use]
    pub fn with_kept(self, statuses: impl IntoIterator<Item = StatusCode>) -> Self {
        self.with(statuses, Verdict::Keep)
    }

    /// Statuses that mean that nothing was executed.
    #[must_use]
    pub fn with_released(self, statuses: impl IntoIterator<Item = StatusCode>) -> Self {
        self.with(statuses, Verdict::Release)
    }

    /// Statuses that do not tell.
    #[must_use]
    pub fn with_unknown(self, statuses: impl IntoIterator<Item = StatusCode>) -> Self {
        self.with(statuses, Verdict::Unknown)
    }

    fn with(mut self, statuses: impl IntoIterator<Item = StatusCode>, verdict: Verdict) -> Self {
        for status in statuses {
            self.named.retain(|(named, _)| *named != status);
            self.named.push((status, verdict));
        }
        self
    }

    fn verdict(&self, status: StatusCode, headers: &HeaderMap) -> Verdict {
        if let Some((_, verdict)) = self.named.iter().find(|(named, _)| *named == status) {
            return *verdict;
        }
        match status.as_u16() {
            503 if headers.contains_key(RETRY_AFTER) => Verdict::Release,
            502..=504 => Verdict::Unknown,
            401 | 403 | 407 | 408 | 421 | 425 | 426 | 429 => Verdict::Release,
            200..=399 => Verdict::Keep,
            _ if self.success_only => Verdict::Release,
            _ => Verdict::Keep,
        }
    }
}

/// Decides on a response, and removes [`OUTCOME`] from it unless the inner service made the response itself
/// (it has [`Evidence`] then).
pub fn classify(parts: &mut Parts, rules: &StatusRules) -> Verdict {
    let evidence = parts.extensions.get::<Evidence>().copied();
    let said = stated(&parts.headers);
    if evidence.is_none() {
        parts.headers.remove(OUTCOME);
    }
    if parts.status == StatusCode::SWITCHING_PROTOCOLS {
        return Verdict::Unknown;
    }
    match evidence {
        Some(Evidence::NotSent | Evidence::Refused) => Verdict::Release,
        Some(Evidence::Unknown) => Verdict::Unknown,
        None => said.unwrap_or_else(|| rules.verdict(parts.status, &parts.headers)),
    }
}

/// The upstream's word; `None` where it says nothing, or a word that we do not know.
fn stated(headers: &HeaderMap) -> Option<Verdict> {
    let lines = headers.get_all(OUTCOME).iter();
    let mut words = lines
        .flat_map(|line| line.as_bytes().split(|byte| *byte == b','))
        .map(|word| verdict_of(word.trim_ascii()));
    let first = words.next()??;
    let agreed = words.all(|word| word == Some(first));
    Some(if agreed { first } else { Verdict::Unknown })
}

fn verdict_of(word: &[u8]) -> Option<Verdict> {
    let words = [
        ("executed", Verdict::Keep),
        ("not-executed", Verdict::Release),
        ("unknown", Verdict::Unknown),
    ];
    let said = |(known, _): &&(&str, Verdict)| word.eq_ignore_ascii_case(known.as_bytes());
    words.iter().find(said).map(|(_, verdict)| *verdict)
}

#[cfg(test)]
mod tests {
    use http::{HeaderValue, Response};

    use super::*;

    fn parts(status: u16) -> Parts {
        Response::builder()
            .status(status)
            .body(())
            .unwrap()
            .into_parts()
            .0
    }

    fn verdict(status: u16, rules: &StatusRules) -> Verdict {
        classify(&mut parts(status), rules)
    }

    #[test]
    fn o1_to_o9_default_statuses() {
        let rules = StatusRules::default();
        for status in 100..=999 {
            let expected = match status {
                401 | 403 | 407 | 408 | 421 | 425 | 426 | 429 => Verdict::Release,
                101 | 502 | 503 | 504 => Verdict::Unknown,
                _ => Verdict::Keep,
            };
            assert_eq!(verdict(status, &rules), expected, "{status}");
        }
    }

    #[test]
    fn o8_a_503_that_names_a_time_is_the_service_itself() {
        let mut parts = parts(503);
        parts
            .headers
            .insert(RETRY_AFTER, HeaderValue::from_static("1"));
        assert_eq!(
            classify(&mut parts, &StatusRules::default()),
            Verdict::Release
        );
        assert_eq!(
            classify(&mut parts, &StatusRules::success_only()),
            Verdict::Release
        );
    }

    #[test]
    fn o21_success_only() {
        let rules = StatusRules::success_only();
        for (status, expected) in [
            (201, Verdict::Keep),
            (303, Verdict::Keep),
            (400, Verdict::Release),
            (409, Verdict::Release),
            (422, Verdict::Release),
            (500, Verdict::Release),
            (101, Verdict::Unknown),
            (502, Verdict::Unknown),
            (503, Verdict::Unknown),
            (504, Verdict::Unknown),
        ] {
            assert_eq!(verdict(status, &rules), expected, "{status}");
        }
    }

    #[test]
    fn o21_named_statuses_win_and_the_last_word_counts() {
        let rules = StatusRules::default()
            .with_released([StatusCode::CONFLICT, StatusCode::BAD_GATEWAY])
            .with_kept([StatusCode::UNAUTHORIZED])
            .with_unknown([StatusCode::INTERNAL_SERVER_ERROR])
            .with_kept([StatusCode::CONFLICT, StatusCode::SWITCHING_PROTOCOLS]);
        for (status, expected) in [
            (409, Verdict::Keep),
            (502, Verdict::Release),
            (401, Verdict::Keep),
            (500, Verdict::Unknown),
            (101, Verdict::Unknown),
        ] {
            assert_eq!(verdict(status, &rules), expected, "{status}");
        }
    }

    #[test]
    fn o10_o12_evidence_is_believed_first() {
        for (evidence, expected) in [
            (Evidence::NotSent, Verdict::Release),
            (Evidence::Refused, Verdict::Release),
            (Evidence::Unknown, Verdict::Unknown),
        ] {
            let mut parts = parts(200);
            parts
                .headers
                .insert(OUTCOME, HeaderValue::from_static("executed"));
            parts.extensions.insert(evidence);
            assert_eq!(classify(&mut parts, &StatusRules::default()), expected);
            // Whoever knows that much made the response: it is our own word, for a guard in front.
            assert_eq!(parts.headers[OUTCOME], "executed");
        }
    }

    #[test]
    fn o19_the_upstreams_word_overrides_statuses_and_is_stripped() {
        for (status, lines, expected) in [
            (200, &["not-executed"][..], Verdict::Release),
            (502, &["executed"], Verdict::Keep),
            (429, &[" Executed "], Verdict::Keep),
            (500, &["not-executed", "NOT-EXECUTED"], Verdict::Release),
            (500, &["maybe"], Verdict::Keep),
            (500, &[""], Verdict::Keep),
            (500, &["unknown"], Verdict::Unknown),
            (429, &["executed, not-executed"], Verdict::Unknown),
            (429, &["not-executed", "executed"], Verdict::Unknown),
            (500, &["not-executed,not-executed"], Verdict::Release),
            (502, &["executed", "not-executed"], Verdict::Unknown),
            (502, &["not-executed", "maybe"], Verdict::Unknown),
            (101, &["executed"], Verdict::Unknown),
        ] {
            let mut parts = parts(status);
            for line in lines {
                parts
                    .headers
                    .append(OUTCOME, HeaderValue::from_static(line));
            }
            let verdict = classify(&mut parts, &StatusRules::default());
            assert_eq!(verdict, expected, "{status} {lines:?}");
            assert!(!parts.headers.contains_key(OUTCOME));
        }
    }
}
