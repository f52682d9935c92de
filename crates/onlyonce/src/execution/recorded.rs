//! Writing a response down and reading it again, without holding up for long whatever else this thread
//! serves: a large body takes milliseconds to compress.

use std::sync::Arc;

use bytes::Bytes;
use tokio::task::spawn_blocking;

use crate::codec::{DecodeError, Opened, StoredResponse};

/// Above this, a thread that may block does it. Compressing as much takes 80 µs, expanding it 30.
const INLINE_BYTES_MAX: usize = 128 << 10;

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

/// Reads a response.
pub(super) async fn decode(encoded: Bytes) -> Result<StoredResponse, DecodeError> {
    let opened = Opened::open(encoded)?;
    if opened.compressed_len() <= INLINE_BYTES_MAX {
        return opened.expand();
    }
    match spawn_blocking(|| opened.expand()).await {
        Ok(decoded) => decoded,
        // Nobody will read the answer: the runtime is shutting down.
        Err(_) => Err(DecodeError::Body),
    }
}
