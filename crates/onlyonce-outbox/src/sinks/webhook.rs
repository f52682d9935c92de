//! Events as signed HTTP requests: Standard Webhooks, with an `Idempotency-Key`, as CloudEvents.
//!
//! HTTP/1.1 by `hyper`, over a few connections that are kept: an endpoint is one host, and a general client
//! with its redirects, cookies and proxies is mostly what must not happen here.

mod answer;
mod connection;
mod endpoint;

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, StreamExt};
use http::header::{CONTENT_TYPE, HOST, USER_AGENT};
use http::{HeaderName, HeaderValue, Method, Request, Version};
use http_body_util::Full;
use jiff::Timestamp;
use tokio::time::timeout;
use tokio_rustls::rustls::ClientConfig;

use self::connection::Connections;
use self::endpoint::Endpoint;
use crate::cloud_event;
use crate::envelope::Envelope;
use crate::error::Error;
use crate::sink::{Ack, Sink, SinkError};
use crate::standard_webhooks::{self, Secret, sign};

/// Headers of the event's own that would say something about the request instead.
const NOT_THE_EVENTS: [&str; 13] = [
    "authorization",
    "connection",
    "content-encoding",
    "content-length",
    "cookie",
    "expect",
    "host",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
];

/// Sends each event as a `POST`, with the payload as its body, to one endpoint.
///
/// | header | value |
/// |---|---|
/// | `Idempotency-Key` | the event's id, as a structured field's string: `"0190163d-…"` |
/// | `webhook-id`, `webhook-timestamp`, `webhook-signature` | the event's id, the time of this delivery, one signature for each secret; the last only with a [secret](Self::secret) |
/// | `ce-id`, `ce-type`, `ce-source`, `ce-subject`, `ce-time`, … | the event as a CloudEvent in binary mode |
/// | `Outbox-Seq` | the event's number, which rises within a key |
/// | the event's own headers | as they are, but for those that concern the request itself |
///
/// What answers with 2xx has taken it. 408, 409, 425, 429 and 5xx, a redirect (none is followed), a broken
/// connection and no answer in time may be taken later, at the earliest when `Retry-After` says. 410 and all
/// other 4xx are final.
///
/// The receiver's side: [`standard_webhooks::Verifier`], and the [inbox](crate::inbox).
///
/// ```
/// use onlyonce_outbox::sinks::Webhook;
///
/// let hook = Webhook::to("https://example.com/hooks/payments", "/shop")?
///     .named("accounting")
///     .secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".parse()?);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Webhook {
    name: String,
    source: String,
    secrets: Vec<Secret>,
    headers: Vec<(HeaderName, HeaderValue)>,
    limit: Duration,
    in_flight: usize,
    connections: Connections,
}

impl Webhook {
    /// To this `http` or `https` URL. `source` names the producer, as a URI reference: `/payments`.
    ///
    /// # Errors
    /// [`Error::Settings`] where the URL cannot be understood or has a user in it.
    pub fn to(url: &str, source: impl Into<String>) -> Result<Self, Error> {
        Ok(Self {
            name: "webhook".to_owned(),
            source: source.into(),
            secrets: Vec::new(),
            headers: Vec::new(),
            limit: Duration::from_secs(4),
            in_flight: 16,
            connections: Connections::to(Endpoint::parse(url)?)?,
        })
    }

    /// Under another name than `webhook`: two sinks of one database must differ.
    #[must_use]
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Signs with this secret, and with those that were given before.
    #[must_use]
    pub fn secret(mut self, secret: Secret) -> Self {
        self.secrets.push(secret);
        self
    }

    /// A header of every request, such as `Authorization`. Its value is not shown anywhere.
    ///
    /// # Errors
    /// [`Error::Settings`] where it cannot be a header, or is one that this sink sets itself.
    pub fn header(mut self, name: &str, value: &str) -> Result<Self, Error> {
        let refused = |why| Error::Settings(format!("the webhook's header {name:?} {why}"));
        let header: HeaderName = name.parse().map_err(|_| refused("is no header's name"))?;
        let framing = ["connection", "content-length", "host", "transfer-encoding"];
        if framing.contains(&header.as_str()) || is_ours(header.as_str()) {
            return Err(refused("is set by the webhook itself"));
        }
        let mut value =
            HeaderValue::from_str(value).map_err(|_| refused("has a value that cannot be sent"))?;
        value.set_sensitive(true);
        self.headers.push((header, value));
        Ok(self)
    }

    /// How long one delivery may take, connecting included. 4 seconds by default, which is less than a relay
    /// waits for a sink: whoever raises this raises [`RelayOptions::publish_timeout`](crate::RelayOptions::publish_timeout) too.
    #[must_use]
    pub fn time_limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// How many are delivered at the same time, at the most. 16 by default; at least 1.
    #[must_use]
    pub fn in_flight_max(mut self, count: usize) -> Self {
        self.in_flight = count.max(1);
        self
    }

    /// Checks the endpoint's certificate in this way, instead of by the system's authorities, which are read when the
    /// first delivery needs them.
    #[must_use]
    pub fn tls(mut self, config: ClientConfig) -> Self {
        self.connections.trust(config);
        self
    }

    async fn deliver(&self, envelope: &Envelope) -> Result<Ack, SinkError> {
        let now = Timestamp::now().as_second();
        let request = self.request(envelope, now).map_err(SinkError::dead)?;
        match timeout(self.limit, self.connections.send(request)).await {
            Ok(Ok(answer)) => answer.judge(),
            Ok(Err(error)) => Err(SinkError::retryable(error)),
            Err(_) => {
                let text = format!("no answer within {:?}", self.limit);
                Err(SinkError::retryable(text))
            }
        }
    }

    fn request(&self, envelope: &Envelope, now: i64) -> Result<Request<Full<Bytes>>, http::Error> {
        let endpoint = self.connections.endpoint();
        let id = envelope.event_id.to_string();
        let mut request = Request::builder()
            .method(Method::POST)
            .version(Version::HTTP_11)
            .uri(endpoint.target())
            .header(HOST, endpoint.host_header())
            .header(USER_AGENT, concat!("onlyonce/", env!("CARGO_PKG_VERSION")))
            .header(CONTENT_TYPE, text(&envelope.content_type)?)
            .header("idempotency-key", format!("\"{id}\""))
            .header("outbox-seq", envelope.sequence)
            .header(standard_webhooks::ID, &id)
            .header(standard_webhooks::TIMESTAMP, now);
        if !self.secrets.is_empty() {
            let signatures = sign(&self.secrets, &id, now, &envelope.payload);
            request = request.header(standard_webhooks::SIGNATURE, signatures);
        }
        for (name, value) in cloud_event::attributes(envelope, &self.source) {
            request = request.header(format!("ce-{name}"), cloud_event::encoded(&value));
        }
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        for (name, value) in &envelope.headers {
            let taken = is_ours(name)
                || NOT_THE_EVENTS.contains(&name.as_str())
                || self.headers.iter().any(|(ours, _)| ours.as_str() == name);
            if !taken {
                request = request.header(name, text(value)?);
            }
        }
        request.body(Full::new(envelope.payload.clone()))
    }
}

/// Whether this sink says it in a header of its own.
fn is_ours(name: &str) -> bool {
    ["webhook-", "ce-"]
        .iter()
        .any(|ours| name.starts_with(ours))
        || ["content-type", "idempotency-key", "outbox-seq"].contains(&name)
}

/// Text of any kind, as it is.
fn text(value: &str) -> Result<HeaderValue, http::Error> {
    Ok(HeaderValue::from_bytes(value.as_bytes())?)
}

impl Sink for Webhook {
    fn name(&self) -> &str {
        &self.name
    }

    /// As many as are under way at the same time: a batch takes no longer than one delivery may.
    fn batch_max(&self) -> usize {
        self.in_flight
    }

    async fn publish(&self, batch: &[Envelope]) -> Vec<Result<Ack, SinkError>> {
        // Not mapped lazily: the compiler cannot see that such a future may be sent.
        let deliveries: Vec<_> = batch.iter().map(|event| self.deliver(event)).collect();
        let delivered = stream::iter(deliveries).buffered(self.in_flight);
        delivered.collect().await
    }
}

impl fmt::Debug for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Webhook")
            .field("name", &self.name)
            .field("endpoint", self.connections.endpoint())
            .finish_non_exhaustive()
    }
}
