//! One connection of the legacy service: reads requests, plays replies, breaks where it is told to.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Mutex, mpsc, watch};

use super::reply::{Step, frame};
use super::{At, Break, Received, Reply, Shared};
use crate::http1::{Content, Framing, Head, Wire};

/// Why no further request is served on the connection.
enum Ended {
    /// The peer ended or broke it.
    ByPeer,
    /// The script says so.
    Breaking(Break),
}

impl From<io::Error> for Ended {
    fn from(_: io::Error) -> Self {
        Self::ByPeer
    }
}

impl From<Break> for Ended {
    fn from(how: Break) -> Self {
        Self::Breaking(how)
    }
}

pub(super) async fn serve(stream: TcpStream, number: usize, shared: Arc<Shared>) {
    // Each step of a streamed body is to leave at once.
    let _ = stream.set_nodelay(true);
    let mut connection = Connection {
        wire: Wire::new(stream),
        number,
        closing: shared.closing.subscribe(),
        shared,
    };
    let ended = loop {
        if let Err(ended) = connection.exchange().await {
            break ended;
        }
    };
    if let Ended::Breaking(how) = ended {
        end(connection.wire.stream, how).await;
    }
}

struct Connection {
    wire: Wire,
    number: usize,
    closing: watch::Receiver<(usize, Break)>,
    shared: Arc<Shared>,
}

impl Connection {
    async fn exchange(&mut self) -> Result<(), Ended> {
        self.idle().await?;
        let scripted = self.shared.begin();
        if let Some(how) = scripted
            .as_ref()
            .and_then(|reply| reply.breaks_at(At::FirstByte))
        {
            return Err(how.into());
        }
        let request = match self.request(scripted.as_ref()).await {
            Ok(request) => request,
            Err(ended) => {
                self.shared.broken.add();
                return Err(ended);
            }
        };
        let closes = request.fields.closes();
        let reply = self.shared.complete(request, scripted);
        self.play(&reply).await?;
        if closes || !reply.keeps_alive() {
            return Err(Break::Finish.into());
        }
        Ok(())
    }

    /// Waits for the first byte of a request, or for the command to close.
    async fn idle(&mut self) -> Result<(), Ended> {
        tokio::select! {
            more = self.wire.has_more() => if more { Ok(()) } else { Err(Ended::ByPeer) },
            Ok(()) = self.closing.changed() => Err(self.closing.borrow().1.into()),
        }
    }

    async fn request(&mut self, scripted: Option<&Reply>) -> Result<Received, Ended> {
        let head = self.wire.head().await?.ok_or(Ended::ByPeer)?;
        let framing = head.fields.framing().unwrap_or(Framing::Length(0));
        if head.fields.get("expect").is_some() {
            self.write(Bytes::from_static(b"HTTP/1.1 100 Continue\r\n\r\n"))
                .await?;
        }
        if let Some((bytes, how)) = scripted.and_then(Reply::breaks_in_request) {
            let (_, read) = self.wire.take(bytes).await;
            read?;
            return Err(how.into());
        }
        let content = self.wire.content(framing).await;
        match content.broken {
            None => Ok(self.received(head, content)),
            Some(_) => Err(Ended::ByPeer),
        }
    }

    fn received(&self, head: Head, content: Content) -> Received {
        let mut words = head.start.splitn(3, ' ').map(str::to_owned);
        Received {
            connection: self.number,
            method: words.next().unwrap_or_default(),
            target: words.next().unwrap_or_default(),
            fields: head.fields,
            head: head.raw,
            body: content.data,
            trailers: content.trailers,
        }
    }

    async fn play(&mut self, reply: &Reply) -> Result<(), Ended> {
        // From the client's view the connection is idle once the answer is there: a command to close
        // that is given then must not be missed, and an older one is not for this connection.
        self.closing.mark_unchanged();
        if let Some(gate) = reply.gate() {
            gate.pass().await;
        }
        go_on(reply, At::AfterRequest)?;
        self.write(reply.interims()).await?;
        go_on(reply, At::AfterInterim)?;
        self.write(reply.head()).await?;
        go_on(reply, At::AfterHead)?;
        match reply.payload() {
            Ok(payload) => self.payload(payload, reply.breaks_in_body()).await?,
            Err(steps) => self.stream(steps).await?,
        }
        go_on(reply, At::AfterResponse)
    }

    async fn payload(&mut self, data: Bytes, cut: Option<(usize, Break)>) -> Result<(), Ended> {
        let Some((bytes, how)) = cut else {
            return Ok(self.write(data).await?);
        };
        self.write(data.slice(..bytes.min(data.len()))).await?;
        Err(how.into())
    }

    async fn stream(&mut self, steps: &Mutex<mpsc::UnboundedReceiver<Step>>) -> Result<(), Ended> {
        let mut steps = steps.lock().await;
        loop {
            match steps.recv().await {
                Some(Step::Chunk(chunk)) => self.write(frame(&chunk)).await?,
                Some(Step::Break(how)) => return Err(how.into()),
                Some(Step::End) | None => {
                    return Ok(self.write(Bytes::from_static(b"0\r\n\r\n")).await?);
                }
            }
        }
    }

    async fn write(&mut self, data: Bytes) -> io::Result<()> {
        self.wire.stream.write_all(&data).await
    }
}

fn go_on(reply: &Reply, point: At) -> Result<(), Ended> {
    reply.breaks_at(point).map_or(Ok(()), |how| Err(how.into()))
}

/// Ends a connection in the given way.
async fn end(mut stream: TcpStream, how: Break) {
    match how {
        // The reset is sent as the socket is dropped.
        Break::Reset => drop(stream.set_zero_linger()),
        Break::Silence => std::future::pending().await,
        Break::Finish => {
            // Dropped with unread data the socket would send a reset: read until the peer ends too.
            let _ = stream.shutdown().await;
            let mut ignored = [0; 4096];
            while matches!(stream.read(&mut ignored).await, Ok(read) if read > 0) {}
        }
    }
}
