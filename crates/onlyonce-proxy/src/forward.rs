//! Sends a request to the upstream once, and says what is known of its execution.
//!
//! [`Forward`] is the innermost service of the proxy. Unlike an HTTP client it never repeats a request of
//! which a byte has left, whatever its method, and it answers failures with responses that carry
//! [`Evidence`](onlyonce::Evidence): `NotSent` where not one byte left (and none will), `Unknown` otherwise. Clients like
//! hyper-util's cannot tell the two apart, so connections and their pool are our own; see `wire`.
//!
//! Requests whose extensions hold a [`Deadline`] are *guarded*: their body is complete, they must begin
//! before half of the deadline has passed and end with it, and they never switch protocols. All others
//! stream, both ways, in constant memory.
//!
//! Hazards: the trailer section of requests is discarded. A 103 from the upstream is not passed on, since
//! hyper's server cannot send it; any number of interim responses is skipped, until time runs out. A
//! fragment in a request target is cut off by the `http` crate before anybody sees it.
//!
//! ```no_run
//! use bytes::Bytes;
//! use http_body_util::{BodyExt, Full};
//! use onlyonce_proxy::forward::{Forward, ForwardSettings};
//! use tower::ServiceExt;
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let forward = Forward::new(ForwardSettings::new("http://127.0.0.1:9000".parse()?))?;
//! let request = http::Request::post("/charges").body(Full::new(Bytes::from("amount=5")))?;
//! let response = forward.oneshot(request).await?;
//! println!("{} {:?}", response.status(), response.into_body().collect().await?.to_bytes());
//! # Ok(())
//! # }
//! ```

mod body;
mod connection;
mod dial;
mod failure;
mod limits;
mod outgoing;
mod pool;
mod request_head;
mod response_head;
mod settings;
mod tls;
mod wire;

use std::convert::Infallible;
use std::fmt;
use std::future::{Future, ready};
use std::net::IpAddr;
use std::num::NonZero;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use http::header::{CONNECTION, HeaderValue, UPGRADE};
use http::request::Parts;
use http::{Method, Request, Response, StatusCode};
use http_body::Body;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use onlyonce::classify::OUTCOME;
use onlyonce::{BoxError, Deadline};

pub use self::body::{ForwardBody, ForwardBodyError};
pub use self::settings::{ForwardSettings, HostPolicy, InvalidUpstream, Upstream};
pub use self::tls::TlsError;
pub(crate) use self::tls::client_config;

use self::body::{Drive, Source};
use self::connection::{Connection, SendError};
use self::dial::Dialer;
use self::failure::{Asked, Failure};
use self::limits::Limits;
use self::outgoing::Outgoing;
use self::pool::Pool;
use self::response_head::InvalidResponse;
use crate::headers::Peer;
use crate::upgrade::Tunnels;

/// The service that talks to one upstream. Clones share their connections.
///
/// See the [module's documentation](self) for an example.
#[derive(Clone)]
pub struct Forward {
    inner: Arc<Inner>,
    peer: Option<Arc<Peer>>,
}

struct Inner {
    settings: Arc<ForwardSettings>,
    dialer: Arc<Dialer>,
    pool: Arc<Pool>,
    tunnels: Arc<Tunnels>,
}

impl Forward {
    /// Prepares to forward. Connects to nothing yet.
    ///
    /// # Errors
    /// Where TLS was asked for and cannot be set up.
    pub fn new(settings: ForwardSettings) -> Result<Self, TlsError> {
        Ok(Self::of(Inner {
            dialer: Arc::new(Dialer::new(&settings)?),
            pool: Pool::new(settings.idle_connections_max),
            tunnels: Arc::new(Tunnels::new(settings.idle_timeout)),
            settings: Arc::new(settings),
        }))
    }

    fn of(inner: Inner) -> Self {
        Self {
            inner: Arc::new(inner),
            peer: None,
        }
    }

    /// The same service for the requests of one client, whom they will name. Without it they name nobody.
    #[must_use]
    pub fn on_behalf_of(&self, client: IpAddr) -> Self {
        let is_trusted = self.inner.settings.trusted_peers.contains(client);
        Self {
            inner: Arc::clone(&self.inner),
            peer: Some(Arc::new(Peer::new(client, is_trusted))),
        }
    }

    /// The same service `parts` times, each with connections that the others do not use: for runtimes that
    /// have nothing in common. They share the bound on unused connections; tunnels are drained by any.
    pub fn split(self, parts: NonZero<usize>) -> Vec<Self> {
        let whole = self.inner;
        let share = whole.settings.idle_connections_max.div_ceil(parts.get());
        let part = |_| {
            Self::of(Inner {
                settings: Arc::clone(&whole.settings),
                dialer: Arc::clone(&whole.dialer),
                pool: Pool::new(share),
                tunnels: Arc::clone(&whole.tunnels),
            })
        };
        (0..parts.get()).map(part).collect()
    }

    /// Waits for open tunnels to end, cuts those that have not after `limit`, and says how many it cut.
    ///
    /// Requests are not waited for: whoever called for them does that.
    pub async fn drain(&self, limit: Duration) -> usize {
        self.inner.tunnels.drain(limit).await
    }
}

impl<B> tower_service::Service<Request<B>> for Forward
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<ForwardBody>;
    type Error = Infallible;
    type Future = ForwardFuture;

    /// Always ready: a request that finds no connection opens one.
    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> ForwardFuture {
        let inner = Arc::clone(&self.inner);
        let asked = Asked::by(&request);
        // Done here, and lent from here on: what a future is given and passes on, it keeps room for twice.
        let mut prepared = match inner.prepare(request, self.peer.as_deref()) {
            Ok(prepared) => prepared,
            Err(failure) => {
                let response = failure.into_response(&asked, &inner.settings.problems);
                return ForwardFuture(Box::pin(ready(response)));
            }
        };
        ForwardFuture(Box::pin(async move {
            let answer = inner.run(&mut prepared).await;
            answer.unwrap_or_else(|failure| failure.into_response(&asked, &inner.settings.problems))
        }))
    }
}

/// A request on its way.
struct Prepared {
    /// None while it waits for its body, and once it was handed over.
    request: Option<Request<Outgoing>>,
    /// Where a body that should have been complete is not.
    incomplete: Option<BodyToCome>,
    limits: Limits,
    /// To switch to.
    protocol: Option<HeaderValue>,
    client_upgrade: OnUpgrade,
}

/// A response's head, and the connection on which its body arrives.
type Answered = (Response<Incoming>, Connection);

type BodyToCome = Pin<Box<dyn Future<Output = Result<Request<Outgoing>, BoxError>> + Send>>;

/// The response to come. Dropping it closes the connection that the request was sent on.
pub struct ForwardFuture(Pin<Box<dyn Future<Output = Response<ForwardBody>> + Send>>);

impl Future for ForwardFuture {
    type Output = Result<Response<ForwardBody>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx).map(Ok)
    }
}

impl Inner {
    fn prepare<B>(&self, mut request: Request<B>, peer: Option<&Peer>) -> Result<Prepared, Failure>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let deadline = request.extensions().get::<Deadline>().copied();
        let may_upgrade =
            deadline.is_none() && request.method() == Method::GET && request.body().is_end_stream();
        let client_upgrade = hyper::upgrade::on(&mut request);
        let limits = match deadline {
            Some(deadline) => Limits::guarded(deadline),
            None => Limits::unguarded(&self.settings),
        };
        let (mut parts, body) = request.into_parts();
        let protocol = request_head::prepare(&mut parts, &self.settings, peer, may_upgrade)
            .map_err(Failure::Refused)?;
        let mut prepared = Prepared {
            request: None,
            incomplete: None,
            limits,
            protocol,
            client_upgrade,
        };
        if deadline.is_none() {
            let body = Outgoing::stream(body);
            prepared.limits.watch(&body);
            prepared.request = Some(framed(parts, body));
            return Ok(prepared);
        }
        let mut whole = Box::pin(Outgoing::whole(body));
        match whole.as_mut().now_or_never() {
            Some(body) => {
                let body = body.map_err(Failure::Incomplete)?;
                prepared.request = Some(framed(parts, body));
            }
            None => {
                let framed = async move { Ok(framed(parts, whole.await?)) };
                prepared.incomplete = Some(Box::pin(framed));
            }
        }
        Ok(prepared)
    }

    async fn run(&self, prepared: &mut Prepared) -> Result<Response<ForwardBody>, Failure> {
        if let Some(incomplete) = prepared.incomplete.take() {
            prepared.request = Some(incomplete.await.map_err(Failure::Incomplete)?);
        }
        let answered = self
            .exchange(&mut prepared.request, &prepared.limits)
            .await?;
        if answered.0.status() == StatusCode::SWITCHING_PROTOCOLS {
            return match prepared.protocol {
                Some(_) => self.switch(answered, prepared.client_upgrade.clone()),
                None => Err(InvalidResponse::UnsolicitedUpgrade.into()),
            };
        }
        self.pass_on(answered, &prepared.limits)
    }

    /// Gets a response: on a connection at hand, or, if nothing could be sent there, on a new one.
    async fn exchange(
        &self,
        request: &mut Option<Request<Outgoing>>,
        limits: &Limits,
    ) -> Result<Answered, Failure> {
        if !limits.may_start() {
            return Err(Failure::TooLate);
        }
        if let Some(mut connection) = self.pool.check_out() {
            let reason = match connection.send(request, limits).await {
                Ok(response) => return Ok((response, connection)),
                Err(SendError::NotSent(reason)) => reason,
                Err(error) => return Err(Failure::of_send(error, limits.is_upload_broken())),
            };
            // Nearly always: hyper has taken it apart only if the connection was reset this moment.
            if request.is_none() {
                return Err(reason.into());
            }
        }
        // On the heap, for it is large and rare: each request would have to keep room for it.
        let mut connection = Box::pin(self.dialer.dial(limits.first_write_by)).await?;
        if !limits.may_start() {
            return Err(Failure::TooLate);
        }
        match connection.send(request, limits).await {
            Ok(response) => Ok((response, connection)),
            Err(error) => Err(Failure::of_send(error, limits.is_upload_broken())),
        }
    }

    fn pass_on(
        &self,
        (response, connection): Answered,
        limits: &Limits,
    ) -> Result<Response<ForwardBody>, Failure> {
        let (mut parts, incoming) = response.into_parts();
        let keep_max = self.settings.idle_connection_max;
        // Meant for the next hop alone, so the upstream may name it in `Connection`. That hop is the guard.
        let words: Vec<_> = match limits.is_guarded() {
            true => parts.headers.get_all(OUTCOME).iter().cloned().collect(),
            false => Vec::new(),
        };
        let received = response_head::receive(&mut parts, keep_max)?;
        if !words.is_empty() && !parts.headers.contains_key(OUTCOME) {
            for word in words {
                parts.headers.append(OUTCOME, word);
            }
        }
        let source = Source {
            connection,
            pool: Arc::clone(&self.pool),
            keep: received.keep,
            idle_max: self.settings.idle_timeout,
        };
        let drive = match limits.is_upload_over() {
            true => Drive::Body(source),
            // A client may well read nothing before it has sent all.
            false => Drive::Apart(source.drive_apart()),
        };
        let body = ForwardBody::streamed(
            incoming,
            drive,
            self.settings.idle_timeout,
            limits.end,
            received.hop_by_hop,
        );
        Ok(Response::from_parts(parts, body))
    }

    /// Passes a 101 on, and from then on bytes.
    fn switch(
        &self,
        (mut response, connection): Answered,
        client: OnUpgrade,
    ) -> Result<Response<ForwardBody>, Failure> {
        let upstream = hyper::upgrade::on(&mut response);
        let (mut parts, _) = response.into_parts();
        let protocol = parts.headers.get(UPGRADE).cloned();
        response_head::receive(&mut parts, Duration::ZERO)?;
        if let Some(protocol) = protocol {
            parts.headers.insert(UPGRADE, protocol);
        }
        parts
            .headers
            .insert(CONNECTION, HeaderValue::from_static("upgrade"));
        connection.hand_over();
        self.tunnels.open(client, upstream);
        Ok(Response::from_parts(parts, ForwardBody::from(Bytes::new())))
    }
}

fn framed(mut parts: Parts, body: Outgoing) -> Request<Outgoing> {
    request_head::frame(&mut parts, &body);
    Request::from_parts(parts, body)
}

impl fmt::Debug for Forward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Forward")
            .field("upstream", &self.inner.settings.upstream)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for ForwardFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ForwardFuture").finish_non_exhaustive()
    }
}
