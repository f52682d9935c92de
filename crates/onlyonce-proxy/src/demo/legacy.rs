//! A payment service as many are: it charges for every `POST` it gets, and its answers do not always
//! arrive. It has never heard of an `Idempotency-Key`.
//!
//! - `POST /charges` with `{"order": "…", "amount": 1999}` charges and answers 201.
//! - `GET /charges` answers the sums, `GET /charges/ORDER` how often an order was charged.
//! - `x-demo-fault: lose-reply` or `slow` on a `POST` asks for an accident.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};

use super::fate::{Fate, Odds};
use super::ledger::Ledger;

/// How late a late answer is: later than the demo's client waits.
const LATE: Duration = Duration::from_millis(700);

const BODY_MAX: usize = 64 << 10;

/// The service, bound and not yet serving.
#[derive(Debug)]
pub(crate) struct Legacy {
    listener: TcpListener,
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    odds: Odds,
    ledger: Ledger,
}

/// The reply was lost: hyper closes the connection without one.
#[derive(Debug, thiserror::Error)]
#[error("the reply was lost")]
struct ReplyLost;

#[derive(Debug, serde::Deserialize)]
struct Charge {
    order: String,
    amount: u64,
}

impl Legacy {
    /// Binds the service.
    ///
    /// # Errors
    /// Where the address cannot be bound.
    pub(crate) async fn bind(address: SocketAddr, odds: Odds) -> io::Result<Self> {
        Ok(Self {
            listener: TcpListener::bind(address).await?,
            state: Arc::new(State {
                odds,
                ledger: Ledger::default(),
            }),
        })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// Where the system does not say.
    pub(crate) fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until the future is dropped.
    pub(crate) async fn serve(&self) -> Infallible {
        let mut connections = tokio::task::JoinSet::new();
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    connections.spawn(serve_connection(stream, Arc::clone(&self.state)));
                }
                // Out of file descriptors, most likely: others may be closed by then.
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
            while connections.try_join_next().is_some() {}
        }
    }

    /// What it did so far.
    pub(crate) fn ledger(&self) -> &Ledger {
        &self.state.ledger
    }
}

async fn serve_connection(stream: TcpStream, state: Arc<State>) {
    let service = service_fn(move |request| {
        let state = Arc::clone(&state);
        async move { state.answer(request).await }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(stream), service);
    // A reply that was lost on purpose ends the connection with an error; so does a client that left.
    let _ = connection.await;
}

impl State {
    async fn answer(&self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, ReplyLost> {
        let (parts, body) = request.into_parts();
        match (&parts.method, parts.uri.path()) {
            (&Method::POST, "/charges") => {
                let Ok(body) = Limited::new(body, BODY_MAX).collect().await else {
                    return Ok(reply(StatusCode::BAD_REQUEST, &json!({"error": "no body"})));
                };
                self.charge(&parts.headers, &body.to_bytes()).await
            }
            (&Method::GET, "/charges") => Ok(reply(StatusCode::OK, &json!(self.ledger.totals()))),
            (&Method::GET, path) if path.starts_with("/charges/") => {
                let order = &path["/charges/".len()..];
                let charges = self.ledger.charges_of(order);
                Ok(reply(
                    StatusCode::OK,
                    &json!({"order": order, "charges": charges}),
                ))
            }
            (_, "/health") => Ok(reply(StatusCode::OK, &json!({"status": "ok"}))),
            _ => Ok(reply(
                StatusCode::NOT_FOUND,
                &json!({"error": "no such page"}),
            )),
        }
    }

    async fn charge(
        &self,
        headers: &HeaderMap,
        body: &[u8],
    ) -> Result<Response<Full<Bytes>>, ReplyLost> {
        let Ok(Charge { order, amount }) = serde_json::from_slice(body) else {
            let wanted = json!({"error": r#"expected {"order": "…", "amount": 1999}"#});
            return Ok(reply(StatusCode::BAD_REQUEST, &wanted));
        };
        // The money is taken first; what happens to the answer is another matter.
        let nth = self.ledger.charge(&order, amount);
        let fault = headers.get("x-demo-fault").map(http::HeaderValue::as_bytes);
        let fate = match fault {
            Some(b"lose-reply") => Fate::Lost,
            Some(b"slow") => Fate::Late,
            _ => self
                .odds
                .fate(&order, u32::try_from(nth).unwrap_or(u32::MAX)),
        };
        match fate {
            Fate::Lost => return Err(ReplyLost),
            Fate::Late => tokio::time::sleep(LATE).await,
            Fate::Arrives => {}
        }
        let paid = json!({
            "id": format!("ch_{order}_{nth}"), "order": order, "amount": amount, "status": "paid",
        });
        Ok(reply(StatusCode::CREATED, &paid))
    }
}

fn reply(status: StatusCode, body: &serde_json::Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(format!("{body}\n"))));
    *response.status_mut() = status;
    let json = http::HeaderValue::from_static("application/json");
    response
        .headers_mut()
        .insert(http::header::CONTENT_TYPE, json);
    response
}
