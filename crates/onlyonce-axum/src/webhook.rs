//! Receiving webhooks: a layer that lets through what is signed, and the message's id for the inbox.
//!
//! A signature says who sent a delivery and that nothing of it was changed. It does not say that the delivery is the
//! only one: senders repeat what they got no answer to. So the handler gets the message's id, and the
//! [inbox](onlyonce_outbox::inbox) applies the message once.
//!
//! ```no_run
//! use axum::{Json, Router, extract::State, http::StatusCode, routing::post};
//! use onlyonce_axum::webhook::{SignedMessage, WebhookLayer, answer};
//! use onlyonce_outbox::inbox::Inbox;
//! use onlyonce_outbox::standard_webhooks::Verifier;
//!
//! #[derive(serde::Deserialize)]
//! struct Charged {
//!     amount: i64,
//! }
//!
//! async fn charged(
//!     State(inbox): State<Inbox>,
//!     SignedMessage(message): SignedMessage,
//!     Json(event): Json<Charged>,
//! ) -> StatusCode {
//!     let outcome = inbox.process(&message, async |tx| {
//!         sqlx::query("insert into ledger (amount) values ($1)").bind(event.amount).execute(tx).await
//!     });
//!     answer(&outcome.await)
//! }
//!
//! # async fn serve(inbox: Inbox, secret: &str) -> Result<(), Box<dyn std::error::Error>> {
//! let verifier = Verifier::new([secret.parse()?]);
//! let app: Router = Router::new()
//!     .route("/hooks/payments", post(charged))
//!     .layer(WebhookLayer::new(verifier))
//!     .with_state(inbox);
//! # Ok(()) }
//! ```

use std::error::Error as StdError;
use std::future::Future;
use std::mem::replace;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::Body;
use axum::extract::FromRequestParts;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use onlyonce_outbox::inbox::{Message, MessageId, Outcome, ProcessError};
use onlyonce_outbox::standard_webhooks::{ID, SIGNATURE, TIMESTAMP, Verifier};
use tower_layer::Layer;
use tower_service::Service;

/// Lets requests through that carry a signature of [Standard Webhooks](onlyonce_outbox::standard_webhooks), and gives
/// their handlers a [`SignedMessage`]. All others are answered: `401` where the signature is not believed, `400` where
/// the body breaks off or the id cannot be one, `413` where the body is too large.
///
/// The body is read before the handler runs: the signature covers all of it.
#[derive(Debug, Clone)]
pub struct WebhookLayer {
    verifier: Arc<Verifier>,
    body_max: usize,
}

impl WebhookLayer {
    /// One that believes what this verifier does.
    pub fn new(verifier: Verifier) -> Self {
        Self {
            verifier: Arc::new(verifier),
            body_max: 1 << 20,
        }
    }

    /// The largest body that is read, in bytes: 1 MiB by default. Anybody can send one before it is known whether it is
    /// signed.
    #[must_use]
    pub fn body_max(mut self, bytes: usize) -> Self {
        self.body_max = bytes;
        self
    }

    /// The message that a request brings, once it is known to be signed, with the request as it was.
    async fn verified(&self, request: Request<Body>) -> Result<Request<Body>, StatusCode> {
        let (mut head, body) = request.into_parts();
        let body = read(body, self.body_max).await?;
        let id = self.believed(&head.headers, &body)?;
        let id: MessageId = id.parse().map_err(|error| {
            tracing::warn!(%error, "a signed webhook has no usable id");
            StatusCode::BAD_REQUEST
        })?;
        head.extensions.insert(SignedMessage(Message::new(id)));
        Ok(Request::from_parts(head, Body::from(body)))
    }

    /// The id, which the signature covers.
    fn believed<'h>(&self, headers: &'h HeaderMap, body: &[u8]) -> Result<&'h str, StatusCode> {
        let [Some(id), Some(timestamp), Some(signatures)] =
            [ID, TIMESTAMP, SIGNATURE].map(|name| only(headers, name))
        else {
            tracing::debug!("a webhook is not signed");
            return Err(StatusCode::UNAUTHORIZED);
        };
        let verified = self.verifier.verify(id, timestamp, signatures, body);
        verified.map_err(|error| {
            tracing::debug!(%error, "a webhook is not believed");
            StatusCode::UNAUTHORIZED
        })?;
        Ok(id)
    }
}

/// A header that is there once, as text.
fn only<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?;
    values.next().is_none().then(|| value.to_str().ok())?
}

async fn read(body: Body, max: usize) -> Result<Bytes, StatusCode> {
    match Limited::new(body, max).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(StatusCode::PAYLOAD_TOO_LARGE),
        Err(error) => {
            tracing::debug!(
                error = &*error as &dyn StdError,
                "a webhook's body broke off"
            );
            Err(StatusCode::BAD_REQUEST)
        }
    }
}

impl<S> Layer<S> for WebhookLayer {
    type Service = WebhookService<S>;

    fn layer(&self, inner: S) -> WebhookService<S> {
        WebhookService {
            layer: self.clone(),
            inner,
        }
    }
}

/// What [`WebhookLayer`] makes of a service.
#[derive(Debug, Clone)]
pub struct WebhookService<S> {
    layer: WebhookLayer,
    inner: S,
}

impl<S> Service<Request<Body>> for WebhookService<S>
where
    S: Service<Request<Body>> + Clone + Send + 'static,
    S::Response: IntoResponse,
    S::Future: Send,
{
    type Response = Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let layer = self.layer.clone();
        // The one that was made ready serves the request.
        let next = self.inner.clone();
        let mut inner = replace(&mut self.inner, next);
        Box::pin(async move {
            match layer.verified(request).await {
                Ok(request) => Ok(inner.call(request).await?.into_response()),
                Err(status) => Ok(status.into_response()),
            }
        })
    }
}

/// A message that somebody with the secret has sent, for the inbox. An extractor for handlers behind a
/// [`WebhookLayer`]; without the layer it answers `500`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedMessage(pub Message);

impl<S: Sync> FromRequestParts<S> for SignedMessage {
    type Rejection = StatusCode;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, StatusCode> {
        parts.extensions.get().cloned().ok_or_else(|| {
            tracing::error!("a handler wants a signed message, and there is no WebhookLayer");
            StatusCode::INTERNAL_SERVER_ERROR
        })
    }
}

/// What to answer a webhook's sender.
///
/// | what became of the message | status | what a sender does then |
/// |---|---|---|
/// | applied, a duplicate, overtaken | 204 | it is done |
/// | busy | 409 | tries again |
/// | too old, too new | 422 | gives up: trying again would not help |
/// | the work failed | 500 | tries again |
/// | the database failed, or nobody knows | 503 | tries again |
pub fn answer<T, E>(processed: &Result<Outcome<T>, ProcessError<E>>) -> StatusCode {
    match processed {
        Ok(outcome) if outcome.is_done() => StatusCode::NO_CONTENT,
        Ok(Outcome::TooOld | Outcome::TooNew) => StatusCode::UNPROCESSABLE_ENTITY,
        Ok(_) => StatusCode::CONFLICT,
        Err(ProcessError::Work(_)) => StatusCode::INTERNAL_SERVER_ERROR,
        Err(_) => StatusCode::SERVICE_UNAVAILABLE,
    }
}
