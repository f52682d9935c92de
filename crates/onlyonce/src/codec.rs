//! How a response is written down, for every store alike.
//!
//! The format is our own and small: a store keeps it for days, and a newer version must be able to read
//! what an older one wrote, so it depends on no library's idea of serialisation. Numbers are big-endian.
//!
//! | bytes | what |
//! |---|---|
//! | 3 | `onr` |
//! | 1 | version of the format: 1 |
//! | 1 | form of the body: 0 not kept, 1 as it was sent, 2 compressed (others may come) |
//! | 2 | status code |
//! | 4 | number of header lines |
//! | for each: 2, n, 4, m | length of the name, the name in lower case, length of the value, the value |
//! | 8 | length of the body as it was sent; this and the body are missing where it was not kept |
//! | n | to the very end: the body, or one zstd frame (RFC 8878) with a checksum that expands to it |
//!
//! Lines of one name keep their order. Everything that does not fit this exactly is an error; nothing
//! makes the decoder panic, or allocate more than its input and the body's length, which for a compressed
//! one is at most 64 MiB.
//!
//! A body is compressed from 1 KiB on, where that saves an eighth and neither its type nor its
//! `Content-Encoding` says that it is compressed already. Measured at level 1: JSON
//! of 1 KiB shrinks to 49 % in 3.3 µs and comes back in 1.2 µs; 4 KiB to 23 % in 5 and 2.5 µs; 64 KiB to 13 %
//! in 40 and 16 µs; 300 bytes only to 78 %, for as much time. A random one of 64 KiB costs 8 µs to give up.
//!
//! ```
//! use bytes::Bytes;
//! use http::{HeaderMap, StatusCode};
//! use onlyonce::codec::StoredResponse;
//!
//! let response = StoredResponse {
//!     status: StatusCode::CREATED,
//!     headers: HeaderMap::new(),
//!     body: Some(Bytes::from_static(b"{}")),
//! };
//! assert_eq!(StoredResponse::decode(response.encode()), Ok(response));
//! ```

use std::fmt;

use bytes::{Buf, BufMut, Bytes};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

mod compressed;
#[cfg(test)]
mod tests;

use self::compressed::Frame;

const MAGIC: [u8; 3] = *b"onr";
const VERSION: u8 = 1;
const BODY_NOT_KEPT: u8 = 0;
const BODY_PLAIN: u8 = 1;
const BODY_ZSTD: u8 = 2;

/// A response as a store keeps it. `Debug` prints neither header values nor the body.
#[derive(Clone, PartialEq, Eq)]
pub struct StoredResponse {
    /// The status.
    pub status: StatusCode,
    /// The headers that [`HeaderFilter::record`](crate::replay::HeaderFilter::record) left.
    pub headers: HeaderMap,
    /// The whole body; `None` where it was delivered but too large to keep.
    pub body: Option<Bytes>,
}

/// Why bytes are no response. A record that cannot be read is never executed again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// They do not begin as a record does.
    #[error("not a recorded response")]
    Magic,
    /// A newer version wrote them.
    #[error("recorded in format {0}, which this version cannot read: run the newer version")]
    Version(u8),
    /// A newer version wrote the body.
    #[error("body recorded in form {0}, which this version cannot read: run the newer version")]
    BodyForm(u8),
    /// They end too early.
    #[error("the recorded response is cut off")]
    Truncated,
    /// Bytes follow the end.
    #[error("bytes follow the recorded response")]
    Trailing,
    /// The status is out of range.
    #[error("the recorded status is invalid")]
    Status,
    /// A header could not be sent, or there are too many.
    #[error("a recorded header is invalid")]
    Header,
    /// A compressed body does not expand to what was recorded.
    #[error("the recorded body is damaged")]
    Body,
}

impl StoredResponse {
    /// Writes it down. This takes time in proportion to the body: a millisecond for 1 MiB of JSON.
    pub fn encode(&self) -> Bytes {
        if let Some(body) = &self.body
            && compressed::may_pay(&self.headers, body)
            && let Some(encoded) = compressed::append(self.head(BODY_ZSTD, 0), body)
        {
            return encoded.into();
        }
        let Some(body) = &self.body else {
            return self.head(BODY_NOT_KEPT, 0).into();
        };
        let mut out = self.head(BODY_PLAIN, body.len());
        out.put_slice(body);
        out.into()
    }

    /// What comes before the body, with room for `body_len` bytes behind it.
    fn head(&self, form: u8, body_len: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.head_len() + body_len);
        out.put_slice(&MAGIC);
        out.put_u8(VERSION);
        out.put_u8(form);
        out.put_u16(self.status.as_u16());
        // `HeaderMap` limits the names, not the lines of one name.
        out.put_u32(len(
            self.headers.len(),
            "four billion header lines do not fit into memory",
        ));
        for (name, value) in &self.headers {
            out.put_u16(len(
                name.as_str().len(),
                "`http::HeaderName` is shorter than 64 KiB",
            ));
            out.put_slice(name.as_str().as_bytes());
            out.put_u32(len(
                value.len(),
                "a header section fits into memory many times over",
            ));
            out.put_slice(value.as_bytes());
        }
        if let Some(body) = &self.body {
            out.put_u64(body.len() as u64);
        }
        out
    }

    /// Reads it again. Header values, and a body that is not compressed, are slices of `bytes`, not copies.
    ///
    /// # Errors
    /// Where `bytes` is not exactly what [`encode`](Self::encode) wrote.
    pub fn decode(bytes: Bytes) -> Result<Self, DecodeError> {
        Opened::open(bytes)?.expand()
    }

    fn head_len(&self) -> usize {
        let line =
            |(name, value): (&HeaderName, &HeaderValue)| 6 + name.as_str().len() + value.len();
        let headers: usize = self.headers.iter().map(line).sum();
        11 + headers + self.body.as_ref().map_or(0, |_| 8)
    }
}

/// A response that is read but for its body, which may have to be expanded yet.
#[derive(Debug)]
pub(crate) struct Opened {
    status: StatusCode,
    headers: HeaderMap,
    body: OpenedBody,
}

#[derive(Debug)]
enum OpenedBody {
    NotKept,
    Plain(Bytes),
    Compressed(Frame),
}

impl Opened {
    pub(crate) fn open(mut bytes: Bytes) -> Result<Self, DecodeError> {
        if take(&mut bytes, MAGIC.len()).ok().as_deref() != Some(&MAGIC) {
            return Err(DecodeError::Magic);
        }
        let version = bytes.try_get_u8()?;
        if version != VERSION {
            return Err(DecodeError::Version(version));
        }
        let form = bytes.try_get_u8()?;
        let status = StatusCode::from_u16(bytes.try_get_u16()?).map_err(|_| DecodeError::Status)?;
        let headers = decode_headers(&mut bytes)?;
        let body = match form {
            BODY_NOT_KEPT => OpenedBody::NotKept,
            BODY_PLAIN => {
                let length = bytes.try_get_u64()?;
                OpenedBody::Plain(take(
                    &mut bytes,
                    usize::try_from(length).unwrap_or(usize::MAX),
                )?)
            }
            BODY_ZSTD => {
                let length = bytes.try_get_u64()?;
                OpenedBody::Compressed(Frame::new(length, bytes.split_off(0))?)
            }
            other => return Err(DecodeError::BodyForm(other)),
        };
        if bytes.has_remaining() {
            return Err(DecodeError::Trailing);
        }
        Ok(Self {
            status,
            headers,
            body,
        })
    }

    /// How long the body will be; 0 where it was not kept.
    pub(crate) fn body_len(&self) -> usize {
        match &self.body {
            OpenedBody::NotKept => 0,
            OpenedBody::Plain(body) => body.len(),
            OpenedBody::Compressed(frame) => frame.expanded_len(),
        }
    }

    /// How many bytes [`expand`](Self::expand) will have to make.
    pub(crate) fn compressed_len(&self) -> usize {
        match &self.body {
            OpenedBody::Compressed(frame) => frame.expanded_len(),
            OpenedBody::NotKept | OpenedBody::Plain(_) => 0,
        }
    }

    pub(crate) fn expand(self) -> Result<StoredResponse, DecodeError> {
        let body = match self.body {
            OpenedBody::NotKept => None,
            OpenedBody::Plain(body) => Some(body),
            OpenedBody::Compressed(frame) => Some(frame.expand()?),
        };
        Ok(StoredResponse {
            status: self.status,
            headers: self.headers,
            body,
        })
    }
}

impl fmt::Debug for StoredResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The map's own key iterator prints the values too.
        let names: Vec<_> = self.headers.keys().collect();
        f.debug_struct("StoredResponse")
            .field("status", &self.status)
            .field("headers", &names)
            .field("body_len", &self.body.as_ref().map(Bytes::len))
            .finish()
    }
}

impl From<bytes::TryGetError> for DecodeError {
    fn from(_: bytes::TryGetError) -> Self {
        Self::Truncated
    }
}

fn len<T: TryFrom<usize, Error: fmt::Debug>>(len: usize, why_it_fits: &str) -> T {
    T::try_from(len).expect(why_it_fits)
}

fn take(bytes: &mut Bytes, len: usize) -> Result<Bytes, DecodeError> {
    if len > bytes.remaining() {
        return Err(DecodeError::Truncated);
    }
    Ok(bytes.split_to(len))
}

/// Reads header lines into a map that grows with what is there, not with what the count promises.
fn decode_headers(bytes: &mut Bytes) -> Result<HeaderMap, DecodeError> {
    let mut headers = HeaderMap::new();
    for _ in 0..bytes.try_get_u32()? {
        let name_len = bytes.try_get_u16()?;
        let name = take(bytes, usize::from(name_len))?;
        let name = HeaderName::from_lowercase(&name).map_err(|_| DecodeError::Header)?;
        let value_len = bytes.try_get_u32()?;
        let value = take(bytes, usize::try_from(value_len).unwrap_or(usize::MAX))?;
        let value = HeaderValue::from_maybe_shared(value).map_err(|_| DecodeError::Header)?;
        headers
            .try_append(name, value)
            .map_err(|_| DecodeError::Header)?;
    }
    Ok(headers)
}
