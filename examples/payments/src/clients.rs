//! Clients as they are: each operation has a key, and is repeated with it until something definite is said.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hyper::StatusCode;
use serde_json::Value;
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::http;
use crate::service::{Charge, Receipt};

/// Shorter than what a busy service sometimes takes: it is the client that gives up, and the charge that happens.
const PATIENCE: Duration = Duration::from_millis(400);
const PAUSE: Duration = Duration::from_millis(20);
/// Accounts are few, so that events have neighbours with the same key.
const ACCOUNTS: usize = 20;

/// What a client was told in the end.
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
    /// How it ended.
    pub(crate) told: Told,
}

/// Runs clients until `stop`, and then until each has its answer.
pub(crate) async fn run(
    count: usize,
    services: Vec<SocketAddr>,
    stop: Arc<AtomicBool>,
) -> Vec<Operation> {
    let mut clients = JoinSet::new();
    for number in 0..count {
        let (services, stop) = (services.clone(), Arc::clone(&stop));
        clients.spawn(async move {
            let mut operations = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                operations.push(charge(&services, number + operations.len()).await);
            }
            operations
        });
    }
    clients.join_all().await.concat()
}

async fn charge(services: &[SocketAddr], number: usize) -> Operation {
    let key = Uuid::new_v4().to_string();
    let charge = Charge {
        account: format!("account-{}", number % ACCOUNTS),
        amount: 1_200,
    };
    let body = serde_json::to_vec(&charge).expect("strings and numbers are JSON");
    for attempt in number.. {
        // As behind a load balancer: the next try comes to another instance.
        let service = services[attempt % services.len()];
        match http::post(service, "/charges", Some(&key), body.clone(), PATIENCE).await {
            Ok((status, answer)) => {
                if let Some(told) = definite(status, &answer) {
                    return Operation { key, told };
                }
            }
            // Killed, restarting, or too slow: the reason to repeat.
            Err(error) => tracing::debug!(%error, key, "no answer"),
        }
        tokio::time::sleep(PAUSE).await;
    }
    unreachable!("a client repeats for as long as it takes")
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
