//! One connection to the upstream, and what sending on it tells.

use std::sync::Arc;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use tokio::time::Instant;

use super::limits::{Limits, RanOut};
use super::outgoing::Outgoing;
use super::wire::Wire;

/// A connection that carries one request at a time.
#[derive(Debug)]
pub(crate) struct Connection {
    sender: SendRequest<Outgoing>,
    wire: Arc<Wire>,
}

/// Why a request got no response. Whether it may have been executed is the difference that counts.
#[derive(Debug)]
pub(crate) enum SendError {
    /// Not one byte of it was written, nor will be.
    NotSent {
        error: hyper::Error,
        /// The request, where hyper gave it back untouched.
        message: Option<Box<Request<Outgoing>>>,
    },
    /// At least one byte was written, and no response came.
    Broken(hyper::Error),
    /// It was handed over, and then time ran out.
    RanOut(RanOut),
}

impl Connection {
    pub(crate) fn new(sender: SendRequest<Outgoing>, wire: Arc<Wire>) -> Self {
        Self { sender, wire }
    }

    /// Whether a request could be sent this very moment.
    pub(crate) fn is_ready(&self) -> bool {
        self.sender.is_ready()
    }

    /// Waits until the previous exchange is over on both sides; false if the connection is over instead.
    pub(crate) async fn becomes_ready(&mut self) -> bool {
        self.sender.ready().await.is_ok()
    }

    /// Sends a request, once.
    pub(crate) async fn send(
        &mut self,
        request: Request<Outgoing>,
        limits: &Limits,
    ) -> Result<Response<Incoming>, SendError> {
        if let Err(error) = self.sender.ready().await {
            let message = Some(Box::new(request));
            return Err(SendError::NotSent { error, message });
        }
        let mark = self.wire.begin(limits.first_write_by);
        let outcome = tokio::select! {
            // A response that is here when time runs out is a response.
            biased;
            outcome = self.sender.try_send_request(request) => outcome,
            ran_out = limits.run_out() => return Err(SendError::RanOut(ran_out)),
        };
        outcome.map_err(|mut failed| {
            let message = failed.take_message().map(Box::new);
            let error = failed.into_error();
            // Sealed even if hyper gave the message back: nothing else is to be sent here.
            if message.is_some() | self.wire.seal_if_untouched(mark) {
                SendError::NotSent { error, message }
            } else {
                SendError::Broken(error)
            }
        })
    }
}

/// A connection that waits for its next request.
#[derive(Debug)]
pub(crate) struct Idle {
    pub(crate) connection: Connection,
    pub(crate) until: Instant,
}
