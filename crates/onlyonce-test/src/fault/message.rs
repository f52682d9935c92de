//! Postgres messages: framing, and which statement a batch of them executes.

use std::collections::HashMap;
use std::io;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

/// Larger messages are not expected in tests; a length beyond it means that framing was lost.
const MESSAGE_MAX: usize = 64 << 20;

/// A message with its type byte and length.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) tag: u8,
    pub(super) raw: Bytes,
}

impl Message {
    fn body(&self) -> Bytes {
        self.raw.slice(5..)
    }

    /// Whether the server acts on what has come so far: the batch is complete.
    pub(super) fn ends_batch(&self) -> bool {
        !matches!(self.tag, b'P' | b'B' | b'D' | b'E' | b'C')
    }

    /// Whether the server answers it with a `ReadyForQuery`.
    pub(super) fn makes_ready(&self) -> bool {
        matches!(self.tag, b'Q' | b'S' | b'F')
    }

    /// Whether it is the server's `ReadyForQuery`.
    pub(super) fn is_ready(&self) -> bool {
        self.tag == b'Z'
    }
}

/// Cuts a byte stream into messages.
#[derive(Debug, Default)]
pub(super) struct Frames(BytesMut);

impl Frames {
    /// The next message; `None` at the stream's end.
    pub(super) async fn next(
        &mut self,
        stream: &mut (impl AsyncRead + Unpin),
    ) -> io::Result<Option<Message>> {
        loop {
            if let Some(length) = self.length(1)?
                && self.0.len() > length
            {
                let raw = self.0.split_to(length + 1).freeze();
                return Ok(Some(Message { tag: raw[0], raw }));
            }
            if stream.read_buf(&mut self.0).await? == 0 {
                return Ok(None);
            }
        }
    }

    /// The first message of a connection, which has no type byte.
    pub(super) async fn startup(
        &mut self,
        stream: &mut (impl AsyncRead + Unpin),
    ) -> io::Result<Option<Bytes>> {
        loop {
            if let Some(length) = self.length(0)?
                && self.0.len() >= length
            {
                return Ok(Some(self.0.split_to(length).freeze()));
            }
            if stream.read_buf(&mut self.0).await? == 0 {
                return Ok(None);
            }
        }
    }

    fn length(&self, at: usize) -> io::Result<Option<usize>> {
        let Some(mut bytes) = self.0.get(at..at + 4) else {
            return Ok(None);
        };
        match usize::try_from(bytes.get_i32()) {
            Ok(length) if (4..MESSAGE_MAX).contains(&length) => Ok(Some(length)),
            _ => Err(io::Error::other("not a Postgres message")),
        }
    }
}

/// What a client has prepared and bound.
#[derive(Debug, Default)]
pub(super) struct Prepared {
    statements: HashMap<Bytes, String>,
    portals: HashMap<Bytes, String>,
}

impl Prepared {
    /// The SQL that a message executes, if it executes any.
    pub(super) fn executes(&mut self, message: &Message) -> Option<String> {
        let mut body = message.body();
        match message.tag {
            b'Q' => Some(text(&mut body)),
            b'P' => {
                let name = name(&mut body);
                self.statements.insert(name, text(&mut body));
                None
            }
            b'B' => {
                let (portal, statement) = (name(&mut body), name(&mut body));
                let sql = self.statements.get(&statement).cloned().unwrap_or_default();
                self.portals.insert(portal, sql);
                None
            }
            b'E' => Some(
                self.portals
                    .get(&name(&mut body))
                    .cloned()
                    .unwrap_or_default(),
            ),
            _ => None,
        }
    }
}

/// Takes a zero-terminated string.
fn name(body: &mut Bytes) -> Bytes {
    let end = body
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(body.len());
    let name = body.split_to(end);
    body.advance(1.min(body.len()));
    name
}

fn text(body: &mut Bytes) -> String {
    String::from_utf8_lossy(&name(body)).into_owned()
}
