//! A receiver of webhooks: keeps what it gets, answers what it is told to, can be taken away.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use onlyonce_outbox::standard_webhooks::{self, Secret, Verifier};
use onlyonce_test::event::{Counter, Gate};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

/// A request as it came.
#[derive(Debug, Clone)]
pub(crate) struct Delivery {
    pub(crate) line: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Delivery {
    pub(crate) fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name);
        let value = value.unwrap_or_else(|| panic!("no header {name}: {self:?}"));
        std::str::from_utf8(value.as_bytes()).unwrap()
    }
}

type Answer = dyn Fn(&Delivery) -> Response<Full<Bytes>> + Send + Sync;

/// A running receiver, or one that was taken away.
pub(crate) struct Receiver {
    pub(crate) addr: SocketAddr,
    pub(crate) secret: Secret,
    shared: Arc<Shared>,
    serving: Mutex<Option<JoinSet<()>>>,
}

struct Shared {
    deliveries: Mutex<Vec<Delivery>>,
    answer: Mutex<Arc<Answer>>,
    connections: Counter,
    tls: Option<TlsAcceptor>,
    verifier: Verifier,
    gate: Mutex<Gate>,
}

impl Receiver {
    pub(crate) async fn start() -> Self {
        Self::start_with(None).await
    }

    pub(crate) async fn start_with(tls: Option<TlsAcceptor>) -> Self {
        let secret = Secret::generate().unwrap();
        let gate = Gate::default();
        gate.open();
        let shared = Shared {
            deliveries: Mutex::default(),
            answer: Mutex::new(Arc::new(|_: &Delivery| answer(204, ""))),
            connections: Counter::default(),
            tls,
            verifier: Verifier::new([secret.clone()]),
            gate: Mutex::new(gate),
        };
        let receiver = Self {
            addr: SocketAddr::from(([127, 0, 0, 1], 0)),
            secret,
            shared: Arc::new(shared),
            serving: Mutex::default(),
        };
        let addr = receiver.serve(receiver.addr).await;
        Self { addr, ..receiver }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/hooks?tenant=7", self.addr)
    }

    pub(crate) fn deliveries(&self) -> Vec<Delivery> {
        self.shared.deliveries.lock().unwrap().clone()
    }

    pub(crate) fn connections(&self) -> usize {
        self.shared.connections.get()
    }

    /// From now on it answers so.
    pub(crate) fn answers(
        &self,
        answer: impl Fn(&Delivery) -> Response<Full<Bytes>> + Send + Sync + 'static,
    ) {
        *self.shared.answer.lock().unwrap() = Arc::new(answer);
    }

    /// From now on it answers when the gate is open.
    pub(crate) fn answers_after(&self, gate: Gate) {
        *self.shared.gate.lock().unwrap() = gate;
    }

    /// Breaks all connections, and takes no more.
    pub(crate) async fn take_away(&self) {
        let serving = self.serving.lock().unwrap().take();
        if let Some(mut serving) = serving {
            serving.shutdown().await;
        }
    }

    pub(crate) async fn bring_back(&self) {
        self.serve(self.addr).await;
    }

    async fn serve(&self, addr: SocketAddr) -> SocketAddr {
        let listener = TcpListener::bind(addr).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let mut serving = JoinSet::new();
        serving.spawn(accept(listener, Arc::clone(&self.shared)));
        *self.serving.lock().unwrap() = Some(serving);
        addr
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    // Dropped with this task, and the connections with it.
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        shared.connections.add();
        let shared = Arc::clone(&shared);
        connections.spawn(async move {
            let tls = shared.tls.clone();
            let service = service_fn(move |request| receive(Arc::clone(&shared), request));
            let serving = http1::Builder::new();
            // A client that leaves is no failure.
            let _ = match tls {
                None => {
                    let io = TokioIo::new(stream);
                    serving.serve_connection(io, service).await
                }
                Some(tls) => match tls.accept(stream).await {
                    Ok(stream) => {
                        let io = TokioIo::new(stream);
                        serving.serve_connection(io, service).await
                    }
                    Err(_) => Ok(()),
                },
            };
        });
    }
}

async fn receive(
    shared: Arc<Shared>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let Ok(body) = body.collect().await else {
        return Ok(answer(400, "cut off"));
    };
    let delivery = Delivery {
        line: format!("{} {} {:?}", head.method, head.uri, head.version),
        headers: head.headers,
        body: body.to_bytes(),
    };
    let verified = shared.verifier.verify(
        delivery.header(standard_webhooks::ID),
        delivery.header(standard_webhooks::TIMESTAMP),
        delivery.header(standard_webhooks::SIGNATURE),
        &delivery.body,
    );
    if verified.is_err() {
        return Ok(answer(401, "not signed"));
    }
    let judge = Arc::clone(&shared.answer.lock().unwrap());
    let response = judge(&delivery);
    shared.deliveries.lock().unwrap().push(delivery);
    let gate = shared.gate.lock().unwrap().clone();
    gate.pass().await;
    Ok(response)
}

pub(crate) fn answer(status: u16, body: &'static str) -> Response<Full<Bytes>> {
    let response = Response::builder().status(status);
    response.body(Full::from(body)).unwrap()
}
