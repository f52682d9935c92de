//! The request's body, read whole and within bounds before anything is claimed.
//!
//! A broken, slow or oversized upload ends here and leaves nothing behind. Trailers are dropped, so a key
//! in a trailer is never one (RFC 9110 section 6.5.1).

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http::header::{CONTENT_LENGTH, EXPECT, TRAILER, TRANSFER_ENCODING, UPGRADE};
use http::request::Parts;
use http_body::Body;
use http_body_util::BodyExt;
use tokio::time::Instant;

use super::alarm::Alarm;
use crate::BoxError;
use crate::budget::Reservation;
use crate::problem::{Code, Problem};
use crate::resources::Guard;

/// A body in memory, and what it takes of the memory that all may use.
pub(super) struct Upload {
    pub(super) bytes: Bytes,
    pub(super) reserved: Reservation,
}

/// Reads the whole body, within the policy's limits of size and time.
///
/// The limit on the whole is for those who send nearly everything and then a byte now and then: each holds
/// memory that all uploads share.
pub(super) async fn read<B>(
    guard: &Guard,
    alarm: &mut Alarm,
    begun: Instant,
    headers: &HeaderMap,
    body: B,
) -> Result<Upload, Problem>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    let (policy, abort) = (&guard.policy, &guard.resources.abort);
    let limit = policy.request_bytes_max;
    // Refused by what it declares, before `100 Continue` invites it to send.
    let declared = declared_length(headers, &body);
    if declared > as_u64(limit) {
        return Err(too_large(limit));
    }
    let mut body = std::pin::pin!(body);
    let mut reserved = guard.resources.uploaded.reservation();
    let mut pieces = Pieces::default();
    let (mut came, end) = (begun, begun + policy.body_total_max);
    while !body.is_end_stream() {
        let until = end.min(came + policy.body_idle_max);
        let frame = match alarm.limit(abort, until, body.frame()).await {
            Ok(Some(Ok(frame))) => frame,
            Ok(None) => break,
            Ok(Some(Err(error))) => return Err(broken(error.into())),
            Err(_cut) => return Err(Problem::new(Code::BodyTimeout)),
        };
        let Ok(data) = frame.into_data() else {
            continue;
        };
        if reserved.bytes() + data.len() > limit {
            return Err(too_large(limit));
        }
        if !reserved.grow(data.len()) {
            return Err(Problem::new(Code::StoreUnavailable)
                .with_detail("too many uploads are under way; nothing was executed"));
        }
        pieces.push(data, declared);
        if !body.is_end_stream() {
            came = Instant::now();
        }
    }
    Ok(Upload {
        bytes: pieces.whole(),
        reserved,
    })
}

/// A body as it comes. In one piece, as most do, it is not copied.
#[derive(Default)]
struct Pieces {
    first: Bytes,
    joined: BytesMut,
}

impl Pieces {
    /// Adds a piece of a body of which at least `declared` bytes are expected.
    fn push(&mut self, piece: Bytes, declared: u64) {
        if self.first.is_empty() && self.joined.is_empty() {
            self.first = piece;
            return;
        }
        if self.joined.is_empty() {
            let known = self.first.len() + piece.len();
            // Within the limit on bodies; what is not filled costs address space, not memory.
            let declared = usize::try_from(declared).unwrap_or(known);
            self.joined.reserve(declared.max(known));
            self.joined
                .extend_from_slice(&std::mem::take(&mut self.first));
        }
        self.joined.extend_from_slice(&piece);
    }

    fn whole(self) -> Bytes {
        if self.joined.is_empty() {
            return self.first;
        }
        self.joined.freeze()
    }
}

/// The request's head once its body is in memory: framing by length, no expectation, no upgrade.
pub(super) fn buffered_head(parts: &mut Parts, length: usize) {
    for name in [TRANSFER_ENCODING, TRAILER, EXPECT, UPGRADE] {
        parts.headers.remove(name);
    }
    // A body of no bytes keeps the framing it came with: `Content-Length: 0` or none at all.
    if length > 0 && !declares(&parts.headers, length) {
        parts.headers.insert(CONTENT_LENGTH, length.into());
    }
}

/// Whether the head has this length already, once and as we would write it.
fn declares(headers: &HeaderMap, length: usize) -> bool {
    let mut lines = headers.get_all(CONTENT_LENGTH).iter();
    let (Some(line), None) = (lines.next(), lines.next()) else {
        return false;
    };
    let written = |text: &str| !text.starts_with(['0', '+']) && text.parse() == Ok(length);
    line.to_str().is_ok_and(written)
}

fn declared_length<B: Body>(headers: &HeaderMap, body: &B) -> u64 {
    let header = headers
        .get(CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse().ok());
    header.unwrap_or(0).max(body.size_hint().lower())
}

fn too_large(limit: usize) -> Problem {
    Problem::new(Code::BodyTooLarge).with_detail(format!(
        "the request body is larger than {limit} bytes; nothing was executed"
    ))
}

fn broken(error: BoxError) -> Problem {
    tracing::debug!(
        error = &*error as &dyn std::error::Error,
        "an upload broke off"
    );
    Problem::new(Code::BodyIncomplete)
}

fn as_u64(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}
