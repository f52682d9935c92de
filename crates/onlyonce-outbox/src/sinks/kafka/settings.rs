//! What the client is told: what this sink promises, then what its user wants besides.

use std::time::Duration;

use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::KafkaError;

use crate::error::Error;

/// Settings that stand for a promise, or save an operator from a surprise.
const OURS: [(&str, &str); 6] = [
    ("acks", "all"),
    ("enable.idempotence", "true"),
    // As Java's producer: the client's own default puts an empty key anywhere, and is nobody else's.
    ("partitioner", "murmur2_random"),
    ("client.id", "onlyonce-outbox"),
    // A relay brings whole batches, and waits for each: there is nothing to wait for.
    ("linger.ms", "0"),
    // A broker that is back should not be found out later than a relay tries again.
    ("reconnect.backoff.max.ms", "1000"),
];

/// The client's settings, all but for how long a message may take.
#[derive(Clone)]
pub(super) struct Settings {
    tls: bool,
    client: ClientConfig,
}

impl Settings {
    pub(super) fn of(url: &str) -> Result<Self, Error> {
        // What was given is not shown: there may be a password in it.
        let refused = |why| Error::Settings(format!("the URL of Kafka {why}"));
        let (tls, brokers) = match url.split_once("://") {
            Some(("kafka", brokers)) => (false, brokers),
            Some(("kafkas", brokers)) => (true, brokers),
            _ => return Err(refused("does not begin with kafka:// or kafkas://")),
        };
        if brokers.contains('@') {
            return Err(refused(
                "has a user in it: set sasl.username and sasl.password instead",
            ));
        }
        if !brokers.split(',').all(is_broker) {
            return Err(refused(
                "is not made of host:port, with commas between them",
            ));
        }
        let mut client = ClientConfig::new();
        for (name, value) in OURS {
            client.set(name, value);
        }
        client.set("bootstrap.servers", brokers);
        client.set_log_level(RDKafkaLogLevel::Debug);
        let mut settings = Self { tls, client };
        if tls {
            settings.set("security.protocol".to_owned(), "ssl".to_owned())?;
        }
        Ok(settings)
    }

    pub(super) fn set(&mut self, name: String, value: String) -> Result<(), Error> {
        let refused = |why: String| Error::Settings(format!("Kafka's setting {name:?} {why}"));
        if let Some(why) = self.keeps(&name, &value) {
            return Err(refused(format!("cannot be set here: {why}")));
        }
        let mut alone = ClientConfig::new();
        alone.set(&name, &value);
        if let Err(error) = alone.create_native_config() {
            return Err(refused(format!("is refused: {}", told(&error, &value))));
        }
        self.client.set(name, value);
        Ok(())
    }

    /// Why this is not its user's to set.
    fn keeps(&self, name: &str, value: &str) -> Option<&'static str> {
        Some(match name {
            "bootstrap.servers" | "metadata.broker.list" => "the URL says where the brokers are",
            "acks" | "request.required.acks" => "taken is what all replicas in sync have",
            "enable.idempotence"
            | "enable.gapless.guarantee"
            | "max.in.flight"
            | "max.in.flight.requests.per.connection"
            | "message.send.max.retries"
            | "queuing.strategy"
            | "retries" => "without repetitions and in order is how messages are written",
            "message.timeout.ms" | "delivery.timeout.ms" => "it follows from the time limit",
            "delivery.report.only.error" => "what is taken has to be reported",
            "partitioner" if ["random", "consistent_random"].contains(&value) => {
                "events of one key have to go to one partition"
            }
            "security.protocol" if self.tls && !value.to_ascii_lowercase().ends_with("ssl") => {
                "the URL asks for TLS: ssl or sasl_ssl"
            }
            "test.mock.num.brokers" => "it would publish to nobody",
            "transactional.id" => "nothing is published in transactions",
            _ => return None,
        })
    }

    /// The same, with one message in a batch.
    pub(super) fn one_by_one(&self) -> Self {
        let mut single = self.clone();
        single.client.set("batch.num.messages", "1");
        single
    }

    /// For a client that gives a message up after so long.
    pub(super) fn client(&self, message_max: Duration) -> ClientConfig {
        let mut client = self.client.clone();
        let millis = message_max.as_millis().max(1);
        client.set("message.timeout.ms", millis.to_string());
        client
    }
}

/// What the client says, without the value, which may be a secret.
fn told(error: &KafkaError, value: &str) -> String {
    match error {
        KafkaError::ClientConfig(_, text, _, _) if value.is_empty() => text.clone(),
        KafkaError::ClientConfig(_, text, _, _) => text.replace(value, "***"),
        _ => "it cannot be written down".to_owned(),
    }
}

/// A host, with a port or without.
fn is_broker(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        // The colons of an IPv6 address stand in brackets.
        Some((host, port)) if !text.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    };
    let plain = |char: char| char.is_alphanumeric() || "-._[]:%".contains(char);
    let bare = host.starts_with('[') || !host.contains(':');
    let port = port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0));
    !host.is_empty() && host.chars().all(plain) && bare && port
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(name: &str, value: &str) -> String {
        let mut settings = Settings::of("kafka://k").unwrap();
        let error = settings.set(name.to_owned(), value.to_owned());
        error.unwrap_err().to_string()
    }

    #[test]
    fn a_url_names_brokers() {
        for good in ["k", "k:9092", "a:1,b:2,10.0.0.1", "[::1]:9092", "[::1]"] {
            let settings = Settings::of(&format!("kafka://{good}")).unwrap();
            assert_eq!(settings.client.get("bootstrap.servers"), Some(good));
        }
        for bad in [
            "", "k:", "k:x", "k:0", "k:70000", "a,,b", "k/x", "::1", "a b",
        ] {
            assert!(Settings::of(&format!("kafka://{bad}")).is_err(), "{bad}");
        }
        let error = Settings::of("kafka://u:s3cret@k").err().unwrap();
        assert!(error.to_string().contains("sasl.username"));
        assert!(!error.to_string().contains("s3cret"));
        assert!(Settings::of("nats://k").is_err());
    }

    #[test]
    fn what_the_promises_rest_on_cannot_be_set() {
        for (name, value) in [
            ("acks", "1"),
            ("request.required.acks", "0"),
            ("enable.idempotence", "false"),
            ("max.in.flight", "100"),
            ("retries", "0"),
            ("message.timeout.ms", "0"),
            ("delivery.report.only.error", "true"),
            ("partitioner", "random"),
            ("bootstrap.servers", "elsewhere"),
            ("transactional.id", "x"),
        ] {
            let text = refused(name, value);
            assert!(text.contains("cannot be set here"), "{text}");
        }
        let mut settings = Settings::of("kafka://k").unwrap();
        for (name, value) in [
            ("partitioner", "murmur2"),
            ("client.id", "x"),
            ("compression.type", "lz4"),
            ("sasl.password", "s3cret"),
        ] {
            settings.set(name.to_owned(), value.to_owned()).unwrap();
        }
    }

    #[test]
    fn a_slip_is_told_without_its_value() {
        assert!(refused("sasl.pasword", "s3cret").contains("No such configuration property"));
        for (name, value) in [
            ("sasl.pasword", "s3cret"),
            ("linger.ms", "s3cret"),
            ("security.protocol", "s3cret"),
            ("client.id", "s3cret\0"),
        ] {
            let text = refused(name, value);
            assert!(text.contains(name) && !text.contains("s3cret"), "{text}");
        }
    }

    #[test]
    fn tls_is_there_or_is_named() {
        match Settings::of("kafkas://k") {
            Ok(mut settings) => {
                let plain = settings.set("security.protocol".to_owned(), "plaintext".to_owned());
                assert!(plain.is_err());
                // As Java's clients, and most of what is written about Kafka, have it.
                let upper = settings.set("security.protocol".to_owned(), "SASL_SSL".to_owned());
                upper.unwrap();
            }
            Err(error) => assert!(
                error.to_string().contains("OpenSSL not available"),
                "{error}"
            ),
        }
    }
}
