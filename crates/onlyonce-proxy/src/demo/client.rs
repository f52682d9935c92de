//! A client as SDKs are: it waits a little, and when no answer comes it tries again, with the same key.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use onlyonce::BoxError;
use tokio::net::TcpStream;
use tokio::time;

use super::fate::{Fate, Odds};

/// How long the client waits for an answer.
const PATIENCE: Duration = Duration::from_millis(300);

const TRIES_MAX: u32 = 8;

/// What an operation looks like from the client's side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Operation {
    /// Tries after the first.
    pub(crate) retries: u32,
    /// How it ended.
    pub(crate) end: End,
}

/// How an operation ended for the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// Paid, by the service's own answer.
    Paid,
    /// Paid, by a recorded answer.
    Replayed,
    /// A clear answer that nobody knows, and that retrying does not help.
    Unknown,
    /// No answer after all tries.
    GaveUp,
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
}

/// Pays for one order, trying again as long as that may help. `odds` are those of the way back: an
/// answer can be lost behind a service that sent it.
pub(crate) async fn pay(to: SocketAddr, order: &str, amount: u64, odds: &Odds) -> Operation {
    for attempt in 0..TRIES_MAX {
        if attempt > 0 {
            time::sleep(Duration::from_millis(40) * attempt).await;
        }
        let arrives = odds.fate(order, attempt) == Fate::Arrives;
        let answer = match time::timeout(PATIENCE, post(to, order, amount)).await {
            Ok(Ok(answer)) if arrives => answer,
            _ => continue, // no answer, as far as this client can tell
        };
        if let Some(end) = end(&answer) {
            return Operation {
                retries: attempt,
                end,
            };
        }
    }
    Operation {
        retries: TRIES_MAX - 1,
        end: End::GaveUp,
    }
}

/// What an answer means; `None` where trying again may help.
fn end(answer: &Answer) -> Option<End> {
    if answer.status.is_success() {
        let replayed = answer.headers.contains_key("idempotent-replayed");
        return Some(if replayed { End::Replayed } else { End::Paid });
    }
    let final_answer = answer
        .headers
        .get("x-should-retry")
        .is_some_and(|value| value == "false");
    final_answer.then_some(End::Unknown)
}

async fn post(to: SocketAddr, order: &str, amount: u64) -> Result<Answer, BoxError> {
    let stream = TcpStream::connect(to).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::post("/charges")
        .header("host", to.to_string())
        .header("content-type", "application/json")
        .header("idempotency-key", order)
        .body(Full::new(Bytes::from(format!(
            r#"{{"order":"{order}","amount":{amount}}}"#
        ))))?;
    let exchange = async move {
        let response = sender.send_request(request).await?;
        let (parts, body) = response.into_parts();
        body.collect().await?;
        Ok(Answer {
            status: parts.status,
            headers: parts.headers,
        })
    };
    // The exchange owns the sender: when it is over, so is the connection.
    let (answer, _) = tokio::join!(exchange, connection);
    answer
}
