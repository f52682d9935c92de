//! HTTP/1.1 as bytes: reads messages without tidying them, so that tests see what was really sent.
//!
//! The usual libraries normalise: they lower-case names, reorder fields, merge lengths, and hide whether
//! a body ended or broke off. Here fields keep their order, case and bytes, and a message that ends
//! before its framing says so is told apart from a complete one.
//!
//! It is lenient where a test may want odd input, and therefore not for production.
//!
//! ```
//! use onlyonce_test::http1::Fields;
//!
//! let fields = Fields::from([("Via", "1.1 a"), ("via", "1.1 b")]);
//! assert_eq!(fields.get("VIA"), Some("1.1 a"));
//! assert_eq!(fields.all("via").collect::<Vec<_>>(), ["1.1 a", "1.1 b"]);
//! ```

use std::io;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::TcpStream;

/// Header or trailer fields, in order, names and values as they were on the wire.
///
/// Values that are not UTF-8 are shown with replacement characters; compare raw bytes where that matters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fields(Vec<(String, String)>);

impl Fields {
    /// The first value of `name`, whatever its case.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.all(name).next()
    }

    /// All values of `name`, in order.
    pub fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.iter()
            .filter(move |(own, _)| own.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    }

    /// Name and value of each field, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(n, v)| (n.as_str(), v.as_str()))
    }

    /// How many fields there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn lists(&self, name: &str, token: &str) -> bool {
        self.all(name)
            .flat_map(|value| value.split(','))
            .any(|item| item.trim().eq_ignore_ascii_case(token))
    }

    /// Whether the connection ends with this message.
    pub(crate) fn closes(&self) -> bool {
        self.lists("connection", "close")
    }

    /// The framing of a message with these fields; `None` where they name none.
    pub(crate) fn framing(&self) -> Option<Framing> {
        if self.lists("transfer-encoding", "chunked") {
            return Some(Framing::Chunked);
        }
        let length = self.get("content-length")?.trim().parse();
        length.ok().map(Framing::Length)
    }
}

impl From<&http::HeaderMap> for Fields {
    /// In the order that the map gives, names in lower case.
    fn from(map: &http::HeaderMap) -> Self {
        let value = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into();
        Self(map.iter().map(|(n, v)| (n.to_string(), value(v))).collect())
    }
}

impl<const N: usize> From<[(&str, &str); N]> for Fields {
    fn from(fields: [(&str, &str); N]) -> Self {
        Self(fields.map(|(n, v)| (n.to_owned(), v.to_owned())).into())
    }
}

/// The first lines of a message.
#[derive(Debug, Clone)]
pub(crate) struct Head {
    pub(crate) start: String,
    pub(crate) fields: Fields,
    /// The exact bytes, blank line included.
    pub(crate) raw: Bytes,
}

/// How a body is delimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    Length(usize),
    Chunked,
    ToEnd,
}

/// What was read of a body, and whether that is all of it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Content {
    pub(crate) data: Bytes,
    pub(crate) trailers: Fields,
    /// Why the body is not whole; `None` where it is.
    pub(crate) broken: Option<String>,
}

/// A connection with the bytes that were read ahead.
#[derive(Debug)]
pub(crate) struct Wire<S = TcpStream> {
    pub(crate) stream: S,
    buffer: BytesMut,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    pub(crate) fn new(stream: S) -> Self {
        let buffer = BytesMut::new();
        Self { stream, buffer }
    }

    /// Reads more; an `UnexpectedEof` error at the end.
    async fn fill(&mut self) -> io::Result<()> {
        match self.stream.read_buf(&mut self.buffer).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    /// Waits for a first byte; `false` where the peer ended instead.
    pub(crate) async fn has_more(&mut self) -> bool {
        !self.buffer.is_empty() || self.fill().await.is_ok()
    }

    /// Reads up to the blank line. `None` where the connection ended cleanly before the first byte.
    pub(crate) async fn head(&mut self) -> io::Result<Option<Head>> {
        loop {
            if let Some(end) = find(&self.buffer, b"\r\n\r\n") {
                return Ok(Some(parse_head(self.buffer.split_to(end + 4).freeze())));
            }
            match self.fill().await {
                Err(error) if at_end(&error) && self.buffer.is_empty() => return Ok(None),
                filled => filled?,
            }
        }
    }

    /// Reads `count` bytes, or fewer where the connection ends.
    pub(crate) async fn take(&mut self, count: usize) -> (Bytes, io::Result<()>) {
        while self.buffer.len() < count {
            if let Err(error) = self.fill().await {
                return (self.buffer.split().freeze(), Err(error));
            }
        }
        (self.buffer.split_to(count).freeze(), Ok(()))
    }

    /// Reads a body by its framing, as far as it goes.
    pub(crate) async fn content(&mut self, framing: Framing) -> Content {
        match framing {
            Framing::Length(length) => {
                let (data, end) = self.take(length).await;
                let short = |e| format!("{} of {length} bytes, then {e}", data.len());
                let broken = end.err().map(short);
                Content {
                    data,
                    broken,
                    ..Content::default()
                }
            }
            Framing::Chunked => self.chunked().await,
            Framing::ToEnd => self.until_end().await,
        }
    }

    async fn until_end(&mut self) -> Content {
        let broken = loop {
            match self.fill().await {
                Ok(()) => {}
                Err(error) if at_end(&error) => break None,
                Err(error) => break Some(error.to_string()),
            }
        };
        let data = self.buffer.split().freeze();
        Content {
            data,
            broken,
            ..Content::default()
        }
    }

    async fn chunked(&mut self) -> Content {
        let mut data = BytesMut::new();
        let ended = self.chunks(&mut data).await;
        let (trailers, broken) = match ended {
            Ok(trailers) => (trailers, None),
            Err(error) => (
                Fields::default(),
                Some(format!("after {} bytes: {error}", data.len())),
            ),
        };
        Content {
            data: data.freeze(),
            trailers,
            broken,
        }
    }

    async fn chunks(&mut self, data: &mut BytesMut) -> io::Result<Fields> {
        while let Some(chunk) = self.chunk_size().await? {
            let (bytes, end) = self.take(chunk).await;
            data.extend_from_slice(&bytes);
            end?;
            self.line().await?;
        }
        let mut trailers = Vec::new();
        loop {
            match self.line().await? {
                line if line.is_empty() => return Ok(Fields(trailers)),
                line => trailers.push(parse_field(&line)),
            }
        }
    }

    /// The size of the next chunk; `None` for the last one.
    pub(crate) async fn chunk_size(&mut self) -> io::Result<Option<usize>> {
        let line = self.line().await?;
        let digits = line.split(';').next().unwrap_or_default().trim();
        match usize::from_str_radix(digits, 16) {
            Ok(0) => Ok(None),
            Ok(size) => Ok(Some(size)),
            Err(_) => Err(io::Error::other(format!("{line:?} is no chunk size"))),
        }
    }

    /// Reads a line without its end.
    pub(crate) async fn line(&mut self) -> io::Result<String> {
        loop {
            if let Some(end) = find(&self.buffer, b"\r\n") {
                let line = self.buffer.split_to(end);
                self.buffer.advance(2);
                return Ok(String::from_utf8_lossy(&line).into_owned());
            }
            self.fill().await?;
        }
    }
}

fn at_end(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::UnexpectedEof
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack
        .windows(needle.len())
        .position(|window| window == needle)
}

fn parse_head(raw: Bytes) -> Head {
    let text = String::from_utf8_lossy(&raw).into_owned();
    let mut lines = text.trim_end_matches("\r\n").split("\r\n");
    let start = lines.next().unwrap_or_default().to_owned();
    let fields = Fields(lines.map(parse_field).collect());
    Head { start, fields, raw }
}

fn parse_field(line: impl AsRef<str>) -> (String, String) {
    let (name, value) = line.as_ref().split_once(':').unwrap_or((line.as_ref(), ""));
    (name.to_owned(), value.trim_matches([' ', '\t']).to_owned())
}
