//! Clients as they are: each operation has a key, and is repeated with it until something definite is said. Now and then
//! a request comes twice at once, or once more after it was answered: somebody clicks again, a load balancer repeats.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hyper::StatusCode;
use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::sleep;
use uuid::Uuid;

use crate::chance::one_in;
use crate::http;
use crate::service::{Charge, Receipt};

/// Shorter than what a busy service sometimes takes: it is the client that gives up, and the charge that happens.
const PATIENCE: Duration = Duration::from_millis(400);
const PAUSE: Duration = Duration::from_millis(20);
/// One request in so many is sent to both instances at once, and one operation in so many once more after its answer.
const TWICE: u8 = 8;
/// Accounts are few, so that events have neighbours with the same key.
const ACCOUNTS: usize = 20;

/// What a client was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Told {
    /// It paid, and this is the payment.
    Charged(i64),
    /// Nobody knows whether it paid.
    Unknown,
    /// It was refused: in this example a fault.
    Refused(StatusCode),
}

/// One operation of a client.
#[derive(Debug, Clone)]
pub(crate) struct Operation {
    /// Its key.
    pub(crate) key: String,
    /// What was definite of what it was told, in the order of its coming. Never empty.
    pub(crate) told: Vec<Told>,
}

/// Runs clients until `stop`, and then until each has its answer.
pub(crate) async fn run(
    count: usize,
    services: [SocketAddr; 2],
    stop: Arc<AtomicBool>,
) -> Vec<Operation> {
    let mut clients = JoinSet::new();
    for number in 0..count {
        let stop = Arc::clone(&stop);
        clients.spawn(async move {
            let mut operations = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                operations.push(operation(services, number + operations.len()).await);
            }
            operations
        });
    }
    clients.join_all().await.concat()
}

async fn operation(services: [SocketAddr; 2], number: usize) -> Operation {
    let client = Client::new(services, number);
    let mut told = client.until_told().await;
    if one_in(TWICE) {
        told.extend(client.until_told().await);
    }
    Operation {
        key: client.key,
        told,
    }
}

/// A request, and where it may be sent.
struct Client {
    services: [SocketAddr; 2],
    key: String,
    body: Vec<u8>,
    number: usize,
}

impl Client {
    fn new(services: [SocketAddr; 2], number: usize) -> Self {
        let charge = Charge {
            account: format!("account-{}", number % ACCOUNTS),
            amount: 1_200,
        };
        Self {
            services,
            key: Uuid::new_v4().to_string(),
            body: serde_json::to_vec(&charge).expect("strings and numbers are JSON"),
            number,
        }
    }

    /// Repeats the request for as long as it takes.
    async fn until_told(&self) -> Vec<Told> {
        for attempt in self.number.. {
            let told = self.attempt(attempt).await;
            if !told.is_empty() {
                return told;
            }
            sleep(PAUSE).await;
        }
        unreachable!("attempts do not come to an end")
    }

    async fn attempt(&self, number: usize) -> Vec<Told> {
        // As behind a load balancer: the next try comes to another instance.
        let [one, other] = [number, number + 1].map(|number| self.services[number % 2]);
        if one_in(TWICE) {
            let (one, other) = tokio::join!(self.ask(one), self.ask(other));
            one.into_iter().chain(other).collect()
        } else {
            self.ask(one).await.into_iter().collect()
        }
    }

    /// What one request was told for good, if anything.
    async fn ask(&self, service: SocketAddr) -> Option<Told> {
        let (key, body) = (Some(&*self.key), self.body.clone());
        match http::post(service, "/charges", key, body, PATIENCE).await {
            Ok((status, answer)) => definite(status, &answer),
            // Killed, restarting, or too slow: the reason to repeat.
            Err(error) => {
                tracing::debug!(%error, key, "no answer");
                None
            }
        }
    }
}

/// What an answer says for good; `None` where the client is to try again.
fn definite(status: StatusCode, answer: &[u8]) -> Option<Told> {
    if status == StatusCode::CREATED {
        let receipt: Receipt = serde_json::from_slice(answer).ok()?;
        return Some(Told::Charged(receipt.id));
    }
    let problem: Value = serde_json::from_slice(answer).unwrap_or_default();
    match problem["code"].as_str() {
        Some("outcome-unknown") => Some(Told::Unknown),
        _ if problem["retryable"] == Value::Bool(true) || status.is_server_error() => None,
        _ => Some(Told::Refused(status)),
    }
}
