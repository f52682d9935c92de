//! The sinks that need no server, held to the suite for all.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use onlyonce_outbox::conformance::{Fixture, Received, suite};
use onlyonce_outbox::sinks::Memory;
use onlyonce_outbox::{Ack, Envelope, SinkError};

struct InMemory {
    sink: Memory,
}

impl Fixture for InMemory {
    type Sink = Memory;

    fn sink(&self) -> &Memory {
        &self.sink
    }

    async fn received(&self) -> Vec<Received> {
        let received = |envelope: Envelope| Received {
            event_id: envelope.event_id,
            topic: Some(envelope.topic),
            key: envelope.key,
            kind: Some(envelope.kind),
            content_type: Some(envelope.content_type),
            headers: Some(BTreeMap::from_iter(envelope.headers)),
            payload: envelope.payload,
        };
        self.sink.taken().into_iter().map(received).collect()
    }

    async fn stop(&self) {
        self.sink.judge(|_| Err(SinkError::retryable("away")));
    }

    async fn start(&self) {
        self.sink.judge(|_| Ok(Ack::default()));
    }
}

#[tokio::test]
async fn memory_conforms() {
    let sink = Memory::new("memory");
    suite(&InMemory { sink }).await;
}

/// The suite can fail: a sink that says it took what it dropped is found out.
#[tokio::test]
async fn a_sink_that_lies_is_found_out() {
    let lied = Arc::new(AtomicBool::new(false));
    let sink = Memory::new("liar");
    let fixture = Liar {
        memory: InMemory { sink },
        lied: Arc::clone(&lied),
    };
    let outcome = tokio::spawn(async move { suite(&fixture).await }).await;
    assert!(outcome.unwrap_err().is_panic());
    assert!(lied.load(Ordering::Relaxed));
}

struct Liar {
    memory: InMemory,
    lied: Arc<AtomicBool>,
}

impl Fixture for Liar {
    type Sink = Memory;

    fn sink(&self) -> &Memory {
        self.memory.sink()
    }

    async fn received(&self) -> Vec<Received> {
        self.memory.received().await
    }

    async fn stop(&self) {
        self.lied.store(true, Ordering::Relaxed);
    }

    async fn start(&self) {}
}
