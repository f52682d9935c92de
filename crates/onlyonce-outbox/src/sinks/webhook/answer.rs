//! What an endpoint answers, and what that means for the message.

use std::time::Duration;

use http::header::{DATE, RETRY_AFTER};
use http::response::Parts;
use http::{HeaderMap, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;

use crate::sink::{Ack, SinkError};

/// What is read of an answer at the most: past it the connection is given up.
const READ_MAX: usize = 64 << 10;
/// How much of an answer is told to the operator, in characters.
const TOLD_MAX: usize = 200;
/// Longer than this nobody is left alone: a wrong clock must not silence an endpoint for ever.
const WAIT_MAX: Duration = Duration::from_secs(86_400);

/// An answer, of which the end may be missing.
#[derive(Debug)]
pub(super) struct Answer {
    head: Parts,
    body: Vec<u8>,
}

impl Answer {
    /// The answer, and whether all of it was read. A body that breaks off changes nothing: the status is there.
    pub(super) async fn read(response: Response<Incoming>) -> (Self, bool) {
        let (head, mut incoming) = response.into_parts();
        let mut body = Vec::new();
        let complete = loop {
            match incoming.frame().await {
                None => break true,
                Some(Ok(frame)) => {
                    let data = frame.into_data().unwrap_or_default();
                    if body.len() + data.len() > READ_MAX {
                        break false;
                    }
                    body.extend_from_slice(&data);
                }
                Some(Err(_)) => break false,
            }
        };
        (Self { head, body }, complete)
    }

    pub(super) fn judge(&self) -> Result<Ack, SinkError> {
        let status = self.head.status;
        if status.is_success() {
            return Ok(Ack::default());
        }
        let told = self.told();
        if !may_be_taken_later(status) {
            return Err(SinkError::dead(told));
        }
        let error = SinkError::retryable(told);
        Err(match retry_after(&self.head.headers) {
            Some(wait) => error.after(wait.min(WAIT_MAX)),
            None => error,
        })
    }

    /// For the operator: the status, and the beginning of the body.
    fn told(&self) -> String {
        let text = String::from_utf8_lossy(&self.body);
        let text: String = text
            .chars()
            .map(|char| if char.is_control() { ' ' } else { char })
            .take(TOLD_MAX)
            .collect();
        let status = self.head.status;
        match text.trim() {
            "" => format!("the endpoint answered {status}"),
            text => format!("the endpoint answered {status}: {text}"),
        }
    }
}

fn may_be_taken_later(status: StatusCode) -> bool {
    let conflict_or_busy = [
        StatusCode::REQUEST_TIMEOUT,
        StatusCode::CONFLICT,
        StatusCode::TOO_EARLY,
        StatusCode::TOO_MANY_REQUESTS,
    ];
    !status.is_client_error() || conflict_or_busy.contains(&status)
}

/// In seconds, or as a date: that of the server's own clock, where it says what it shows.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let until = httpdate::parse_http_date(value).ok()?;
    let now = httpdate::parse_http_date(headers.get(DATE)?.to_str().ok()?).ok()?;
    Some(until.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(status: u16, headers: &[(&str, &str)]) -> Result<Ack, SinkError> {
        let mut response = Response::builder().status(status);
        for (name, value) in headers {
            response = response.header(*name, *value);
        }
        let (head, ()) = response.body(()).unwrap().into_parts();
        let body = b"no\x00 such\nthing".to_vec();
        Answer { head, body }.judge()
    }

    #[test]
    fn a_status_says_whether_trying_again_makes_sense() {
        for taken in [200, 201, 202, 204, 299] {
            assert!(judged(taken, &[]).is_ok());
        }
        for later in [302, 307, 408, 409, 425, 429, 500, 502, 503, 504, 599] {
            assert!(!judged(later, &[]).unwrap_err().is_dead(), "{later}");
        }
        for dead in [400, 401, 403, 404, 410, 413, 415, 422, 451] {
            assert!(judged(dead, &[]).unwrap_err().is_dead(), "{dead}");
        }
    }

    #[test]
    fn what_the_endpoint_says_is_told_in_one_line() {
        let error = judged(404, &[]).unwrap_err();
        let source = std::error::Error::source(&error).unwrap().to_string();
        assert_eq!(
            source,
            "the endpoint answered 404 Not Found: no  such thing"
        );
    }

    #[test]
    fn retry_after_is_seconds_or_a_date_of_the_servers_clock() {
        let date = ("date", "Tue, 24 Nov 2026 12:00:00 GMT");
        for (headers, wait) in [
            (vec![("retry-after", "7")], Some(7)),
            (vec![("retry-after", "999999999")], Some(86_400)),
            (
                vec![("retry-after", "Tue, 24 Nov 2026 12:01:30 GMT"), date],
                Some(90),
            ),
            (
                vec![("retry-after", "Tue, 24 Nov 2026 11:00:00 GMT"), date],
                Some(0),
            ),
            (vec![("retry-after", "Tue, 24 Nov 2026 12:01:30 GMT")], None),
            (vec![("retry-after", "soon")], None),
            (vec![], None),
        ] {
            let error = judged(503, &headers).unwrap_err();
            assert_eq!(error.wait(), wait.map(Duration::from_secs), "{headers:?}");
        }
        assert_eq!(
            judged(404, &[("retry-after", "7")]).unwrap_err().wait(),
            None
        );
    }
}
