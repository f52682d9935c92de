//! One request on a connection of its own: all that the example asks of a client.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Sends a `POST` and reads the answer, within `limit`.
pub(crate) async fn post(
    to: SocketAddr,
    path: &str,
    key: Option<&str>,
    body: impl Into<Bytes>,
    limit: Duration,
) -> Result<(StatusCode, Bytes), BoxError> {
    let mut request = Request::post(path)
        .header("Host", to.to_string())
        .header("Content-Type", "application/json");
    if let Some(key) = key {
        request = request.header("Idempotency-Key", key);
    }
    let request = request.body(Full::new(body.into()))?;
    timeout(limit, exchange(to, request)).await?
}

async fn exchange(
    to: SocketAddr,
    request: Request<Full<Bytes>>,
) -> Result<(StatusCode, Bytes), BoxError> {
    let stream = TokioIo::new(TcpStream::connect(to).await?);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await?;
    let asked = async {
        let response: Response<_> = sender.send_request(request).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        Ok::<_, hyper::Error>((status, body))
    };
    tokio::select! {
        answer = asked => Ok(answer?),
        ended = connection => {
            ended?;
            Err("the connection ended without an answer".into())
        }
    }
}
