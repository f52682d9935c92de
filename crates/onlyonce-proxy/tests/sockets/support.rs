//! A forwarder to call, and a proxy to connect to.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use onlyonce::{Deadline, Evidence};
use onlyonce_proxy::forward::{Forward, ForwardBody, ForwardSettings};
use onlyonce_proxy::listener::{Drained, Listener, ListenerSettings};
use onlyonce_test::event::within;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tower::ServiceExt;

/// Longer than any test takes.
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// What a request came to.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) status: StatusCode,
    pub(crate) evidence: Option<Evidence>,
    /// The body, or how it broke.
    pub(crate) body: Result<Bytes, String>,
}

impl Outcome {
    /// The stable code of a problem.
    pub(crate) fn code(&self) -> String {
        let body = self.body.as_ref().expect("problems are whole");
        let body: serde_json::Value = serde_json::from_slice(body).expect("problems are JSON");
        body["code"].as_str().unwrap_or_default().to_owned()
    }
}

/// Forwards to `url`, with defaults.
pub(crate) fn forward(url: &str) -> Forward {
    forward_with(url, |_| {})
}

/// Forwards to `url`.
pub(crate) fn forward_with(url: &str, change: impl FnOnce(&mut ForwardSettings)) -> Forward {
    let mut settings = ForwardSettings::new(url.parse().unwrap());
    change(&mut settings);
    Forward::new(settings).unwrap()
}

/// A guarded `POST`, as the layer would send it on.
pub(crate) async fn post(forward: &Forward, key: &str, body: &'static str) -> Outcome {
    post_within(forward, key, body, Deadline::after(LONG)).await
}

pub(crate) async fn post_within(
    forward: &Forward,
    key: &str,
    body: &'static str,
    deadline: Deadline,
) -> Outcome {
    let request = Request::post("/charges")
        .header("host", "shop.example")
        .header("idempotency-key", key)
        .extension(deadline)
        .body(Full::new(Bytes::from(body)))
        .unwrap();
    outcome(
        within("a response", forward.clone().oneshot(request))
            .await
            .unwrap(),
    )
    .await
}

/// A `GET` that nobody guards.
pub(crate) async fn get(forward: &Forward) -> Outcome {
    let request = Request::get("/").header("host", "shop.example");
    let request = request.body(Full::new(Bytes::new())).unwrap();
    outcome(
        within("a response", forward.clone().oneshot(request))
            .await
            .unwrap(),
    )
    .await
}

pub(crate) async fn outcome(response: Response<ForwardBody>) -> Outcome {
    let (parts, body) = response.into_parts();
    let body = within("a body", body.collect()).await;
    let evidence = parts.extensions.get().copied();
    // What is known in here is told to a guard in front as well.
    let told = match evidence {
        Some(Evidence::NotSent | Evidence::Refused) => "not-executed",
        Some(Evidence::Unknown) => "unknown",
        None => return whole(parts.status, None, body),
    };
    assert_eq!(parts.headers["idempotency-outcome"], told);
    whole(parts.status, evidence, body)
}

fn whole<E: ToString>(
    status: StatusCode,
    evidence: Option<Evidence>,
    body: Result<http_body_util::Collected<Bytes>, E>,
) -> Outcome {
    Outcome {
        status,
        evidence,
        body: body
            .map(|body| body.to_bytes())
            .map_err(|error| error.to_string()),
    }
}

/// A proxy that guards nothing.
pub(crate) struct Proxy {
    pub(crate) addr: SocketAddr,
    pub(crate) forward: Forward,
    stop: Option<oneshot::Sender<()>>,
    serving: JoinHandle<Drained>,
}

impl Proxy {
    pub(crate) async fn start(url: &str) -> Self {
        Self::start_with(url, |_| {}, |_| {}).await
    }

    pub(crate) async fn start_with(
        url: &str,
        change: impl FnOnce(&mut ForwardSettings),
        change_listener: impl FnOnce(&mut ListenerSettings),
    ) -> Self {
        let forward = forward_with(url, change);
        let mut settings = ListenerSettings::default();
        change_listener(&mut settings);
        let listener = Listener::bind("127.0.0.1:0".parse().unwrap(), settings)
            .await
            .unwrap();
        let addr = listener.local_addr();
        let (stop, stopped) = oneshot::channel();
        let service = forward.clone();
        let serving = listener.serve(
            move |client: SocketAddr| service.on_behalf_of(client.ip()),
            async { drop(stopped.await) },
        );
        Self {
            addr,
            forward,
            stop: Some(stop),
            serving: tokio::spawn(serving),
        }
    }

    /// Tells it to drain; it is done when [`drained`](Self::drained) returns.
    pub(crate) fn stop(&mut self) {
        drop(self.stop.take());
    }

    pub(crate) async fn drained(mut self) -> Drained {
        self.stop();
        within("the drain", self.serving).await.unwrap()
    }
}
