//! The suite for all sinks.

use std::time::Duration;

use onlyonce_outbox::conformance::{Fixture, Received, suite};
use onlyonce_outbox::inbox::Carrier;
use onlyonce_outbox::sinks::Webhook;
use percent_encoding::percent_decode_str;

use crate::receiver::{Delivery, Receiver};

struct Hook {
    sink: Webhook,
    receiver: Receiver,
}

impl Fixture for Hook {
    type Sink = Webhook;

    fn sink(&self) -> &Webhook {
        &self.sink
    }

    async fn received(&self) -> Vec<Received> {
        self.receiver.deliveries().iter().map(received).collect()
    }

    async fn stop(&self) {
        self.receiver.take_away().await;
    }

    async fn start(&self) {
        self.receiver.bring_back().await;
    }
}

fn received(delivery: &Delivery) -> Received {
    let headers = || {
        let all = delivery.headers.iter();
        all.map(|(name, value)| (name.as_str(), value.as_bytes()))
    };
    let id = Carrier::Http.message_id(headers()).unwrap().unwrap();
    let attribute = |name: &str| {
        delivery.headers.contains_key(name).then(|| {
            let encoded = percent_decode_str(delivery.header(name));
            encoded.decode_utf8().unwrap().into_owned()
        })
    };
    let own = headers().map(|(name, value)| {
        let value = String::from_utf8(value.to_vec()).unwrap();
        (name.to_owned(), value)
    });
    Received {
        event_id: id.to_string().parse().unwrap(),
        topic: None,
        key: attribute("ce-subject"),
        kind: attribute("ce-type"),
        content_type: Some(delivery.header("content-type").to_owned()),
        headers: Some(own.collect()),
        payload: delivery.body.clone(),
    }
}

#[tokio::test]
async fn webhook_conforms() {
    let receiver = Receiver::start().await;
    let sink = Webhook::to(&receiver.url(), "/shop").unwrap();
    let sink = sink
        .secret(receiver.secret.clone())
        .time_limit(Duration::from_secs(10));
    suite(&Hook { sink, receiver }).await;
}
