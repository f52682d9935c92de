//! A service that counts its effects, and a store that fails when it is told to.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Full};
use onlyonce::body::{RequestBody, ResponseBody};
use onlyonce::store::{
    Claim, Claimed, Completed, MemoryStore, Present, Settled, Settlement, Store, StoreError,
    StoreErrorKind,
};
use onlyonce::{BoxError, Epoch, Idempotency, IdempotencyLayer, Policy, RecordId};
use tokio::sync::{Notify, Semaphore, mpsc};
use tower::{Layer, Service, ServiceExt};

pub type Answer = Response<ResponseBody<TestBody>>;

/// A response body that a test feeds frame by frame.
#[derive(Debug)]
pub struct TestBody(
    mpsc::UnboundedReceiver<Result<Frame<Bytes>, BoxError>>,
    bool,
);

#[derive(Debug, Clone)]
pub struct Feed(mpsc::UnboundedSender<Result<Frame<Bytes>, BoxError>>);

impl TestBody {
    pub fn fed() -> (Feed, Self) {
        let (feed, frames) = mpsc::unbounded_channel();
        (Feed(feed), Self(frames, false))
    }

    pub fn whole(text: &'static str) -> Self {
        let (feed, body) = Self::fed();
        feed.data(text);
        body
    }

    pub fn empty() -> Self {
        let (_, mut body) = Self::fed();
        body.1 = true;
        body
    }
}

impl Feed {
    pub fn data(&self, data: impl Into<Bytes>) {
        self.0.send(Ok(Frame::data(data.into()))).unwrap();
    }

    pub fn break_off(&self) {
        self.0.send(Err("connection reset".into())).unwrap();
    }
}

impl Body for TestBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.0.poll_recv(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.1
    }
}

type Handle =
    dyn Fn(usize) -> Pin<Box<dyn Future<Output = Response<TestBody>> + Send>> + Send + Sync;

/// A service whose calls are effects; the closure gets the number of the call, from 1.
#[derive(Clone)]
pub struct Upstream {
    effects: Arc<AtomicUsize>,
    bodies: Arc<Mutex<Vec<Bytes>>>,
    called: Arc<Notify>,
    handle: Arc<Handle>,
}

impl Upstream {
    pub fn new<F>(handle: impl Fn(usize) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Response<TestBody>> + Send + 'static,
    {
        Self {
            effects: Arc::default(),
            bodies: Arc::default(),
            called: Arc::default(),
            handle: Arc::new(move |n| Box::pin(handle(n))),
        }
    }

    /// Answers `201 receipt N`.
    pub fn receipts() -> Self {
        Self::new(async |_| created(TestBody::whole("receipt")))
    }

    pub fn effects(&self) -> usize {
        self.effects.load(Ordering::SeqCst)
    }

    pub fn bodies(&self) -> Vec<Bytes> {
        self.bodies.lock().unwrap().clone()
    }

    pub async fn wait_for_effects(&self, n: usize) {
        while self.effects() < n {
            let called = self.called.notified();
            if self.effects() >= n {
                return;
            }
            called.await;
        }
    }
}

impl Service<Request<RequestBody<Full<Bytes>>>> for Upstream {
    type Response = Response<TestBody>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<TestBody>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<RequestBody<Full<Bytes>>>) -> Self::Future {
        let this = self.clone();
        Box::pin(async move {
            let body = request.into_body().collect().await.unwrap().to_bytes();
            this.bodies.lock().unwrap().push(body);
            let number = this.effects.fetch_add(1, Ordering::SeqCst) + 1;
            this.called.notify_waiters();
            Ok((this.handle)(number).await)
        })
    }
}

pub fn created(body: TestBody) -> Response<TestBody> {
    with_status(StatusCode::CREATED, body)
}

pub fn with_status(status: StatusCode, body: TestBody) -> Response<TestBody> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response
}

/// A request to `/charges` with a key and a body.
pub fn post(key: &str, body: &'static str) -> Request<Full<Bytes>> {
    Request::post("/charges")
        .header("idempotency-key", key)
        .body(Full::from(body))
        .unwrap()
}

pub fn with_header(
    mut request: Request<Full<Bytes>>,
    name: &'static str,
    value: &str,
) -> Request<Full<Bytes>> {
    request.headers_mut().insert(name, value.parse().unwrap());
    request
}

pub fn layer(policy: Policy) -> IdempotencyLayer {
    IdempotencyLayer::new(MemoryStore::default()).with_policy(policy)
}

pub fn guard(upstream: &Upstream) -> Idempotency<Upstream> {
    layer(Policy::default()).layer(upstream.clone())
}

pub async fn send<S>(service: &S, request: Request<Full<Bytes>>) -> Answer
where
    S: Service<Request<Full<Bytes>>, Response = Answer, Error = Infallible> + Clone,
{
    service.clone().oneshot(request).await.unwrap()
}

/// Status, body, and the problem's code where it is one.
pub async fn read(answer: Answer) -> (u16, String) {
    let status = answer.status().as_u16();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

pub async fn code(answer: Answer) -> (u16, String) {
    let (status, body) = read(answer).await;
    let problem: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(problem["status"], status);
    (status, problem["code"].as_str().unwrap().to_owned())
}

pub fn is_replay(answer: &Answer) -> bool {
    answer
        .headers()
        .get("idempotent-replayed")
        .is_some_and(|value| value == "true")
}

/// What a [`FaultyStore`] does with a call.
#[derive(Debug, Clone, Copy)]
pub enum Fault {
    /// Does nothing and says so.
    Refuse,
    /// Does nothing, and says so only after so many seconds.
    RefuseLate(u64),
    /// Does it, and says that it failed.
    LoseReply,
    /// Does nothing, and nobody can tell.
    LoseCall,
    /// Does it, and answers only after so many seconds.
    Late(u64),
}

/// A memory store that fails as told, and can hold settlements back.
#[derive(Clone)]
pub struct FaultyStore {
    pub inner: MemoryStore,
    pub claims: Arc<Mutex<VecDeque<Fault>>>,
    pub settlements: Arc<Mutex<VecDeque<Fault>>>,
    pub settle_gate: Arc<Semaphore>,
    pub settled: Arc<Notify>,
    pub calls: Arc<AtomicUsize>,
}

impl FaultyStore {
    pub fn new() -> Self {
        Self {
            inner: MemoryStore::default(),
            claims: Arc::default(),
            settlements: Arc::default(),
            settle_gate: Arc::new(Semaphore::new(Semaphore::MAX_PERMITS >> 1)),
            settled: Arc::default(),
            calls: Arc::default(),
        }
    }

    pub fn hold_settlements(&self) {
        self.settle_gate.forget_permits(usize::MAX >> 4);
    }

    pub fn let_settlements_through(&self) {
        self.settle_gate.add_permits(1000);
    }

    pub fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }
}

fn unavailable() -> StoreError {
    StoreError::new(StoreErrorKind::Unavailable, "told to fail")
}

fn refused() -> StoreError {
    StoreError::not_applied(StoreErrorKind::Unavailable, "told to refuse")
}

impl Store for FaultyStore {
    /// Every request gets to the faults.
    fn recall(&self, _: &RecordId) -> Option<Completed> {
        None
    }

    async fn claim(&self, claim: &Claim) -> Result<Claimed, StoreError> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        let fault = self.claims.lock().unwrap().pop_front();
        match fault {
            None => self.inner.claim(claim).await,
            Some(Fault::Refuse) => Err(refused()),
            Some(Fault::RefuseLate(seconds)) => {
                tokio::time::sleep(Duration::from_secs(seconds)).await;
                Err(refused())
            }
            Some(Fault::LoseReply) => {
                self.inner.claim(claim).await?;
                Err(unavailable())
            }
            Some(Fault::LoseCall) => Err(unavailable()),
            Some(Fault::Late(seconds)) => {
                let claimed = self.inner.claim(claim).await;
                tokio::time::sleep(Duration::from_secs(seconds)).await;
                claimed
            }
        }
    }

    async fn settle(
        &self,
        claim: &Claim,
        epoch: Epoch,
        settlement: &Settlement,
    ) -> Result<Settled, StoreError> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        self.settle_gate.acquire().await.unwrap().forget();
        let fault = self.settlements.lock().unwrap().pop_front();
        let settled = match fault {
            None | Some(Fault::Late(_)) => self.inner.settle(claim, epoch, settlement).await,
            Some(Fault::Refuse | Fault::RefuseLate(_) | Fault::LoseCall) => Err(unavailable()),
            Some(Fault::LoseReply) => {
                self.inner.settle(claim, epoch, settlement).await?;
                Err(unavailable())
            }
        };
        self.settled.notify_waiters();
        settled
    }

    async fn find(&self, id: &RecordId) -> Result<Option<Present>, StoreError> {
        self.inner.find(id).await
    }
}

/// A bound on every wait: a test that hangs fails.
pub async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(10), future)
        .await
        .expect("this happens soon")
}
