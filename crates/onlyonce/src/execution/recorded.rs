//! Writing a response down and reading it again, without holding up for long whatever else this thread
//! serves: a large body takes milliseconds to compress.
//!
//! A body that is sent again stays in memory until its client has read it, and clients may be many and slow: a
//! record of a KiB can expand to megabytes for each of them. So large bodies share a budget.

use std::sync::Arc;

use bytes::Bytes;
use tokio::task::spawn_blocking;

use crate::budget::{Budget, Reservation};
use crate::codec::{DecodeError, Opened, StoredResponse};

/// Above this, a thread that may block does it. Compressing as much takes 80 µs, expanding it 30.
const INLINE_BYTES_MAX: usize = 128 << 10;

/// Up to this a body is not counted: as many as there may be connections fit into memory.
const UNCOUNTED_BYTES_MAX: usize = 16 << 10;

/// Why a response cannot be read now.
#[derive(Debug)]
pub(super) enum Unread {
    /// Nor ever.
    Damaged(DecodeError),
    /// Others are being sent again, and no more fits beside them.
    Crowded,
}

impl From<DecodeError> for Unread {
    fn from(error: DecodeError) -> Self {
        Self::Damaged(error)
    }
}

/// A body that is counted for as long as any part of it is in memory.
struct Counted {
    body: Bytes,
    _reserved: Reservation,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.body
    }
}

/// Writes a response down.
pub(super) async fn encode(response: StoredResponse) -> Bytes {
    if response
        .body
        .as_ref()
        .is_none_or(|body| body.len() <= INLINE_BYTES_MAX)
    {
        return response.encode();
    }
    let response = Arc::new(response);
    let there = Arc::clone(&response);
    match spawn_blocking(move || there.encode()).await {
        Ok(encoded) => encoded,
        // The runtime is shutting down, and takes no more of those: what is known must be settled all the same.
        Err(_) => response.encode(),
    }
}

/// Reads a response, whose body draws on `budget` until it is sent.
pub(super) async fn decode(encoded: Bytes, budget: &Budget) -> Result<StoredResponse, Unread> {
    let opened = Opened::open(encoded)?;
    if opened.body_len() <= UNCOUNTED_BYTES_MAX {
        return Ok(opened.expand()?);
    }
    // Boxed: most are small, and wait for nothing.
    Box::pin(decode_counted(opened, budget)).await
}

async fn decode_counted(opened: Opened, budget: &Budget) -> Result<StoredResponse, Unread> {
    let mut reserved = budget.reservation();
    // One that is larger than the whole budget goes alone, or it would never go.
    if !reserved.grow(opened.body_len().min(budget.limit())) {
        return Err(Unread::Crowded);
    }
    let mut response = expand(opened).await?;
    response.body = response.body.map(|body| {
        Bytes::from_owner(Counted {
            body,
            _reserved: reserved,
        })
    });
    Ok(response)
}

async fn expand(opened: Opened) -> Result<StoredResponse, DecodeError> {
    if opened.compressed_len() <= INLINE_BYTES_MAX {
        return opened.expand();
    }
    match spawn_blocking(|| opened.expand()).await {
        Ok(decoded) => decoded,
        // Nobody will read the answer: the runtime is shutting down.
        Err(_) => Err(DecodeError::Body),
    }
}
