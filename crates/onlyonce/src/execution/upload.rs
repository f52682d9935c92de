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

use crate::BoxError;
use crate::budget::{Budget, Reservation};
use crate::policy::Policy;
use crate::problem::{Code, Problem};

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
    policy: &Policy,
    budget: &Budget,
    headers: &HeaderMap,
    body: B,
) -> Result<Upload, Problem>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    tokio::time::timeout(
        policy.body_total_max,
        read_all(policy, budget, headers, body),
    )
    .await
    .unwrap_or_else(|_elapsed| Err(Problem::new(Code::BodyTimeout)))
}

async fn read_all<B>(
    policy: &Policy,
    budget: &Budget,
    headers: &HeaderMap,
    body: B,
) -> Result<Upload, Problem>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    let limit = policy.request_bytes_max;
    // Refused by what it declares, before `100 Continue` invites it to send.
    if declared_length(headers, &body).is_some_and(|length| length > as_u64(limit)) {
        return Err(too_large(limit));
    }
    let mut body = std::pin::pin!(body);
    let mut reserved = budget.reservation();
    let mut first = Bytes::new();
    let mut whole = BytesMut::new();
    loop {
        let frame = match tokio::time::timeout(policy.body_idle_max, body.frame()).await {
            Ok(Some(Ok(frame))) => frame,
            Ok(None) => break,
            Ok(Some(Err(error))) => return Err(broken(error.into())),
            Err(_elapsed) => return Err(Problem::new(Code::BodyTimeout)),
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
        // A body that comes in one piece, as most do, is not copied.
        if first.is_empty() && whole.is_empty() {
            first = data;
        } else {
            whole.extend_from_slice(&std::mem::take(&mut first));
            whole.extend_from_slice(&data);
        }
    }
    let bytes = if first.is_empty() {
        whole.freeze()
    } else {
        first
    };
    Ok(Upload { bytes, reserved })
}

/// The request's head once its body is in memory: framing by length, no expectation, no upgrade.
pub(super) fn buffered_head(parts: &mut Parts, length: usize) {
    for name in [TRANSFER_ENCODING, TRAILER, EXPECT, UPGRADE] {
        parts.headers.remove(name);
    }
    // A body of no bytes keeps the framing it came with: `Content-Length: 0` or none at all.
    if length > 0 {
        parts.headers.insert(CONTENT_LENGTH, length.into());
    }
}

fn declared_length<B: Body>(headers: &HeaderMap, body: &B) -> Option<u64> {
    let header = headers
        .get(CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse().ok());
    header.max(Some(body.size_hint().lower()))
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
