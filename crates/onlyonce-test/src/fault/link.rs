//! One client's connection through the fault proxy, and the server's connection for it.

use std::io;
use std::sync::{Arc, Mutex};

use bytes::{BufMut, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};

use super::message::{Frames, Prepared};
use super::{Action, Rule, Shared, lock};
use crate::event::Gate;

const SSL_REQUEST: [u8; 4] = 80_877_103_u32.to_be_bytes();
const GSS_REQUEST: [u8; 4] = 80_877_104_u32.to_be_bytes();
const CANCEL_REQUEST: [u8; 4] = 80_877_102_u32.to_be_bytes();

/// How a link ends.
enum End {
    /// One side ended; the other is told by closing.
    Closed,
    /// Both sides are reset.
    Reset(Option<Rule>),
    /// The client is reset; the server gets these messages when the gate is open.
    Late(Rule, Gate, Bytes),
}

/// Which `ReadyForQuery` messages are due. The server sends one when the start-up is over, and one for
/// each batch.
struct Ready {
    /// How many will have come when all batches sent so far are done.
    due: usize,
    /// The number of the one that is swallowed, with all that answers its batch, and the rule why.
    cut: Option<(usize, Rule)>,
}

pub(super) async fn run(client: TcpStream, shared: Arc<Shared>) {
    // On an error one side is gone; the other notices as its socket is dropped.
    let _ = link(client, &shared).await;
}

async fn link(mut client: TcpStream, shared: &Shared) -> io::Result<()> {
    let mut frames = Frames::default();
    let Some(startup) = start(&mut client, &mut frames).await? else {
        return Ok(());
    };
    shared.until(|flow| flow.to_server).await;
    let mut server = TcpStream::connect(shared.server).await?;
    for stream in [&client, &server] {
        stream.set_nodelay(true)?;
    }
    server.write_all(&startup).await?;
    if startup[4..8] == CANCEL_REQUEST {
        return server.shutdown().await;
    }
    let ready = Mutex::new(Ready { due: 1, cut: None });
    let mut resets = shared.resets.subscribe();
    let end = {
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        tokio::select! {
            end = statements(from_client, to_server, frames, shared, &ready) => end?,
            end = replies(from_server, to_client, shared, &ready) => end?,
            _ = resets.changed() => End::Reset(None),
        }
    };
    finish(end, client, server).await
}

async fn finish(end: End, client: TcpStream, mut server: TcpStream) -> io::Result<()> {
    match end {
        End::Closed => {}
        End::Reset(rule) => {
            client.set_zero_linger()?;
            server.set_zero_linger()?;
            drop((client, server));
            rule.map(|rule| rule.hits.add());
        }
        End::Late(rule, gate, batch) => {
            client.set_zero_linger()?;
            drop(client);
            gate.pass().await;
            server.write_all(&batch).await?;
            server.shutdown().await?;
            // The server has executed it when it has answered and closed.
            while server.read(&mut [0; 4096]).await? > 0 {}
            rule.hits.add();
        }
    }
    Ok(())
}

/// Reads up to the message that opens a session, or asks for a cancellation.
async fn start(client: &mut TcpStream, frames: &mut Frames) -> io::Result<Option<Bytes>> {
    loop {
        let Some(message) = frames.startup(client).await? else {
            return Ok(None);
        };
        match message.get(4..8) {
            Some(code) if code == SSL_REQUEST || code == GSS_REQUEST => {
                client.write_all(b"N").await?;
            }
            Some(_) => return Ok(Some(message)),
            None => return Err(io::Error::other("a start-up message without a code")),
        }
    }
}

async fn statements(
    mut client: ReadHalf<'_>,
    mut server: WriteHalf<'_>,
    mut frames: Frames,
    shared: &Shared,
    ready: &Mutex<Ready>,
) -> io::Result<End> {
    let mut prepared = Prepared::default();
    let (mut batch, mut executed) = (BytesMut::new(), Vec::new());
    // A client that was reset has ended too: what it sent before still takes effect.
    while let Ok(Some(message)) = frames.next(&mut client).await {
        executed.extend(prepared.executes(&message));
        batch.put(message.raw.clone());
        if !message.ends_batch() {
            continue;
        }
        let sent = batch.split().freeze();
        if let Some(rule) = shared.judge(&std::mem::take(&mut executed)) {
            match rule.action.clone() {
                Action::CutBefore => return Ok(End::Reset(Some(rule))),
                Action::Late(gate) => return Ok(End::Late(rule, gate, sent)),
                Action::CutAfter => {
                    let mut ready = lock(ready);
                    ready.cut = Some((ready.due + 1, rule));
                }
                Action::Hold(gate) => {
                    rule.hits.add();
                    gate.pass().await;
                }
            }
        }
        shared.until(|flow| flow.to_server).await;
        lock(ready).due += usize::from(message.makes_ready());
        server.write_all(&sent).await?;
    }
    server.shutdown().await?;
    // The server's end of the connection ends the link, when it has done what it was sent.
    std::future::pending().await
}

async fn replies(
    mut server: ReadHalf<'_>,
    mut client: WriteHalf<'_>,
    shared: &Shared,
    ready: &Mutex<Ready>,
) -> io::Result<End> {
    let mut frames = Frames::default();
    let mut seen = 0;
    while let Some(message) = frames.next(&mut server).await? {
        let cut = lock(ready).cut.clone();
        let last = cut.filter(|(number, _)| *number == seen + 1);
        seen += usize::from(message.is_ready());
        match last {
            Some((_, rule)) if message.is_ready() => return Ok(End::Reset(Some(rule))),
            Some(_) => {}
            None => {
                shared.until(|flow| flow.to_client).await;
                // Where the client is gone, the server's work is drained all the same.
                let _ = client.write_all(&message.raw).await;
            }
        }
    }
    Ok(End::Closed)
}
