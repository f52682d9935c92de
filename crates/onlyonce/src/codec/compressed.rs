//! Bodies that are compressed in the record: one zstd frame each.
//!
//! Level 1, because it stands in the way of a request: higher levels gain JSON nothing (the strings in it
//! are random) and cost half as much again.
//!
//! What a compressor needs to work, some hundred KiB, each thread keeps: making it anew takes 8 µs, more than
//! compressing most bodies.

use std::cell::RefCell;
use std::io::{self, Cursor};

use bytes::Bytes;
use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use zstd::bulk::{Compressor, Decompressor};
use zstd::zstd_safe::find_frame_compressed_size;

use super::DecodeError;

const LEVEL: i32 = 1;

/// Smaller bodies lose too little.
const BYTES_MIN: usize = 1 << 10;

/// No body above is compressed, so that no record can ask for more memory than this.
const BYTES_MAX: usize = 64 << 20;

/// What is compressed already, whatever `Content-Encoding` says.
const DENSE_TYPES: [&str; 3] = ["image/", "audio/", "video/"];

thread_local! {
    static COMPRESSOR: RefCell<Option<Compressor<'static>>> = const { RefCell::new(None) };
    static DECOMPRESSOR: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
}

/// Whether compressing is worth a try.
pub(super) fn may_pay(headers: &HeaderMap, body: &[u8]) -> bool {
    (BYTES_MIN..=BYTES_MAX).contains(&body.len()) && !is_encoded(headers) && !is_dense(headers)
}

fn is_encoded(headers: &HeaderMap) -> bool {
    let identity = |value: &[u8]| value.trim_ascii().eq_ignore_ascii_case(b"identity");
    headers
        .get_all(CONTENT_ENCODING)
        .iter()
        .any(|value| !identity(value.as_bytes()))
}

fn is_dense(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(CONTENT_TYPE) else {
        return false;
    };
    let essence = value.as_bytes().split(|byte| *byte == b';').next();
    let essence = essence.unwrap_or_default().trim_ascii();
    // Pictures such as `image/svg+xml` are text.
    let is_text = essence.to_ascii_lowercase().ends_with(b"+xml");
    !is_text
        && DENSE_TYPES.iter().any(|prefix| {
            essence
                .get(..prefix.len())
                .is_some_and(|start| start.eq_ignore_ascii_case(prefix.as_bytes()))
        })
}

/// `head` and the compressed body; `None` where that would not save an eighth of the body.
pub(super) fn append(mut head: Vec<u8>, body: &[u8]) -> Option<Vec<u8>> {
    let room = body.len() - body.len() / 8;
    let start = head.len();
    head.reserve_exact(room);
    let mut out = Cursor::new(head);
    out.set_position(start as u64);
    COMPRESSOR
        .with_borrow_mut(|kept| -> io::Result<usize> {
            let compressor = match kept {
                Some(compressor) => compressor,
                None => kept.insert(new_compressor()?),
            };
            compressor.compress_to_buffer(body, &mut out)
        })
        // It has no other reason to fail than too little room, or no memory.
        .ok()
        .filter(|written| *written <= room)?;
    let mut out = out.into_inner();
    // A cache that counts bytes must be able to believe the length.
    out.shrink_to_fit();
    Some(out)
}

fn new_compressor() -> io::Result<Compressor<'static>> {
    let mut compressor = Compressor::new(LEVEL)?;
    compressor.include_checksum(true)?;
    // It stands in front of the frame, for all forms of the body.
    compressor.include_contentsize(false)?;
    Ok(compressor)
}

/// A body that is still compressed.
#[derive(Debug)]
pub(super) struct Frame {
    expanded_len: usize,
    frame: Bytes,
}

impl Frame {
    /// Looks at lengths only.
    pub(super) fn new(expanded_len: u64, frame: Bytes) -> Result<Self, DecodeError> {
        let expanded_len = usize::try_from(expanded_len)
            .ok()
            .filter(|length| *length <= BYTES_MAX)
            .ok_or(DecodeError::Body)?;
        Ok(Self {
            expanded_len,
            frame,
        })
    }

    pub(super) const fn expanded_len(&self) -> usize {
        self.expanded_len
    }

    pub(super) fn expand(&self) -> Result<Bytes, DecodeError> {
        // The decompressor would go on with any frames that follow.
        match find_frame_compressed_size(&self.frame) {
            Ok(length) if length == self.frame.len() => {}
            Ok(_) => return Err(DecodeError::Trailing),
            Err(_) => return Err(DecodeError::Body),
        }
        let mut body = Vec::with_capacity(self.expanded_len);
        let written = DECOMPRESSOR
            .with_borrow_mut(|kept| -> io::Result<usize> {
                let decompressor = match kept {
                    Some(decompressor) => decompressor,
                    None => kept.insert(Decompressor::new()?),
                };
                decompressor.decompress_to_buffer(&self.frame, &mut body)
            })
            .map_err(|_| DecodeError::Body)?;
        if written != self.expanded_len {
            return Err(DecodeError::Body);
        }
        Ok(body.into())
    }
}
