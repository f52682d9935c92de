//! One connection to the upstream, and what sending on it tells.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::limits::{Limits, RanOut};
use super::outgoing::Outgoing;
use super::wire::Wire;
use crate::alarm::Alarm;

/// A connection that carries one request at a time.
#[derive(Debug)]
pub(crate) struct Connection {
    sender: SendRequest<Outgoing>,
    wire: Arc<Wire>,
    ended: Ended,
    alarm: Alarm,
}

/// Fails when the task that drives the connection is over and everything of it is dropped.
pub(crate) type Ended = oneshot::Receiver<Infallible>;

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
    pub(crate) fn new(sender: SendRequest<Outgoing>, wire: Arc<Wire>, ended: Ended) -> Self {
        Self {
            sender,
            wire,
            ended,
            alarm: Alarm::default(),
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

    /// Waits until a request can be sent; not for long. Returns why none can.
    async fn wait_until_ready(&mut self) -> Option<NotSent> {
        let mut due = None;
        poll_fn(|cx| match self.sender.poll_ready(cx) {
            Poll::Ready(Ok(())) => Poll::Ready(None),
            Poll::Ready(Err(error)) => Poll::Ready(Some(NotSent::Ended(error))),
            Poll::Pending => {
                let due = *due.get_or_insert_with(|| Instant::now() + READY_WITHIN);
                self.alarm.poll(due, cx).map(|()| Some(NotSent::Busy))
            }
        })
        .await
    }

    /// Sends a request, once.
    pub(crate) async fn send(
        mut self,
        request: Request<Outgoing>,
        limits: &Limits,
    ) -> Result<Answered, SendError> {
        if let Some(reason) = self.wait_until_ready().await {
            let message = Some(Box::new(request));
            return Err(SendError::NotSent { reason, message });
        }
        let Self {
            mut sender,
            wire,
            mut ended,
            mut alarm,
        } = self;
        let mark = wire.begin(limits.first_write_by);
        let mut answer = pin!(sender.try_send_request(request));
        let (outcome, sender) = tokio::select! {
            // A response that is here when time runs out is a response.
            biased;
            outcome = answer.as_mut() => (outcome, Some(sender)),
            ran_out = poll_fn(|cx| limits.poll_run_out(&mut alarm, cx)) => {
                return Err(SendError::RanOut(ran_out));
            }
            Err(_) = &mut ended => {
                // A request that was put into the queue in the very moment in which the other end left
                // stays there for as long as our end exists, and nobody would ever answer.
                drop(sender);
                (answer.await, None)
            }
        };
        match outcome {
            Ok(response) => {
                let connection = sender.map(|sender| Self {
                    sender,
                    wire,
                    ended,
                    alarm,
                });
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

#[cfg(test)]
mod tests {
    use std::io;
    use std::pin::Pin;
    use std::task::{Context, Waker};

    use bytes::Bytes;
    use hyper::client::conn::http1;
    use hyper_util::rt::TokioIo;
    use onlyonce::Deadline;
    use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

    use super::super::wire::{Arrival, CountedIo, Look};
    use super::*;

    /// A socket that never receives, takes `takes` bytes, and then fails or never gets ready again.
    struct Socket {
        takes: usize,
        fails: bool,
    }

    impl AsyncRead for Socket {
        fn poll_read(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            _: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    impl AsyncWrite for Socket {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buf: &[u8],
        ) -> Poll<io::Result<usize>> {
            let taken = self.takes.min(buf.len());
            self.takes -= taken;
            match taken {
                0 if self.fails => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
                0 => Poll::Pending,
                taken => Poll::Ready(Ok(taken)),
            }
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    impl Look for Socket {
        fn look(&self) -> Arrival {
            Arrival::Nothing
        }
    }

    async fn send(takes: usize, fails: bool, limit: Duration) -> SendError {
        let wire = Wire::new(false);
        let io = CountedIo::new(Socket { takes, fails }, Arc::clone(&wire));
        let (sender, connection) = http1::handshake(TokioIo::new(io)).await.unwrap();
        let (guard, ended) = oneshot::channel();
        tokio::spawn(async move {
            let _guard = guard;
            drop(connection.await);
        });
        let body = Outgoing::Whole(Bytes::from("a=1"));
        let request = Request::post("/").header("host", "a").body(body).unwrap();
        let limits = Limits::guarded(Deadline::after(limit));
        let connection = Connection::new(sender, wire, ended);
        connection
            .send(request, &limits)
            .await
            .map(drop)
            .unwrap_err()
    }

    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn a_write_that_fails_at_once_is_not_sent() {
        let error = send(0, true, LONG).await;
        // hyper has taken the request apart by then: only the wire knows.
        let SendError::NotSent { message, .. } = error else {
            panic!("{error:?}");
        };
        assert!(message.is_none());
    }

    #[tokio::test]
    async fn one_byte_is_enough_to_know_nothing() {
        let error = send(1, true, LONG).await;
        assert!(matches!(error, SendError::Broken(_)), "{error:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn our_own_deadline_is_unknown_even_if_nothing_was_written() {
        let error = send(0, false, LONG).await;
        assert!(
            matches!(error, SendError::RanOut(RanOut::Upstream)),
            "{error:?}"
        );
    }

    #[tokio::test]
    async fn a_first_byte_that_comes_too_late_is_not_sent() {
        let error = send(9999, false, Duration::ZERO).await;
        assert!(matches!(error, SendError::NotSent { .. }), "{error:?}");
    }

    /// The harmless side of the race with a task that ends; `sockets::idle_race` runs the other.
    #[tokio::test]
    async fn a_connection_whose_task_has_ended_takes_no_request() {
        let wire = Wire::new(false);
        let io = CountedIo::new(
            Socket {
                takes: 0,
                fails: true,
            },
            Arc::clone(&wire),
        );
        let (sender, connection) = http1::handshake(TokioIo::new(io)).await.unwrap();
        let (guard, ended) = oneshot::channel();
        let mut connection = Box::pin(connection);
        // Asks once for a request, so that the sender believes in a reader, and then is gone.
        let _ = connection
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()));
        drop(connection);
        drop(guard);
        let body = Outgoing::Whole(Bytes::from("a=1"));
        let request = Request::post("/").header("host", "a").body(body).unwrap();
        let connection = Connection::new(sender, wire, ended);
        let sent = connection
            .send(request, &Limits::guarded(Deadline::after(LONG)))
            .await;
        let error = sent.map(drop).unwrap_err();
        let SendError::NotSent { message, .. } = error else {
            panic!("{error:?}");
        };
        assert!(message.is_some());
    }
}
