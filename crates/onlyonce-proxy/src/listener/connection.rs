//! One client's connection.

use std::panic::AssertUnwindSafe;
use std::pin::pin;

use bytes::Bytes;
use futures_util::FutureExt;
use http::header::{CONNECTION, HeaderValue};
use http::{Request, Response, StatusCode};
use http_body::Body;
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use onlyonce::BoxError;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use tower_service::Service;
use tracing::{debug, error, warn};

use super::io::{IoLimits, ServerIo, Unfinished};
use super::response_body::Watched;
use super::screen::screen;
use super::signal::Signal;
use super::{BUFFER_BYTES_MAX, DEFAULT_HEADERS_MAX, ListenerSettings, prepare};
use crate::alarm::HeadTimer;
use crate::problem::plain_problem;

/// What serves each connection.
#[derive(Clone)]
pub(super) struct Connection<S> {
    pub(super) service: S,
    pub(super) http1: http1::Builder,
    pub(super) limits: IoLimits,
    /// Ends the connection after the request in progress.
    pub(super) draining: Signal,
    /// Ends it at once.
    pub(super) aborting: CancellationToken,
}

type Answer<B> = Response<Watched<Either<B, Full<Bytes>>>>;

/// hyper's server with our limits; needs a timer.
pub(super) fn http1(settings: &ListenerSettings) -> http1::Builder {
    let mut http1 = http1::Builder::new();
    http1
        .header_read_timeout(settings.head_timeout)
        .max_header_size(settings.head_bytes_max)
        .max_buf_size(settings.head_bytes_max.max(BUFFER_BYTES_MAX))
        // A client that has ended its side may still wait for the answer.
        .half_close(true);
    if settings.headers_max != DEFAULT_HEADERS_MAX {
        http1.max_headers(settings.headers_max);
    }
    http1
}

impl<S, B> Connection<S>
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    /// Serves until the client or we end the connection.
    pub(super) async fn serve(mut self, stream: std::net::TcpStream) {
        let stream = match TcpStream::from_std(stream) {
            Ok(stream) => stream,
            Err(error) => return warn!(%error, "could not serve a connection"),
        };
        prepare(&stream);
        let unfinished = Unfinished::default();
        let io = ServerIo::new(stream, unfinished.clone(), self.limits);
        let service = self.service;
        let answer =
            service_fn(move |request| answer(service.clone(), request, unfinished.clone()));
        self.http1.timer(HeadTimer::default());
        let connection = self.http1.serve_connection(TokioIo::new(io), answer);
        let mut connection = pin!(connection.with_upgrades());
        let ended = tokio::select! {
            biased;
            ended = connection.as_mut() => ended,
            () = self.draining.given() => {
                connection.as_mut().graceful_shutdown();
                tokio::select! {
                    ended = connection => ended,
                    () = self.aborting.cancelled() => return,
                }
            }
        };
        if let Err(error) = ended {
            debug!(error = &error as &dyn std::error::Error, "connection ended");
        }
    }
}

/// Answers one request: with a refusal, with what the service says, or with a 500 where it panics.
async fn answer<S, B>(
    service: S,
    request: Request<Incoming>,
    unfinished: Unfinished,
) -> Result<Answer<B>, BoxError>
where
    S: Service<Request<Incoming>, Response = Response<B>>,
    S::Error: Into<BoxError>,
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    let response = match screen(&request) {
        Err((status, reason)) => closing(plain_problem(status, reason)),
        Ok(()) => match AssertUnwindSafe(service.oneshot(request))
            .catch_unwind()
            .await
        {
            Ok(response) => response.map_err(Into::into)?.map(Either::Left),
            Err(_) => {
                // The panic hook has printed where and why.
                error!("the service panicked");
                let status = StatusCode::INTERNAL_SERVER_ERROR;
                closing(plain_problem(status, "the proxy failed"))
            }
        },
    };
    Ok(response.map(|body| Watched::new(body, unfinished)))
}

/// A response of ours with which the connection ends.
fn closing<B>(response: Response<Bytes>) -> Response<Either<B, Full<Bytes>>> {
    let mut response = response.map(|body| Either::Right(Full::new(body)));
    let close = HeaderValue::from_static("close");
    response.headers_mut().insert(CONNECTION, close);
    response
}
