//! A client of Kafka, for as long as it is good: an error that it calls fatal ends it, and another takes its place.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use futures_util::future::join_all;
use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::OwnedHeaders;
use rdkafka::producer::future_producer::DeliveryFuture;
use rdkafka::producer::{FutureProducer, FutureRecord, Producer};

use super::settings::Settings;
use crate::sink::{Ack, SinkError};

/// A message, as it goes to the client.
pub(super) struct Message<'a> {
    pub(super) topic: String,
    pub(super) key: Option<&'a str>,
    pub(super) headers: OwnedHeaders,
    pub(super) payload: &'a [u8],
}

/// Why a message was not taken.
pub(super) enum Failure {
    /// The broker finds the batch too large that the client put it into.
    BatchTooLarge,
    /// Anything else.
    Sink(SinkError),
}

impl Failure {
    /// Of a message that was alone in its batch.
    pub(super) fn of_single(self) -> SinkError {
        match self {
            Self::BatchTooLarge => SinkError::dead("the broker finds it too large"),
            Self::Sink(error) => error,
        }
    }
}

/// What will not be taken at another time either.
const NEVER: [RDKafkaErrorCode; 2] = [
    RDKafkaErrorCode::InvalidTopic,
    RDKafkaErrorCode::InvalidRecord,
];

/// The brokers know this client no more, or take it for an older one of its kind. It does not always find out by
/// itself.
const UNKNOWN: [RDKafkaErrorCode; 5] = [
    RDKafkaErrorCode::InvalidProducerEpoch,
    RDKafkaErrorCode::InvalidProducerIdMapping,
    RDKafkaErrorCode::OutOfOrderSequenceNumber,
    RDKafkaErrorCode::ProducerFenced,
    RDKafkaErrorCode::UnknownProducerId,
];

/// A client, with threads and connections of its own.
pub(super) struct Session {
    /// Always there until it is dropped.
    producer: Option<FutureProducer<LastWords>>,
    unknown: AtomicBool,
    last_words: LastWords,
}

impl Session {
    /// Does not connect yet.
    pub(super) fn open(settings: &Settings, message_max: Duration) -> Result<Self, String> {
        let last_words = LastWords::default();
        let config = settings.client(message_max);
        let producer = config.create_with_context(last_words.clone());
        let producer = producer.map_err(|error: KafkaError| match error {
            KafkaError::ClientCreation(text) => text,
            // Its words may hold a value.
            _ => "Kafka's client cannot be set up".to_owned(),
        })?;
        Ok(Self {
            producer: Some(producer),
            unknown: AtomicBool::new(false),
            last_words,
        })
    }

    /// All are handed over before the first report is waited for. A message that cannot be made is dead.
    pub(super) async fn publish<'a>(
        &self,
        messages: impl Iterator<Item = Result<Message<'a>, String>>,
    ) -> Vec<Result<Ack, Failure>> {
        let dead = |why| Failure::Sink(SinkError::dead(why));
        let sent = messages.map(|message| self.hand_over(message.map_err(dead)?));
        let sent: Vec<_> = sent.collect();
        join_all(sent.into_iter().map(|sent| self.report(sent))).await
    }

    /// It is copied: whatever becomes of us, the client sends it or gives it up.
    fn hand_over(&self, message: Message<'_>) -> Result<DeliveryFuture, Failure> {
        let mut record = FutureRecord::to(&message.topic)
            .headers(message.headers)
            // Not absent where it is empty: that would be a tombstone.
            .payload(message.payload);
        if let Some(key) = message.key {
            record = record.key(key);
        }
        let sent = self.producer().send_result(record);
        sent.map_err(|(error, _)| {
            let code = error.rdkafka_error_code();
            // Its own limit is on a message.
            let too_large = code == Some(RDKafkaErrorCode::MessageSizeTooLarge);
            Failure::Sink(if too_large {
                SinkError::dead(error)
            } else {
                self.failure(error)
            })
        })
    }

    async fn report(&self, sent: Result<DeliveryFuture, Failure>) -> Result<Ack, Failure> {
        let error = match sent?.await {
            Ok(Ok(_)) => {
                self.last_words.forget();
                return Ok(Ack::default());
            }
            Ok(Err((error, _))) => error,
            // Reports end with the client.
            Err(_) => KafkaError::Canceled,
        };
        Err(match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::MessageSizeTooLarge) => Failure::BatchTooLarge,
            _ => Failure::Sink(self.failure(error)),
        })
    }

    fn failure(&self, error: KafkaError) -> SinkError {
        let is_one_of = |codes: &[_]| {
            let code = error.rdkafka_error_code();
            code.is_some_and(|code| codes.contains(&code))
        };
        if is_one_of(&NEVER) {
            return SinkError::dead(error);
        }
        if is_one_of(&UNKNOWN) {
            self.unknown.store(true, Ordering::Relaxed);
        }
        match self.last_words() {
            Some(words) => SinkError::retryable(format!("{error}: {words}")),
            None => SinkError::retryable(error),
        }
    }

    /// Whether nothing is taken by way of this client any more.
    pub(super) fn is_over(&self) -> bool {
        let ended = self.producer().client().fatal_error().is_some();
        ended || self.unknown.load(Ordering::Relaxed)
    }

    /// What the client said last about its brokers.
    pub(super) fn last_words(&self) -> Option<String> {
        self.last_words.get()
    }

    fn producer(&self) -> &FutureProducer<LastWords> {
        let producer = self.producer.as_ref();
        producer.expect("it is taken out only where the session is dropped")
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // Waits for its threads: nothing for a thread that runs futures.
        let producer = self.producer.take();
        let dropping = thread::Builder::new().name("kafka-end".to_owned());
        // Without a thread it is dropped here.
        let _ = dropping.spawn(move || drop(producer));
    }
}

/// What the client said last about its brokers. A message that is given up says of itself only that it was.
#[derive(Clone, Default)]
struct LastWords(Arc<Mutex<Option<String>>>);

impl LastWords {
    fn get(&self) -> Option<String> {
        self.words().clone()
    }

    fn forget(&self) {
        *self.words() = None;
    }

    fn words(&self) -> MutexGuard<'_, Option<String>> {
        // A value is replaced whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientContext for LastWords {
    fn log(&self, _: RDKafkaLogLevel, facility: &str, text: &str) {
        // What matters comes as an error too, and reaches whoever publishes.
        tracing::debug!(facility, "{text}");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, "{reason}");
        // Says only how many there are.
        if error.rdkafka_error_code() != Some(RDKafkaErrorCode::AllBrokersDown) {
            *self.words() = Some(reason.to_owned());
        }
    }
}
