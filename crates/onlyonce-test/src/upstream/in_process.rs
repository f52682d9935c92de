//! The legacy service as a function, for a guard in the same process: what it counts, journals and replies is what it
//! does over TCP.
//!
//! Without a connection of its own it misbehaves in fewer ways: it can die ([`Died`]), stay silent, and break off a body.
//!
//! ```
//! use onlyonce_test::http1::Fields;
//! use onlyonce_test::upstream::{Legacy, Received, Reply};
//!
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! let legacy = Legacy::answering(|_| Reply::new(201).body("charged")).await;
//! let request = Received {
//!     connection: 0,
//!     method: "POST".into(),
//!     target: "/charges".into(),
//!     fields: Fields::from([("Idempotency-Key", "key-1")]),
//!     head: "".into(),
//!     body: "amount=100".into(),
//!     trailers: Fields::default(),
//! };
//! let response = legacy.call(request).respond().await.unwrap();
//! assert_eq!(response.status(), 201);
//! assert_eq!(legacy.effects_of("key-1"), 1);
//! # });
//! ```

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response};
use http_body::{Body, Frame, SizeHint};
use tokio::sync::{Mutex, mpsc};

use super::reply::{Body as Scripted, Step};
use super::{At, Break, Legacy, Received, Reply};

/// The service died before it answered. Whether there was an effect, the script says.
#[derive(Debug)]
pub struct Died;

impl Legacy {
    /// Journals a request that was read to its end, counts its effect, and says how to reply.
    pub fn call(&self, request: Received) -> Reply {
        let scripted = self.shared.begin();
        self.shared.complete(request, scripted)
    }
}

impl Reply {
    /// Passes the gate and answers; for [`Break::Silence`] never.
    ///
    /// # Errors
    /// Where the script breaks before the head: a handler would panic.
    ///
    /// # Panics
    /// Where only a connection could do what the script says.
    pub async fn respond(self) -> Result<Response<ReplyBody>, Died> {
        if let Some(gate) = self.gate() {
            gate.pass().await;
        }
        let cut = match self.breaks {
            Some((At::FirstByte | At::InRequest(_) | At::AfterInterim, _)) => {
                panic!("only a connection can do that: {self:?}")
            }
            Some((At::AfterRequest, Break::Silence)) => std::future::pending().await,
            Some((At::AfterRequest, Break::Reset | Break::Finish)) => return Err(Died),
            Some((At::AfterHead, _)) => Some(0),
            Some((At::InBody(bytes), _)) => Some(bytes),
            Some((At::AfterResponse, _)) | None => None,
        };
        let mut response = Response::new(self.body.play(cut));
        *response.status_mut() = self.status.try_into().expect("a status of three digits");
        *response.headers_mut() = fields(&self.fields);
        Ok(response)
    }
}

impl Scripted {
    /// The body's frames, up to where it is cut off. Chunks are cut between two.
    fn play(self, cut: Option<usize>) -> ReplyBody {
        let mut body = ReplyBody {
            frames: VecDeque::new(),
            left: None,
            broken: cut.is_some(),
            steps: None,
        };
        match self {
            Self::Sized { data, declared } => {
                let sent = data.slice(..data.len().min(cut.unwrap_or(usize::MAX)));
                body.broken |= declared > data.len();
                body.left = Some(declared);
                if !sent.is_empty() {
                    body.frames.push_back(Frame::data(sent));
                }
            }
            Self::Chunked { chunks, trailers } => {
                let whole = if cut.is_some() { 1 } else { chunks.len() };
                let chunks = chunks.into_iter().take(whole).map(Frame::data);
                body.frames.extend(chunks);
                if cut.is_none() && !trailers.is_empty() {
                    body.frames.push_back(Frame::trailers(fields(&trailers)));
                }
            }
            Self::Stream(steps) => body.steps = Some(steps),
            Self::Raw(bytes) => panic!("only a connection can send {bytes:?}"),
        }
        body
    }
}

fn fields(all: &[(String, String)]) -> HeaderMap {
    let parsed = all.iter().map(|(name, value)| {
        let name: HeaderName = name.parse().expect("a field's name");
        (name, HeaderValue::from_str(value).expect("a field's value"))
    });
    let mut fields = HeaderMap::new();
    for (name, value) in parsed {
        fields.append(name, value);
    }
    fields
}

/// What the service answers with.
pub struct ReplyBody {
    frames: VecDeque<Frame<Bytes>>,
    /// What is left of what was declared, true or not.
    left: Option<usize>,
    broken: bool,
    steps: Option<Arc<Mutex<mpsc::UnboundedReceiver<Step>>>>,
}

impl fmt::Debug for ReplyBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReplyBody")
            .field("frames", &self.frames)
            .finish_non_exhaustive()
    }
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if let Some(frame) = self.frames.pop_front() {
            let sent = frame.data_ref().map_or(0, Bytes::len);
            self.left = self.left.map(|left| left.saturating_sub(sent));
            return Poll::Ready(Some(Ok(frame)));
        }
        if let Some(steps) = &self.steps {
            let mut steps = steps.try_lock().expect("a stream is played once");
            match ready!(steps.poll_recv(cx)) {
                Some(Step::Chunk(chunk)) => return Poll::Ready(Some(Ok(Frame::data(chunk)))),
                Some(Step::Break(_)) => {}
                Some(Step::End) | None => return Poll::Ready(None),
            }
        } else if !self.broken {
            return Poll::Ready(None);
        }
        Poll::Ready(Some(Err(io::ErrorKind::ConnectionReset.into())))
    }

    fn is_end_stream(&self) -> bool {
        self.frames.is_empty() && !self.broken && self.steps.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        let left = self.left.and_then(|left| u64::try_from(left).ok());
        left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
