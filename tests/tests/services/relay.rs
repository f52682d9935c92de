//! A lossy way to the proxy: connections that break, one after the other, as a list says.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;

/// What becomes of one connection.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Fate {
    /// Reset with the first byte of an answer: the answer is lost.
    LoseAnswer,
    /// Reset so long after the first byte of a request.
    CutAfter(Duration),
}

/// Relays connections; those for which the list has no fate any more go well.
pub(crate) struct Relay {
    addr: SocketAddr,
    accepting: AbortHandle,
}

impl Relay {
    pub(crate) async fn to<const N: usize>(proxy: SocketAddr, fates: [Fate; N]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a free loopback port");
        let addr = listener.local_addr().expect("it is bound");
        let accepting = tokio::spawn(async move {
            let mut fates = fates.into_iter();
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(relay(client, proxy, fates.next()));
            }
        });
        Self {
            addr,
            accepting: accepting.abort_handle(),
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.addr)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn relay(
    mut client: TcpStream,
    proxy: SocketAddr,
    fate: Option<Fate>,
) -> std::io::Result<()> {
    let mut proxy = TcpStream::connect(proxy).await?;
    match fate {
        None => {
            copy_bidirectional(&mut client, &mut proxy).await?;
            return Ok(());
        }
        Some(Fate::LoseAnswer) => {
            let (mut from_client, _) = client.split();
            let (mut from_proxy, mut to_proxy) = proxy.split();
            let mut first = [0];
            tokio::select! {
                _ = tokio::io::copy(&mut from_client, &mut to_proxy) => {}
                _ = from_proxy.read(&mut first) => {}
            }
        }
        Some(Fate::CutAfter(time)) => {
            let mut first = [0];
            client.read_exact(&mut first).await?;
            proxy.write_all(&first).await?;
            let relaying = copy_bidirectional(&mut client, &mut proxy);
            let _ = tokio::time::timeout(time, relaying).await;
        }
    }
    for end in [client, proxy] {
        end.set_zero_linger()?;
    }
    Ok(())
}
