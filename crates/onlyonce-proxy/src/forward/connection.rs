//! One connection to the upstream, and what sending on it tells.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::limits::{Limits, RanOut};
use super::outgoing::Outgoing;
use super::wire::Wire;

/// A connection that carries one request at a time.
#[derive(Debug)]
pub(crate) struct Connection {
    sender: SendRequest<Outgoing>,
    wire: Arc<Wire>,
    /// Cancelled when the task that drives the connection is over and everything of it is dropped.
    ended: CancellationToken,
}

/// A response's head, and the connection on which its body arrives, unless that has ended already.
pub(crate) type Answered = (Response<Incoming>, Option<Connection>);

/// Why a request got no response. Whether it may have been executed is the difference that counts.
#[derive(Debug)]
pub(crate) enum SendError {
    /// Not one byte of it was written, nor will be.
    NotSent {
        reason: NotSent,
        /// The request, where hyper gave it back untouched.
        message: Option<Box<Request<Outgoing>>>,
    },
    /// At least one byte was written, and no response came.
    Broken(hyper::Error),
    /// It was handed over, and then time ran out.
    RanOut(RanOut),
}

/// Why a connection took no request.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotSent {
    #[error("the connection ended before the request was sent")]
    Ended(#[source] hyper::Error),
    #[error("the connection was still busy with the previous request")]
    Busy,
}

/// How long the previous exchange may take to be over once its end was seen: a matter of microseconds.
const READY_WITHIN: Duration = Duration::from_millis(50);

impl Connection {
    pub(crate) fn new(
        sender: SendRequest<Outgoing>,
        wire: Arc<Wire>,
        ended: CancellationToken,
    ) -> Self {
        Self {
            sender,
            wire,
            ended,
        }
    }

    /// Whether there is no use in sending anything more.
    pub(crate) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Waits until the previous exchange is over on both sides; false if the connection is over instead.
    pub(crate) async fn becomes_ready(&mut self) -> bool {
        self.sender.ready().await.is_ok()
    }

    /// Sends a request, once.
    pub(crate) async fn send(
        mut self,
        request: Request<Outgoing>,
        limits: &Limits,
    ) -> Result<Answered, SendError> {
        let reason = match timeout(READY_WITHIN, self.sender.ready()).await {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(NotSent::Ended(error)),
            Err(_) => Some(NotSent::Busy),
        };
        if let Some(reason) = reason {
            let message = Some(Box::new(request));
            return Err(SendError::NotSent { reason, message });
        }
        let Self {
            mut sender,
            wire,
            ended,
        } = self;
        let mark = wire.begin(limits.first_write_by);
        let mut answer = pin!(sender.try_send_request(request));
        let (outcome, sender) = tokio::select! {
            // A response that is here when time runs out is a response.
            biased;
            outcome = answer.as_mut() => (outcome, Some(sender)),
            ran_out = limits.run_out() => return Err(SendError::RanOut(ran_out)),
            () = ended.cancelled() => {
                // A request that was put into the queue in the very moment in which the other end left
                // stays there for as long as our end exists, and nobody would ever answer.
                drop(sender);
                (answer.await, None)
            }
        };
        match outcome {
            Ok(response) => {
                let connection = sender.map(|sender| Self::new(sender, wire, ended));
                Ok((response, connection))
            }
            Err(mut failed) => {
                let message = failed.take_message().map(Box::new);
                let error = failed.into_error();
                // Sealed even if hyper gave the message back: nothing more is to be sent here.
                if wire.seal_if_untouched(mark) | message.is_some() {
                    let reason = NotSent::Ended(error);
                    return Err(SendError::NotSent { reason, message });
                }
                Err(SendError::Broken(error))
            }
        }
    }
}

/// A connection that waits for its next request.
#[derive(Debug)]
pub(crate) struct Idle {
    pub(crate) connection: Connection,
    pub(crate) until: Instant,
}
