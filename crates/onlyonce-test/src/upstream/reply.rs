//! What the legacy service does with one request: [`Reply`], and the ways to misbehave.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use tokio::sync::{Mutex, mpsc};

use crate::event::Gate;

/// A point of an exchange at which it can break.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum At {
    /// As the first bytes of the request arrive; nothing of it is looked at. No effect.
    FirstByte,
    /// After so many bytes of the request's body, fewer than it has. No effect.
    InRequest(usize),
    /// After the whole request: the effect has happened, no byte of an answer was sent.
    AfterRequest,
    /// After the interim responses ([`Reply::interim`]).
    AfterInterim,
    /// After the response's head.
    AfterHead,
    /// After so many bytes of the response's body as it is framed on the wire.
    InBody(usize),
    /// After the whole response: a keep-alive connection closed at once.
    AfterResponse,
}

/// How an exchange breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Break {
    /// TCP reset (`SO_LINGER` 0): both directions die, data in flight may be lost.
    Reset,
    /// An orderly end of what this side sends; what the other side sends is read and ignored.
    Finish,
    /// Nothing more happens, and the connection stays open.
    Silence,
}

/// What to do with one request. A value: it can be cloned and used again, but for [`Reply::streaming`].
#[derive(Debug, Clone)]
pub struct Reply {
    pub(super) status: u16,
    pub(super) fields: Vec<(String, String)>,
    pub(super) body: Body,
    interim: Vec<u16>,
    gate: Option<Gate>,
    pub(super) breaks: Option<(At, Break)>,
    effect: bool,
}

#[derive(Debug, Clone)]
pub(super) enum Body {
    /// With `Content-Length`, true or not.
    Sized { data: Bytes, declared: usize },
    Chunked {
        chunks: Vec<Bytes>,
        trailers: Vec<(String, String)>,
    },
    /// Chunked, as the test feeds it.
    Stream(Arc<Mutex<mpsc::UnboundedReceiver<Step>>>),
    /// The whole response, head included.
    Raw(Bytes),
}

/// One step of a streamed body.
#[derive(Debug)]
pub(super) enum Step {
    Chunk(Bytes),
    End,
    Break(Break),
}

impl Reply {
    /// An answer with this status and an empty body.
    pub fn new(status: u16) -> Self {
        Self {
            status,
            fields: Vec::new(),
            body: Body::Sized {
                data: Bytes::new(),
                declared: 0,
            },
            interim: Vec::new(),
            gate: None,
            breaks: None,
            effect: true,
        }
    }

    /// These bytes in place of a response, head included. For answers that are not HTTP, or barely.
    pub fn raw(bytes: impl Into<Bytes>) -> Self {
        Self {
            body: Body::Raw(bytes.into()),
            ..Self::new(0)
        }
    }

    /// Chunked, and fed by the test step by step through the [`Stream`], as server-sent events are.
    pub fn streaming(status: u16) -> (Self, Stream) {
        let (steps, receiver) = mpsc::unbounded_channel();
        let body = Body::Stream(Arc::new(Mutex::new(receiver)));
        (
            Self {
                body,
                ..Self::new(status)
            },
            Stream(steps),
        )
    }

    /// Adds a field, exactly so spelled; repeated names are sent repeatedly.
    #[must_use]
    pub fn field(mut self, name: &str, value: &str) -> Self {
        self.fields.push((name.to_owned(), value.to_owned()));
        self
    }

    /// A body with its `Content-Length`.
    #[must_use]
    pub fn body(mut self, data: impl Into<Bytes>) -> Self {
        let data = data.into();
        self.body = Body::Sized {
            declared: data.len(),
            data,
        };
        self
    }

    /// A body whose `Content-Length` lies. Where it is too long, the connection ends after the data.
    #[must_use]
    pub fn body_declared(mut self, data: impl Into<Bytes>, declared: usize) -> Self {
        self.body = Body::Sized {
            data: data.into(),
            declared,
        };
        self
    }

    /// A chunked body, with trailers after it.
    #[must_use]
    pub fn chunked<const C: usize, const T: usize>(
        mut self,
        chunks: [&str; C],
        trailers: [(&str, &str); T],
    ) -> Self {
        let chunks = chunks.map(|chunk| Bytes::copy_from_slice(chunk.as_bytes()));
        let trailers = trailers.map(|(name, value)| (name.to_owned(), value.to_owned()));
        self.body = Body::Chunked {
            chunks: chunks.into(),
            trailers: trailers.into(),
        };
        self
    }

    /// Sends an interim response (`100`, `103`, …) between the request and the answer.
    #[must_use]
    pub fn interim(mut self, status: u16) -> Self {
        self.interim.push(status);
        self
    }

    /// Answers, or breaks, only once the gate is open. The effect has happened before.
    #[must_use]
    pub fn held_at(mut self, gate: &Gate) -> Self {
        self.gate = Some(gate.clone());
        self
    }

    /// Breaks the exchange at this point.
    #[must_use]
    pub fn breaks(mut self, at: At, how: Break) -> Self {
        self.breaks = Some((at, how));
        self
    }

    /// Reads the request (an effect) and never answers.
    pub fn never() -> Self {
        Self::new(0).breaks(At::AfterRequest, Break::Silence)
    }

    /// The service did not do what was asked: the request is journaled and no effect is counted.
    #[must_use]
    pub fn without_effect(mut self) -> Self {
        self.effect = false;
        self
    }

    /// Whether the request is an effect.
    pub fn has_effect(&self) -> bool {
        self.effect
    }

    pub(super) fn gate(&self) -> Option<&Gate> {
        self.gate.as_ref()
    }

    /// How the exchange breaks at this point; `None` where it goes on.
    pub(super) fn breaks_at(&self, point: At) -> Option<Break> {
        self.breaks
            .filter(|(at, _)| *at == point)
            .map(|(_, how)| how)
    }

    /// How many bytes of the request's body are read before it breaks.
    pub(super) fn breaks_in_request(&self) -> Option<(usize, Break)> {
        match self.breaks {
            Some((At::InRequest(bytes), how)) => Some((bytes, how)),
            _ => None,
        }
    }

    /// How many bytes of the response's body are sent before it breaks.
    pub(super) fn breaks_in_body(&self) -> Option<(usize, Break)> {
        match (self.breaks, &self.body) {
            (Some((At::InBody(bytes), how)), _) => Some((bytes, how)),
            (_, Body::Sized { data, declared }) if declared > &data.len() => {
                Some((data.len(), Break::Finish))
            }
            _ => None,
        }
    }

    pub(super) fn interims(&self) -> Bytes {
        let heads = self
            .interim
            .iter()
            .map(|status| format!("{}\r\n", status_line(*status)));
        heads.collect::<String>().into()
    }

    /// The response's head; empty where the reply is raw.
    pub(super) fn head(&self) -> Bytes {
        let framing = match &self.body {
            Body::Raw(_) => return Bytes::new(),
            Body::Sized { .. } if self.status == 204 || self.status == 304 => String::new(),
            Body::Sized { declared, .. } => format!("Content-Length: {declared}\r\n"),
            Body::Chunked { .. } | Body::Stream(_) => "Transfer-Encoding: chunked\r\n".to_owned(),
        };
        let fields: String = self
            .fields
            .iter()
            .map(|(n, v)| format!("{n}: {v}\r\n"))
            .collect();
        format!("{}{fields}{framing}\r\n", status_line(self.status)).into()
    }

    /// The body as framed on the wire, or the stream that makes it.
    pub(super) fn payload(&self) -> Result<Bytes, &Mutex<mpsc::UnboundedReceiver<Step>>> {
        match &self.body {
            Body::Sized { data, .. } | Body::Raw(data) => Ok(data.clone()),
            Body::Stream(steps) => Err(steps),
            Body::Chunked { chunks, trailers } => {
                let mut framed = BytesMut::new();
                chunks.iter().for_each(|chunk| framed.put(frame(chunk)));
                framed.put_slice(b"0\r\n");
                for (name, value) in trailers {
                    framed.put_slice(format!("{name}: {value}\r\n").as_bytes());
                }
                framed.put_slice(b"\r\n");
                Ok(framed.freeze())
            }
        }
    }

    /// Whether the connection can carry another request after this reply.
    pub(super) fn keeps_alive(&self) -> bool {
        let closes = |(name, value): &(String, String)| {
            name.eq_ignore_ascii_case("connection") && value.eq_ignore_ascii_case("close")
        };
        !self.fields.iter().any(closes)
    }
}

/// A chunk as framed on the wire.
pub(super) fn frame(chunk: &[u8]) -> Bytes {
    let mut framed = BytesMut::from(format!("{:x}\r\n", chunk.len()).as_bytes());
    framed.put_slice(chunk);
    framed.put_slice(b"\r\n");
    framed.freeze()
}

fn status_line(status: u16) -> String {
    let reason = http::StatusCode::from_u16(status).ok();
    let reason = reason
        .and_then(|status| status.canonical_reason())
        .unwrap_or("Unnamed");
    format!("HTTP/1.1 {status} {reason}\r\n")
}

/// The test's end of a streamed body. Dropping it ends the body cleanly.
#[derive(Debug)]
pub struct Stream(mpsc::UnboundedSender<Step>);

impl Stream {
    /// Sends one chunk.
    pub fn send(&self, chunk: impl Into<Bytes>) {
        self.step(Step::Chunk(chunk.into()));
    }

    /// Ends the body as it should be.
    pub fn end(self) {
        self.step(Step::End);
    }

    /// Breaks the body off.
    pub fn breaks(self, how: Break) {
        self.step(Step::Break(how));
    }

    fn step(&self, step: Step) {
        // Where the connection is gone already, there is nobody left to send to.
        let _ = self.0.send(step);
    }
}
