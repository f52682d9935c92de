//! The last place before the socket: counts what is written, and can forbid that more is.
//!
//! hyper reports an error, not whether the request had begun to leave. The answer decides whether a
//! payment may be sent again, so it is taken where it cannot be wrong: around the `TcpStream`, below TLS.
//! Looking at a counter would not be enough. hyper or the TLS session may still hold the request in a
//! buffer and flush it while the connection shuts down, after the counter was read and the request was
//! given to another connection. Hence a wire is *sealed* in the same breath as it is found untouched:
//! "not sent" then means "and never will be".
//!
//! Before a request is sent it looks at the socket itself. The runtime learns of a peer's end, or of bytes
//! that nobody asked for, only when it gets round to asking the system; a request that is written in the
//! meantime is lost, and its outcome unknown, where one system call shows that it need not be sent here at
//! all. The best moment is before the request is handed to hyper, which would not give it back: then what
//! is seen is passed on as what a read found, and hyper ends. Whatever is written in the same turn needs no
//! second look; the first byte of anything that is written later is preceded by one.
//!
//! It also enforces the moment by which a guarded request's first byte must leave, so that a process
//! frozen between its check and its write sends nothing when it thaws.
//!
//! And it makes hyper pause. An upstream that sends faster than hyper reads, interim responses without
//! end for one, would keep hyper in a single turn, and with it the thread and whatever else waits for
//! that: the request's own deadline, too.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;

/// What was written to one connection. Shared by the connection's IO and whoever sends on it.
#[derive(Debug)]
pub(crate) struct Wire {
    ledger: Mutex<Ledger>,
    /// TLS servers send what is no answer, such as session tickets.
    tolerates_bytes: bool,
    /// The next read is to look at the socket.
    is_look_due: AtomicBool,
}

#[derive(Debug, Default)]
struct Ledger {
    written: u64,
    sealed: bool,
    /// A request has begun, and its first byte is still to come.
    is_first: bool,
    /// The socket was looked at in this very turn.
    has_looked: bool,
    first_write_by: Option<Instant>,
}

/// What has arrived at a socket and was not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arrival {
    Nothing,
    Bytes,
    /// The peer's end, or an error.
    End,
}

/// A socket that can be looked at without waiting.
pub(crate) trait Look {
    fn look(&self) -> Arrival;
}

/// How much had been written when a request began.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mark(u64);

impl Wire {
    pub(crate) fn new(is_tls: bool) -> Arc<Self> {
        Arc::new(Self {
            ledger: Mutex::default(),
            tolerates_bytes: is_tls,
            is_look_due: AtomicBool::new(false),
        })
    }

    /// Has an idle connection look at its socket: `read` is to make it read. Returns whether it did.
    pub(crate) fn look_while(&self, read: impl FnOnce()) -> bool {
        self.is_look_due.store(true, Ordering::Relaxed);
        read();
        // Taken back if nothing was read: later, there may well be an answer.
        !self.is_look_due.swap(false, Ordering::Relaxed)
    }

    /// Begins a request. Its first byte may be written up to `first_write_by`, and not after.
    pub(crate) fn begin(&self, first_write_by: Option<Instant>, has_looked: bool) -> Mark {
        let mut ledger = self.ledger();
        ledger.is_first = true;
        ledger.has_looked = has_looked;
        ledger.first_write_by = first_write_by;
        Mark(ledger.written)
    }

    /// The turn is over: a first byte that is still to come needs another look.
    pub(crate) fn end_turn(&self) {
        self.ledger().has_looked = false;
    }

    /// Whether not one byte was written since `mark`. If so, none will be: the wire is sealed.
    pub(crate) fn seal_if_untouched(&self, mark: Mark) -> bool {
        let mut ledger = self.ledger();
        let untouched = ledger.written == mark.0;
        ledger.sealed |= untouched;
        untouched
    }

    /// How many bytes were written.
    pub(crate) fn written(&self) -> u64 {
        self.ledger().written
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        // Nothing that holds it can panic half-way through a change.
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets a write happen, or seals the wire.
    fn admit(&self, ledger: &mut Ledger, io: &impl Look) -> io::Result<()> {
        if ledger.is_first && !ledger.sealed {
            let is_late = ledger
                .first_write_by
                .is_some_and(|limit| Instant::now() >= limit);
            ledger.sealed = is_late || !(ledger.has_looked || self.is_quiet(io.look()));
        }
        match ledger.sealed {
            false => Ok(()),
            true => Err(io::Error::new(
                io::ErrorKind::NotConnected,
                "the request was given up before its first byte",
            )),
        }
    }
}

impl Wire {
    /// Whether nothing has arrived that forbids a request.
    fn is_quiet(&self, arrival: Arrival) -> bool {
        match arrival {
            Arrival::Nothing => true,
            Arrival::Bytes => self.tolerates_bytes,
            Arrival::End => false,
        }
    }
}

impl Ledger {
    fn note(&mut self, written: usize) {
        if written > 0 {
            // A usize is at most 64 bits wide; more than u64::MAX bytes cannot be written in practice.
            self.written = self
                .written
                .saturating_add(u64::try_from(written).unwrap_or(u64::MAX));
            self.is_first = false;
        }
    }
}

/// An IO whose writes are entered into a [`Wire`].
#[derive(Debug)]
pub(crate) struct CountedIo<T> {
    io: T,
    wire: Arc<Wire>,
    /// Bytes read in this turn.
    read: usize,
}

/// What is read in one turn. Twenty bytes are an interim response, so this may be thousands of heads.
const READ_IN_TURN_MAX: usize = 64 << 10;

impl<T> CountedIo<T> {
    pub(crate) fn new(io: T, wire: Arc<Wire>) -> Self {
        Self { io, wire, read: 0 }
    }
}

impl<T: AsyncRead + Look + Unpin> AsyncRead for CountedIo<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.wire.is_look_due.load(Ordering::Relaxed) {
            self.wire.is_look_due.store(false, Ordering::Relaxed);
            if !self.wire.is_quiet(self.io.look()) {
                // Nothing was read, which is what the end of a connection looks like.
                return Poll::Ready(Ok(()));
            }
        }
        if self.read >= READ_IN_TURN_MAX {
            self.read = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buf.filled().len();
        let read = Pin::new(&mut self.io).poll_read(cx, buf);
        self.read = match read {
            Poll::Ready(_) => self.read + (buf.filled().len() - before),
            Poll::Pending => 0,
        };
        read
    }
}

impl<T: AsyncWrite + Look + Unpin> AsyncWrite for CountedIo<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        // Held across the write, so that sealing happens before it or sees it.
        let mut ledger = this.wire.ledger();
        this.wire.admit(&mut ledger, &this.io)?;
        let written = ready!(Pin::new(&mut this.io).poll_write(cx, buf))?;
        ledger.note(written);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // The system takes one piece faster than a list of one.
        if let [buf] = bufs {
            return self.poll_write(cx, buf);
        }
        let this = &mut *self;
        let mut ledger = this.wire.ledger();
        this.wire.admit(&mut ledger, &this.io)?;
        let written = ready!(Pin::new(&mut this.io).poll_write_vectored(cx, bufs))?;
        ledger.note(written);
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

impl Look for TcpStream {
    fn look(&self) -> Arrival {
        match SockRef::from(self).peek(&mut [MaybeUninit::uninit()]) {
            Ok(0) => Arrival::End,
            Ok(_) => Arrival::Bytes,
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Arrival::Nothing,
                _ => Arrival::End,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    impl Look for tokio::io::DuplexStream {
        fn look(&self) -> Arrival {
            Arrival::Nothing
        }
    }

    impl Look for tokio::io::Repeat {
        fn look(&self) -> Arrival {
            Arrival::Bytes
        }
    }

    fn counted() -> (
        CountedIo<tokio::io::DuplexStream>,
        tokio::io::DuplexStream,
        Arc<Wire>,
    ) {
        let (near, far) = tokio::io::duplex(64);
        let wire = Wire::new(false);
        (CountedIo::new(near, Arc::clone(&wire)), far, wire)
    }

    #[test]
    fn a_peer_that_never_pauses_is_paused_for() {
        let mut io = CountedIo::new(tokio::io::repeat(b'1'), Wire::new(false));
        let mut cx = Context::from_waker(std::task::Waker::noop());
        for _ in 0..3 {
            let mut read = 0;
            loop {
                let mut space = [0; 5000];
                let mut buffer = ReadBuf::new(&mut space);
                match Pin::new(&mut io).poll_read(&mut cx, &mut buffer) {
                    Poll::Ready(outcome) => outcome.unwrap(),
                    Poll::Pending => break,
                }
                read += buffer.filled().len();
            }
            assert!((READ_IN_TURN_MAX..READ_IN_TURN_MAX + 5000).contains(&read));
        }
    }

    #[tokio::test]
    async fn a_written_byte_is_never_called_unsent() {
        let (mut io, _far, wire) = counted();
        io.write_all(b"previous request").await.unwrap();
        let mark = wire.begin(None, false);
        io.write_all(b"P").await.unwrap();
        assert!(!wire.seal_if_untouched(mark));
        io.write_all(b"OST").await.unwrap();
    }

    #[tokio::test]
    async fn what_was_called_unsent_can_not_be_sent_later() {
        let (mut io, mut far, wire) = counted();
        io.write_all(b"1").await.unwrap();
        let mark = wire.begin(None, false);
        assert!(wire.seal_if_untouched(mark));
        io.write_all(b"POST").await.unwrap_err();
        io.write_vectored(&[IoSlice::new(b"POST")])
            .await
            .unwrap_err();
        io.shutdown().await.unwrap();
        let mut seen = String::new();
        far.read_to_string(&mut seen).await.unwrap();
        assert_eq!(seen, "1");
    }

    #[tokio::test(start_paused = true)]
    async fn a_late_first_byte_is_refused_and_a_later_one_is_not() {
        let (mut io, _far, wire) = counted();
        let limit = Duration::from_secs(1);
        wire.begin(Some(Instant::now() + limit), false);
        io.write_all(b"in time").await.unwrap();
        tokio::time::advance(limit).await;
        io.write_all(b"the rest").await.unwrap();

        let mark = wire.begin(Some(Instant::now() + limit), false);
        tokio::time::advance(limit).await;
        io.write_all(b"late").await.unwrap_err();
        assert!(wire.seal_if_untouched(mark));
    }
    async fn sockets(is_tls: bool) -> (CountedIo<TcpStream>, TcpStream, Arc<Wire>) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        let (far, _) = listener.accept().await.unwrap();
        let wire = Wire::new(is_tls);
        (CountedIo::new(near, Arc::clone(&wire)), far, wire)
    }

    #[tokio::test]
    async fn nothing_is_written_to_a_peer_that_has_ended() {
        for is_reset in [false, true] {
            for is_tls in [false, true] {
                let (mut io, far, wire) = sockets(is_tls).await;
                if is_reset {
                    far.set_zero_linger().unwrap();
                }
                drop(far);
                let mark = wire.begin(None, false);
                io.write_all(b"POST").await.unwrap_err();
                assert!(wire.seal_if_untouched(mark));
            }
        }
    }

    #[tokio::test]
    async fn bytes_that_nobody_asked_for_forbid_a_request_but_not_under_tls() {
        for is_tls in [false, true] {
            let (mut io, mut far, wire) = sockets(is_tls).await;
            far.write_all(b"HTTP/1.1 200 OK").await.unwrap();
            let mark = wire.begin(None, false);
            assert_eq!(io.write_all(b"POST").await.is_ok(), is_tls);
            assert_eq!(wire.seal_if_untouched(mark), !is_tls);
        }
    }

    /// What is read tells nothing: the runtime, which has had no turn, does not know yet.
    #[tokio::test]
    async fn a_look_sees_what_a_read_does_not() {
        for arrival in [Arrival::Bytes, Arrival::End] {
            let (mut io, far, wire) = sockets(false).await;
            let far = far.into_std().unwrap();
            let mut cx = Context::from_waker(std::task::Waker::noop());
            let mut space = [0; 8];
            let mut buffer = ReadBuf::new(&mut space);
            // Twice: a socket is taken to be readable until it was found not to be.
            for _ in 0..2 {
                assert!(
                    Pin::new(&mut io)
                        .poll_read(&mut cx, &mut buffer)
                        .is_pending()
                );
            }
            match arrival {
                Arrival::Bytes => io::Write::write_all(&mut &far, b"HTTP/1.1 200 OK").unwrap(),
                _ => drop(far),
            }
            assert!(
                Pin::new(&mut io)
                    .poll_read(&mut cx, &mut buffer)
                    .is_pending()
            );
            let mut found = Poll::Pending;
            let has_looked =
                wire.look_while(|| found = Pin::new(&mut io).poll_read(&mut cx, &mut buffer));
            assert!(has_looked && found.is_ready() && buffer.filled().is_empty());
        }
    }

    #[tokio::test]
    async fn a_look_counts_for_one_turn() {
        for is_same_turn in [true, false] {
            let (mut io, far, wire) = sockets(false).await;
            let mark = wire.begin(None, true);
            drop(far);
            if !is_same_turn {
                wire.end_turn();
            }
            assert_eq!(io.write_all(b"POST").await.is_ok(), is_same_turn);
            assert_eq!(wire.seal_if_untouched(mark), !is_same_turn);
        }
    }

    #[tokio::test]
    async fn an_answer_that_comes_early_does_not_stop_the_rest_of_a_request() {
        let (mut io, mut far, wire) = sockets(false).await;
        wire.begin(None, false);
        io.write_all(b"POST").await.unwrap();
        far.write_all(b"HTTP/1.1 413").await.unwrap();
        io.write_all(b"the rest").await.unwrap();
    }
}
