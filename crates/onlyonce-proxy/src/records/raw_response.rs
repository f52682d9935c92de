//! A response as an operator writes it: an HTTP/1.1 message in a file.
//!
//! ```text
//! HTTP/1.1 201 Created
//! Content-Type: application/json
//!
//! {"id": "ch_17", "status": "paid"}
//! ```
//!
//! The body is the rest of the file, to its last byte. Where a `Content-Length` is given it must agree: it
//! tells a body from one with a newline too many.

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use onlyonce::codec::StoredResponse;
use onlyonce::replay::HeaderFilter;

const FIELDS_MAX: usize = 128;

/// Why a file is no response.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RawResponseError {
    /// Not a message.
    #[error("not an HTTP/1.1 response: {0}")]
    Syntax(httparse::Error),
    /// The empty line is missing.
    #[error("the head does not end: an empty line belongs between it and the body")]
    HeadOpen,
    /// An interim status, or none that HTTP has.
    #[error("the status must be from 200 to 599")]
    Status,
    /// A field that cannot be sent.
    #[error("the field `{0}` is invalid")]
    Field(String),
    /// The body is not the rest of the file.
    #[error("Transfer-Encoding has no place here: the body is the rest of the file")]
    TransferEncoding,
    /// The length disagrees.
    #[error("Content-Length is not {0}, the number of bytes behind the empty line")]
    ContentLength(usize),
    /// There is a body where there can be none.
    #[error("a response with status {0} has no body")]
    Body(u16),
}

/// Reads a message.
///
/// # Errors
/// Where it is not exactly one final HTTP/1.1 response.
pub(crate) fn parse(message: &[u8]) -> Result<StoredResponse, RawResponseError> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut response = httparse::Response::new(&mut fields);
    let head = match response.parse(message).map_err(RawResponseError::Syntax)? {
        httparse::Status::Complete(length) => length,
        httparse::Status::Partial => return Err(RawResponseError::HeadOpen),
    };
    let status = response
        .code
        .filter(|code| (200..600).contains(code))
        .and_then(|code| StatusCode::from_u16(code).ok())
        .ok_or(RawResponseError::Status)?;
    let headers = headers(response.headers)?;
    let body = Bytes::copy_from_slice(&message[head..]);
    check_framing(status, &headers, body.len())?;
    Ok(StoredResponse {
        status,
        // What belongs to one connection or message is not part of an answer.
        headers: HeaderFilter::default().record(&headers),
        body: Some(body),
    })
}

fn headers(fields: &[httparse::Header<'_>]) -> Result<HeaderMap, RawResponseError> {
    let mut headers = HeaderMap::new();
    for field in fields {
        let invalid = || RawResponseError::Field(field.name.to_owned());
        let name: HeaderName = field.name.parse().map_err(|_| invalid())?;
        let value = HeaderValue::from_bytes(field.value).map_err(|_| invalid())?;
        headers.append(name, value);
    }
    Ok(headers)
}

fn check_framing(
    status: StatusCode,
    headers: &HeaderMap,
    length: usize,
) -> Result<(), RawResponseError> {
    if headers.contains_key(TRANSFER_ENCODING) {
        return Err(RawResponseError::TransferEncoding);
    }
    let stated = headers.get_all(CONTENT_LENGTH);
    if stated
        .iter()
        .any(|stated| stated.as_bytes() != length.to_string().as_bytes())
    {
        return Err(RawResponseError::ContentLength(length));
    }
    if matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) && length > 0 {
        return Err(RawResponseError::Body(status.as_u16()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_becomes_a_response() {
        for message in [
            "HTTP/1.1 201 Created\r\nX-Id: 7\r\nContent-Length: 3\r\nConnection: close\r\n\r\n{}\n",
            "HTTP/1.1 201 Created\nX-Id: 7\n\n{}\n", // as an editor writes it
        ] {
            let response = parse(message.as_bytes()).expect("a response");
            assert_eq!(response.status, StatusCode::CREATED);
            assert_eq!(response.headers.len(), 1);
            assert_eq!(response.headers["x-id"], "7");
            assert_eq!(response.body.as_deref(), Some(&b"{}\n"[..]));
        }
    }

    #[test]
    fn what_is_not_exactly_a_response_is_refused() {
        use RawResponseError as E;
        for (message, error) in [
            ("{\"id\": 1}", E::Syntax(httparse::Error::Version)),
            (
                "HTTP/1.1 200 OK\r\nX Y: 1\r\n\r\n",
                E::Syntax(httparse::Error::HeaderName),
            ),
            ("", E::HeadOpen),
            ("HTTP/1.1 200 OK\r\nX: 1\r\n", E::HeadOpen),
            ("HTTP/1.1 100 Continue\r\n\r\n", E::Status),
            ("HTTP/1.1 999 Odd\r\n\r\n", E::Status),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}\n",
                E::ContentLength(3),
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
                E::TransferEncoding,
            ),
            ("HTTP/1.1 204 No Content\r\n\r\nx", E::Body(204)),
        ] {
            assert_eq!(parse(message.as_bytes()), Err(error), "{message:?}");
        }
    }
}
