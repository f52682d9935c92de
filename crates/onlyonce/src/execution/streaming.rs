//! A response that is kept: streamed to the client as it comes, captured, and settled before its end.
//!
//! What is held back until the record is settled is the least that makes the end an end: the frame that
//! completes a body of known length; only the end itself of a body of unknown length, so that no event
//! of a stream is late; the head of a response without a body.

use std::panic::AssertUnwindSafe;

use bytes::Bytes;
use futures_util::FutureExt;
use http::header::CONTENT_LENGTH;
use http::response::Parts;
use http::{HeaderMap, Method, Response, StatusCode};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use tokio::sync::oneshot;

use super::answer::unknown_to_first_caller;
use super::forwarding::Task;
use super::settling::Held;
use super::{Outcome, Reply, recorded};
use crate::BoxError;
use crate::body::ResponseBody;
use crate::capture::{Capture, Writer, channel};
use crate::codec::StoredResponse;
use crate::record::Epoch;
use crate::store::Settlement;

/// How an upstream's body ended, and what was held back.
struct End {
    clean: Result<(), BoxError>,
    data: Bytes,
    trailers: Option<HeaderMap>,
}

impl Task {
    /// Delivers and records a response that has a body.
    pub(super) async fn keep<R, E>(
        mut self: Box<Self>,
        epoch: Epoch,
        parts: Parts,
        body: R,
        answer: oneshot::Sender<Reply<R, E>>,
    ) where
        R: Body<Data = Bytes> + Send + 'static,
        R::Error: Into<BoxError>,
    {
        let status = parts.status;
        let kept = self.guard.policy.response_headers.record(&parts.headers);
        let mut capture = Capture::new(
            self.guard.policy.response_bytes_max,
            &self.guard.resources.captured,
        );
        let exact = exact_length(&parts, &body);
        let (writer, reader) = channel(exact);
        let response = Response::from_parts(parts, ResponseBody::captured(reader));
        let _ = answer.send(Reply::Answered(response));

        let End {
            clean,
            data,
            trailers,
        } = self.stream(body, exact, &writer, &mut capture).await;
        let settlement = match &clean {
            Ok(()) => Settlement::Completed(
                recorded::encode(StoredResponse {
                    status,
                    headers: kept,
                    body: capture.body(),
                })
                .await,
            ),
            Err(_) => Settlement::Unknown,
        };
        let line = self.line.clone();
        self.settle_then(epoch, &settlement, |settled| {
            let (outcome, end) = conclude(settled, clean);
            line.write(outcome, status);
            if end.is_ok() {
                writer.push(Frame::data(data));
                if let Some(trailers) = trailers {
                    writer.push(Frame::trailers(trailers));
                }
            }
            writer.finish(end);
        })
        .await;
    }

    /// A response without a body: the head itself is held.
    pub(super) async fn keep_head<R, E>(
        mut self: Box<Self>,
        epoch: Epoch,
        parts: Parts,
        answer: oneshot::Sender<Reply<R, E>>,
    ) {
        let stored = StoredResponse {
            status: parts.status,
            headers: self.guard.policy.response_headers.record(&parts.headers),
            body: Some(Bytes::new()),
        };
        let line = self.line.clone();
        self.settle_then(epoch, &Settlement::Completed(stored.encode()), |settled| {
            if settled == Held::Stale {
                let problem = unknown_to_first_caller(false);
                line.write(Outcome::Stale, problem.status());
                let _ = answer.send(Reply::Problem(problem));
                return;
            }
            line.write(Outcome::Fresh, parts.status);
            let response = Response::from_parts(parts, ResponseBody::whole(Bytes::new()));
            let _ = answer.send(Reply::Answered(response));
        })
        .await;
    }

    /// Reads the upstream's body to its end, or to the deadline.
    async fn stream<R>(
        &mut self,
        body: R,
        exact: Option<u64>,
        writer: &Writer,
        capture: &mut Capture,
    ) -> End
    where
        R: Body<Data = Bytes>,
        R::Error: Into<BoxError>,
    {
        // Boxed where it arises: the body's own error need not be `Send`.
        let mut body = std::pin::pin!(body.map_err(Into::<BoxError>::into));
        let (abort, end) = (&self.guard.resources.abort, self.deadline.end());
        let (mut last, mut trailers) = (Bytes::new(), None);
        let mut length = 0;
        let clean = loop {
            let next = AssertUnwindSafe(body.frame()).catch_unwind();
            let frame = match self.alarm.limit(abort, end, next).or_aborted().await {
                Ok(Ok(Some(Ok(frame)))) => frame,
                Ok(Ok(Some(Err(error)))) => break Err(error),
                Ok(Ok(None)) if exact.is_none_or(|exact| exact == length) => break Ok(()),
                Ok(Ok(None)) => break Err("the response is shorter than its length says".into()),
                Ok(Err(_panic)) => break Err("the response's body panicked".into()),
                Err(cut) => break Err(cut.into()),
            };
            let data = match frame.into_data() {
                Ok(data) => data,
                Err(frame) => {
                    trailers = frame.into_trailers().ok();
                    continue;
                }
            };
            length += u64::try_from(data.len()).unwrap_or(u64::MAX);
            capture.push(&data);
            match exact {
                Some(exact) if length > exact => {
                    break Err("the response is longer than its length says".into());
                }
                // What may follow has no bytes.
                Some(exact) if length == exact && !last.is_empty() => continue,
                Some(exact) if length == exact => {
                    last = data;
                    continue;
                }
                _ => writer.push(Frame::data(data)),
            }
            if capture.is_over() {
                let room = self.alarm.limit(abort, end, writer.room());
                if room.await.is_err() {
                    break Err("the client read too slowly".into());
                }
            }
        };
        End {
            clean,
            data: last,
            trailers,
        }
    }
}

/// The client must see a clean end only where the record does not say otherwise.
fn conclude(settled: Held, clean: Result<(), BoxError>) -> (Outcome, Result<(), BoxError>) {
    match (settled, clean) {
        (_, Err(error)) => (Outcome::Unknown, Err(error)),
        (Held::Stale, Ok(())) => (
            Outcome::Stale,
            Err("the record went to a later owner".into()),
        ),
        (Held::Settled | Held::Late, Ok(())) => (Outcome::Fresh, Ok(())),
    }
}

/// Whether the head is the whole response. One that declares a length and has no byte of it is broken off.
pub(super) fn has_no_body<R: Body>(method: &Method, parts: &Parts, body: &R) -> bool {
    let bodiless = matches!(
        parts.status,
        StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED
    );
    bodiless
        || method == Method::HEAD
        || body.is_end_stream() && exact_length(parts, body).is_none_or(|length| length == 0)
}

fn exact_length<R: Body>(parts: &Parts, body: &R) -> Option<u64> {
    let header = parts
        .headers
        .get(CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok());
    header
        .and_then(|value| value.parse().ok())
        .or_else(|| body.size_hint().exact())
}
