//! One connection to the upstream, and what sending on it tells.
//!
//! hyper splits a connection in two: a sender, and a future that does all the work and is usually spawned.
//! Here both stay together, and whoever needs the connection polls that future itself: the request that
//! waits for its response, then the response's body. A request is then one task that wakes when its
//! upstream has answered, instead of two that hand each other the request and the response.
//!
//! Hazards: a connection that nobody drives stands still. While it is idle that is what it should do; the
//! pool looks after it. One whose upload goes on behind its response is driven by a task of its own.
//!
//! What goes through hyper's channels, it wakes the other side for, which is ourselves, and a turn for
//! nothing. So we ask them with a waker that wakes nobody, for only driving fills them; and what hyper
//! waits with is a [`Bell`] of the connection's own, that rings for nobody while we hand something over.

use std::convert::Infallible;
use std::fmt;
use std::future::{Future, poll_fn};
use std::mem;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use futures_util::task::AtomicWaker;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use tokio::sync::oneshot;
use tokio::task::coop::unconstrained;
use tokio::time::Instant;
use tracing::debug;

use super::limits::{Limits, RanOut};
use super::outgoing::Outgoing;
use super::wire::Wire;
use crate::alarm::Alarm;

/// A connection that carries one request at a time. Dropping it closes it, whatever it is doing.
pub(crate) struct Connection {
    sender: SendRequest<Outgoing>,
    /// None once the connection has ended.
    driver: Option<Driver>,
    bell: Arc<Bell>,
    /// The bell, as hyper gets it. Always the same one, so that it need not be registered anew.
    waker: Waker,
    wire: Arc<Wire>,
    /// In this very turn, at the socket, before a request.
    has_looked: bool,
    alarm: Alarm,
}

/// hyper's side of a connection: reads and writes when polled, over when the connection is.
pub(crate) type Driver = Pin<Box<dyn Future<Output = hyper::Result<()>> + Send>>;

/// Why a request got no response. Whether it may have been executed is the difference that counts.
#[derive(Debug)]
pub(crate) enum SendError {
    /// Not one byte of it was written, nor will be.
    NotSent(NotSent),
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
    pub(crate) fn new(sender: SendRequest<Outgoing>, driver: Driver, wire: Arc<Wire>) -> Self {
        let bell = Arc::new(Bell::default());
        Self {
            sender,
            driver: Some(driver),
            waker: Arc::clone(&bell).into(),
            bell,
            wire,
            has_looked: false,
            alarm: Alarm::default(),
        }
    }

    /// Reads and writes what can be; `cx` is woken when more can.
    pub(crate) fn drive(&mut self, cx: &mut Context<'_>) {
        self.bell.0.register(cx.waker());
        self.turn();
    }

    fn turn(&mut self) {
        let mut cx = Context::from_waker(&self.waker);
        if let Some(driver) = &mut self.driver
            && let Poll::Ready(ended) = driver.as_mut().poll(&mut cx)
        {
            // With it goes hyper's end of the channels: a request that is still queued comes back.
            self.driver = None;
            if let Err(error) = ended {
                debug!(%error, "upstream connection ended");
            }
        }
    }

    /// Whether an idle connection is still of use: nothing has arrived at its socket.
    pub(crate) fn is_open(&mut self) -> bool {
        let wire = Arc::clone(&self.wire);
        self.has_looked = wire.look_while(|| self.turn());
        self.driver.is_some()
    }

    /// Wakes nobody until it is driven again.
    pub(crate) fn hush(&self) {
        drop(self.bell.0.take());
    }

    /// Whether the previous exchange is over on both sides, and another can begin.
    pub(crate) fn is_ready(&self) -> bool {
        self.driver.is_some() && self.sender.is_ready()
    }

    fn poll_ready(&mut self) -> Poll<hyper::Result<()>> {
        self.sender.poll_ready(&mut unheard())
    }

    /// Drives until the previous exchange is over on both sides; false if the connection is over instead, or if nothing
    /// was written for `idle_max` once the other end of `over` is gone. Until then somebody waits for the response, and
    /// has a limit for that.
    pub(crate) async fn becomes_ready(
        &mut self,
        mut over: oneshot::Receiver<Infallible>,
        idle_max: Duration,
    ) -> bool {
        let mut last = None;
        poll_fn(|cx| {
            self.drive(cx);
            if let Poll::Ready(ready) = self.poll_ready() {
                return Poll::Ready(ready.is_ok());
            }
            if last.is_none() && Pin::new(&mut over).poll(cx).is_pending() {
                return Poll::Pending;
            }
            let written = self.wire.written();
            let since = match last {
                Some((before, since)) if before == written => since,
                _ => Instant::now(),
            };
            last = Some((written, since));
            self.alarm.poll(since + idle_max, cx).map(|()| {
                debug!("an upload stood still behind its response");
                false
            })
        })
        .await
    }

    /// Ends an idle connection in good order: under TLS its peer is told.
    pub(crate) fn end(self) {
        let Self { sender, driver, .. } = self;
        drop(sender);
        if let Some(mut driver) = driver {
            // One turn is enough, since nothing else waits to be written. If not, closing has to do.
            let _ = driver.as_mut().poll(&mut unheard());
        }
    }

    /// Hands the connection over to the protocol that was switched to.
    pub(crate) fn hand_over(self) {
        if let Some(driver) = self.driver {
            tokio::spawn(driver);
        }
    }

    /// Waits until a request can be sent; not for long. Returns why none can.
    async fn wait_until_ready(&mut self) -> Option<NotSent> {
        if let Poll::Ready(ready) = self.poll_ready() {
            return ready.err().map(NotSent::Ended);
        }
        self.has_looked = false;
        let due = Instant::now() + READY_WITHIN;
        poll_fn(|cx| {
            self.drive(cx);
            match self.poll_ready() {
                Poll::Ready(ready) => Poll::Ready(ready.err().map(NotSent::Ended)),
                Poll::Pending => self.alarm.poll(due, cx).map(|()| Some(NotSent::Busy)),
            }
        })
        .await
    }

    /// Sends a request, once. Where not a byte of it was written, it may still be there afterwards.
    pub(crate) async fn send(
        &mut self,
        request: &mut Option<Request<Outgoing>>,
        limits: &Limits,
    ) -> Result<Response<Incoming>, SendError> {
        if let Some(reason) = self.wait_until_ready().await {
            return Err(SendError::NotSent(reason));
        }
        let has_looked = mem::take(&mut self.has_looked);
        let mark = self.wire.begin(limits.first_write_by, has_looked);
        self.hush();
        let taken = request.take().expect("a request is sent while it is here");
        // Unconstrained: were its turn's budget used up, it would wake nobody for another.
        let mut answer = pin!(unconstrained(self.sender.try_send_request(taken)));
        let mut is_first_turn = has_looked;
        let outcome = poll_fn(|cx| {
            self.drive(cx);
            if mem::take(&mut is_first_turn) {
                self.wire.end_turn();
            }
            match answer.as_mut().poll(&mut unheard()) {
                // A response that is here when time runs out is a response; a failure then is not news.
                Poll::Ready(Ok(response)) => Poll::Ready(Ok(Ok(response))),
                answer => match limits.poll_run_out(&mut self.alarm, cx) {
                    Poll::Ready(ran_out) => Poll::Ready(Err(ran_out)),
                    Poll::Pending => answer.map(Ok),
                },
            }
        });
        match outcome.await.map_err(SendError::RanOut)? {
            Ok(response) => Ok(response),
            Err(mut failed) => {
                *request = failed.take_message();
                let error = failed.into_error();
                // Sealed even if hyper gave the message back: nothing more is to be sent here.
                if self.wire.seal_if_untouched(mark) | request.is_some() {
                    return Err(SendError::NotSent(NotSent::Ended(error)));
                }
                Err(SendError::Broken(error))
            }
        }
    }
}

/// Whom to wake when the connection can go on: the task that drove it last.
#[derive(Default)]
struct Bell(AtomicWaker);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.wake();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.wake();
    }
}

/// For what becomes ready by driving alone: whoever drives asks again anyway.
pub(crate) fn unheard() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("is_open", &self.driver.is_some())
            .field("wire", &self.wire)
            .finish_non_exhaustive()
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
    use bytes::Bytes;
    use hyper::client::conn::http1;
    use hyper_util::rt::TokioIo;
    use onlyonce::Deadline;
    use std::io;
    use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

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

    async fn send(
        takes: usize,
        fails: bool,
        limit: Duration,
    ) -> (SendError, Option<Request<Outgoing>>) {
        let wire = Wire::new(false);
        let io = CountedIo::new(Socket { takes, fails }, Arc::clone(&wire));
        let (sender, driver) = http1::handshake(TokioIo::new(io)).await.unwrap();
        let body = Outgoing::Whole(Bytes::from("a=1"));
        let request = Request::post("/").header("host", "a").body(body).unwrap();
        let limits = Limits::guarded(Deadline::after(limit));
        let mut request = Some(request);
        let mut connection = Connection::new(sender, Box::pin(driver), wire);
        let sent = connection.send(&mut request, &limits).await;
        (sent.unwrap_err(), request)
    }

    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn a_write_that_fails_at_once_is_not_sent() {
        let (error, request) = send(0, true, LONG).await;
        assert!(matches!(error, SendError::NotSent(_)), "{error:?}");
        // hyper has taken the request apart by then: only the wire knows.
        assert!(request.is_none());
    }

    #[tokio::test]
    async fn one_byte_is_enough_to_know_nothing() {
        let (error, _) = send(1, true, LONG).await;
        assert!(matches!(error, SendError::Broken(_)), "{error:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn our_own_deadline_is_unknown_even_if_nothing_was_written() {
        let (error, _) = send(0, false, LONG).await;
        assert!(
            matches!(error, SendError::RanOut(RanOut::Upstream)),
            "{error:?}"
        );
    }

    #[tokio::test]
    async fn a_first_byte_that_comes_too_late_is_not_sent() {
        let (error, _) = send(9999, false, Duration::ZERO).await;
        assert!(matches!(error, SendError::NotSent(_)), "{error:?}");
    }

    /// A driver that asks hyper for a request `turns` times, so that the sender believes in a reader, and
    /// then is gone.
    async fn gone_after(turns: usize) -> (SendError, Option<Request<Outgoing>>) {
        let wire = Wire::new(false);
        let socket = Socket {
            takes: 0,
            fails: true,
        };
        let io = CountedIo::new(socket, Arc::clone(&wire));
        let (sender, driver) = http1::handshake(TokioIo::new(io)).await.unwrap();
        let mut driver = Some(Box::pin(driver));
        let mut turns = turns;
        let driver = poll_fn(move |cx| {
            if turns == 0 {
                driver = None;
                return Poll::Ready(Ok(()));
            }
            turns -= 1;
            driver.as_mut().unwrap().as_mut().poll(cx)
        });
        let body = Outgoing::Whole(Bytes::from("a=1"));
        let request = Request::post("/").header("host", "a").body(body).unwrap();
        let mut request = Some(request);
        let sent = Connection::new(sender, Box::pin(driver), wire)
            .send(&mut request, &Limits::guarded(Deadline::after(LONG)))
            .await;
        (sent.unwrap_err(), request)
    }

    /// The response is here, and the upload is not over. As long as it moves, however slowly, it is waited for.
    #[tokio::test(start_paused = true)]
    async fn an_upload_behind_its_response_is_given_up_once_it_stands_still() {
        let (near, mut far) = tokio::io::duplex(64);
        let wire = Wire::new(false);
        let io = CountedIo::new(near, Arc::clone(&wire));
        let (sender, driver) = http1::handshake(TokioIo::new(io)).await.unwrap();
        let mut connection = Connection::new(sender, Box::pin(driver), wire);
        let body = Outgoing::Whole(Bytes::from(vec![b'a'; 4096]));
        let request = Request::post("/").header("host", "a").body(body).unwrap();
        let limits = Limits::guarded(Deadline::after(LONG));
        let request = &mut Some(request);
        let answering = async {
            far.read_u8().await.unwrap();
            let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
            far.write_all(answer).await.unwrap();
        };
        let (sent, ()) = tokio::join!(connection.send(request, &limits), answering);
        drop(sent.unwrap());

        let (response, over) = oneshot::channel();
        let begun = Instant::now();
        let becomes_ready = connection.becomes_ready(over, LONG);
        let reading = async {
            // The response lasts, and nothing else moves.
            tokio::time::sleep(LONG * 10).await;
            drop(response);
            for _ in 0..10 {
                tokio::time::sleep(LONG - Duration::from_secs(1)).await;
                far.read_exact(&mut [0; 64]).await.unwrap();
            }
        };
        let (ready, ()) = tokio::join!(becomes_ready, reading);
        assert!(!ready);
        let moved = LONG * 20 - Duration::from_secs(10);
        assert_eq!(begun.elapsed().as_secs(), (moved + LONG).as_secs());
    }

    #[tokio::test]
    async fn a_connection_that_ends_gives_its_request_back() {
        // Before the request was queued, and while it was.
        for turns in [0, 1] {
            let (error, request) = gone_after(turns).await;
            assert!(matches!(error, SendError::NotSent(_)), "{error:?}");
            assert!(request.is_some(), "{turns}");
        }
    }
}
