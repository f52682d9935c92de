//! Events as messages of a NATS JetStream.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use async_nats::connection::State;
use async_nats::jetstream::context::{Context, ContextBuilder, PublishAckFuture, PublishErrorKind};
use async_nats::{Client, ConnectOptions, HeaderMap, HeaderName, HeaderValue, ServerAddr};
use futures_util::future::join_all;
use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::cloud_event;
use crate::envelope::Envelope;
use crate::error::Error;
use crate::sink::{Ack, Sink, SinkError};
use crate::sinks::none_taken;

/// Publishes each event to a subject, by default the one that has the topic's name, which a stream must listen to.
///
/// | header | value |
/// |---|---|
/// | `Nats-Msg-Id` | the event's id: the stream drops repetitions within its window (2 minutes by default) |
/// | `ce-id`, `ce-type`, `ce-source`, `ce-subject`, `ce-time`, … | the event as a CloudEvent in binary mode |
/// | `content-type`, and `ce-datacontenttype`, where the binding for NATS has it | the payload's media type |
/// | `Outbox-Seq` | the event's number, which rises within a key |
/// | the event's own headers | as they are, but for those of these names, and those that begin with `nats-` |
///
/// What counts as taken is the stream's acknowledgement. By default a server writes to its disk every two minutes
/// only, and can lose what it acknowledged when its machine fails: set `sync_interval: always`, or keep replicas, and
/// after a loss let a relay replay.
///
/// ```no_run
/// use onlyonce_outbox::sinks::JetStream;
///
/// let sink = JetStream::to("nats://127.0.0.1:4222", "/shop")?.subject_prefix("shop.");
/// # Ok::<(), onlyonce_outbox::Error>(())
/// ```
pub struct JetStream {
    name: String,
    source: String,
    prefix: String,
    limit: Duration,
    server: ServerAddr,
    connection: Mutex<Option<Client>>,
}

impl JetStream {
    /// To the server at this URL, `nats://[user:password@]host[:port]` (`tls://…` with TLS). `source` names the
    /// producer, as a URI reference: `/payments`.
    ///
    /// # Errors
    /// [`Error::Settings`] where the URL cannot be understood. Nothing is connected to yet.
    pub fn to(url: &str, source: impl Into<String>) -> Result<Self, Error> {
        // Not the client's words: they may hold the password.
        let refused = |_| Error::Settings("the URL of NATS cannot be understood".to_owned());
        Ok(Self {
            name: "nats".to_owned(),
            source: source.into(),
            prefix: String::new(),
            limit: Duration::from_secs(4),
            server: url.parse().map_err(refused)?,
            connection: Mutex::default(),
        })
    }

    /// Under another name than `nats`: two sinks of one database must differ.
    #[must_use]
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Puts this before the topic to get the subject: `shop.`.
    #[must_use]
    pub fn subject_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// How long a batch may take; half of it connecting, and half of it an acknowledgement. 4 seconds by default, which is less than a relay waits
    /// for a sink ([`RelayOptions::publish_timeout`](crate::RelayOptions::publish_timeout)).
    #[must_use]
    pub fn time_limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// All are sent before the first acknowledgement is waited for.
    async fn send(&self, batch: &[Envelope]) -> Result<Vec<Result<Ack, SinkError>>, String> {
        let client = self.client().await?;
        let stream: Context = ContextBuilder::new()
            .timeout(self.limit / 2)
            .build(client.clone());
        let mut sent = Vec::with_capacity(batch.len());
        for envelope in batch {
            sent.push(self.send_one(&stream, envelope).await);
        }
        let results = join_all(sent.into_iter().map(acknowledged)).await;
        let lost = results
            .iter()
            .any(|result: &Result<_, SinkError>| matches!(result, Err(error) if !error.is_dead()));
        if lost && client.connection_state() != State::Connected {
            // The client would go on trying to send what counts as failed by now.
            *self.connection.lock().await = None;
        }
        Ok(results)
    }

    async fn send_one(
        &self,
        stream: &Context,
        envelope: &Envelope,
    ) -> Result<PublishAckFuture, SinkError> {
        let subject = format!("{}{}", self.prefix, envelope.topic);
        if !is_subject(&subject) {
            let text = format!("{subject:?} is no subject that can be published to");
            return Err(SinkError::dead(text));
        }
        let headers = self.headers(envelope).map_err(SinkError::dead)?;
        let sent = stream
            .publish_with_headers(subject, headers, envelope.payload.clone())
            .await;
        sent.map_err(|error| match error.kind() {
            PublishErrorKind::MaxPayloadExceeded => SinkError::dead(error),
            _ => SinkError::retryable(error),
        })
    }

    fn headers(&self, envelope: &Envelope) -> Result<HeaderMap, String> {
        let mut headers = HeaderMap::new();
        let mut set = |name: &str, value: &str| {
            let refused = || format!("the header {name:?} cannot be sent");
            let value = HeaderValue::from_str(value).map_err(|_| refused())?;
            let name = HeaderName::from_str(name).map_err(|_| refused())?;
            headers.insert(name, value);
            Ok::<_, String>(())
        };
        for (name, value) in envelope.headers.iter().filter(|(name, _)| !is_ours(name)) {
            set(name, value)?;
        }
        for (name, value) in cloud_event::attributes(envelope, &self.source) {
            set(&format!("ce-{name}"), &cloud_event::encoded(&value))?;
        }
        set("content-type", &envelope.content_type)?;
        let content_type = cloud_event::encoded(&envelope.content_type);
        set("ce-datacontenttype", &content_type)?;
        set("Outbox-Seq", &envelope.sequence.to_string())?;
        set("Nats-Msg-Id", &envelope.event_id.to_string())?;
        Ok(headers)
    }

    async fn client(&self) -> Result<Client, String> {
        let mut kept = self.connection.lock().await;
        if let Some(client) = &*kept
            && client.connection_state() == State::Connected
        {
            return Ok(client.clone());
        }
        *kept = None;
        let connecting = ConnectOptions::new()
            .name("onlyonce-outbox")
            .connection_timeout(self.limit / 2)
            .connect(self.server.clone());
        let client = connecting.await.map_err(|error| error.to_string())?;
        Ok(kept.insert(client).clone())
    }
}

/// Waits for a message's acknowledgement.
async fn acknowledged(sent: Result<PublishAckFuture, SinkError>) -> Result<Ack, SinkError> {
    let ack = sent?.await.map_err(SinkError::retryable)?;
    Ok(if ack.duplicate {
        Ack::duplicate()
    } else {
        Ack::default()
    })
}

/// Whether this sink says it, or the server does as it says. Names differ by case here: one of the event's own, which are
/// lower-case, would stand beside ours.
fn is_ours(name: &str) -> bool {
    ["ce-", "nats-"].iter().any(|ours| name.starts_with(ours))
        || ["content-type", "outbox-seq"].contains(&name)
}

/// Words with full stops between them, and no wildcards.
fn is_subject(subject: &str) -> bool {
    let word = |word: &str| {
        let plain =
            |char: char| !char.is_whitespace() && !char.is_control() && !"*>".contains(char);
        !word.is_empty() && word.chars().all(plain)
    };
    subject.split('.').all(word)
}

impl Sink for JetStream {
    fn name(&self) -> &str {
        &self.name
    }

    fn batch_max(&self) -> usize {
        500
    }

    async fn publish(&self, batch: &[Envelope]) -> Vec<Result<Ack, SinkError>> {
        if batch.is_empty() {
            return Vec::new();
        }
        let failed = match timeout(self.limit, self.send(batch)).await {
            Ok(Ok(results)) => return results,
            Ok(Err(failed)) => failed,
            Err(_) => {
                *self.connection.lock().await = None;
                format!("no answer within {:?}", self.limit)
            }
        };
        none_taken(batch, &failed)
    }
}

impl fmt::Debug for JetStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JetStream")
            .field("name", &self.name)
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::is_subject;

    #[test]
    fn subjects_are_words_between_full_stops() {
        for good in ["a", "shop.payments", "größe.x-1_2"] {
            assert!(is_subject(good), "{good}");
        }
        for bad in ["", ".", "a.", ".a", "a..b", "a b", "a.*", "a.>", "a\nb"] {
            assert!(!is_subject(bad), "{bad}");
        }
    }
}
