//! Errors that have nothing to do with keys, as problem details (RFC 9457) of the type `about:blank`.

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};

/// A response that says what its status says, and a detail.
pub(crate) fn plain_problem(status: StatusCode, detail: &str) -> Response<Bytes> {
    let may_have_content = status != StatusCode::NO_CONTENT;
    let body = match may_have_content {
        true => serde_json::json!({
            "type": "about:blank",
            "title": status.canonical_reason().unwrap_or("Error"),
            "status": status.as_u16(),
            "detail": detail,
        })
        .to_string(),
        false => String::new(),
    };
    let mut response = Response::new(Bytes::from(body));
    *response.status_mut() = status;
    if may_have_content {
        let headers = response.headers_mut();
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    response
}
