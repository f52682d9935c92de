//! A client that sends exactly the bytes that it is given: [`Raw`], and [`post`] for the usual case.
//!
//! HTTP libraries retry, pool and repair. This one opens a connection, writes bytes, and reads what
//! comes, so that a test knows what was on the wire and can go away at any point.
//!
//! ```
//! use onlyonce_test::client::Raw;
//! use onlyonce_test::upstream::Legacy;
//!
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! let legacy = Legacy::start().await;
//! let mut client = Raw::connect(legacy.addr()).await;
//! client.send("POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhiGET /b HTTP/1.1\r\n\r\n").await;
//! assert_eq!(client.response().await?.status, 200);
//! assert_eq!(client.response().await?.text(), "done"); // pipelined
//! # Ok::<(), std::io::Error>(()) }).unwrap();
//! ```

use std::fmt;
use std::io;
use std::net::SocketAddr;

use bytes::Bytes;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::event::within;
use crate::http1::{Content, Fields, Framing, Head, Wire};

/// A response as it came.
#[derive(Debug, Clone)]
pub struct Response {
    /// The status.
    pub status: u16,
    /// The fields, in order, as spelled.
    pub fields: Fields,
    /// The head's exact bytes.
    pub head: Bytes,
    /// The body after transfer decoding, as far as it came.
    pub body: Bytes,
    /// Trailer fields of a chunked body.
    pub trailers: Fields,
    /// Why the body is not whole; `None` where it ended as its framing says.
    pub broken: Option<String>,
    /// The statuses of interim responses that came before.
    pub interim: Vec<u16>,
}

impl Response {
    /// The body as text.
    ///
    /// # Panics
    /// Where it is not UTF-8.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("the response's body is expected to be UTF-8")
    }

    /// Whether it is marked as a replay, under the default name.
    pub fn is_replay(&self) -> bool {
        self.fields.get("idempotent-replayed") == Some("true")
    }

    /// Whether all of it came.
    pub fn is_whole(&self) -> bool {
        self.broken.is_none()
    }
}

/// A connection that does what the test says and nothing else.
#[derive(Debug)]
pub struct Raw {
    wire: Wire,
}

impl Raw {
    /// Connects.
    ///
    /// # Panics
    /// Where that fails.
    pub async fn connect(addr: SocketAddr) -> Self {
        let connected = Self::try_connect(addr).await;
        connected.unwrap_or_else(|error| panic!("cannot connect to {addr}: {error}"))
    }

    /// Connects to what may be down.
    ///
    /// # Errors
    /// Where that fails.
    pub async fn try_connect(addr: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(addr).await?;
        // What a test writes in two steps is to arrive as two.
        let _ = stream.set_nodelay(true);
        Ok(Self {
            wire: Wire::new(stream),
        })
    }

    /// Writes exactly these bytes. An error is ignored: it shows in the response that is missing.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = within(
            "a write to be taken",
            self.wire.stream.write_all(bytes.as_ref()),
        )
        .await;
    }

    /// Reads a response to its end, or as far as it comes.
    ///
    /// # Errors
    /// Where the connection ends or breaks before a whole head: `UnexpectedEof`, `ConnectionReset`.
    ///
    /// # Panics
    /// After [`crate::event::PATIENCE`].
    pub async fn response(&mut self) -> io::Result<Response> {
        let mut response = self.head().await?;
        let content = within(
            "a response's body",
            self.wire.content(framing_of(&response)),
        )
        .await;
        let Content {
            data,
            trailers,
            broken,
        } = content;
        (response.body, response.trailers, response.broken) = (data, trailers, broken);
        Ok(response)
    }

    /// Reads the response to a `HEAD`: no body, whatever the fields say.
    ///
    /// # Errors
    /// As [`response`](Self::response).
    pub async fn response_to_head(&mut self) -> io::Result<Response> {
        self.head().await
    }

    /// Reads up to the end of the final response's head, and leaves the body to
    /// [`chunk`](Self::chunk), [`bytes`](Self::bytes), or to nobody.
    ///
    /// # Errors
    /// As [`response`](Self::response).
    pub async fn head(&mut self) -> io::Result<Response> {
        let mut interim = Vec::new();
        loop {
            let head = within("a response's head", self.wire.head()).await?;
            let head = head.ok_or(io::ErrorKind::UnexpectedEof)?;
            match status_of(&head)? {
                status @ 100..=199 if status != 101 => interim.push(status),
                status => {
                    return Ok(Response {
                        status,
                        fields: head.fields,
                        head: head.raw,
                        body: Bytes::new(),
                        trailers: Fields::default(),
                        broken: None,
                        interim,
                    });
                }
            }
        }
    }

    /// Reads the next chunk of a chunked body; `None` for the last one (trailers are not read).
    ///
    /// # Errors
    /// Where the body breaks off.
    pub async fn chunk(&mut self) -> io::Result<Option<Bytes>> {
        let Some(size) = within("a chunk", self.wire.chunk_size()).await? else {
            return Ok(None);
        };
        let data = self.bytes(size).await?;
        self.wire.line().await?;
        Ok(Some(data))
    }

    /// Reads exactly `count` bytes.
    ///
    /// # Errors
    /// Where fewer come.
    pub async fn bytes(&mut self, count: usize) -> io::Result<Bytes> {
        let (data, end) = within("bytes", self.wire.take(count)).await;
        end.map(|()| data)
    }

    /// Waits until the peer ends the connection; answers what else came before.
    ///
    /// # Errors
    /// Where it was reset rather than ended.
    pub async fn ended(&mut self) -> io::Result<Bytes> {
        let rest = within("the connection's end", self.wire.content(Framing::ToEnd)).await;
        rest.broken
            .map_or(Ok(rest.data), |how| Err(io::Error::other(how)))
    }

    /// Ends the sending side; responses can still be read.
    pub async fn finish(&mut self) {
        // Fails where the peer was quicker, and then it is ended all the same.
        let _ = self.wire.stream.shutdown().await;
    }

    /// Goes away with a TCP reset, as a client that was killed may.
    pub fn reset(self) {
        // The reset is sent as the socket is dropped.
        let _ = self.wire.stream.set_zero_linger();
    }
}

fn status_of(head: &Head) -> io::Result<u16> {
    let status = head
        .start
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    status.ok_or_else(|| io::Error::other(format!("{:?} is no status line", head.start)))
}

fn framing_of(response: &Response) -> Framing {
    match response.status {
        101 | 204 | 304 => Framing::Length(0),
        _ => response.fields.framing().unwrap_or(Framing::ToEnd),
    }
}

/// The bytes of a `POST` with a key and a `Content-Length`. Without a key where it is empty.
pub fn post_bytes(path: &str, key: &str, body: impl fmt::Display) -> String {
    let body = body.to_string();
    let key = match key {
        "" => String::new(),
        key => format!("Idempotency-Key: {key}\r\n"),
    };
    format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-www-form-urlencoded\r\n\
         {key}Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// Sends one `POST` on a connection of its own and reads the answer.
///
/// # Errors
/// Where no whole head came back; a body that broke off is in [`Response::broken`].
///
/// # Panics
/// Where the connection is refused.
pub async fn post(addr: SocketAddr, path: &str, key: &str, body: &str) -> io::Result<Response> {
    let mut client = Raw::connect(addr).await;
    client.send(post_bytes(path, key, body)).await;
    client.response().await
}
