//! How a response is written down, for every store alike.
//!
//! The format is our own and small: a store keeps it for days, and a newer version must be able to read
//! what an older one wrote, so it depends on no library's idea of serialisation. Numbers are big-endian.
//!
//! | bytes | what |
//! |---|---|
//! | 3 | `onr` |
//! | 1 | version of the format: 1 |
//! | 1 | form of the body: 0 not kept, 1 as it was sent (others, such as compressed, may come) |
//! | 2 | status code |
//! | 4 | number of header lines |
//! | for each: 2, n, 4, m | length of the name, the name in lower case, length of the value, the value |
//! | 8, n | length of the body, the body to the very end; both missing where it was not kept |
//!
//! Lines of one name keep their order. Everything that does not fit this exactly is an error; nothing
//! makes the decoder panic or allocate more than its input.
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

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

const MAGIC: [u8; 3] = *b"onr";
const VERSION: u8 = 1;
const BODY_NOT_KEPT: u8 = 0;
const BODY_PLAIN: u8 = 1;

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
}

impl StoredResponse {
    /// Writes it down.
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(self.encoded_len());
        out.put_slice(&MAGIC);
        out.put_u8(VERSION);
        out.put_u8(match self.body {
            Some(_) => BODY_PLAIN,
            None => BODY_NOT_KEPT,
        });
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
            out.put_slice(body);
        }
        out.freeze()
    }

    /// Reads it again. The body and the header values are slices of `bytes`, not copies.
    ///
    /// # Errors
    /// Where `bytes` is not exactly what [`encode`](Self::encode) wrote.
    pub fn decode(mut bytes: Bytes) -> Result<Self, DecodeError> {
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
            BODY_NOT_KEPT => None,
            BODY_PLAIN => {
                let length = bytes.try_get_u64()?;
                Some(take(
                    &mut bytes,
                    usize::try_from(length).unwrap_or(usize::MAX),
                )?)
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

    fn encoded_len(&self) -> usize {
        let line =
            |(name, value): (&HeaderName, &HeaderValue)| 6 + name.as_str().len() + value.len();
        let headers: usize = self.headers.iter().map(line).sum();
        11 + headers + self.body.as_ref().map_or(0, |body| 8 + body.len())
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn example() -> StoredResponse {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("location", &b"/charges/1"[..]),
            ("link", b"<a>"),
            ("x-binary", b"\xff\xfe\t"),
            ("link", b"<b>"),
            ("x-empty", b""),
        ] {
            headers.append(name, HeaderValue::from_bytes(value).unwrap());
        }
        StoredResponse {
            status: StatusCode::CREATED,
            headers,
            body: Some(Bytes::from_static(b"\0body\xff\0")),
        }
    }

    fn decode(bytes: &[u8]) -> Result<StoredResponse, DecodeError> {
        StoredResponse::decode(Bytes::copy_from_slice(bytes))
    }

    #[test]
    fn p14_p15_bytes_order_and_emptiness_survive() {
        for body in [example().body, Some(Bytes::new()), None] {
            let response = StoredResponse { body, ..example() };
            let encoded = response.encode();
            assert_eq!(encoded.len(), response.encoded_len());
            let decoded = StoredResponse::decode(encoded).unwrap();
            assert_eq!(decoded, response);
            let links: Vec<_> = decoded.headers.get_all("link").iter().collect();
            assert_eq!(links, ["<a>", "<b>"]);
        }
    }

    #[test]
    fn any_number_of_lines_is_written() {
        let mut headers = HeaderMap::new();
        for _ in 0..=u16::MAX {
            headers.append("link", HeaderValue::from_static("<a>"));
        }
        let response = StoredResponse {
            headers,
            ..example()
        };
        assert_eq!(StoredResponse::decode(response.encode()), Ok(response));
    }

    #[test]
    fn the_layout_is_the_documented_one() {
        let mut headers = HeaderMap::new();
        headers.insert("etag", HeaderValue::from_static("x"));
        let response = StoredResponse {
            status: StatusCode::OK,
            headers,
            body: Some(Bytes::from_static(b"hi")),
        };
        let expected = b"onr\x01\x01\x00\xc8\x00\x00\x00\x01\x00\x04etag\x00\x00\x00\x01x\
            \x00\x00\x00\x00\x00\x00\x00\x02hi";
        assert_eq!(&response.encode()[..], expected);
    }

    #[test]
    fn the_body_is_not_copied() {
        let encoded = example().encode();
        let range = encoded.as_ptr_range();
        let body = StoredResponse::decode(encoded).unwrap().body.unwrap();
        assert!(range.contains(&body.as_ptr()));
    }

    #[test]
    fn every_cut_and_every_addition_is_an_error() {
        for body in [example().body, None] {
            let encoded = StoredResponse { body, ..example() }.encode();
            for end in 0..encoded.len() {
                let expected = if end < 3 {
                    DecodeError::Magic
                } else {
                    DecodeError::Truncated
                };
                assert_eq!(decode(&encoded[..end]), Err(expected), "{end}");
            }
            let longer = [&encoded, &b"x"[..]].concat();
            assert_eq!(decode(&longer), Err(DecodeError::Trailing));
        }
    }

    #[test]
    fn what_a_newer_version_wrote_is_refused() {
        let encoded = example().encode().to_vec();
        for (index, value, error) in [
            (0, b'x', DecodeError::Magic),
            (3, 2, DecodeError::Version(2)),
            (4, 2, DecodeError::BodyForm(2)),
            (5, 0xff, DecodeError::Status),
        ] {
            let mut changed = encoded.clone();
            changed[index] = value;
            assert_eq!(decode(&changed), Err(error));
        }
    }

    #[test]
    fn s10_headers_that_could_split_a_response_are_refused() {
        let head = b"onr\x01\x00\x00\xc8\x00\x00\x00\x01";
        for (name, value) in [
            (&b"x"[..], &b"a\r\nb: c"[..]),
            (b"x", b"\0"),
            (b"x y", b"a"),
            (b"X", b"a"),
            (b"", b"a"),
            (b"x:", b"a"),
        ] {
            let mut bytes = BytesMut::from(&head[..]);
            bytes.put_u16(name.len().try_into().unwrap());
            bytes.put_slice(name);
            bytes.put_u32(value.len().try_into().unwrap());
            bytes.put_slice(value);
            assert_eq!(
                decode(&bytes),
                Err(DecodeError::Header),
                "{name:?} {value:?}"
            );
        }
    }

    #[test]
    fn lengths_beyond_the_input_allocate_nothing() {
        for bytes in [
            &b"onr\x01\x01\x00\xc8\x00\x00\x00\x00\xff\xff\xff\xff\xff\xff\xff\xff"[..],
            b"onr\x01\x00\x00\xc8\xff\xff\xff\xff",
            b"onr\x01\x00\x00\xc8\x00\x00\x00\x01\x00\x01x\xff\xff\xff\xff",
        ] {
            assert_eq!(decode(bytes), Err(DecodeError::Truncated));
        }
    }

    #[test]
    fn nothing_personal_is_printed() {
        let text = format!("{:?}", example());
        assert!(
            !text.contains("/charges/1") && !text.contains("body\\"),
            "{text}"
        );
    }

    fn any_headers() -> impl Strategy<Value = HeaderMap> {
        let line = ("[a-z][a-z0-9-]{0,8}", "[\t -~\u{80}-\u{ff}]{0,20}");
        proptest::collection::vec(line, 0..8).prop_map(|lines| {
            let mut headers = HeaderMap::new();
            for (name, value) in lines {
                let name: HeaderName = name.parse().unwrap();
                headers.append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
            }
            headers
        })
    }

    proptest! {
        #[test]
        fn any_response_survives(
            status in 100_u16..1000,
            headers in any_headers(),
            body: Option<Vec<u8>>,
        ) {
            let response = StoredResponse {
                status: StatusCode::from_u16(status).unwrap(),
                headers,
                body: body.map(Bytes::from),
            };
            prop_assert_eq!(StoredResponse::decode(response.encode()), Ok(response));
        }

        #[test]
        fn any_damage_is_an_error_or_another_response(index: prop::sample::Index, value: u8) {
            let mut bytes = example().encode().to_vec();
            let index = index.index(bytes.len());
            prop_assume!(bytes[index] != value);
            bytes[index] = value;
            prop_assert_ne!(decode(&bytes), Ok(example()));
        }
    }
}
