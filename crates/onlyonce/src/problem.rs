//! The errors that this project answers itself, as RFC 9457 problem details.
//!
//! Each has a stable [`Code`], and says whether repeating the same request with the same key can help:
//! `retryable` in the body, `x-should-retry` for the clients that obey it. They are never recorded under
//! the key. They do not repeat the request, nor tell which part of it differed.
//!
//! ```
//! use std::time::Duration;
//! use onlyonce::policy::Policy;
//! use onlyonce::problem::{Code, Problem};
//!
//! let problem = Problem::new(Code::RequestInProgress).with_retry_after(Duration::from_millis(1500));
//! let response = Policy::default().answer(problem);
//! assert_eq!(response.status(), 409);
//! assert_eq!(response.headers()["retry-after"], "2");
//! assert_eq!(response.headers()["content-type"], "application/problem+json");
//! ```

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    CACHE_CONTROL, CONTENT_LANGUAGE, CONTENT_LENGTH, CONTENT_TYPE, LINK, RETRY_AFTER,
};
use http::{HeaderName, HeaderValue, Response, StatusCode};
use serde::Serialize;

use crate::classify::OUTCOME;
use crate::policy::Policy;
use crate::record::RecordId;

mod code;

pub use self::code::Code;

/// An error to be answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    code: Code,
    status: StatusCode,
    detail: Cow<'static, str>,
    record: Option<RecordId>,
    retry_after: Option<Duration>,
    retryable: bool,
}

/// The members of the body, in the order they are written.
#[derive(Serialize)]
struct Body<'a> {
    r#type: String,
    title: &'static str,
    status: u16,
    detail: &'a str,
    code: &'static str,
    retryable: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    instance: Option<String>,
}

impl Problem {
    /// A problem with the status and the advice that its code has.
    #[must_use]
    pub fn new(code: Code) -> Self {
        Self {
            code,
            status: code.status(),
            detail: code.advice().into(),
            record: None,
            retry_after: None,
            retryable: code.retryable(),
        }
    }

    /// What went wrong in this request, in words for whoever sent it.
    #[must_use]
    pub fn with_detail(mut self, detail: impl Into<Cow<'static, str>>) -> Self {
        self.detail = detail.into();
        self
    }

    /// The record in question; becomes `instance`, which logs and the `records` command also show.
    #[must_use]
    pub fn with_record(mut self, id: RecordId) -> Self {
        self.record = Some(id);
        self
    }

    /// When to try again; sent in whole seconds, rounded up, at least 1. Ignored where the problem is not
    /// retryable: a date there would be an invitation.
    #[must_use]
    pub fn with_retry_after(mut self, delay: Duration) -> Self {
        self.retry_after = Some(delay);
        self
    }

    /// The same request would fail in the same way, though the code is mostly of passing troubles: a fault in the
    /// service's own program.
    #[must_use]
    pub fn without_retry(mut self) -> Self {
        self.retryable = false;
        self
    }

    /// Another status than the code's own: the first caller of an unknown outcome gets 502 or 504.
    #[must_use]
    pub fn with_status(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }

    /// What went wrong.
    pub fn code(&self) -> Code {
        self.code
    }

    /// The response's status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The response, without what a policy adds: see [`Policy::answer`].
    pub fn into_response(self) -> Response<Bytes> {
        let retryable = self.retryable;
        let body = Bytes::from(self.body());
        let mut response = Response::new(body);
        *response.status_mut() = self.status;
        let length = response.body().len().into();
        let headers = response.headers_mut();
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        headers.insert(CONTENT_LENGTH, length);
        headers.insert(CONTENT_LANGUAGE, HeaderValue::from_static("en"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        let should_retry = if retryable { "true" } else { "false" };
        let name = HeaderName::from_static("x-should-retry");
        headers.insert(name, HeaderValue::from_static(should_retry));
        if let Some(seconds) = self.retry_after_seconds() {
            headers.insert(RETRY_AFTER, seconds.into());
        }
        if let Some(outcome) = self.code.outcome() {
            headers.insert(OUTCOME, HeaderValue::from_static(outcome));
        }
        response
    }

    fn body(&self) -> Vec<u8> {
        let body = Body {
            r#type: format!("urn:onlyonce:problem:{}", self.code.as_str()),
            title: self.code.title(),
            status: self.status.as_u16(),
            detail: &self.detail,
            code: self.code.as_str(),
            retryable: self.retryable,
            instance: self.record.map(|id| format!("urn:onlyonce:record:{id}")),
        };
        serde_json::to_vec(&body).expect("strings, a number and a boolean are always JSON")
    }

    fn retry_after_seconds(&self) -> Option<u64> {
        if !self.retryable {
            return None;
        }
        let always = matches!(self.code, Code::RequestInProgress | Code::StoreUnavailable);
        let delay = self.retry_after.or(always.then_some(Duration::ZERO))?;
        let started = u64::from(delay.subsec_nanos() > 0);
        Some(delay.as_secs().saturating_add(started).max(1))
    }
}

impl Policy {
    /// The response to a problem: with a link to the documentation where it is about a key, and a
    /// `Proxy-Status` (RFC 9209) where this proxy has a name, so that it is told apart from an answer of the
    /// upstream.
    pub fn answer(&self, problem: Problem) -> Response<Bytes> {
        let (code, status) = (problem.code, problem.status);
        let mut response = problem.into_response();
        let headers = response.headers_mut();
        if let Some(page) = self.documentation.as_ref().filter(|_| code.is_about_key())
            && let Ok(link) = link(page)
        {
            headers.insert(LINK, link);
        }
        if let Some(value) = self
            .proxy_name
            .as_deref()
            .and_then(|name| proxy_status(name, code, status))
        {
            headers.insert(HeaderName::from_static("proxy-status"), value);
        }
        response
    }
}

fn link(page: &HeaderValue) -> Result<HeaderValue, http::header::InvalidHeaderValue> {
    let parts = [
        b"<",
        page.as_bytes(),
        b">; rel=\"describedby\"; type=\"text/html\"",
    ];
    HeaderValue::from_bytes(&parts.concat())
}

/// `None` where the name cannot be written as a structured field: it is not ASCII.
fn proxy_status(name: &str, code: Code, status: StatusCode) -> Option<HeaderValue> {
    let field = sfv::ItemSerializer::new();
    let field = match sfv::TokenRef::from_str(name) {
        Ok(token) => field.bare_item(token),
        Err(_) => field.bare_item(sfv::StringRef::from_str(name).ok()?),
    };
    let error = sfv::TokenRef::from_str(code.proxy_error(status)).ok()?;
    let field = field.parameter(sfv::key_ref("error"), error).finish();
    HeaderValue::from_str(&field).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn body(response: &Response<Bytes>) -> Value {
        serde_json::from_slice(response.body()).unwrap()
    }

    #[test]
    fn g1_g3_the_body_says_what_the_head_says() {
        for code in Code::ALL {
            let response = Problem::new(code).into_response();
            let body = body(&response);
            assert_eq!(response.headers()[CONTENT_TYPE], "application/problem+json");
            assert_eq!(body["status"], response.status().as_u16());
            assert_eq!(
                body["type"],
                format!("urn:onlyonce:problem:{}", code.as_str())
            );
            assert_eq!(body["code"], code.as_str());
            assert_eq!(body["title"], code.title());
            assert_eq!(body["retryable"], code.retryable());
            let should_retry = code.retryable().to_string();
            assert_eq!(response.headers()["x-should-retry"], should_retry);
            assert!(!body["detail"].as_str().unwrap().is_empty());
            assert_eq!(body.get("instance"), None);
        }
    }

    #[test]
    fn g5_no_problem_is_stored_by_caches() {
        let response = Problem::new(Code::KeyMissing).into_response();
        assert_eq!(response.headers()[CACHE_CONTROL], "no-store");
        assert_eq!(response.headers()[CONTENT_LANGUAGE], "en");
        let length = response.body().len().to_string();
        assert_eq!(response.headers()[CONTENT_LENGTH], length);
    }

    #[test]
    fn the_whole_body() {
        let problem = Problem::new(Code::OutcomeUnknown)
            .with_status(StatusCode::GATEWAY_TIMEOUT)
            .with_detail("no answer within 60 s \"here\"")
            .with_record(RecordId::from_bytes([0xab; 16]));
        let response = problem.into_response();
        assert_eq!(response.status(), 504);
        let expected = json!({
            "type": "urn:onlyonce:problem:outcome-unknown",
            "title": "The outcome is unknown",
            "status": 504,
            "detail": "no answer within 60 s \"here\"",
            "code": "outcome-unknown",
            "retryable": false,
            "instance": "urn:onlyonce:record:abababababababababababababababab",
        });
        assert_eq!(body(&response), expected);
    }

    #[test]
    fn i2_g11_retry_after_only_where_a_retry_can_help() {
        for code in Code::ALL {
            let header = |problem: Problem| {
                let response = problem.into_response();
                response
                    .headers()
                    .get(RETRY_AFTER)
                    .map(|value| value.to_str().unwrap().to_owned())
            };
            let always = matches!(code, Code::RequestInProgress | Code::StoreUnavailable);
            assert_eq!(
                header(Problem::new(code)),
                always.then(|| "1".to_owned()),
                "{code:?}"
            );
            for (delay, seconds) in [(0, "1"), (1, "1"), (1000, "1"), (1001, "2"), (59_999, "60")] {
                let problem = Problem::new(code).with_retry_after(Duration::from_millis(delay));
                let expected = code.retryable().then(|| seconds.to_owned());
                assert_eq!(header(problem), expected, "{code:?} {delay}");
            }
            let _no_overflow = header(Problem::new(code).with_retry_after(Duration::MAX));
        }
    }

    #[test]
    fn a_problem_can_be_final_where_its_code_is_not() {
        let problem = Problem::new(Code::RolledBack).with_retry_after(Duration::ZERO);
        let response = problem.without_retry().into_response();
        assert_eq!(body(&response)["retryable"], false);
        assert_eq!(response.headers()["x-should-retry"], "false");
        assert!(!response.headers().contains_key(RETRY_AFTER));
        // That nothing was executed stays true.
        assert_eq!(response.headers()[OUTCOME], "not-executed");
    }

    #[test]
    fn r1_g4_errors_about_keys_link_to_the_documentation() {
        let page = HeaderValue::from_static("https://docs.example/keys");
        let policy = Policy::default().with_documentation(page);
        let response = policy.answer(Problem::new(Code::KeyReused));
        let link = r#"<https://docs.example/keys>; rel="describedby"; type="text/html""#;
        assert_eq!(response.headers()[LINK], link);
        let other = policy.answer(Problem::new(Code::StoreUnavailable));
        assert!(!other.headers().contains_key(LINK));
        let plain = Policy::default().answer(Problem::new(Code::KeyReused));
        assert!(!plain.headers().contains_key(LINK));
    }

    #[test]
    fn g6_proxy_status_tells_our_errors_from_the_upstreams() {
        for (name, code, expected) in [
            (
                "onlyonce",
                Code::RequestInProgress,
                Some("onlyonce;error=http_request_denied"),
            ),
            (
                "only once",
                Code::StoreUnavailable,
                Some("\"only once\";error=proxy_internal_error"),
            ),
            (
                "a\"b",
                Code::KeyReused,
                Some("\"a\\\"b\";error=http_request_denied"),
            ),
            ("ä", Code::KeyReused, None),
        ] {
            let policy = Policy::default().with_proxy_name(name);
            let response = policy.answer(Problem::new(code));
            let value = response
                .headers()
                .get("proxy-status")
                .map(|value| value.to_str().unwrap());
            assert_eq!(value, expected);
        }
        let plain = Policy::default().answer(Problem::new(Code::KeyReused));
        assert!(!plain.headers().contains_key("proxy-status"));
    }
}
